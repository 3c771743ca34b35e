//! One request and its answer, as the log line and the metrics see it.
//!
//! It travels with the response body and with every part of a file that is on its way to the socket,
//! and is closed when the last of them is gone, so that bytes and duration are those of what was
//! really sent. Query strings and headers never get here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OwnedSemaphorePermit;

use super::Edge;
use super::io::Receipt;
use crate::access::{Caller, Rule};
use crate::audit::{Audit, Line};
use crate::metrics::{Metrics, RequestKind, SentBy};
use crate::mirror::{Complaint, Location, RouteError, Share};
use crate::oci::{Digest, ErrorCode, Reference, RepositoryPath, Request, Target};
use crate::outcome::Outcome;

/// The other side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// At an address.
    Address(SocketAddr),
    /// Behind a proxy, which says so.
    Behind(IpAddr),
    /// At the Unix socket: a process of this user, as the kernel says (`SO_PEERCRED`).
    Socket {
        /// The user.
        uid: u32,
    },
}

impl Peer {
    /// Its address, where it has one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Peer::Address(address) => Some(address.ip()),
            Peer::Behind(address) => Some(*address),
            Peer::Socket { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Behind(address) => address.fmt(f),
            Peer::Socket { uid } => write!(f, "uid={uid}"),
        }
    }
}

/// How much is written down of a path that names no repository, in characters.
const LONGEST_PATH: usize = 300;

/// So many bytes of a body that is being sent are counted together.
const COUNTED_AT_ONCE: u64 = 1 << 20;

/// A request being answered.
#[derive(Debug)]
pub struct Record {
    kind: RequestKind,
    outcome: Outcome,
    reference: Option<Reference>,
    metrics: Arc<Metrics>,
    audit: Option<Arc<Audit>>,
    listener: Option<SocketAddr>,
    peer: Peer,
    method: http::Method,
    location: Option<Location>,
    /// As it came, where it names no repository.
    path: Option<String>,
    status: StatusCode,
    code: Option<ErrorCode>,
    /// What was found.
    digest: Option<Digest>,
    /// Why it failed, for people. Holds no secret: it goes to the client too.
    problem: Option<String>,
    begun: Instant,
    first_byte: Option<Duration>,
    bytes: u64,
    /// Whether it is counted, and how many of these bytes.
    is_counted: bool,
    counted: u64,
    /// How many bytes the body has; unknown until it has ended where upstream does not say it.
    length: Option<u64>,
    sent_by: Option<SentBy>,
    /// Who asks, where he said so, what decided, and whether it allowed it.
    caller: Option<Caller>,
    rule: Option<Rule>,
    is_allowed: bool,
    /// What the upstream refused it with.
    upstream_status: Option<u16>,
    /// Its share of what is in memory for clients.
    in_hand: Option<Share>,
    /// What came of it where another replica asks, which has one of few places until it has the answer.
    replica: Option<(&'static str, Option<OwnedSemaphorePermit>)>,
}

impl Record {
    /// A request that just arrived. Boxed: it is large, and goes through many hands.
    pub fn begin<B>(edge: &Edge, peer: Peer, request: &http::Request<B>) -> Box<Record> {
        Box::new(Record {
            kind: RequestKind::Other,
            outcome: Outcome::Local,
            reference: None,
            metrics: Arc::clone(&edge.metrics),
            audit: edge.audit.clone(),
            listener: edge.listener,
            peer,
            method: request.method().clone(),
            location: None,
            path: None,
            status: StatusCode::OK,
            code: None,
            digest: None,
            problem: None,
            begun: Instant::now(),
            first_byte: None,
            bytes: 0,
            is_counted: false,
            counted: 0,
            length: None,
            sent_by: None,
            caller: None,
            rule: None,
            is_allowed: false,
            upstream_status: None,
            in_hand: None,
            replica: None,
        })
    }

    /// The other side.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// The request is understood, and leads there.
    pub fn asked(&mut self, request: &Request, location: Option<&Location>) {
        self.kind = RequestKind::of(request);
        self.reference = request.reference();
        self.location = location.cloned();
    }

