//! The pull listener: accepts connections, limits them, drains them.
//!
//! HTTP/1.1 only: no client that we know pulls over anything else. Every wait has a deadline: for
//! the headers, and for the drain. What a request means is decided in [`handler`].

pub mod body;
pub mod exchange;
pub mod handler;
pub mod response;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::mirror::Mirror;

/// How long to wait after accepting failed, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Buffer for the head of a request, in bytes; a longer head is answered with 431.
const MAX_HEAD: usize = 128 << 10;

/// The bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the backlog.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long running responses may go on after the shutdown began.
    pub drain: Duration,
}

/// What every connection needs.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Answers requests.
    pub mirror: Mirror,
    /// Counts them.
    pub metrics: Arc<Metrics>,
}

/// Serves until `shutdown` completes, then lets running responses end within the drain time.
pub async fn serve(listener: TcpListener, edge: Edge, limits: Limits, shutdown: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = &mut shutdown => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = &mut shutdown => break,
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), {
                let edge = edge.clone();
                service_fn(move |request| {
                    let edge = edge.clone();
                    async move { Ok::<_, std::convert::Infallible>(handler::answer(&edge, peer, request).await) }
                })
            });
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // How it ended is in the log line of its last request.
            let _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("closing connections that were still open when the drain time ended");
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await.and_then(prepared) {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn prepared((stream, peer): (TcpStream, SocketAddr)) -> io::Result<(TcpStream, SocketAddr)> {
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}
