//! The wiring: which adapter stands behind which port, and what runs beside the server.
//!
//! The only file besides `main` that names adapters. Tests enter here too, with listeners of their
//! own, so that they run what production runs. Nothing here asks an upstream: the daemon starts
//! without a network.

mod store;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState, Readiness};
use crate::blob_store::BlobStore as _;
use crate::blob_store::format::{self, NewerFormat};
use crate::blob_store::ingest::IngestDir;
use crate::blob_store::local::LocalBlobStore;
use crate::blob_store::lock::{LockError, StoreLock};
use crate::cli::Dialled;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{self, Config};
use crate::metadata::sled::SledMetadata;
use crate::metrics::Metrics;
use crate::mirror::flight::bounds::Bounds;
use crate::mirror::{Mirror, Mode, Parts, Room, Routes};
use crate::oci::{ErrorCode, RegistryName};
use crate::server::tls::{self, Tls, TlsError};
use crate::server::{self, Edge, Listener};
use crate::upstream::asking::Asking;
use crate::upstream::credentials::AuthError;
use crate::upstream::http::{HttpSettings, HttpSettingsError, HttpUpstream};
use crate::upstream::offline::Offline;
use crate::upstream::quota::Quota;
use crate::upstream::settings::Settings;
use crate::upstream::{Upstream, UpstreamObserver};

pub use store::open_store;

/// How often the gauges of the store are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// How many sizes of blobs are taken from the index at a time, so that requests can come in between.
const SIZES_AT_ONCE: usize = 4096;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another daemon uses the store, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store was written by a newer version.
    #[error(transparent)]
    Format(#[from] NewerFormat),
    /// The store cannot be opened.
    #[error("the store {path} cannot be used: {source}")]
    Store {
        /// The folder.
        path: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The settings of an upstream do not work.
    #[error(transparent)]
    Upstream(#[from] HttpSettingsError),
    /// There is no TLS with the configured files.
    #[error("server.tls: {0}")]
    Tls(#[from] TlsError),
}

/// The sockets to serve on, already bound.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For clients that pull.
    pub pull: Vec<TcpListener>,
    /// For operators.
    pub admin: Vec<TcpListener>,
    /// For commands on this machine.
    pub admin_socket: Option<UnixListener>,
}

/// A daemon that is ready to serve.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    mirror: Mirror,
    metrics: Arc<Metrics>,
    blobs: Arc<LocalBlobStore>,
    metadata: Arc<SledMetadata>,
    /// When it was opened: what is found in the store counts as used then.
    opened: Timestamp,
    tls: Option<Arc<Tls>>,
    /// Held as long as the daemon lives.
    _lock: StoreLock,
}

impl Daemon {
    /// Opens the store and puts everything together. Blocks on the disk, asks nobody.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(config: Config) -> Result<Daemon, StartError> {
        Daemon::open_with(config, Arc::new(SystemClock))
    }

    /// [`Daemon::open`] with another clock.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open_with(config: Config, clock: Arc<dyn Clock>) -> Result<Daemon, StartError> {
        let path = &config.store.path;
        let tls = config.server.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
        let store_error = |source| StartError::Store { path: path.display().to_string(), source };
        let lock = StoreLock::acquire(path)?;
        format::check(path)?;
        let blobs = Arc::new(LocalBlobStore::open(path).map_err(store_error)?);
        let ingests = Arc::new(IngestDir::open(path.join("ingest")).map_err(store_error)?);
        let metadata = Arc::new(SledMetadata::open(path));
        let metrics = Arc::new(Metrics::new(config.upstreams.iter().map(|upstream| upstream.host.clone())));
        if metadata.index_was_replaced() {
            metrics.index_rebuilt();
        }
        if metadata.was_interrupted() {
            tracing::info!("the store was not closed in order; what was not recorded is checked before its first use");
            blobs.distrust();
        }
        let opened = clock.now();
        let mirror = Mirror::new(Parts {
            routes: routes(&config, &metrics, &clock)?,
            blobs: blobs.clone(),
            ingests,
            metadata: metadata.clone(),
            clock,
            policy: config.cache.policy,
            negative_ttl: config.cache.negative_ttl,
            bounds: Bounds::new(config.limits.fills, u32::try_from(config.limits.fill_memory).unwrap_or(u32::MAX)),
            room: room(&config.store),
            verify_on_read: config.store.verify_on_read,
            memory: config.cache.memory,
            metrics: metrics.clone(),
        });
        Ok(Daemon { config, mirror, metrics, blobs, metadata, opened, tls, _lock: lock })
    }

    /// The use case, for those who ask without HTTP.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Serves until `shutdown` completes, then drains.
    pub async fn serve(self, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let servers = TaskTracker::new();
        let limits = self.config.server.limits;
        for (place, listener) in listeners.pull.into_iter().enumerate() {
            let edge = self.edge(listener.local_addr().ok(), place);
            servers.spawn(server::serve(listener, self.tls.clone(), edge, limits, stop.clone().cancelled_owned()));
        }
        for listener in listeners.admin {
            servers.spawn(admin::serve(
                Listener::Address(listener),
                self.admin_state(),
                stop.clone().cancelled_owned(),
            ));
        }
        if let Some(listener) = listeners.admin_socket {
            servers.spawn(admin::serve(Listener::Socket(listener), self.admin_state(), stop.clone().cancelled_owned()));
        }
        servers.close();
        let housekeeping = tokio::spawn(self.housekeeping());
        let certificates = self.tls.clone().map(|tls| tokio::spawn(tls::keep_current(tls)));
        shutdown.await;
        stop.cancel();
        servers.wait().await;
        housekeeping.abort();
        certificates.inspect(tokio::task::JoinHandle::abort);
        self.mirror.close(limits.drain).await;
    }

    fn edge(&self, bound: Option<SocketAddr>, place: usize) -> Edge {
        let config = &self.config.server;
        Edge {
            mirror: self.mirror.clone(),
            metrics: Arc::clone(&self.metrics),
            default: bound.and_then(|address| config.default_at(address, place)).cloned(),
            unavailable_blob: if config.unavailable_blob == 404 {
                ErrorCode::BlobUnknown
            } else {
                ErrorCode::Unavailable
            },
            shortcuts: Arc::default(),
        }
    }

    fn admin_state(&self) -> AdminState {
        AdminState {
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::new(|| Readiness::Ready),
            mirror: Some(self.mirror.clone()),
            verify_rate: self.config.store.scrub_rate,
        }
    }

    /// What runs beside the server: the index is brought up to date once, then gauges and access
    /// times are written now and again.
    fn housekeeping(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mirror, metrics) = (self.mirror.clone(), Arc::clone(&self.metrics));
        let (blobs, metadata, config) =
            (Arc::clone(&self.blobs), Arc::clone(&self.metadata), self.config.store.clone());
        let opened = self.opened;
        async move {
            take_stock(&blobs, &metadata, opened).await;
            let gauges = async {
                loop {
                    let usage = blobs.usage();
                    metrics.store(usage.bytes, usage.blobs, budget(&config).unwrap_or_default());
                    metrics.memory(mirror.memory_used());
                    tokio::time::sleep(GAUGES_EVERY).await;
                }
            };
            tokio::join!(mirror.keep_uses(), mirror.keep_room(), mirror.scrub(config.scrub_rate), gauges);
        }
    }
}

