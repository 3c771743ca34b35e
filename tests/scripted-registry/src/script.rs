//! What a registry does wrong, to which requests, and how often.
//!
//! A [`Rule`] is a [`Match`], a count, and changes to the honest answer that may be combined:
//! flipping a bit *and* dripping *and* resetting at the end is one rule. Nothing here waits for
//! time: where an answer has to stand still it stands at a [`Gate`] until the test opens it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Digest, Recorded};

/// A place where answers wait. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    arrived: Arc<watch::Sender<u64>>,
    released: Arc<watch::Sender<u64>>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate { arrived: Arc::new(watch::Sender::new(0)), released: Arc::new(watch::Sender::new(0)) }
    }

    /// Waits until an answer stands at the gate, or has passed it.
    pub async fn reached(&self) {
        self.reached_times(1).await;
    }

    /// Waits until answers have come to the gate `times` times. A dripping answer comes once per drop.
    pub async fn reached_times(&self, times: u64) {
        let mut arrived = self.arrived.subscribe();
        let _ = arrived.wait_for(|arrived| *arrived >= times).await;
    }

    /// How often an answer has come to the gate so far.
    pub fn arrivals(&self) -> u64 {
        *self.arrived.borrow()
    }

    /// Lets `count` more arrivals through, in the order in which they came.
    pub fn let_through(&self, count: u64) {
        self.released.send_modify(|released| *released = released.saturating_add(count));
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.let_through(u64::MAX);
    }

    /// Arrives, and waits to be let through.
    pub async fn pass(&self) {
        let mut released = self.released.subscribe();
        let mut ticket = 0;
        self.arrived.send_modify(|arrived| {
            *arrived += 1;
            ticket = *arrived;
        });
        let _ = released.wait_for(|released| *released >= ticket).await;
    }
}

/// Which requests a rule is about.
#[derive(Clone)]
pub struct Match(Arc<dyn Fn(&Recorded) -> bool + Send + Sync>);

impl Match {
    /// Requests for which `predicate` holds.
    pub fn when(predicate: impl Fn(&Recorded) -> bool + Send + Sync + 'static) -> Match {
        Match(Arc::new(predicate))
    }

    /// Every request, on every listener.
    pub fn any() -> Match {
        Match::when(|_| true)
    }

    /// This path, exactly, on any listener.
    pub fn path(path: &str) -> Match {
        let path = path.to_owned();
        Match::when(move |request| request.path == path)
    }

    /// `/v2/`.
    pub fn ping() -> Match {
        Match::when(|request| request.path.trim_end_matches('/') == "/v2")
    }

    /// The token service.
    pub fn token() -> Match {
        Match::path("/token")
    }

    /// Every blob, at the registry itself (not at its storage host).
    pub fn blobs() -> Match {
        Match::when(|request| request.path.starts_with("/v2/") && request.keyword() == Some("blobs"))
    }

    /// One blob in any repository, at the registry itself (not at its storage host).
    pub fn blob(digest: &Digest) -> Match {
        let end = format!("/blobs/{digest}");
        Match::when(move |request| request.path.ends_with(&end))
    }

    /// One blob at the storage host.
    pub fn stored(digest: &Digest) -> Match {
        Match::path(&format!("/storage/{digest}"))
    }

    /// Every blob at the storage host.
    pub fn storage() -> Match {
        Match::when(|request| request.listener == super::Listener::Storage)
    }

    /// Every manifest.
    pub fn manifests() -> Match {
        Match::when(|request| request.path.starts_with("/v2/") && request.keyword() == Some("manifests"))
    }

    /// Lists of tags and of referrers.
    pub fn lists() -> Match {
        Match::when(|request| {
            request.path.starts_with("/v2/") && matches!(request.keyword(), Some("tags" | "referrers"))
        })
    }

    /// One manifest, by tag or digest as it is asked for.
    pub fn manifest(repository: &str, reference: &str) -> Match {
        Match::path(&format!("/v2/{repository}/manifests/{reference}"))
    }

    /// Everything in a repository.
    pub fn repository(repository: &str) -> Match {
        let start = format!("/v2/{repository}/");
        Match::when(move |request| request.path.starts_with(&start))
    }

    /// Only requests that `other` matches too.
    pub fn and(self, other: Match) -> Match {
        Match::when(move |request| self.matches(request) && other.matches(request))
    }

    /// Requests that `other` matches as well as these.
    pub fn or(self, other: Match) -> Match {
        Match::when(move |request| self.matches(request) || other.matches(request))
    }

    /// Only GET.
    pub fn get(self) -> Match {
        self.and(Match::when(|request| request.method == "GET"))
    }

    /// Only HEAD.
    pub fn head(self) -> Match {
        self.and(Match::when(|request| request.method == "HEAD"))
    }

