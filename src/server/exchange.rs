//! One request and its answer, as the log line and the metrics see it.
//!
//! It travels with the response body and with every part of a file that is on its way to the socket,
//! and is closed when the last of them is gone, so that bytes and duration are those of what was
//! really sent. Query strings and headers never get here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::io::Receipt;
use super::shortcut::Asked;
use crate::metrics::{Metrics, RequestKind, SentBy};
use crate::mirror::{Complaint, Location};
use crate::oci::{ErrorCode, Reference};
use crate::outcome::Outcome;

/// A request being answered.
#[derive(Debug)]
pub struct Exchange {
    /// What kind of request it was.
    pub kind: RequestKind,
    /// Where the answer comes from.
    pub outcome: Outcome,
    /// The tag or digest asked for.
    pub reference: Option<Reference>,
    metrics: Arc<Metrics>,
    peer: SocketAddr,
    method: http::Method,
    location: Option<Location>,
    status: StatusCode,
    code: Option<ErrorCode>,
    /// Why it failed, for people. Holds no secret: it goes to the client too.
    problem: Option<String>,
    begun: Instant,
    first_byte: Option<Duration>,
    bytes: u64,
    /// How many bytes the body has; unknown until it has ended where upstream does not say it.
    length: Option<u64>,
    sent_by: Option<SentBy>,
}

impl Exchange {
    /// A request that just arrived.
    pub fn begin<B>(metrics: Arc<Metrics>, peer: SocketAddr, request: &http::Request<B>) -> Exchange {
        Exchange {
            kind: RequestKind::Other,
            outcome: Outcome::Local,
            reference: None,
            metrics,
            peer,
            method: request.method().clone(),
            location: None,
            status: StatusCode::OK,
            code: None,
            problem: None,
            begun: Instant::now(),
            first_byte: None,
            bytes: 0,
            length: None,
            sent_by: None,
        }
    }

    /// The request was routed.
    pub fn located(&mut self, location: &Location) {
        self.location = Some(location.clone());
    }

    /// The answer is in memory.
    pub fn found(&mut self, asked: &Asked) {
        let (kind, reference) = match asked {
            Asked::Manifest(reference, _) => (RequestKind::Manifest, reference),
            Asked::Blob(reference) => (RequestKind::Blob, reference),
        };
        self.kind = kind;
        self.reference = Some(reference.clone());
        self.outcome = Outcome::Hit;
    }

    /// The status is decided.
    pub fn answered(&mut self, status: StatusCode, code: Option<ErrorCode>) {
        self.status = status;
        self.code = code;
    }

    /// The request cannot be answered, and why.
    pub fn failed(&mut self, problem: &dyn std::fmt::Display) {
        self.problem = Some(problem.to_string());
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

    /// The body has ended as it should.
    pub fn completed(&mut self) {
        self.length.get_or_insert(self.bytes);
    }

    /// The body cannot be ended: the client must see that it was cut.
    pub fn aborted(&mut self, error: &dyn std::fmt::Display) {
        self.failed(&format_args!("cut off: {error}"));
    }
}

/// An exchange whose answer is on its way, shared by all that carry a part of it.
#[derive(Debug)]
pub struct Sending {
    exchange: Mutex<Exchange>,
    complaint: Option<Complaint>,
}

impl Sending {
    /// The answer begins; whether what it is made from is stored, and can be complained about.
    pub fn new(exchange: Exchange, complaint: Option<Complaint>) -> Arc<Sending> {
        Arc::new(Sending { exchange: Mutex::new(exchange), complaint })
    }

    /// The exchange, to note something.
    pub fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receipt for Sending {
    fn sent(&self, by: SentBy, bytes: u64) {
        self.exchange().sent(by, bytes);
    }

    fn unreadable(&self) {
        if let Some(complaint) = &self.complaint {
            complaint.clone().raise();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let upstream = self.location.as_ref().map(|location| &location.upstream);
        self.metrics.request(upstream, self.kind, self.outcome, self.status.as_u16());
        self.metrics.sent(upstream, self.outcome, self.bytes);
        if let Some(by) = self.sent_by {
            self.metrics.sent_by(by);
        }
        if let Some(first_byte) = self.first_byte {
            self.metrics.time_to_first_byte(self.outcome, first_byte);
        }
        tracing::info!(
            method = %self.method,
            status = self.status.as_u16(),
            outcome = self.outcome.as_str(),
            upstream = upstream.map(|name| name.as_str()),
            repository = self.location.as_ref().map(|location| location.repository.as_str()),
            reference = self.reference.as_ref().map(tracing::field::display),
            bytes = self.bytes,
            complete = self.length.is_some_and(|length| self.bytes >= length),
            first_byte_ms = self.first_byte.map(milliseconds),
            duration_ms = milliseconds(self.begun.elapsed()),
            client = %self.peer,
            code = self.code.map(ErrorCode::as_str),
            error = self.problem.as_deref(),
            "request"
        );
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