/// Lists the blobs and brings the index up to date with the files. `now` is a moment before that.
async fn take_stock(blobs: &Arc<LocalBlobStore>, metadata: &Arc<SledMetadata>, now: Timestamp) {
    let (known, index) = (Arc::clone(blobs), Arc::clone(metadata));
    let remembered = tokio::task::spawn_blocking(move || {
        let mut sizes = Vec::with_capacity(SIZES_AT_ONCE);
        index.for_each_recorded(|digest, size| {
            sizes.push((digest, size));
            if sizes.len() == SIZES_AT_ONCE {
                known.remember_sizes(sizes.drain(..));
            }
        });
        known.remember_sizes(sizes);
    });
    if let Err(error) = remembered.await {
        tracing::error!(%error, "the sizes of blobs were not read from the index; the files tell");
    }
    match blobs.list().await {
        Ok(stored) => {
            let metadata = Arc::clone(metadata);
            let rebuilt = tokio::task::spawn_blocking(move || metadata.rebuild(&stored, now)).await;
            if let Err(error) = rebuilt {
                tracing::error!(%error, "the index could not be brought up to date; the files answer");
            }
        }
        Err(error) => tracing::error!(%error, "the blobs could not be listed"),
    }
}

/// How many bytes the store may hold, when nobody else fills the disk.
///
/// # Errors
/// When the file system cannot be asked for its size.
pub fn budget(store: &config::Store) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(&store.path)?;
    let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
    Ok(store.max_size.of(capacity).min(capacity.saturating_sub(store.min_free.of(capacity))))
}

