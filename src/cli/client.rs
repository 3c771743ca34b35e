//! The commands' way to a running daemon: HTTP over its Unix socket or its admin address.
//!
//! One request per connection, no redirects, no proxies: the other side is this machine or one that
//! somebody named. What goes wrong becomes talk and an exit code here, so that commands only deal
//! with answers.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use super::{Exit, complain, environment, say};
use crate::config::{Config, Overrides};

/// Where a service has its socket, for commands that are run outside of it.
const SOCKET_OF_SERVICE: &str = "/run/registry-mirror/registry-mirror.sock";

/// What every command that asks the daemon can be told.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The daemon: its admin address, such as http://127.0.0.1:5080, or unix:PATH
    #[arg(long, value_name = "URL|unix:PATH")]
    admin: Option<String>,
    /// Answer in JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "http://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A daemon that may answer.
pub(super) struct Daemon {
    addresses: Vec<Address>,
    runtime: tokio::runtime::Runtime,
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Daemon {
    /// The daemon that `at` names, else the one of the configuration.
    pub(super) fn find(at: &At) -> Result<Daemon, Exit> {
        let addresses = match &at.admin {
            Some(typed) => vec![parse(typed).ok_or_else(|| {
                say(&format!("error: --admin: {typed:?} is neither http://ADDRESS:PORT nor unix:PATH"));
                Exit::Usage
            })?],
            None => configured()?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            say(&format!("error: {error}"));
            Exit::Failed
        })?;
        Ok(Daemon { addresses, runtime })
    }

    /// The answer to a GET.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Exit> {
        self.runtime.block_on(async { document(self.ask(Method::GET, path, None).await?).await })
    }

    /// The answer to a POST.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Exit> {
        self.runtime.block_on(async { document(self.ask(Method::POST, path, Some(body)).await?).await })
    }

    /// Hands over the lines of the answer to a POST as they come.
    pub(super) fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        take: &mut dyn FnMut(T, &str),
    ) -> Result<(), Exit> {
        self.runtime.block_on(async {
            let mut answer = self.ask(Method::POST, path, Some(body)).await?.into_body();
            let mut rest = BytesMut::new();
            while let Some(frame) = answer.frame().await {
                let frame = frame.map_err(|error| broke(&error))?;
                rest.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line = rest.split_to(end + 1);
                    let text = String::from_utf8_lossy(&line);
                    take(serde_json::from_str(text.trim_end()).map_err(|error| broke(&error))?, text.trim_end());
                }
            }
            Ok(())
        })
    }

    /// Whether the daemon can serve.
    pub(super) fn is_ready(&self) -> Result<bool, Exit> {
        self.runtime.block_on(async { Ok(self.send(Method::GET, "/readyz", None).await?.status().is_success()) })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Exit> {
        let answer = self.send(method, &format!("/api/v1/{path}"), body).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        say(&format!("error: {}", said["error"].as_str().unwrap_or_else(|| status.as_str())));
        Err(match status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::BAD_REQUEST => Exit::Usage,
            _ => Exit::Failed,
        })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Exit> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-registry-mirror", "1")
            .header(header::CONNECTION, "close");
        match self.connect().await? {
            (host, Connection::Tcp(stream)) => {
                exchange(TokioIo::new(stream), request.header(header::HOST, host), body).await
            }
            (host, Connection::Unix(stream)) => {
                exchange(TokioIo::new(stream), request.header(header::HOST, host), body).await
            }
        }
    }

    /// The first address that takes a connection, and what to call it.
    async fn connect(&self) -> Result<(String, Connection), Exit> {
        let mut tried = Vec::new();
        for address in &self.addresses {
            let connected = match address {
                Address::Tcp(host) => {
                    TcpStream::connect(host).await.map(|stream| (host.clone(), Connection::Tcp(stream)))
                }
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path).await;
                    stream.map(|stream| ("localhost".to_owned(), Connection::Unix(stream)))
                }
            };
            match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => tried.push(format!("  {address}: {error}")),
            }
        }
        say(&format!("error: no daemon answers\n{}", tried.join("\n")));
        say("start one with: registry-mirror serve; or say where it is with --admin");
        Err(Exit::Unreachable)
    }
}

async fn exchange<S>(
    stream: TokioIo<S>,
    request: http::request::Builder,
    body: String,
) -> Result<Response<Incoming>, Exit>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| broke(&error))?;
    tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| broke(&error))?;
    sender.send_request(request).await.map_err(|error| broke(&error))
}

async fn document<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, Exit> {
    let body = answer.into_body().collect().await.map_err(|error| broke(&error))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| broke(&error))
}

fn broke(error: &dyn std::error::Error) -> Exit {
    say(&format!("error: the daemon's answer cannot be read: {error}"));
    Exit::Failed
}

/// Where the daemon of this configuration listens, in the order to try.
fn configured() -> Result<Vec<Address>, Exit> {
    let config = Config::load(None, environment()?, Overrides::default()).map_err(|error| complain(&error))?;
    let sockets = config.server.admin_socket.into_iter().chain([PathBuf::from(SOCKET_OF_SERVICE)]);
    let mut addresses: Vec<_> = sockets.filter(|path| path.exists()).map(Address::Unix).collect();
    addresses.extend(config.server.admin.iter().map(|address| {
        // An address to listen on that means all of them is none to connect to.
        let mut address = *address;
        match address.ip() {
            ip if !ip.is_unspecified() => {}
            std::net::IpAddr::V4(_) => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            std::net::IpAddr::V6(_) => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        }
        Address::Tcp(address.to_string())
    }));
    Ok(addresses)
}

fn parse(typed: &str) -> Option<Address> {
    if let Some(path) = typed.strip_prefix("unix:") {
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        return path.is_absolute().then(|| Address::Unix(path.to_owned()));
    }
    let address = typed.strip_prefix("http://").unwrap_or(typed).trim_end_matches('/');
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()).then(|| Address::Tcp(address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_a_url_an_address_or_a_socket() {
        for (typed, expected) in [
            ("http://127.0.0.1:5080/", Some("http://127.0.0.1:5080")),
            ("localhost:5080", Some("http://localhost:5080")),
            ("[::1]:5080", Some("http://[::1]:5080")),
            ("unix:/run/x.sock", Some("unix:/run/x.sock")),
            ("unix:///run/x.sock", Some("unix:/run/x.sock")),
            ("unix:x.sock", None),
            ("5080", None),
            ("https://mirror.example/", None),
        ] {
            assert_eq!(parse(typed).map(|address| address.to_string()).as_deref(), expected, "{typed}");
        }
    }
}