    /// The request is refused before it is looked at: what its path says of what it is about. A write is about what
    /// a GET there would be about.
    pub fn refused_unread<B>(&mut self, edge: &Edge, http: &http::Request<B>) {
        let (path, query) = (http.uri().path(), http.uri().query());
        let request = Request::parse(&http::Method::GET, path, query).ok();
        let target = match &request {
            Some(request) => request.target().cloned(),
            None => Target::within(path, query),
        };
        let location = target.and_then(|target| named(edge, target));
        if location.is_none() || request.is_none() {
            self.path = Some(path.chars().take(LONGEST_PATH).collect());
        }
        match request {
            Some(request) => self.asked(&request, location.as_ref()),
            None => self.location = location,
        }
    }

    /// Whether nobody in front may give the answer to anybody else.
    pub fn is_for_each_alone(&self, edge: &Edge) -> bool {
        let upstream = self.location.as_ref().map(|location| &location.upstream);
        self.rule != Some(Rule::Canary) && upstream.is_some_and(|name| edge.admission.rules.is_for_each_alone(name))
    }

    /// Who asks is known, as far as he said so.
    pub fn asked_by(&mut self, caller: Option<Caller>) {
        self.caller = caller;
    }

    /// He may have it, by this.
    pub fn allowed(&mut self, rule: &Rule) {
        (self.rule, self.is_allowed) = (Some(rule.clone()), true);
    }

    /// He may not have it, by this.
    pub fn refused_by(&mut self, rule: Rule) {
        (self.rule, self.is_allowed) = (Some(rule), false);
    }

    /// The upstream does not give it to him after all, or has not said that it does.
    pub const fn refused(&mut self) {
        self.is_allowed = false;
    }

    /// This is how the upstream refused it, if it did.
    pub const fn upstream_said(&mut self, status: Option<u16>) {
        self.upstream_status = status;
    }

    /// It is another replica that asks, and this comes of it.
    pub fn of_replica(&mut self, result: &'static str, place: Option<OwnedSemaphorePermit>) {
        self.replica = Some((result, place));
    }

    /// What is answered with, where it has a digest.
    pub fn found(&mut self, digest: Option<Digest>) {
        self.digest = digest;
    }

    /// The answer is decided. `problem` says why it is a failure, for people.
    pub fn answered(&mut self, status: StatusCode, outcome: Outcome, code: Option<ErrorCode>, problem: Option<String>) {
        self.status = status;
        self.outcome = outcome;
        self.code = code;
        self.problem = problem;
    }

    /// The body is in memory until the client has taken it.
    pub fn holds(&mut self, share: Option<Share>) {
        self.in_hand = share;
    }

    /// How many bytes the body will have, where that is known.
    pub fn announced(&mut self, length: Option<u64>) {
        self.length = length;
    }

    /// Bytes of the body go to the socket.
    pub fn sent(&mut self, by: SentBy, bytes: u64) {
        self.first_byte.get_or_insert_with(|| self.begun.elapsed());
        self.bytes += bytes;
        self.sent_by = self.sent_by.max(Some(by));
    }

    /// Counts it, the first time, and what was sent since it was last counted: requests and bytes at one moment, and
    /// what was fetched for it is counted as it comes, too.
    fn count(&mut self) {
        let new = self.bytes - std::mem::replace(&mut self.counted, self.bytes);
        if self.replica.is_some() {
            return;
        }
        let place = self.metrics.place(self.location.as_ref().map(|location| &location.upstream));
        if !std::mem::replace(&mut self.is_counted, true) {
            self.metrics.request(place, self.kind, self.outcome, self.status.as_u16());
        }
        self.metrics.sent(place, self.outcome, new);
    }

    /// The body has ended as it should.
    pub fn completed(&mut self) {
        self.length.get_or_insert(self.bytes);
    }

    /// The body cannot be ended: the client must see that it was cut.
    pub fn aborted(&mut self, error: &dyn fmt::Display) {
        self.problem = Some(format!("cut off: {error}"));
    }
}

/// The record of an answer that is on its way, shared by all that carry a part of it.
#[derive(Debug)]
pub struct Sending {
    record: Mutex<Box<Record>>,
    complaint: Option<Complaint>,
}

impl Sending {
    /// The answer begins; whether what it is made from is stored, and can be complained about.
    pub fn new(record: Box<Record>, complaint: Option<Complaint>) -> Arc<Sending> {
        Arc::new(Sending { record: Mutex::new(record), complaint })
    }

