//! The interface for operators: HTTP and JSON below `/api/v1`.
//!
//! GET looks, POST acts, `ready` apart, which looks; who may do which is the guard's to say. A page of another
//! origin can do neither. Without the token a request needs a `Host` that is an address or `localhost`,
//! so that a name that its owner made point here (DNS rebinding) reads nothing, least of all the names of
//! images; a POST needs the header `X-Registry-Mirror: 1`, too, which no page may send to another origin.
//! Health and metrics, which name no image, are answered under any name, as probes and Prometheus use
//! many. What is answered and ordered are [`documents`]; what takes long answers with one a line.

mod bundles;
mod events;
mod images;
mod logins;
mod naming;
mod noting;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::noting::Noting;
use super::guard::{Actor, Door, Place, Wish};
use super::{AdminState, Body, respond_with};
use crate::documents::{
    self, BucketStatus, Canary, Checked, Code, Direction, Document, Error, Session, Status, orders,
};
use crate::mirror::Mirror;
use crate::server::listener::Seat;

/// What all paths of the interface begin with.
pub(super) const PREFIX: &str = "/api/v1/";

/// The header that says that a request was not sent by a page.
const CONSENT: &str = "x-registry-mirror";
/// A longer request is refused, in bytes.
const MAX_REQUEST: usize = 1 << 20;
/// How long a request may take to come.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How much of an order the log shows, in bytes.
const SHOWN: usize = 300;

/// The status that says what a code says: the one table from the one to the other.
const fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Usage | Code::Read => StatusCode::BAD_REQUEST,
        Code::NotFound | Code::Nothing => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Code::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Hostile | Code::Malformed => StatusCode::UNPROCESSABLE_ENTITY,
        Code::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
        Code::Configuration
        | Code::Unreachable
        | Code::Refused
        | Code::Damaged
        | Code::Write
        | Code::Gone
        | Code::Store
        | Code::Metadata
        | Code::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What can be looked at, with GET.
const LOOKS: [&str; 12] = [
    "status",
    "usage",
    EVENTS,
    "images",
    "images/inspect",
    "history",
    "why",
    "config",
    SESSION,
    "receipt",
    "canary",
    "schema",
];
const EVENTS: &str = "events";
/// Asks whether what is shown may act.
const SESSION: &str = "session";
/// What is asked for with POST. All but [`READY`] act.
const POSTS: [&str; 15] = [
    "pull", READY, "pin", "unpin", "forget", "freeze", "unfreeze", "gc", "verify", "export", "import", RELOAD, PAGE,
    PUSH_STORE, PULL_STORE,
];
const PUSH_STORE: &str = "store/push";
const PULL_STORE: &str = "store/pull";
const READY: &str = "ready";
const RELOAD: &str = "reload";
const PAGE: &str = "page";
/// Asked for with POST, too, by who has nothing to show but what is in the order.
const LOGIN: &str = "login";

/// A request below [`PREFIX`] on its way through.
pub(super) struct Visit<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) state: &'a AdminState,
    pub(super) door: Door,
    pub(super) seat: &'a Seat,
    /// Ends with the listener.
    pub(super) ending: CancellationToken,
}

