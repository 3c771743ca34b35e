//! The pull listener: what clients pull from.
//!
//! Connections are the business of [`listener`]; what a request means is decided in [`handler`].

pub mod admission;
pub mod authenticate;
pub mod body;
mod conditions;
pub mod congestion;
pub mod connection;
mod front;
mod glance;
mod greeting;
pub mod half_closed;
pub mod handler;
mod hold;
pub mod io;
pub mod listener;
pub mod record;
mod redirect;
pub mod response;
pub mod seats;
mod shortcut;
pub mod tags;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::net::TcpListener;

use crate::audit::Audit;
use crate::clients::Clients;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::oci::{ErrorCode, RegistryName};

pub use admission::Admission;
pub use listener::{Client, Limits, Listener, Transport};
pub use record::Peer;
pub use redirect::Redirects;
pub use shortcut::Shortcuts;
pub use tls::Tls;

/// What every connection needs.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The address that it listens at.
    pub listener: Option<SocketAddr>,
    /// Answers requests.
    pub mirror: Mirror,
    /// Counts them.
    pub metrics: Arc<Metrics>,
    /// The upstream of a request that names none, where this listener is for one.
    pub default: Option<RegistryName>,
    /// What to say of a blob that upstream cannot give now: [`ErrorCode::Unavailable`], or
    /// [`ErrorCode::BlobUnknown`] so that clients look elsewhere at once.
    pub unavailable_blob: ErrorCode,
    /// How often it was changed.
    pub epoch: u64,
    /// What requests mean that are answered from memory.
    pub shortcuts: Arc<Shortcuts>,
    /// What each client may have.
    pub clients: Arc<Clients>,
    /// Where it is written down who got what, if it is.
    pub audit: Option<Arc<Audit>>,
    /// Who may read what.
    pub admission: Arc<Admission>,
    /// Who gets blobs from the bucket itself.
    pub redirects: Arc<Redirects>,
}

/// What every connection of a listener needs, as it is now: whole, so that a request has all of it as it was when it
/// began.
#[derive(Debug)]
pub struct Present(RwLock<Arc<Edge>>);

impl Present {
    /// Begins with this.
    pub fn new(edge: Edge) -> Present {
        Present(RwLock::new(Arc::new(edge)))
    }

    /// What it is now.
    pub fn get(&self) -> Arc<Edge> {
        Arc::clone(&self.0.read())
    }

    /// From the next request on it is what `change` makes of it. What was understood before is forgotten.
    pub fn change(&self, change: impl FnOnce(Edge) -> Edge) {
        let mut edge = self.0.write();
        let before = edge.shortcuts.forget();
        edge.metrics.shortcuts(-before);
        let changed = change(Edge::clone(&edge));
        *edge = Arc::new(Edge { epoch: edge.epoch + 1, ..changed });
    }
}

/// Serves until `shutdown` completes, then lets running responses end within the drain time.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    present: Arc<Present>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let edge = Arc::clone(&present);
    let clients: listener::OfClients = Box::new(move || Arc::clone(&edge.get().clients));
    let answer = move |client: Client, request| handler::answer(&present.get(), client, request);
    let transport = tls.map_or(Transport::Plain, Transport::Tls);
    listener::serve(Listener::Address(listener), transport, limits, Some(clients), answer, shutdown).await;
}