    /// Only requests with this header.
    pub fn with_header(self, name: &'static str) -> Match {
        self.and(Match::when(move |request| request.headers.contains_key(name)))
    }

    /// Only requests without this header.
    pub fn without_header(self, name: &'static str) -> Match {
        self.and(Match::when(move |request| !request.headers.contains_key(name)))
    }

    /// Whether the request is one of these.
    pub fn matches(&self, request: &Recorded) -> bool {
        (self.0)(request)
    }
}

/// What a registry does to some requests. Begin with [`Rule::on`]; without a change it does nothing.
#[derive(Clone)]
pub struct Rule {
    pub(crate) on: Match,
    pub(crate) skip: usize,
    pub(crate) times: usize,
    pub(crate) before_auth: bool,
    pub(crate) seen: Arc<AtomicUsize>,
    pub(crate) behaviour: Behaviour,
}

/// Changes to the honest answer.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    pub(crate) replace: Option<Replacement>,
    pub(crate) status: Option<u16>,
    pub(crate) set_headers: Vec<(String, String)>,
    pub(crate) drop_headers: Vec<String>,
    pub(crate) redirect_to_host: Option<String>,
    pub(crate) ignore_range: bool,
    pub(crate) gzip: bool,
    pub(crate) flip_at: Vec<u64>,
    pub(crate) flip_last: bool,
    pub(crate) framing: Framing,
    pub(crate) extra: Bytes,
    pub(crate) bare_lf: bool,
    pub(crate) before_headers: Option<Gate>,
    pub(crate) pauses: Vec<(u64, Gate)>,
    pub(crate) drip: Option<(usize, Gate)>,
    pub(crate) drip_head: Option<Gate>,
    pub(crate) endless: bool,
    pub(crate) ending: Ending,
}

/// An answer that takes the place of the honest one.
#[derive(Clone, Debug)]
pub struct Replacement {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A truthful `Content-Length`.
    #[default]
    Length,
    /// A `Content-Length` that says this instead.
    Declared(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Nothing: the body ends where the connection ends.
    UntilClose,
}

/// How the answer ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Completely, and the connection is kept.
    #[default]
    Whole,
    /// Completely, and the connection is closed.
    WholeThenClose,
    /// With an orderly close (FIN) after so many bytes of body.
    CloseAfter(u64),
    /// With a reset (RST) after at most so many bytes of body.
    ResetAfter(u64),
    /// With an orderly close and no answer.
    CloseAtOnce,
    /// With a reset and no answer.
    ResetAtOnce,
}

impl Rule {
    /// A rule about these requests, for as long as the registry runs.
    pub fn on(on: Match) -> Rule {
        Rule {
            on,
            skip: 0,
            times: usize::MAX,
            before_auth: false,
            seen: Arc::default(),
            behaviour: Behaviour::default(),
        }
    }

    /// The rule holds for the next `times` matching requests only.
    pub fn times(mut self, times: usize) -> Rule {
        self.times = times;
        self
    }

    /// The rule holds for the next matching request only.
    pub fn once(self) -> Rule {
        self.times(1)
    }

    /// The first `skip` matching requests are spared.
    pub fn skip(mut self, skip: usize) -> Rule {
        self.skip = skip;
        self
    }

    /// The rule also holds for requests that lack a token, and comes before the challenge.
    pub fn before_auth(mut self) -> Rule {
        self.before_auth = true;
        self
    }

    /// Whether the rule takes this request; counts it.
    pub(crate) fn takes(&self, request: &Recorded, authorised: bool) -> bool {
        if !(authorised || self.before_auth) || !self.on.matches(request) {
            return false;
        }
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        seen >= self.skip && seen - self.skip < self.times
    }

    fn change(mut self, change: impl FnOnce(&mut Behaviour)) -> Rule {
        change(&mut self.behaviour);
        self
    }

    /// Answers with this instead of the content.
    pub fn answer(self, status: u16, content_type: &str, body: impl Into<Bytes>) -> Rule {
        let replacement = Replacement { status, content_type: content_type.to_owned(), body: body.into() };
        self.change(|b| b.replace = Some(replacement))
    }

    /// Answers with this status and the error body that a registry sends with it.
    pub fn refuse(self, status: u16) -> Rule {
        self.answer(status, "application/json", super::answer::error_body(super::answer::code_for(status)))
    }

    /// 429, with this `Retry-After` if any.
    pub fn too_many_requests(self, retry_after: Option<&str>) -> Rule {
        let rule = self.refuse(429);
        match retry_after {
            Some(value) => rule.header("retry-after", value),
            None => rule,
        }
    }

    /// Redirects (307) to this address, word for word.
    pub fn redirect(self, location: &str) -> Rule {
        self.answer(307, "text/html", "").header("location", location)
    }