impl Visit<'_> {
    /// The answer.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let post = POSTS.contains(&path.as_str());
        let acts = post && path != READY && request.method() == Method::POST;
        let wish = match path.as_str() {
            LOGIN if request.method() == Method::POST => {
                let mut noting = self.noting(LOGIN, Actor::Anybody, true);
                let begun = self.log_in(request, &mut noting).await;
                return noting.ended(begun).unwrap_or_else(|error| refusal(&error));
            }
            EVENTS => Wish::Follow,
            SESSION => Wish::Act,
            _ if acts => Wish::Act,
            _ => Wish::Look,
        };
        let by_address = is_asked_by_address(&request);
        let actor = match self.state.guard.admit(self.door, request.headers(), by_address, wish).await {
            Ok(actor) => actor,
            Err(error) => {
                let refused = self.noting(&path, Actor::Anybody, acts).ended(Err(error));
                return refused.unwrap_or_else(|error| refusal(&error));
            }
        };
        let answered = match (LOOKS.contains(&path.as_str()), post, request.method()) {
            (true, _, &Method::GET) if wish == Wish::Follow => self.follow(request.headers().clone(), by_address),
            (true, _, &(Method::GET | Method::HEAD)) => self.look(&request, actor).await,
            (_, true, &Method::POST) => self.take(request, &path, wish, actor).await,
            (true, ..) => return not_allowed("GET, HEAD"),
            (_, true, _) => return not_allowed("POST"),
            _ if path == LOGIN => return not_allowed("POST"),
            _ => Err(not_found()),
        };
        answered.unwrap_or_else(|error| refusal(&error))
    }

    /// Writes down who does what, if that `acts`.
    fn noting(&self, act: &str, actor: Actor, acts: bool) -> Noting {
        Noting::new(self.state.audit.clone().filter(|_| acts), self.door, act, actor)
    }

    /// Takes an order, which may be long in coming, and does it, which may be long in ending. From here
    /// on the connection has a place among its kind instead of one among all.
    async fn take(
        &self,
        request: Request<Incoming>,
        path: &str,
        wish: Wish,
        actor: Actor,
    ) -> Result<Response<Body>, Error> {
        let mut noting = self.noting(path, actor, wish == Wish::Act);
        let place = match refuse_pages(request.headers()).and_then(|()| self.state.guard.place(wish, path)) {
            Ok(place) => place,
            Err(error) => return noting.ended(Err(error)),
        };
        self.seat.give_up();
        let answered = self.hear_and_do(request, path, (wish, actor), place.clone(), &mut noting).await;
        Ok(holding(place, noting.ended(answered).unwrap_or_else(|error| refusal(&error))))
    }

    async fn hear_and_do(
        &self,
        request: Request<Incoming>,
        path: &str,
        (wish, actor): (Wish, Actor),
        place: Place,
        noting: &mut Noting,
    ) -> Result<Response<Body>, Error> {
        let name = (path == "import").then(|| named(request.uri().query().unwrap_or_default()));
        let (order, request) = match &name {
            // What else comes is the bundle.
            Some(_) => (Bytes::new(), Some(request)),
            None => (arrived(request, path).await?, None),
        };
        if wish == Wish::Act {
            let shown = name.as_ref().map_or_else(|| shown(&order), |name| json!({ "name": name }).to_string());
            tracing::info!(act = path, by = %actor, order = shown, "act");
            noting.ordered(shown);
        }
        match (path, request) {
            (_, Some(request)) => bundles::import(request, name.flatten(), self.mirror, place, noting).await,
            (RELOAD, _) => self.reload(actor, &order).await,
            (PAGE, _) => self.invite(),
            (PUSH_STORE, _) => self.carry(Direction::Push, noting),
            (PULL_STORE, _) => self.carry(Direction::Pull, noting),
            _ => images::act(path, &order, self.mirror, &self.state.pull, noting).await,
        }
    }

    /// Tells what goes on, and goes on telling, as long as whoever asked like that may hear it.
    fn follow(&self, asked: HeaderMap, by_address: bool) -> Result<Response<Body>, Error> {
        let place = self.state.guard.place(Wish::Follow, EVENTS)?;
        self.seat.give_up();
        let (guard, door) = (Arc::clone(&self.state.guard), self.door);
        let may_hear = move || guard.decides(door, &asked, by_address, Wish::Follow).is_ok();
        Ok(holding(place, events::answer(self.mirror.clone(), may_hear, self.ending.clone())))
    }

    fn addresses(&self) -> Vec<String> {
        self.state.pull.iter().map(|(address, _)| address.clone()).collect()
    }

    async fn look(&self, request: &Request<Incoming>, actor: Actor) -> Result<Response<Body>, Error> {
        let (mirror, query) = (self.mirror, request.uri().query().unwrap_or_default());
        match request.uri().path().strip_prefix(PREFIX) {
            Some("status") => {
                let (listening, bucket) = (self.addresses(), (self.state.bucket)());
                let mut status = Status { listening, bucket, ..mirror.status() };
                status.problems.extend(lost_of_audit(self.state.metrics.lost_of_audit()));
                status.problems.extend(status.bucket.as_ref().and_then(BucketStatus::problem));
                Ok(ok(&status))
            }
            Some("usage") => Ok(ok(&self.state.usage.as_ref().ok_or_else(not_found)?.document())),
            Some("config") => Ok(ok(&*self.state.configuration.as_ref().ok_or_else(not_found)?.read())),
            Some(SESSION) => Ok(ok(&Session { by: actor.to_string(), session: None, lasts_seconds: None })),
            Some("canary") => {
                let upstreams = self.state.pull.iter().map(|(_, upstream)| upstream.to_string()).collect();
                let registries = mirror.registries();
                Ok(ok(&Canary { mirrors: self.addresses(), upstreams, registries, pulls: mirror.canary_pulls() }))
            }
            Some("schema") => Ok(ok(&documents::schema())),
            Some(path) => images::look(path, query, mirror, self.state).await,
            None => Err(not_found()),
        }
    }

    /// Carries the whole store, and tells how it goes. It goes on when nobody listens any more.
    fn carry(&self, way: Direction, noting: &mut Noting) -> Result<Response<Body>, Error> {
        let Some(carry) = &self.state.carry else { return Err(documents::no_bucket()) };
        let (mut carried, noting) = (carry(way), noting.goes_on());
        let (events, lines) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let mut all = false;
            while let Some(line) = carried.recv().await {
                all = line.is_all();
                let _ = events.send(line).await;
            }
            noting.came_to(all);
            Ok(())
        });
        Ok(streamed(lines, task))
    }

    /// Has the settings read again.
    async fn reload(&self, actor: Actor, order: &Bytes) -> Result<Response<Body>, Error> {
        let orders::Reload {} = read(order)?;
        match &self.state.reload {
            Some(reload) => Ok(ok(&reload(actor.to_string()).await?)),
            None => Err(not_found()),
        }
    }
}

