//! One request and its answer, as the log line and the metrics see it.
//!
//! It travels with the response body and is closed when that is dropped, so that bytes and duration
//! are those of what was really sent. Query strings and headers never get here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::metrics::{Metrics, RequestKind};
use crate::mirror::Location;
use crate::oci::ErrorCode;
use crate::outcome::Outcome;

/// A request being answered.
#[derive(Debug)]
pub struct Exchange {
    /// What kind of request it was.
    pub kind: RequestKind,
    /// Where the answer comes from.
    pub outcome: Outcome,
    /// The tag or digest asked for.
    pub reference: Option<String>,
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
    complete: bool,
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
            complete: false,
        }
    }

    /// The request was routed.
    pub fn located(&mut self, location: &Location) {
        self.location = Some(location.clone());
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

    /// Bytes of the body go to the socket.
    pub fn sent(&mut self, bytes: u64) {
        self.first_byte.get_or_insert_with(|| self.begun.elapsed());
        self.bytes += bytes;
    }

    /// The body went out to its end.
    pub fn completed(&mut self) {
        self.complete = true;
    }

    /// The body cannot be ended: the client must see that it was cut.
    pub fn aborted(&mut self, error: &dyn std::fmt::Display) {
        self.failed(&format_args!("cut off: {error}"));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let upstream = self.location.as_ref().map(|location| &location.upstream);
        self.metrics.request(upstream, self.kind, self.outcome, self.status.as_u16());
        self.metrics.sent(upstream, self.outcome, self.bytes);
        if let Some(first_byte) = self.first_byte {
            self.metrics.time_to_first_byte(self.outcome, first_byte);
        }
        tracing::info!(
            method = %self.method,
            status = self.status.as_u16(),
            outcome = self.outcome.as_str(),
            upstream = upstream.map(|name| name.as_str()),
            repository = self.location.as_ref().map(|location| location.repository.as_str()),
            reference = self.reference.as_deref(),
            bytes = self.bytes,
            complete = self.complete,
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
