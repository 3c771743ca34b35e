//! One daemon at the other end: HTTP over its Unix socket or its admin address, one request per
//! connection, with the token where that may be seen.
//!
//! No redirects, no proxies: the other side is this machine or one that somebody named. However long an
//! answer takes, it is waited for as long as the daemon lives: whenever nothing came for a while, it is
//! asked for a sign of life on a connection of its own.

use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::address::Address;
use crate::cli::explain;
use crate::config::Secret;
use crate::documents::{self, Code, Document, Error};
use crate::plain;

/// A daemon that may answer.
pub(in crate::cli) struct Endpoint {
    addresses: Vec<Address>,
    /// The one that took a connection.
    found: OnceLock<Address>,
    patience: Duration,
    token: Option<Secret>,
    /// Whether somebody typed the address.
    named: bool,
}

/// A connection to a daemon.
struct Line {
    wire: Box<dyn Wire>,
    /// Whether it is to this machine.
    loopback: bool,
}

/// What the body of a request is sent from.
pub(super) type Body = BoxBody<Bytes, io::Error>;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Endpoint {
    /// The first of these that takes a connection, silent for `patience` at most.
    pub(in crate::cli) fn new(addresses: Vec<Address>, patience: Duration) -> Endpoint {
        Endpoint { addresses, found: OnceLock::new(), patience, token: None, named: false }
    }

    /// The same with a token to show, where that may be seen. `named` says that somebody typed the address.
    pub(super) fn with_token(self, token: Option<Secret>, named: bool) -> Endpoint {
        Endpoint { token, named, ..self }
    }

    /// The token, where it may be shown: over TLS, and on loopback to whom somebody named. Whoever listens
    /// at a configured address while the daemon is down must not get it.
    fn token_for(&self, address: &Address, line: &Line) -> Option<&Secret> {
        let may_see = match address {
            Address::Tls(..) => true,
            Address::Plain(_) => self.named && line.loopback,
            Address::Unix(_) => false,
        };
        self.token.as_ref().filter(|_| may_see)
    }

    /// Whether somebody takes a connection.
    pub(super) async fn takes_connections(&self) -> bool {
        self.connect().await.is_ok()
    }

    /// The answer to a GET, which has to be a success.
    pub(in crate::cli) async fn get(&self, path: &str) -> Result<Answer<'_>, Error> {
        self.send(Method::GET, path, nothing()).await?.success().await
    }

    /// The answer to an order, which has to be a success. The path is below `/api/v1`.
    pub(in crate::cli) async fn post(&self, path: &str, order: &impl Serialize) -> Result<Answer<'_>, Error> {
        let order = serde_json::to_string(order).map_err(|error| Error::new(Code::Failed, error.to_string()))?;
        self.send(Method::POST, &format!("/api/v1/{path}"), full(order)).await?.success().await
    }

    /// Any answer to a request.
    pub(super) async fn send(&self, method: Method, path: &str, body: Body) -> Result<Answer<'_>, Error> {
        let (address, line) = self.connect().await.map_err(|tried| {
            Error::new(Code::Unreachable, format!("no daemon answers{tried}"))
                .with_hint("start one with: registry-mirror serve; or say where it is with --admin")
        })?;
        let address = self.found.get_or_init(|| address);
        let mut request = request(method, path, address, body).map_err(|error| broke(&error))?;
        if let Some(token) = self.token_for(address, &line) {
            let shown = header::HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut shown = shown.map_err(|error| broke(&error))?;
            shown.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, shown);
        }
        let answer = self.patiently(exchange(line.wire, request)).await?.map_err(|error| broke(&error))?;
        let (head, body) = answer.into_parts();
        Ok(Answer { endpoint: self, status: head.status, body, rest: BytesMut::new() })
    }

    /// The first address that takes a connection; or what was tried, for people.
    async fn connect(&self) -> Result<(Address, Line), String> {
        let mut tried = String::new();
        let addresses = self.found.get().map_or(&self.addresses[..], std::slice::from_ref);
        for address in addresses {
            let connected = tokio::time::timeout(self.patience, dial(address)).await;
            let late = io::Error::new(io::ErrorKind::TimedOut, "takes no connection");
            match connected.unwrap_or(Err(late)) {
                Ok(line) => {
                    if self.found.get().is_none() {
                        explain(&format!("the daemon is at {address}"));
                    }
                    return Ok((address.clone(), line));
                }
                Err(error) => tried.push_str(&format!("\n  {address}: {error}")),
            }
        }
        Err(tried)
    }

    /// Waits for something from the daemon, as long as that gives signs of life.
    async fn patiently<T>(&self, coming: impl Future<Output = T>) -> Result<T, Error> {
        let mut coming = pin!(coming);
        loop {
            if let Ok(came) = tokio::time::timeout(self.patience, &mut coming).await {
                return Ok(came);
            }
            let alive = tokio::time::timeout(self.patience, self.lives()).await;
            if !alive.unwrap_or(false) {
                let address = self.found.get().map(ToString::to_string).unwrap_or_default();
                let patience = humantime::format_duration(self.patience);
                let message = format!(
                    "what listens on {address} has given no sign of life for {patience}: the daemon hangs, or it is \
                     something else"
                );
                let hint = "look at its log; --timeout waits for longer, --admin asks another";
                return Err(Error::new(Code::Unreachable, message).with_hint(hint));
            }
        }
    }

    /// Whether the daemon answers anything at all.
    async fn lives(&self) -> bool {
        let Ok((address, line)) = self.connect().await else { return false };
        let Ok(request) = request(Method::GET, "/livez", &address, nothing()) else { return false };
        exchange(line.wire, request).await.is_ok_and(|answer| answer.status().is_success())
    }
}

