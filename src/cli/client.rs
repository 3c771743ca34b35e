//! The commands' way to a running daemon: HTTP over its Unix socket or its admin address.
//!
//! One request per connection, no redirects, no proxies: the other side is this machine or one that
//! somebody named. What goes wrong becomes talk and an exit code here, so that commands only deal
//! with answers. However long an answer takes, it is waited for as long as the daemon lives: whenever
//! nothing came for a while, it is asked for a sign of life on a connection of its own.

mod address;
mod bundles;

use std::cell::OnceCell;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{Exit, complain, environment, say};
use crate::config::{Config, Overrides};
use address::Address;

/// What every command that asks the daemon can be told.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The daemon: its admin address, such as http://127.0.0.1:5080, or unix:PATH
    #[arg(long, value_name = "URL|unix:PATH")]
    pub(super) admin: Option<String>,
    /// Configuration of the daemon, which says where it listens [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How long to wait for a sign of life
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// Answer in JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

impl At {
    /// The configuration that is meant, with the store in `store` if that is given.
    pub(super) fn config(&self, store: Option<String>) -> Result<Config, Exit> {
        let overrides = Overrides { store, ..Overrides::default() };
        Config::load(self.config.as_deref(), environment()?, overrides).map_err(|error| complain(&error))
    }
}

/// A daemon that may answer.
pub(super) struct Remote {
    addresses: Vec<Address>,
    /// The one that took a connection.
    found: OnceCell<Address>,
    runtime: tokio::runtime::Runtime,
    patience: Duration,
}

/// What the body of a request is sent from.
type Body = BoxBody<Bytes, io::Error>;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Remote {
    /// The daemon that `at` names, else the one of the configuration.
    pub(super) fn find(at: &At) -> Result<Remote, Exit> {
        let addresses = match &at.admin {
            Some(typed) => vec![address::parse(typed).ok_or_else(|| {
                say(&format!("error: --admin: {typed:?} is neither http://ADDRESS:PORT nor unix:PATH"));
                Exit::Usage
            })?],
            None => address::configured(&at.config(None)?),
        };
        Remote::at(addresses, at.timeout)
    }

    /// The daemon of a configuration; with `store_only` only one that surely has the store of it.
    pub(super) fn of(config: &Config, store_only: bool, patience: Duration) -> Result<Remote, Exit> {
        let addresses = if store_only { address::of_store(config) } else { address::configured(config) };
        Remote::at(addresses, patience)
    }

    fn at(addresses: Vec<Address>, patience: Duration) -> Result<Remote, Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            say(&format!("error: {error}"));
            Exit::Failed
        })?;
        Ok(Remote { addresses, found: OnceCell::new(), runtime, patience })
    }

    /// Whether somebody takes a connection.
    pub(super) fn answers(&self) -> bool {
        self.runtime.block_on(self.connect()).is_ok()
    }

    /// The answer to a GET.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Exit> {
        self.runtime.block_on(async { self.ask(Method::GET, path, None).await?.document().await })
    }

    /// The answer to a POST.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Exit> {
        self.runtime.block_on(async { self.ask(Method::POST, path, Some(body)).await?.document().await })
    }

    /// Hands over the lines of the answer to a POST as they come.
    pub(super) fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        take: &mut dyn FnMut(T, &str),
    ) -> Result<(), Exit> {
        self.runtime.block_on(async {
            let mut answer = self.ask(Method::POST, path, Some(body)).await?;
            while let Some(line) = answer.line().await? {
                let text = String::from_utf8_lossy(&line);
                take(serde_json::from_str(text.trim_end()).map_err(|error| broke(&error))?, text.trim_end());
            }
            Ok(())
        })
    }

    /// Whether the daemon can serve.
    pub(super) fn is_ready(&self) -> Result<bool, Exit> {
        self.runtime.block_on(async { Ok(self.send(Method::GET, "/readyz", nothing()).await?.status.is_success()) })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer<'_>, Exit> {
        let body = body.map_or_else(nothing, |body| full(body.to_string()));
        let answer = self.send(method, &format!("/api/v1/{path}"), body).await?;
        let status = answer.status;
        if status.is_success() {
            return Ok(answer);
        }
        let said: Value = serde_json::from_slice(&answer.whole().await?).unwrap_or_default();
        say(&format!("error: {}", said["error"].as_str().unwrap_or_else(|| status.as_str())));
        Err(match status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::BAD_REQUEST => Exit::Usage,
            _ => Exit::Failed,
        })
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Answer<'_>, Exit> {
        let (address, wire) = self.connect().await.map_err(|tried| {
            say(&format!("error: no daemon answers{tried}"));
            say("start one with: registry-mirror serve; or say where it is with --admin");
            Exit::Unreachable
        })?;
        let address = self.found.get_or_init(|| address);
        let request = request(method, path, address, body).map_err(|error| broke(&error))?;
        let answer = self.patiently(exchange(wire, request)).await?.map_err(|error| broke(&error))?;
        let (head, body) = answer.into_parts();
        Ok(Answer { daemon: self, status: head.status, body, rest: BytesMut::new() })
    }

    /// The first address that takes a connection; or what was tried, for people.
    async fn connect(&self) -> Result<(Address, Box<dyn Wire>), String> {
        let mut tried = String::new();
        let addresses = self.found.get().map_or(&self.addresses[..], std::slice::from_ref);
        for address in addresses {
            let connected = tokio::time::timeout(self.patience, dial(address)).await;
            let late = io::Error::new(io::ErrorKind::TimedOut, "takes no connection");
            match connected.unwrap_or(Err(late)) {
                Ok(wire) => return Ok((address.clone(), wire)),
                Err(error) => tried.push_str(&format!("\n  {address}: {error}")),
            }
        }
        Err(tried)
    }

    /// Waits for something from the daemon, as long as that gives signs of life.
    async fn patiently<T>(&self, coming: impl Future<Output = T>) -> Result<T, Exit> {
        let mut coming = pin!(coming);
        loop {
            if let Ok(came) = tokio::time::timeout(self.patience, &mut coming).await {
                return Ok(came);
            }
            let alive = tokio::time::timeout(self.patience, self.lives()).await;
            if !alive.unwrap_or(false) {
                let address = self.found.get().map(ToString::to_string).unwrap_or_default();
                let patience = humantime::format_duration(self.patience);
                say(&format!(
                    "error: what listens on {address} has given no sign of life for {patience}: the daemon hangs, or it \
                     is something else"
                ));
                say("look at its log; --timeout waits for longer, --admin asks another");
                return Err(Exit::Unreachable);
            }
        }
    }

    /// Whether the daemon answers anything at all.
    async fn lives(&self) -> bool {
        let Ok((address, wire)) = self.connect().await else { return false };
        let Ok(request) = request(Method::GET, "/livez", &address, nothing()) else { return false };
        exchange(wire, request).await.is_ok_and(|answer| answer.status().is_success())
    }
}

