//! The wiring: which adapter stands behind which port, and what runs beside the server.
//!
//! This and its folder alone name adapters. `process` is the daemon as a process, with sockets and
//! signals; tests enter here, with listeners of their own, so that they run what production runs.
//! Nothing here asks an upstream: the daemon starts without a network.
//! The file is long because all that is wired is in it.

mod carry;
pub mod checkup;
mod doors;
mod ending;
mod owner;
mod preflight;
mod process;
mod reload;
mod settings;
mod stock;
pub mod store;
mod upstreams;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::reload::Reloading;
use self::stock::take_stock;
use self::upstreams::{Around, Upstreams};
use crate::access::{Access, Grants};
use crate::admin::{self, AdminState, Guard, Reach, Readiness, Token};
use crate::audit::Audit;
use crate::blob_store::BlobStore as _;
use crate::blob_store::closed::{self, Closed};
use crate::blob_store::format;
use crate::blob_store::ingest::IngestDir;
use crate::blob_store::local::LocalBlobStore;
use crate::blob_store::lock::{LockError, StoreLock};
use crate::blob_store::unusable::Unusable;
use crate::carrier::Carriers;
use crate::clients::Clients;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{self, Config, ConfigError, Loaded, Source};
use crate::documents::{BucketStatus, Code, Error, Explanation};
use crate::metadata::sled::SledMetadata;
use crate::metadata::{FirstLook, MetadataStore as _};
use crate::metrics::Metrics;
use crate::mirror::flight::bounds::Bounds;
use crate::mirror::keep::collector::Collector;
use crate::mirror::{Behind, Mirror, Parts, Replicas, Terms};
use crate::oci::{ImageName, RegistryName};
use crate::owed::{self, Owed};
use crate::server::authenticate::{Authenticator, NoRandomness, Passwords, PasswordsError};
use crate::server::tls::{self, Files, Tls, TlsError};
use crate::server::{self, Admission, Edge, Listener, Present};
use crate::tier::{self, Bucket, Conditional, Raising, Standing};
use crate::upstream::http::HttpSettingsError;
use crate::usage::Usage;

pub use preflight::{Findings, credential_warnings, preflight};
pub use process::{Bound, Given, hang_up, run};
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
    #[error(transparent)]
    Store(#[from] Unusable),
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
    /// The bucket cannot be used as it is configured.
    #[error(transparent)]
    Bucket(#[from] tier::OpenError),
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
            StartError::Upstream(_)
            | StartError::Tls(_)
            | StartError::Passwords(_)
            | StartError::Issuer(_)
            | StartError::Bucket(_) => (Code::Configuration, None),
            StartError::Lock(ref error) => (Code::Failed, error.hint()),
            StartError::Store(ref unusable) => (Code::Failed, unusable.hint()),
            StartError::Randomness(_) | StartError::Audit(_) => (Code::Failed, None),
        };
        Error { hint, ..Error::new(code, error.to_string()) }
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
    usage: Arc<Usage>,
    blobs: Arc<LocalBlobStore>,
    metadata: Arc<SledMetadata>,
    /// What carries up into the bucket, where there is one.
    raising: Option<Arc<Raising>>,
    /// When it was opened: what is found in the store counts as used then.
    opened: Timestamp,
    tls: Option<Arc<Tls>>,
    clients: Arc<Clients>,
    admission: Arc<Admission>,
    audit: Option<Arc<Audit>>,
    ingests: Arc<IngestDir>,
    /// The same certificate for operators, of whom none is asked for.
    admin_tls: Option<Arc<Tls>>,
    guard: Arc<Guard>,
    around: Around,
    upstreams: Upstreams,
    bounds: Arc<Bounds>,
    /// What the store may hold, as it is now.
    store: Arc<RwLock<config::Store>>,
    /// Where the configuration is read again.
    source: Option<(Source, Loaded)>,
    hang_up: Option<Signal>,
    /// That nothing is waited for any more which was to go up into the bucket.
    hurry: CancellationToken,
    /// Held as long as the daemon lives.
    lock: StoreLock,
}

/// Who may read what, as it is configured. Reads the file of passwords.
fn admission(config: &Config, around: &Around, before: Option<&Authenticator>) -> Result<Admission, StartError> {
    let passwords = config.callers.htpasswd.as_deref().map(Passwords::read).transpose()?;
    let issuers = upstreams::issuers(config, around)?;
    let passes = config.upstreams.iter().any(|upstream| upstream.access == Access::PassThrough);
    let authenticator = match before {
        Some(before) => before.under(passwords, issuers, passes),
        None => Authenticator::new(passwords, issuers, passes, Arc::clone(&around.clock))?,
    };
    let token = config.admin_token()?;
    let authenticator = authenticator.keeping(token.as_ref().map(|token| token.expose()));
    let grants = Arc::new(Grants::new(config.callers.grant_ttl));
    Ok(Admission { rules: config.rules(), authenticator, grants, led: Arc::default() })
}

