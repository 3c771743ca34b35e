//! The wiring: which adapter stands behind which port, and what runs beside the server.
//!
//! This and its folder alone name adapters. `process` is the daemon as a process, with sockets and
//! signals; tests enter here, with listeners of their own, so that they run what production runs.
//! Nothing here asks an upstream: the daemon starts without a network.

mod preflight;
mod process;
mod settings;
mod stock;
pub mod store;
mod upstreams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::stock::take_stock;
use crate::access::{Access, Grants};
use crate::admin::{self, AdminState, Guard, Reach, Readiness, Token};
use crate::audit::Audit;
use crate::blob_store::BlobStore as _;
use crate::blob_store::format;
use crate::blob_store::ingest::IngestDir;
use crate::blob_store::local::LocalBlobStore;
use crate::blob_store::lock::{LockError, StoreLock};
use crate::clients::Clients;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{Config, ConfigError};
use crate::documents::{Code, Error};
use crate::metadata::MetadataStore as _;
use crate::metadata::sled::SledMetadata;
use crate::metrics::Metrics;
use crate::mirror::{Mirror, Parts};
use crate::oci::ErrorCode;
use crate::server::authenticate::{Authenticator, NoRandomness, Passwords, PasswordsError};
use crate::server::tls::{self, Files, Tls, TlsError};
use crate::server::{self, Admission, Edge, Listener};
use crate::upstream::http::HttpSettingsError;
use crate::upstream::ours::Ours;

pub use preflight::{Findings, credential_warnings, preflight};
pub use process::{Bound, run};
pub use settings::budget;
pub use upstreams::{Dialled, dial};