/// An answer whose body is still to come.
struct Answer<'d> {
    daemon: &'d Remote,
    status: StatusCode,
    body: Incoming,
    /// What came and was not asked for yet.
    rest: BytesMut,
}

impl Answer<'_> {
    /// Gets more of the body; whether there was more.
    async fn more(&mut self) -> Result<bool, Exit> {
        match self.daemon.patiently(self.body.frame()).await? {
            Some(Ok(frame)) => {
                self.rest.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                Ok(true)
            }
            Some(Err(error)) => Err(broke(&error)),
            None => Ok(false),
        }
    }

    /// The next line, with its end.
    async fn line(&mut self) -> Result<Option<BytesMut>, Exit> {
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
    async fn at_most(&mut self, bytes: usize) -> Result<BytesMut, Exit> {
        while self.rest.is_empty() {
            if !self.more().await? {
                return Err(broke(&"it ended early"));
            }
        }
        Ok(self.rest.split_to(bytes.min(self.rest.len())))
    }

    async fn whole(mut self) -> Result<BytesMut, Exit> {
        while self.more().await? {}
        Ok(self.rest)
    }

    async fn document<T: DeserializeOwned>(self) -> Result<T, Exit> {
        serde_json::from_slice(&self.whole().await?).map_err(|error| broke(&error))
    }
}

async fn dial(address: &Address) -> io::Result<Box<dyn Wire>> {
    Ok(match address {
        Address::Tcp(host) => Box::new(TcpStream::connect(host).await?),
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

fn request(method: Method, path: &str, address: &Address, body: Body) -> Result<Request<Body>, http::Error> {
    let host = match address {
        Address::Tcp(host) => host,
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

fn nothing() -> Body {
    full(String::new())
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

fn broke(error: &dyn std::fmt::Display) -> Exit {
    say(&format!("error: the daemon's answer cannot be read: {error}"));
    Exit::Failed
}