/// What the settings say to a mirror.
fn terms(config: &Config, upstreams: &Upstreams, bounds: Arc<Bounds>) -> Terms {
    Terms {
        routes: upstreams.routes(&config.routes.default),
        public: upstreams::public(config),
        of_callers: upstreams::of_callers(config),
        places: Arc::new(upstreams::places(config, FirstLook::Served)),
        policy: config.cache.policy,
        complete_only: config.cache.complete_only,
        prefetch: config.cache.prefetch,
        finish_unread: config.cache.finish_unread,
        negative_ttl: config.cache.negative_ttl,
        bounds,
        verify_on_read: config.store.verify_on_read,
        memory: config.cache.memory,
    }
}

/// The list of what the store at `path` owes to its bucket.
fn list_of(path: &Path) -> Result<Arc<Owed>, Unusable> {
    let closed = |error| Closed { part: owed::NAME.into(), error, is_needed: true };
    Owed::open(path).map_err(|error| Unusable::of(path, closed(error)))
}

/// How the bucket is doing.
fn bucket_status(raising: &Raising) -> BucketStatus {
    let Standing { backlog, trouble, lists, conditional, leases } = raising.standing();
    let is_unknown = !raising.bucket().was_looked_at() || conditional.is_none();
    let trouble = trouble.or(lists).or_else(|| is_unknown.then(|| "nobody has looked yet how it is".to_owned()));
    let conditions_hold = conditional.map(Conditional::creates);
    let leases = leases.map(|held| held as u64);
    BucketStatus { name: raising.bucket().name().to_owned(), trouble, backlog, conditions_hold, leases }
}

/// The certificates for clients, and the same for operators, of whom none is asked for.
fn certificates(config: &Config) -> [Option<Files>; 2] {
    let files = config.server.tls.clone();
    let without_clients = files.clone().map(|files| Files { client_ca: None, ..files });
    [files, without_clients]
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
        Prepared::new(config, clock, Carriers::default())?.open()
    }
}

/// A daemon whose settings are good, before it touches its store: where they are refused, that stays as it was.
pub(crate) struct Prepared {
    config: Config,
    tls: Option<Arc<Tls>>,
    admin_tls: Option<Arc<Tls>>,
    guard: Arc<Guard>,
    around: Around,
    admission: Arc<Admission>,
    upstreams: Upstreams,
    bucket: Option<Bucket>,
    replicas: Option<Replicas>,
}

impl Prepared {
    /// Reads what the configuration names. Writes nothing.
    fn new(config: Config, clock: Arc<dyn Clock>, carriers: Carriers) -> Result<Prepared, StartError> {
        format::examine(&config.store.path).map_err(LockError::from)?;
        let [tls, admin_tls] = certificates(&config).map(|files| files.map(Tls::open).transpose());
        let (tls, admin_tls) = (tls?.map(Arc::new), admin_tls?.map(Arc::new));
        let token = config.admin_token()?.map(|secret| Token::new(secret.expose().as_bytes()));
        let guard = Arc::new(Guard::new(token, config.asks_who_clients_are()));
        let metrics = Arc::new(Metrics::new(config.upstreams.iter().map(|upstream| upstream.host.clone())));
        let around = Around { metrics, clock, ours: Arc::default(), carriers };
        let admission = Arc::new(admission(&config, &around, None)?);
        let upstreams = Upstreams::default().under(&config, &around)?;
        let settings = config.store.bucket.as_ref().map(|bucket| &bucket.tier);
        let open = |settings| Bucket::open(settings, &around.carriers.tier, |name| std::env::var(name).ok());
        let bucket = settings.map(open).transpose()?.map(|bucket| bucket.counted(&around.metrics));
        let replicas =
            bucket.as_ref().map(|bucket| upstreams::replicas(&config, bucket, &around)).transpose()?.flatten();
        Ok(Prepared { config, tls, admin_tls, guard, around, admission, upstreams, bucket, replicas })
    }

