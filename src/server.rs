//! The pull listener: what clients pull from.
//!
//! Connections are the business of [`listener`]; what a request means is decided in [`handler`].

pub mod body;
pub mod congestion;
pub mod exchange;
pub mod handler;
pub mod io;
pub mod listener;
pub mod response;
pub mod shortcut;
pub mod tls;
pub mod wire;

use std::sync::Arc;

use futures_util::future::{Either, ready};
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::oci::{ErrorCode, RegistryName};

pub use listener::{Client, Limits};
pub use shortcut::Shortcuts;
pub use tls::Tls;

/// What every connection needs.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Answers requests.
    pub mirror: Mirror,
    /// Counts them.
    pub metrics: Arc<Metrics>,
    /// The upstream of a request that names none, where this listener is for one.
    pub default: Option<RegistryName>,
    /// What to say of a blob that upstream cannot give now: [`ErrorCode::Unavailable`], or
    /// [`ErrorCode::BlobUnknown`] so that clients look elsewhere at once.
    pub unavailable_blob: ErrorCode,
    /// What requests mean that are answered from memory.
    pub shortcuts: Arc<Shortcuts>,
}

/// Serves until `shutdown` completes, then lets running responses end within the drain time.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    edge: Edge,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let answer = move |client: Client, request| match handler::at_once(&edge, &client, &request) {
        Some(response) => Either::Left(ready(response)),
        None => {
            let edge = edge.clone();
            // Boxed: it is large, and would be moved about for those that need nothing of it.
            Either::Right(Box::pin(async move { handler::answer(&edge, &client, request).await }))
        }
    };
    listener::serve(listener, tls, limits, answer, shutdown).await;
}