/// An answer whose body is still to come.
pub(in crate::cli) struct Answer<'e> {
    endpoint: &'e Endpoint,
    pub(super) status: StatusCode,
    body: Incoming,
    /// What came and was not asked for yet.
    rest: BytesMut,
}

impl<'e> Answer<'e> {
    /// The answer if it is a success, else what the daemon says instead.
    pub(super) async fn success(self) -> Result<Answer<'e>, Error> {
        let status = self.status;
        if status.is_success() {
            return Ok(self);
        }
        let said = self.whole().await?;
        let error = serde_json::from_slice(&plain::document(&said));
        Err(error.map(in_terms_of_commands).unwrap_or_else(|_| {
            let code = match status {
                StatusCode::NOT_FOUND => Code::NotFound,
                StatusCode::BAD_REQUEST => Code::Usage,
                _ => Code::Failed,
            };
            Error::new(code, format!("the answer was {status}"))
        }))
    }

    /// Gets more of the body; whether there was more.
    async fn more(&mut self) -> Result<bool, Error> {
        match self.endpoint.patiently(self.body.frame()).await? {
            Some(Ok(frame)) => {
                self.rest.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                Ok(true)
            }
            Some(Err(error)) => Err(broke(&error)),
            None => Ok(false),
        }
    }

    /// The next line, with its end.
    pub(super) async fn line(&mut self) -> Result<Option<BytesMut>, Error> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.rest.split_to(end + 1)));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// At least one byte and at most so many.
    pub(super) async fn at_most(&mut self, bytes: usize) -> Result<BytesMut, Error> {
        while self.rest.is_empty() {
            if !self.more().await? {
                return Err(broke(&"it ended early"));
            }
        }
        Ok(self.rest.split_to(bytes.min(self.rest.len())))
    }

    /// All of the body.
    pub(in crate::cli) async fn whole(mut self) -> Result<BytesMut, Error> {
        while self.more().await? {}
        Ok(self.rest)
    }

    /// The document that the body is, and its text as it came.
    pub(in crate::cli) async fn document<T: Document>(self) -> Result<(T, String), Error> {
        parsed(&self.whole().await?)
    }
}

/// What a command does where HTTP shows a token.
fn in_terms_of_commands(error: Error) -> Error {
    match error.code {
        Code::Unauthorized => error.with_hint(
            "name the file that has the token with --admin-token FILE, over https or on loopback; or ask at the Unix socket \
             (--admin unix:PATH), as its owner or as root",
        ),
        _ => error,
    }
}

/// The document in these bytes, as people may see it, and its text as it came; or the error in its place.
pub(super) fn parsed<T: Document>(bytes: &[u8]) -> Result<(T, String), Error> {
    let document = documents::read(&plain::document(bytes)).map_err(|error| broke(&error))??;
    Ok((document, String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned()))
}

async fn dial(address: &Address) -> io::Result<Line> {
    let (at, trust) = match address {
        Address::Unix(path) => {
            let wire = Box::new(UnixStream::connect(path).await?);
            return Ok(Line { wire, loopback: true });
        }
        Address::Plain(at) => (at, None),
        Address::Tls(at, trust) => (at, Some(trust)),
    };
    let stream = TcpStream::connect(at).await?;
    let loopback = stream.peer_addr()?.ip().to_canonical().is_loopback();
    let wire: Box<dyn Wire> = match trust {
        None => Box::new(stream),
        Some(trust) => Box::new(trust.connect(stream, at).await?),
    };
    Ok(Line { wire, loopback })
}

fn request(method: Method, path: &str, address: &Address, body: Body) -> Result<Request<Body>, http::Error> {
    let host = match address {
        Address::Plain(at) | Address::Tls(at, _) => at,
        Address::Unix(_) => "localhost",
    };
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header("x-registry-mirror", "1")
        .header(header::CONNECTION, "close")
        .body(body)
}

async fn exchange(wire: Box<dyn Wire>, request: Request<Body>) -> hyper::Result<http::Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

pub(super) fn nothing() -> Body {
    full(String::new())
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

/// An answer that is none.
pub(super) fn broke(error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::Failed, format!("the daemon's answer cannot be read: {error}"))
}