    /// Opens the store and puts everything together. Blocks on the disk, asks nobody.
    fn open(self) -> Result<Daemon, StartError> {
        let Prepared { config, tls, admin_tls, guard, around, admission, upstreams, bucket, replicas } = self;
        let (metrics, clock, path) = (Arc::clone(&around.metrics), Arc::clone(&around.clock), &config.store.path);
        let store_error = |source| StartError::Store(Unusable::new(path, source));
        let lock = StoreLock::acquire(path)?;
        format::mark(path);
        let behind =
            bucket.map(|bucket| list_of(path).map(|owed| (bucket, owed))).transpose().map_err(StartError::Store)?;
        let owed = || behind.as_ref().map(|(_, owed)| Arc::clone(owed));
        let blobs = Arc::new(LocalBlobStore::owing(path, owed()).map_err(store_error)?);
        let ingests = Arc::new(IngestDir::open(path.join("ingest")).map_err(store_error)?);
        let metadata = Arc::new(SledMetadata::owing(path, owed()));
        let leases = replicas.as_ref().map(|replicas| Arc::clone(&replicas.leases));
        let raising = behind.clone().map(|(bucket, owed)| {
            Arc::new(Raising::new(bucket, owed, blobs.clone(), path, Arc::clone(&metrics)).ending(leases))
        });
        let patience = config.store.bucket.as_ref().map(|bucket| bucket.tier.patience).unwrap_or_default();
        let is_bounded = config.store.bucket.as_ref().is_some_and(|bucket| bucket.max_size > 0);
        if metadata.index_was_replaced() {
            metrics.index_rebuilt();
        }
        if metadata.was_interrupted() {
            tracing::info!("the store was not closed in order; what was not recorded is checked before its first use");
            blobs.distrust();
        }
        if let Some(closed) = closed::first(path, closed::A_FEW) {
            let (part, error) = (closed.path(path), closed.error.to_string());
            let as_root = Unusable::of(path, closed).giving();
            tracing::warn!(part = %part.display(), %error, as_root, "not all of the store can be used, and what cannot is asked for anew");
        }
        let opened = clock.now();
        let usage = Arc::new(Usage::open(path.join("usage"), Arc::clone(&metrics), Arc::clone(&clock)));
        let begin = |place| Audit::begin(place, Arc::clone(&clock), Arc::clone(&metrics));
        let audit = config.callers.audit.clone().map(begin).transpose().map_err(StartError::Audit)?.map(Arc::new);
        let bounds = Arc::new(settings::bounds(&config));
        let store = Arc::new(RwLock::new(config.store.clone()));
        let mirror = Mirror::new(Parts {
            terms: terms(&config, &upstreams, Arc::clone(&bounds)),
            blobs: blobs.clone(),
            ingests: Arc::clone(&ingests),
            metadata: metadata.clone(),
            carrier: around.carriers.upstreams.clone(),
            behind: behind.map(|(bucket, owed)| Behind { bucket, owed, patience, is_bounded, replicas }),
            clock,
            room: settings::room(Arc::clone(&store)),
            metrics: metrics.clone(),
        });
        let clients = Arc::new(Clients::new(config.limits.client, config.server.trusted_proxies.clone()));
        Ok(Daemon {
            config,
            mirror,
            metrics,
            usage,
            blobs,
            metadata,
            raising,
            opened,
            tls,
            admin_tls,
            guard,
            clients,
            admission,
            audit,
            ingests,
            around,
            upstreams,
            bounds,
            store,
            source: None,
            hang_up: None,
            hurry: CancellationToken::new(),
            lock,
        })
    }
}

impl Daemon {
    /// The same, which reads its settings again from there when it is told to; they are `loaded` now.
    #[must_use]
    pub fn read_from(self, source: Source, loaded: Loaded) -> Daemon {
        Daemon { source: Some((source, loaded)), ..self }
    }

    /// The same, which is told to by this signal, too.
    #[must_use]
    pub fn told_by(self, hang_up: Signal) -> Daemon {
        Daemon { hang_up: Some(hang_up), ..self }
    }

    /// The same, which no longer waits in the end for what goes up into the bucket once it is told to hurry.
    #[must_use]
    pub fn hurried_by(self, hurry: CancellationToken) -> Daemon {
        Daemon { hurry, ..self }
    }

