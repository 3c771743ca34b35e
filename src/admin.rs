//! The admin listener: health, metrics and the interface for operators, never on an address for clients.
//!
//! `/livez` says that the process answers, `/readyz` that it can serve, `/metrics` what happened; `/` is the
//! `page`; below `/api/v1` is `api`, and who may ask there is `guard`'s. Takes a bound listener, TCP or Unix, and
//! a shutdown future, so tests and the daemon use the same door. An address beyond loopback speaks TLS
//! where there is a certificate, and plain HTTP, too, for the probes and scrapers that know no other, and for nobody
//! else.

mod api;
mod guard;
mod page;
pub mod socket;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::documents::{BucketStatus, Carried, Code, Configuration, Direction, Error, Explanation, Reloaded};
use crate::metrics::{Format, Metrics};
use crate::mirror::Mirror;
use crate::oci::{ImageName, RegistryName};
use crate::server::listener;
use crate::server::{Client, Limits, Listener, Tls, Transport};
use crate::usage::Usage;
use guard::Door;

pub use guard::{Guard, Token};

/// Few connections, and short answers.
const LIMITS: Limits = Limits {
    max_connections: 256,
    header_timeout: Duration::from_secs(10),
    send_timeout: Duration::from_secs(60),
    drain: Duration::from_secs(10),
};

/// Whether the mirror can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It can, without this.
    Degraded(&'static str),
    /// Not yet or not any more, and why: a few words for people.
    NotReady(&'static str),
}

/// What the answers are made from.
#[derive(Clone)]
pub struct AdminState {
    /// What happened.
    pub metrics: Arc<Metrics>,
    /// Asked for each `/readyz`; must not block.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// How the bucket is doing, where there is one; must not block.
    pub bucket: Arc<dyn Fn() -> Option<BucketStatus> + Send + Sync>,
    /// What operators ask about; without it there is no `/api/v1`.
    pub mirror: Option<Mirror>,
    /// Who may ask what; the same for all listeners.
    pub guard: Arc<Guard>,
    /// The address of the page where a login may be shown, if there is one.
    pub page: Option<String>,
    /// The settings that are in force, without secrets.
    pub configuration: Option<Arc<RwLock<Configuration>>>,
    /// What the mirror was good for, also before this start.
    pub usage: Option<Arc<Usage>>,
    /// Where it is written down who did what, if it is.
    pub audit: Option<Arc<Audit>>,
    /// The addresses that clients on this machine pull from, those for Docker Hub first, with the upstream of a
    /// request that names none.
    pub pull: Arc<[(String, RegistryName)]>,
    /// The certificate for addresses beyond loopback; asks for none of clients.
    pub tls: Option<Arc<Tls>>,
    /// Reads the settings again, if they come from somewhere.
    pub reload: Option<Reload>,
    /// Carries a whole store into the bucket or back, where there is one.
    pub carry: Option<Carry>,
    /// Says whether who shows nothing may pull an image, if there are rules.
    pub explain: Option<Explain>,
}

/// Says what the rules that hold now say of an image to who shows nothing.
pub type Explain = Arc<dyn Fn(ImageName) -> BoxFuture<'static, Option<Explanation>> + Send + Sync>;

/// Reads the settings again for whoever is named, and says what came of it.
pub type Reload = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Reloaded, Error>> + Send + Sync>;

/// Begins to carry, and says how it goes.
pub type Carry = Arc<dyn Fn(Direction) -> mpsc::Receiver<Carried> + Send + Sync>;

/// A body: at hand, or coming line by line.
type Body = BoxBody<Bytes, io::Error>;

/// Whom a listener can be reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This machine alone.
    Machine,
    /// Others, too.
    Network,
}

impl Reach {
    /// That of a listener. Of an address that cannot be told: others, too.
    pub fn of(listener: &Listener) -> Reach {
        match listener {
            Listener::Socket(_) => Reach::Machine,
            Listener::Address(listener) if listener.local_addr().is_ok_and(guard::is_loopback) => Reach::Machine,
            Listener::Address(_) => Reach::Network,
        }
    }
}