/// Grants what the settings allow and the disk has free at the moment.
fn room(store: &config::Store) -> Room {
    let store = store.clone();
    Room::new(move |taken| match rustix::fs::statvfs(&store.path) {
        Ok(stat) => {
            let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let min_free = store.min_free.of(capacity);
            let by_disk = taken.saturating_add(free).saturating_sub(min_free);
            store.max_size.of(capacity).min(by_disk)
        }
        Err(error) => {
            tracing::warn!(%error, "the file system does not say how much is free");
            match store.max_size {
                config::Limit::Bytes(bytes) => bytes,
                config::Limit::Percent(_) => taken,
            }
        }
    })
}

fn routes(config: &Config, metrics: &Arc<Metrics>, clock: &Arc<dyn Clock>) -> Result<Routes, StartError> {
    let upstreams = config.upstreams.iter().map(|upstream| {
        let client: Arc<dyn Upstream> = match config.cache.policy.mode {
            Mode::Offline => Arc::new(Offline::new(upstream.host.clone())),
            _ => online(upstream, metrics, clock)?,
        };
        Ok((upstream.host.clone(), client))
    });
    let upstreams: Result<Vec<_>, StartError> = upstreams.collect();
    Ok(Routes::new(config.routes.default.clone(), upstreams?))
}

/// An upstream at all its addresses.
fn online(
    upstream: &config::Upstream,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Upstream>, StartError> {
    let observer: Arc<dyn UpstreamObserver> = Arc::new(Counted(metrics.clone()));
    let clients = upstream.urls.iter().map(|url| {
        let settings = HttpSettings {
            clock: Arc::clone(clock),
            observer: Arc::clone(&observer),
            ..HttpSettings::new(upstream.host.clone(), url.clone(), upstream.settings.clone())
        };
        let client: Arc<dyn Upstream> = Arc::new(HttpUpstream::new(settings)?);
        Ok((url.authority().to_owned(), client))
    });
    let clients: Vec<_> = clients.collect::<Result<_, StartError>>()?;
    let asking = Asking::new(&upstream.host, clients, Arc::clone(clock), &observer);
    Ok(Arc::new(asking.with_streams(upstream.parallel)))
}

/// Makes a client of a registry or mirror that somebody named on the command line. It retries
/// nothing, and private networks are allowed: whoever measures or pulls says where.
///
/// # Errors
/// For people: the address, the credentials setting or the file of certificates is not usable.
pub fn dial(to: Dialled<'_>) -> Result<Arc<dyn Upstream>, String> {
    let settings = Settings {
        auth: to.auth.parse().map_err(|error: AuthError| error.to_string())?,
        // Plain http is as good as it was typed; a certificate is looked at all the same.
        insecure: to.url.scheme() == "http",
        ca: to.ca.map(Path::to_owned),
        allow_private: true,
        ..Settings::default()
    };
    let settings = HttpSettings::new(to.name.clone(), to.url, settings);
    HttpUpstream::new(settings).map(|client| Arc::new(client) as Arc<dyn Upstream>).map_err(|error| error.to_string())
}

/// Counts what goes over the wire to upstreams.
struct Counted(Arc<Metrics>);

impl UpstreamObserver for Counted {
    fn requested(&self, upstream: &RegistryName, status: Option<u16>) {
        let result = match status {
            None => "unanswered",
            Some(200..=299) => "ok",
            Some(300..=399) => "redirect",
            Some(401 | 403) => "denied",
            Some(404) => "not_found",
            Some(429) => "rate_limited",
            Some(500..) => "server_error",
            Some(_) => "other",
        };
        self.0.upstream_request(upstream.as_str(), result);
    }

    fn received(&self, upstream: &RegistryName, bytes: u64) {
        self.0.upstream_received(upstream.as_str(), bytes);
    }

    fn availability(&self, upstream: &RegistryName, endpoint: &str, up: bool) {
        self.0.upstream_up(upstream, endpoint, up);
    }

    fn quota(&self, upstream: &RegistryName, endpoint: &str, quota: &Quota) {
        let reading = &quota.reading;
        self.0.upstream_budget(upstream, endpoint, reading.limit, reading.left, quota.resets_at.0 / 1000);
    }
}