    /// The use case, for those who ask without HTTP.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Serves until `shutdown` completes, then drains: pulls under way end, and what is owed to the bucket goes up.
    pub async fn serve(mut self, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let (pulls, operators) = (TaskTracker::new(), TaskTracker::new());
        let limits = self.config.server.limits.leaving_time_to_close();
        let bound = listeners.pull.iter().chain(&listeners.admin).filter_map(|listener| listener.local_addr().ok());
        bound.for_each(|address| self.around.ours.listen_at(address));
        let pull: Vec<_> = listeners.pull.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let pull: Arc<[(String, RegistryName)]> = self.config.addresses_for_clients(&pull).into();
        let mut edges = Vec::new();
        for (place, listener) in listeners.pull.into_iter().enumerate() {
            let edge = Arc::new(Present::new(self.edge(listener.local_addr().ok(), place)));
            edges.push(Arc::clone(&edge));
            pulls.spawn(server::serve(listener, self.tls.clone(), edge, limits, stop.clone().cancelled_owned()));
        }
        let hang_up = self.hang_up.take();
        let reloading = Arc::new(self.reloading(edges));
        let page = doors::page(&listeners.admin, self.admin_tls.is_some());
        let state = AdminState { page, ..self.admin_state(&reloading, &pull, &stop) };
        let sockets = listeners.admin_socket.map(Listener::Socket);
        for listener in listeners.admin.into_iter().map(Listener::Address).chain(sockets) {
            let (reach, stopping) = (Reach::of(&listener), over.clone().cancelled_owned());
            operators.spawn(admin::serve(listener, reach, state.clone(), stopping));
        }
        pulls.close();
        operators.close();
        let settling = CancellationToken::new();
        let housekeeping = tokio::spawn(self.housekeeping(&reloading, settling.clone()));
        let served = [&self.tls, &self.admin_tls].into_iter().flatten().cloned();
        let certificates = served.map(|tls| tokio::spawn(tls::keep_current(tls)));
        let told = hang_up.map(|hang_up| tokio::spawn(Arc::clone(&reloading).on_hang_up(hang_up)));
        let beside: Vec<_> = certificates.chain(told).collect();
        // What it began with need not stay until the end.
        let Daemon { config, mirror, clients, admission, usage, raising, hurry, .. } = self;
        drop((mirror, clients, admission));
        shutdown.await;
        let ends_at = Instant::now() + config.server.limits.drain;
        stop.cancel();
        let _ = tokio::time::timeout_at(ends_at, pulls.wait()).await;
        // Probes were told until here that it stops. Operators have a drain time of their own, which may be longer.
        over.cancel();
        let _ = tokio::time::timeout_at(ends_at, operators.wait()).await;
        settling.cancel();
        beside.iter().for_each(tokio::task::JoinHandle::abort);
        let mirror = reloading.in_force.lock().await.mirror.clone();
        mirror.close(ends_at.saturating_duration_since(Instant::now())).await;
        ending::carry_up(raising.as_deref(), housekeeping, ends_at, &hurry).await;
        let _ = tokio::task::spawn_blocking(move || usage.write()).await;
    }

    fn edge(&self, bound: Option<SocketAddr>, place: usize) -> Edge {
        let config = &self.config.server;
        Edge {
            listener: bound,
            mirror: self.mirror.clone(),
            metrics: Arc::clone(&self.metrics),
            default: bound.and_then(|address| config.default_at(address, place)).cloned(),
            unavailable_blob: settings::unavailable_blob(&self.config),
            epoch: 0,
            shortcuts: Arc::default(),
            clients: Arc::clone(&self.clients),
            admission: Arc::clone(&self.admission),
            audit: self.audit.clone(),
            redirects: Arc::new(settings::redirects(&self.config)),
        }
    }

    fn reloading(&mut self, edges: Vec<Arc<Present>>) -> Reloading {
        let (clients, admission) = (Arc::clone(&self.clients), Arc::clone(&self.admission));
        let (upstreams, bounds) = (std::mem::take(&mut self.upstreams), Arc::clone(&self.bounds));
        let (source, loaded) = self.source.take().unzip();
        let in_force = reload::InForce { loaded, upstreams, bounds, mirror: self.mirror.clone(), clients, admission };
        Reloading {
            source,
            in_force: Arc::new(tokio::sync::Mutex::new(in_force)),
            around: self.around.clone(),
            edges,
            guard: Arc::clone(&self.guard),
            tls: [self.tls.clone(), self.admin_tls.clone()],
            store: Arc::clone(&self.store),
            shown: Arc::new(RwLock::new((&self.config.effective).into())),
            audit: self.audit.clone(),
        }
    }