    /// The record, to note something.
    pub fn record(&self) -> MutexGuard<'_, Box<Record>> {
        self.record.lock()
    }
}

impl Receipt for Sending {
    fn sent(&self, by: SentBy, bytes: u64) {
        let mut record = self.record();
        record.sent(by, bytes);
        if !record.is_counted || record.bytes - record.counted >= COUNTED_AT_ONCE {
            record.count();
        }
    }

    fn unreadable(&self) {
        if let Some(complaint) = &self.complaint {
            complaint.clone().raise();
        }
    }
}

impl Record {
    /// What of its bytes was fetched for it: all of those that it did not share with others.
    const fn upstream_bytes(&self) -> u64 {
        match self.outcome {
            Outcome::Fill | Outcome::Relayed => self.bytes,
            _ => 0,
        }
    }

    /// Who got what, or did not.
    fn audit(&self, audit: &Audit) {
        let Record { location, rule, .. } = self;
        let welcome = self.is_allowed || self.kind == RequestKind::Ping && self.status.is_success();
        audit.write(&Line {
            peer: self.peer.to_string(),
            listener: self.listener,
            caller: self.caller.as_ref().map(ToString::to_string),
            method: Some(self.method.as_str()),
            kind: Some(self.kind.as_str()),
            path: self.path.as_deref(),
            upstream: location.as_ref().map(|location| location.upstream.as_str()),
            repository: location.as_ref().map(|location| location.repository.as_str()),
            reference: self.reference.as_ref().map(ToString::to_string),
            digest: self.digest.map(|digest| digest.to_string()),
            verdict: if welcome { "allowed" } else { "refused" },
            rule: rule.as_ref().map(ToString::to_string),
            outcome: Some(self.outcome.as_str()),
            status: Some(self.status.as_u16()),
            upstream_status: self.upstream_status,
            bytes: self.bytes,
            ..Line::default()
        });
    }
}

/// Where a target is, if one upstream is named, be it none of ours.
fn named(edge: &Edge, target: Target) -> Option<Location> {
    match edge.mirror.route_by(&target, edge.default.as_ref()) {
        Ok(found) => Some(found.location().clone()),
        Err(RouteError::UnknownUpstream(upstream)) => {
            let RepositoryPath { registry, below_registry, whole } = target.repository;
            let repository = if registry.as_ref() == Some(&upstream) { below_registry } else { whole };
            Some(Location { upstream, repository: repository? })
        }
        Err(RouteError::Contradiction(..) | RouteError::InvalidName) => None,
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(audit) = &self.audit {
            self.audit(audit);
        }
        self.count();
        let upstream = self.location.as_ref().map(|location| &location.upstream);
        if let Some((result, _)) = self.replica {
            self.metrics.replica_answered(result, self.bytes);
        } else if let Some(first_byte) = self.first_byte {
            self.metrics.time_to_first_byte(self.outcome, first_byte);
        }
        if let Some(by) = self.sent_by {
            self.metrics.sent_by(by);
        }
        tracing::info!(
            method = %self.method,
            status = self.status.as_u16(),
            outcome = self.outcome.as_str(),
            upstream = upstream.map(|name| name.as_str()),
            repository = self.location.as_ref().map(|location| location.repository.as_str()),
            reference = self.reference.as_ref().map(tracing::field::display),
            // What else a client writes into a path that names no image is nobody's to read: it may be a secret.
            path = self.path.as_deref().filter(|path| *path == "/"),
            bytes = self.bytes,
            upstream_bytes = self.upstream_bytes(),
            complete = self.length.is_some_and(|length| self.bytes >= length),
            first_byte_ms = self.first_byte.map(milliseconds),
            duration_ms = milliseconds(self.begun.elapsed()),
            client = %self.peer,
            replica = self.replica.as_ref().map(|(result, _)| *result),
            caller = self.caller.as_ref().map(tracing::field::display),
            code = self.code.map(ErrorCode::as_str),
            error = self.problem.as_deref(),
            "request"
        );
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