/// An answer that has this place, in place of one among connections, until it has ended.
fn holding(place: Place, answer: Response<Body>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    // Nothing more is to come on a connection that nobody counts.
    head.headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    let held = body.map_frame(move |frame| {
        let _held = &place;
        frame
    });
    Response::from_parts(head, held.boxed())
}

/// The name that a query gives to a bundle.
fn named(query: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "name").map(|(_, name)| name.into_owned())
}

/// The whole body of a request. One that is too long is read to its end all the same: a client that is
/// still sending would not hear the answer.
async fn arrived(request: Request<Incoming>, path: &str) -> Result<Bytes, Error> {
    let longest = if path == "export" { bundles::LONGEST_ORDER } else { MAX_REQUEST };
    let mut body = request.into_body();
    let (mut order, mut length) = (BytesMut::new(), 0_usize);
    let whole = async {
        while let Some(frame) = body.frame().await {
            let piece = frame?.into_data().unwrap_or_default();
            length = length.saturating_add(piece.len());
            if length <= longest {
                order.extend_from_slice(&piece);
            }
        }
        Ok::<_, hyper::Error>(())
    };
    match tokio::time::timeout(ARRIVAL, whole).await {
        _ if length > longest => Err(Error::new(Code::TooLong, "the request is too long")),
        Ok(Ok(())) => Ok(order.freeze()),
        Ok(Err(_)) => Err(bad("the request broke off".to_owned())),
        Err(_) => Err(bad(format!("the request did not come within {} s", ARRIVAL.as_secs()))),
    }
}

/// The beginning of an order, as one line that no terminal obeys.
fn shown(order: &Bytes) -> String {
    let order = order.get(..SHOWN.min(order.len())).unwrap_or_default();
    let text = order.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    text.replace(char::is_control, " ")
}