/// How often the gauges of the store are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder is no store of ours, another daemon uses it, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
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
    /// A secret that the configuration names cannot be used.
    #[error(transparent)]
    Secret(#[from] ConfigError),
    /// The users and passwords cannot be used.
    #[error("access.htpasswd: {0}")]
    Passwords(#[from] PasswordsError),
    /// An issuer is at no address that can be asked.
    #[error("access.oidc: {0} is not an address that can be asked")]
    Issuer(String),
    /// There is no thread for the audit.
    #[error("access.audit: {0}")]
    Audit(#[source] io::Error),
    /// Nothing can be kept secret.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// The message of each is whole: it says what it comes from.
impl From<StartError> for Error {
    fn from(error: StartError) -> Error {
        let (code, hint) = match error {
            StartError::Secret(error) => return error.into(),
            StartError::Lock(LockError::Refused(ref refusal)) => (Code::Configuration, Some(refusal.hint())),
            StartError::Upstream(_) | StartError::Tls(_) | StartError::Passwords(_) | StartError::Issuer(_) => {
                (Code::Configuration, None)
            }
            StartError::Lock(ref error) => (Code::Failed, error.hint()),
            StartError::Store { .. } | StartError::Randomness(_) | StartError::Audit(_) => (Code::Failed, None),
        };
        Error { hint: hint.map(str::to_owned), ..Error::new(code, error.to_string()) }
    }
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
    /// Where it listens, for the upstreams.
    ours: Arc<Ours>,
    clients: Arc<Clients>,
    admission: Arc<Admission>,
    audit: Option<Arc<Audit>>,
    /// The same certificate for operators, of whom none is asked for.
    admin_tls: Option<Arc<Tls>>,
    guard: Arc<Guard>,
    /// Held as long as the daemon lives.
    _lock: StoreLock,
}

/// Who may read what, as it is configured. Reads the file of passwords.
fn admission(config: &Config, clock: &Arc<dyn Clock>, ours: &Arc<Ours>) -> Result<Admission, StartError> {
    let passwords = config.callers.htpasswd.as_deref().map(Passwords::read).transpose()?;
    let issuers = upstreams::issuers(config, clock, ours)?;
    let passes = config.upstreams.iter().any(|upstream| upstream.access == Access::PassThrough);
    let authenticator = Authenticator::new(passwords, issuers, passes, Arc::clone(clock))?;
    Ok(Admission { rules: config.rules(), authenticator, grants: Grants::new(config.callers.grant_ttl) })
}

/// Opens the audit anew on each SIGHUP, until the future is dropped.
async fn open_anew_on_hang_up(audit: Arc<Audit>) {
    match signal(SignalKind::hangup()) {
        Ok(mut hang_up) => {
            while hang_up.recv().await.is_some() {
                audit.open_anew();
            }
        }
        Err(error) => tracing::warn!(%error, "SIGHUP is not heard; the audit is not opened anew"),
    }
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
        let without_clients = config.server.tls.clone().map(|files| Files { client_ca: None, ..files });
        let admin_tls = without_clients.map(Tls::open).transpose()?.map(Arc::new);
        let token = config.admin_token()?.map(|secret| Token::new(secret.expose().as_bytes()));
        let guard = Arc::new(Guard::new(token, config.asks_who_clients_are()));
        let store_error = |source| StartError::Store { path: path.display().to_string(), source };
        let lock = StoreLock::acquire(path)?;
        format::mark(path);
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
        let ours = Arc::default();
        let begin = |place| Audit::begin(place, Arc::clone(&clock), Arc::clone(&metrics));
        let audit = config.callers.audit.clone().map(begin).transpose().map_err(StartError::Audit)?.map(Arc::new);
        let admission = Arc::new(admission(&config, &clock, &ours)?);
        let mirror = Mirror::new(Parts {
            routes: upstreams::routes(&config, &metrics, &clock, &ours)?,
            public: upstreams::public(&config),
            of_callers: upstreams::of_callers(&config),
            blobs: blobs.clone(),
            ingests,
            metadata: metadata.clone(),
            clock,
            policy: config.cache.policy,
            complete_only: config.cache.complete_only,
            prefetch: config.cache.prefetch,
            finish_unread: config.cache.finish_unread,
            negative_ttl: config.cache.negative_ttl,
            bounds: settings::bounds(&config),
            room: settings::room(&config.store),
            verify_on_read: config.store.verify_on_read,
            memory: config.cache.memory,
            metrics: metrics.clone(),
        });
        let clients = Arc::new(Clients::new(config.limits.client, config.server.trusted_proxies.clone()));
        let _lock = lock;
        Ok(Daemon {
            config,
            mirror,
            metrics,
            blobs,
            metadata,
            opened,
            tls,
            admin_tls,
            guard,
            ours,
            clients,
            admission,
            audit,
            _lock,
        })
    }

    /// The use case, for those who ask without HTTP.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Serves until `shutdown` completes, then drains.
    pub async fn serve(self, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let servers = TaskTracker::new();
        let limits = self.config.server.limits.leaving_time_to_close();
        let bound = listeners.pull.iter().chain(&listeners.admin).filter_map(|listener| listener.local_addr().ok());
        bound.for_each(|address| self.ours.listen_at(address));
        for (place, listener) in listeners.pull.into_iter().enumerate() {
            let edge = self.edge(listener.local_addr().ok(), place);
            servers.spawn(server::serve(listener, self.tls.clone(), edge, limits, stop.clone().cancelled_owned()));
        }
        let sockets = listeners.admin_socket.map(Listener::Socket);
        for listener in listeners.admin.into_iter().map(Listener::Address).chain(sockets) {
            let (reach, stopping) = (Reach::of(&listener), stop.clone().cancelled_owned());
            servers.spawn(admin::serve(listener, reach, self.admin_state(), stopping));
        }
        servers.close();
        let housekeeping = tokio::spawn(self.housekeeping());
        let served = [&self.tls, &self.admin_tls].into_iter().flatten().cloned();
        let certificates = served.map(|tls| tokio::spawn(tls::keep_current(tls)));
        let audit = self.audit.clone().map(|audit| tokio::spawn(open_anew_on_hang_up(audit)));
        let beside: Vec<_> = certificates.chain(audit).collect();
        shutdown.await;
        let ends_at = Instant::now() + self.config.server.limits.drain;
        stop.cancel();
        // Those for operators have a drain time of their own, which may be longer.
        let _ = tokio::time::timeout_at(ends_at, servers.wait()).await;
        housekeeping.abort();
        beside.iter().for_each(tokio::task::JoinHandle::abort);
        self.mirror.close(ends_at.saturating_duration_since(Instant::now())).await;
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
            clients: Arc::clone(&self.clients),
            admission: Arc::clone(&self.admission),
            audit: self.audit.clone(),
        }
    }

    fn admin_state(&self) -> AdminState {
        AdminState {
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::new(|| Readiness::Ready),
            mirror: Some(self.mirror.clone()),
            guard: Arc::clone(&self.guard),
            tls: self.admin_tls.clone(),
            audit: self.audit.clone(),
        }
    }

    /// What runs beside the server: the index is brought up to date once, then gauges and access
    /// times are written now and again.
    fn housekeeping(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mirror, metrics) = (self.mirror.clone(), Arc::clone(&self.metrics));
        let (blobs, metadata, config) =
            (Arc::clone(&self.blobs), Arc::clone(&self.metadata), self.config.store.clone());
        let (opened, clients, admission) = (self.opened, Arc::clone(&self.clients), Arc::clone(&self.admission));
        async move {
            take_stock(&blobs, &metadata, opened).await;
            let gauges = async {
                loop {
                    let usage = blobs.usage();
                    metrics.store(usage.bytes, usage.blobs, budget(&config).unwrap_or_default());
                    let names = metadata.names();
                    metrics.store_besides(names.bytes, names.inodes, blobs.lingering());
                    let (bodies, budget_of_bodies) = mirror.bodies();
                    metrics.bodies(bodies, budget_of_bodies);
                    let own =
                        clients.tables().into_iter().chain([admission.authenticator.table(), admission.grants.table()]);
                    metrics.entries(mirror.tables().into_iter().chain(own));
                    metrics.memory(mirror.memory_used());
                    tokio::time::sleep(GAUGES_EVERY).await;
                }
            };
            let proven = mirror.ask_once_more();
            tokio::join!(mirror.keep_uses(), mirror.keep_room(), proven, mirror.scrub(config.scrub_rate), gauges);
        }
    }
}