    fn admin_state(
        &self,
        reloading: &Arc<Reloading>,
        pull: &Arc<[(String, RegistryName)]>,
        stop: &CancellationToken,
    ) -> AdminState {
        let (reloading, in_force) = (Arc::clone(reloading), Arc::clone(&reloading.in_force));
        let explain = move |image: ImageName| -> BoxFuture<'static, Option<Explanation>> {
            let in_force = Arc::clone(&in_force);
            Box::pin(async move { in_force.lock().await.loaded.as_ref()?.config.explain_to_anybody(&image) })
        };
        let raising = self.raising.clone();
        let bucket = move || raising.as_ref().map(|raising| bucket_status(raising));
        let told = bucket.clone();
        let (raising, mirror) = (self.raising.clone(), self.mirror.clone());
        let carry = raising.map(|raising| -> admin::Carry {
            Arc::new(move |way| carry::carry(Arc::clone(&raising), mirror.clone(), way))
        });
        let in_trouble = move || told().is_some_and(|bucket| bucket.trouble.is_some());
        let stop = stop.clone();
        let readiness = move || match in_trouble() {
            _ if stop.is_cancelled() => Readiness::NotReady("it stops: running pulls may end, new ones are refused"),
            true => Readiness::Degraded("bucket"),
            false => Readiness::Ready,
        };
        AdminState {
            metrics: Arc::clone(&self.metrics),
            bucket: Arc::new(bucket),
            readiness: Arc::new(readiness),
            mirror: Some(self.mirror.clone()),
            guard: Arc::clone(&self.guard),
            pull: Arc::clone(pull),
            tls: self.admin_tls.clone(),
            usage: Some(Arc::clone(&self.usage)),
            page: None,
            configuration: Some(Arc::clone(&reloading.shown)),
            audit: self.audit.clone(),
            explain: Some(Arc::new(explain)),
            carry,
            reload: Some(Arc::new(move |by| Box::pin(Arc::clone(&reloading).reload(by)))),
        }
    }

    /// What goes round the bucket, where there is one: only one that keeps to the conditions of writes.
    fn collected(&self) -> impl Future<Output = ()> + Send + use<> {
        let max_size = self.config.store.bucket.as_ref().map(|bucket| bucket.max_size).unwrap_or_default();
        let (clock, metrics) = (Arc::clone(&self.around.clock), Arc::clone(&self.metrics));
        let raising = self.raising.clone();
        async move {
            let Some(raising) = raising else { return };
            let collector = Collector::new(raising.bucket().clone(), clock, metrics, max_size);
            collector.run(|| raising.standing().conditional.is_some_and(Conditional::creates)).await;
        }
    }

    /// What runs beside the server: the index is brought up to date once, then gauges and access
    /// times are written now and again. When it is to settle, what carries up into the bucket alone goes on until that has
    /// come to its end.
    fn housekeeping(
        &self,
        reloading: &Reloading,
        settling: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (mirror, metrics) = (self.mirror.clone(), Arc::clone(&self.metrics));
        let (blobs, metadata, store) = (Arc::clone(&self.blobs), Arc::clone(&self.metadata), Arc::clone(&self.store));
        let (opened, in_force) = (self.opened, Arc::clone(&reloading.in_force));
        let (scrub_rate, kept_in_mind) = (self.config.store.scrub_rate, Arc::clone(&self.usage).keep());
        let (guard, ingests) = (Arc::clone(&self.guard), Arc::clone(&self.ingests));
        let (raising, collected) = (self.raising.clone(), self.collected());
        async move {
            if settling.run_until_cancelled(take_stock(&blobs, &metadata, opened)).await.is_none() {
                return;
            }
            let gauges = async {
                loop {
                    metrics.store_may_hold(budget(&store.read()).unwrap_or_default());
                    let names = metadata.names();
                    let names = (names.bytes, names.inodes, names.index);
                    metrics.store_besides(names, blobs.rounding(), blobs.lingering() + ingests.lingering());
                    in_force.lock().await.measure(&metrics);
                    metrics.entries(guard.tables());
                    if let Some(raising) = &raising {
                        let Standing { backlog, trouble, lists, leases, .. } = raising.standing();
                        metrics.bucket(trouble.is_none() && lists.is_none(), backlog);
                        metrics.leases(leases.unwrap_or_default());
                    }
                    tokio::time::sleep(GAUGES_EVERY).await;
                }
            };
            let raised = async {
                if let Some(raising) = &raising {
                    Arc::clone(raising).run().await;
                }
            };
            let acts = mirror.take_acts_over();
            let (kept, proven) = (mirror.keep_uses(), mirror.ask_once_more());
            let (room, scrubbed) = (mirror.keep_room(), mirror.scrub(scrub_rate));
            // What it is under other terms, it finds by itself.
            drop(mirror);
            let others = async { tokio::join!(kept, room, proven, scrubbed, gauges, kept_in_mind, acts, collected) };
            tokio::join!(raised, settling.run_until_cancelled(others));
        }
    }
}