    /// Redirects (307) to the same path and query at another host, given as `http://host:port`.
    pub fn redirect_to_host(self, base: &str) -> Rule {
        self.change(|b| b.redirect_to_host = Some(base.trim_end_matches('/').to_owned()))
    }

    /// Changes only the status.
    pub fn status(self, status: u16) -> Rule {
        self.change(|b| b.status = Some(status))
    }

    /// Sets a header, in place of an honest one of that name.
    pub fn header(self, name: &str, value: &str) -> Rule {
        let header = (name.to_ascii_lowercase(), value.to_owned());
        self.change(|b| b.set_headers.push(header))
    }

    /// Leaves a header out.
    pub fn without_header(self, name: &str) -> Rule {
        let name = name.to_ascii_lowercase();
        self.change(|b| b.drop_headers.push(name))
    }

    /// Sends everything with 200 whatever range is asked for.
    pub fn ignore_range(self) -> Rule {
        self.change(|b| b.ignore_range = true)
    }

    /// Compresses the body and says so in `Content-Encoding`, whatever the client accepts.
    pub fn gzip(self) -> Rule {
        self.change(|b| b.gzip = true)
    }

    /// Flips a bit of the byte at this offset of the whole content. An answer to a range that does
    /// not hold the byte stays honest.
    pub fn flip_bit_at(self, offset: u64) -> Rule {
        self.change(|b| b.flip_at.push(offset))
    }

    /// Flips a bit of the last byte of the content.
    pub fn flip_last_byte(self) -> Rule {
        self.change(|b| b.flip_last = true)
    }

    /// Declares this `Content-Length`, whatever is sent. Where it is more than the body, the
    /// connection is closed after the body.
    pub fn declare_length(self, length: u64) -> Rule {
        self.change(|b| b.framing = Framing::Declared(length))
    }

    /// Sends these bytes after the body, beyond `Content-Length` (inside the body where chunked or
    /// delimited by the close).
    pub fn extra(self, bytes: impl Into<Bytes>) -> Rule {
        let bytes = bytes.into();
        self.change(|b| b.extra = bytes)
    }

    /// Sends no `Content-Length`; the body ends with the connection.
    pub fn without_length(self) -> Rule {
        self.change(|b| b.framing = Framing::UntilClose)
    }

    /// Sends the body in chunks. With [`Rule::close_after`] the last chunk is missing.
    pub fn chunked(self) -> Rule {
        self.change(|b| b.framing = Framing::Chunked)
    }

    /// Ends the lines of the head with LF alone.
    pub fn bare_lf(self) -> Rule {
        self.change(|b| b.bare_lf = true)
    }

    /// Stands at the gate before the first byte of the answer.
    pub fn stall_before_headers(self, gate: &Gate) -> Rule {
        let gate = gate.clone();
        self.change(|b| b.before_headers = Some(gate))
    }

    /// Stands at the gate after `bytes` bytes of body; 0 is right after the head.
    pub fn stall_after(self, bytes: u64, gate: &Gate) -> Rule {
        let gate = gate.clone();
        self.change(|b| b.pauses.push((bytes, gate)))
    }

    /// Stands at the gate before every `bytes` bytes of body.
    pub fn drip(self, bytes: usize, gate: &Gate) -> Rule {
        let gate = gate.clone();
        self.change(|b| b.drip = Some((bytes.max(1), gate)))
    }

    /// Stands at the gate before every byte of the head.
    pub fn drip_head(self, gate: &Gate) -> Rule {
        let gate = gate.clone();
        self.change(|b| b.drip_head = Some(gate))
    }

    /// Goes on with zeros after the body, until the client is gone.
    pub fn endless(self) -> Rule {
        self.change(|b| b.endless = true)
    }

    /// Closes the connection in good order (FIN) after `bytes` bytes of body.
    pub fn close_after(self, bytes: u64) -> Rule {
        self.change(|b| b.ending = Ending::CloseAfter(bytes))
    }

    /// Resets the connection (RST) after at most `bytes` bytes of body; what the client has not
    /// taken from the network by then is lost.
    pub fn reset_after(self, bytes: u64) -> Rule {
        self.change(|b| b.ending = Ending::ResetAfter(bytes))
    }

    /// Closes the connection instead of answering.
    pub fn close_at_once(self) -> Rule {
        self.change(|b| b.ending = Ending::CloseAtOnce)
    }

    /// Resets the connection instead of answering.
    pub fn reset_at_once(self) -> Rule {
        self.change(|b| b.ending = Ending::ResetAtOnce)
    }

    /// Closes the connection after a complete answer, without `Connection: close`.
    pub fn close_afterwards(self) -> Rule {
        self.change(|b| b.ending = Ending::WholeThenClose)
    }
}