/// The answer to a request with a method that is not among the `allowed`.
pub(super) fn not_allowed(allowed: &'static str) -> Response<Body> {
    let message = format!("this is served for {allowed} only");
    let mut response = refusal(&Error::new(Code::MethodNotAllowed, message));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

/// Refuses what a page in a browser could have sent.
fn refuse_pages(headers: &HeaderMap) -> Result<(), Error> {
    if headers.get(CONSENT).is_none_or(|value| value != "1") {
        let message = "a request that changes something needs the header X-Registry-Mirror: 1";
        return Err(Error::new(Code::Forbidden, message));
    }
    Ok(())
}

/// Whether a request names us in a way that nobody else can make theirs: in `Host`, and in the target
/// if that names a host, which then counts.
fn is_asked_by_address(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next().and_then(|host| std::str::from_utf8(host.as_bytes()).ok()), hosts.next());
    let target = request.uri().authority().is_none_or(|authority| is_address(authority.as_str()));
    second.is_none() && target && host.is_some_and(is_address)
}

/// Whether a `Host` is an address or this machine, which no foreign name can be made to look like.
fn is_address(host: &str) -> bool {
    let (is_ours, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            let is_local = name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost");
            (is_local || name.parse::<Ipv4Addr>().is_ok(), port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_ours && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Documents as `task` makes them, one a line, and behind them the error that ended it.
fn streamed<T: Document + Send + Sync + 'static>(
    values: mpsc::Receiver<T>,
    task: JoinHandle<Result<(), Error>>,
) -> Response<Body> {
    let lines = stream::unfold((values, Some(task)), |(mut values, mut task)| async move {
        let line = match values.recv().await {
            Some(value) => documents::line(&value),
            None => documents::line(&task.take()?.await.ok()?.err()?),
        };
        Some((Ok::<_, io::Error>(Frame::data(Bytes::from(line + "\n"))), (values, task)))
    });
    respond_with(StatusCode::OK, "application/jsonl", StreamBody::new(lines).boxed())
}

fn read<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Error> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| bad(format!("the request cannot be read: {error}")))
}

fn bad(message: String) -> Error {
    Error::new(Code::Usage, message)
}

fn not_found() -> Error {
    Error::new(Code::NotFound, "there is no such request").with_hint("the README says what there is")
}

fn ok(document: &impl Document) -> Response<Body> {
    said(StatusCode::OK, document)
}

/// The answer that says what went wrong.
pub(super) fn refusal(error: &Error) -> Response<Body> {
    let mut answer = said(status_of(error.code), error);
    let more = match error.code {
        Code::Unauthorized => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"registry-mirror\"")),
        Code::Busy => Some((header::RETRY_AFTER, "5")),
        _ => None,
    };
    if let Some((name, value)) = more {
        answer.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    answer
}

fn said(status: StatusCode, document: &impl Document) -> Response<Body> {
    super::respond(status, "application/json", documents::line(document) + "\n")
}

/// What there is to say of lines that are missing in the audit.
fn lost_of_audit(lines: u64) -> Option<Checked> {
    let message = || format!("{} since the start could not be written and are lost", documents::counted(lines, "line"));
    let hint = "the log says why the first was; registry-mirror check says whether access.audit can be written now";
    (lines > 0).then(|| Checked::warn("audit", message(), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_or_localhost_is_a_host_that_cannot_be_forged() {
        for (host, expected) in [
            ("127.0.0.1:5080", true),
            ("127.0.0.1", true),
            ("[::1]:5080", true),
            ("localhost:5080", true),
            ("LocalHost:5080", true),
            ("localhost.", true),
            ("localhost..", false),
            ("localhost.example", false),
            ("mirror.example:5080", false),
            ("127.0.0.1.example", false),
            ("127.0.0.1:evil", false),
            ("localhost:99999999", false),
            ("localhost:+80", false),
            ("localhost:", false),
            ("[::1]", true),
            ("[::1]evil", false),
            ("[::1]:evil", false),
            ("[localhost]", false),
            ("127.0.0.1:50:80", false),
            ("", false),
        ] {
            assert_eq!(is_address(host), expected, "{host}");
        }
    }
}
