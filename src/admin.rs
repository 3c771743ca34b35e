//! The admin listener: health and metrics over HTTP, never on an address for clients.
//!
//! `/livez` says that the process answers, `/readyz` that it can serve, `/metrics` what happened.
//! Takes a bound listener and a shutdown future, so tests and `main` use the same door. What is
//! answered is a pure function of request and state; nothing here changes anything.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::metrics::{self, Metrics};

/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long to wait when no connection can be accepted, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether the mirror can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
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
}

/// Serves `listener` until `shutdown`, then lets running answers finish.
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(());
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let seat = seats.clone().acquire_owned().await;
            (seat, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            (seat, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (state, stopped) = (state.clone(), stopped.clone());
                    connections.spawn(async move {
                        connection(stream, state, stopped).await;
                        drop(seat);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, stop));
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, state: AdminState, mut stopped: watch::Receiver<()>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        // An error means that the sender is gone: that is the sign.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection broke");
    }
}

/// The answer to one request.
fn answer(method: &Method, path: &str, state: &AdminState) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    if method != Method::GET && method != Method::HEAD {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, JSON, r#"{"error":"only GET and HEAD are served"}"#);
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => respond(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => match (state.readiness)() {
            Readiness::Ready => respond(StatusCode::OK, TEXT, "ok\n"),
            Readiness::NotReady(why) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
        },
        "/metrics" => respond(StatusCode::OK, metrics::CONTENT_TYPE, state.metrics.encode()),
        _ => respond(StatusCode::NOT_FOUND, JSON, r#"{"error":"not found: /livez, /readyz and /metrics are served"}"#),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    // Health is a matter of now.
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