/// Serves `listener` until `shutdown`, then lets running answers finish.
pub async fn serve(listener: Listener, reach: Reach, state: AdminState, shutdown: impl Future<Output = ()>) {
    let exposed = reach == Reach::Network;
    let at = match &listener {
        Listener::Address(listener) => listener.local_addr().ok(),
        Listener::Socket(_) => None,
    };
    let transport = state.tls.clone().filter(|_| exposed).map_or(Transport::Plain, Transport::Either);
    // What goes on until it is ended is no reason to stop later.
    let ending = CancellationToken::new();
    let answer = {
        let ending = ending.clone();
        move |client: Client, request| answer_any(request, state.clone(), client, (reach, at), ending.clone())
    };
    let shutdown = async {
        shutdown.await;
        ending.cancel();
    };
    listener::serve(listener, transport, LIMITS, None, answer, shutdown).await;
}

async fn answer_any(
    request: Request<Incoming>,
    state: AdminState,
    client: Client,
    (reach, listener): (Reach, Option<SocketAddr>),
    ending: CancellationToken,
) -> Response<Body> {
    let ambiguity = ambiguity(&request);
    let is_last = ambiguity.is_some() || request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut answer = match ambiguity {
        Some(ambiguity) => api::refusal(&Error::new(Code::Usage, ambiguity)),
        None => answer_clear(request, state, client, (reach, listener), ending).await,
    };
    if is_last {
        // What follows on the connection is not trusted.
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    answer
}

async fn answer_clear(
    request: Request<Incoming>,
    state: AdminState,
    client: Client,
    (reach, listener): (Reach, Option<SocketAddr>),
    ending: CancellationToken,
) -> Response<Body> {
    match &state.mirror {
        Some(mirror) if request.uri().path().starts_with(api::PREFIX) => {
            let door = Door { peer: client.peer, encrypted: client.encrypted, reach, listener };
            let present = mirror.present();
            let visit = api::Visit { mirror: &present, state: &state, door, seat: &client.seat, ending };
            visit.answer(request).await
        }
        _ if page::has(request.uri().path()) => match reach {
            Reach::Network if state.tls.is_some() && !client.encrypted => api::refusal(&Error::new(
                Code::Forbidden,
                "the page is at https:// here; in plain HTTP there are /livez, /readyz and /metrics only",
            )),
            _ => page::answer(&request),
        },
        _ => answer(request.method(), request.uri().path(), Format::asked_for(request.headers()), &state),
    }
}

/// What of a request somebody in front may read otherwise (RFC 9112, 3.2 and 6.3).
fn ambiguity(request: &Request<Incoming>) -> Option<&'static str> {
    let headers = request.headers();
    if headers.get_all(header::HOST).into_iter().nth(1).is_some() {
        return Some("the request has more than one Host header");
    }
    // A Content-Length in front of it is not told: only what may be longer than anybody knows comes so.
    let is_stream =
        request.method() == Method::POST && request.uri().path().strip_prefix(api::PREFIX) == Some("import");
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    (chunked && (!is_stream || headers.contains_key(header::CONTENT_LENGTH)))
        .then_some("the request does not say in one way, by Content-Length, how long its body is")
}

/// The answer to one request; metrics come in this format.
fn answer(method: &Method, path: &str, format: Format, state: &AdminState) -> Response<Body> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if method != Method::GET && method != Method::HEAD {
        return api::not_allowed("GET, HEAD");
    }
    match path {
        "/livez" => respond(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match (state.readiness)() {
            Readiness::Ready => respond(StatusCode::OK, TEXT, "ok\n"),
            Readiness::Degraded(what) => respond(StatusCode::OK, TEXT, format!("ok: degraded ({what})\n")),
            Readiness::NotReady(why) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
        },
        "/metrics" => {
            state.mirror.iter().for_each(Mirror::measure);
            respond(StatusCode::OK, format.content_type(), state.metrics.encode(format))
        }
        _ => {
            api::refusal(&Error::new(Code::NotFound, "not found: /, /livez, /readyz, /metrics and /api/v1 are served"))
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    respond_with(status, content_type, Full::new(body.into()).map_err(|never| match never {}).boxed())
}

fn respond_with(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    // Health is a matter of now.
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
