//! The store without a daemon, for commands that work on it themselves.
//!
//! Whoever holds the lock may: either the daemon, or one command at a time.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::owner::{InHisName, Owner, Reached, by_its_name};
use super::{Prepared, StartError, list_of, settings, stock, upstreams};
use crate::blob_store::ingest::IngestDir;
use crate::blob_store::local::LocalBlobStore;
use crate::blob_store::lock::{self, LockError, StoreLock};
use crate::blob_store::unusable::Unusable;
use crate::blob_store::{closed, format};
use crate::bundle::import::{self, Intake};
use crate::bundle::{Plan, Rest, Stores};
use crate::carrier::{Carrier, Carriers};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Store};
use crate::documents::{
    self, Carried, Checked, Code, Direction, Error, Imported, Receipt, StoreTest, Verdict, Why, no_bucket,
    nothing_in_bucket, orders,
};
use crate::graph::Graph;
use crate::metadata::names;
use crate::metadata::sled::SledMetadata;
use crate::metadata::{FirstLook, Pin, Standing};
use crate::mirror::Routes;
use crate::mirror::images::catalog::why;
use crate::oci::ImageName;
use crate::tier::trial::Trial;
use crate::tier::{Bucket, Conditional};
use crate::upstream::Upstream;
use crate::upstream::health::Health;
use crate::upstream::offline::Offline;

/// Where the daemon that has the store of this configuration takes orders on this machine, whatever the configuration
/// says by now; nothing where there is none.
pub fn socket_of_daemon(config: &Config) -> Option<PathBuf> {
    lock::socket_of_holder(&config.store.path)
}

/// A store that no daemon uses, and that none can use until this is dropped.
pub struct OpenedStore {
    stores: Stores,
    /// How many bytes it may hold.
    budget: u64,
    _lock: StoreLock,
    runtime: Runtime,
    /// In whose name all of it is done, where that is somebody else.
    owner: Option<Owner>,
    folder: Reached,
    /// What it is called.
    name: PathBuf,
    /// What is told of what could not be read.
    set_aside: Option<String>,
    /// Dropped after all the others, of which an index writes when it is.
    to_the_end: Option<InHisName>,
}

impl Drop for OpenedStore {
    fn drop(&mut self) {
        self.to_the_end = self.as_its_owner().ok().flatten();
    }
}

impl std::fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStore").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// A bundle that can be written.
#[derive(Debug)]
pub struct Outgoing<'s> {
    store: &'s OpenedStore,
    plan: Plan,
}

impl OpenedStore {
    /// Opens the store of a configuration, if no daemon uses it. Brings its index up to date, which
    /// takes as long as listing the blobs. Blocks.
    ///
    /// # Errors
    /// [`Code::Unreachable`] when somebody has the lock, [`Code::Configuration`] when the folder is no store of
    /// ours, [`Code::Failed`] for everything else.
    pub fn open(config: &Config) -> Result<OpenedStore, Error> {
        let owner = Owner::to_write_for(&config.store.path);
        let folder = Reached::by(owner, &config.store.path)?;
        owner.map(|owner| owner.give_back(&config.store.path));
        let _in_his_name = as_owner(owner, &config.store.path)?;
        let reached = folder.path.clone();
        OpenedStore::open_at(config, owner, folder).map_err(|error| by_its_name(error, &reached, &config.store.path))
    }

    fn open_at(config: &Config, owner: Option<Owner>, folder: Reached) -> Result<OpenedStore, Error> {
        let path = &folder.path;
        let failed = |source: std::io::Error| Error::from(StartError::Store(Unusable::new(path, source)));
        let lock = StoreLock::acquire(path).map_err(|error| match error {
            LockError::Held { .. } => Error::new(Code::Unreachable, error.to_string())
                .with_hint("stop that one, choose another store, or say where it answers with --admin"),
            error => StartError::Lock(error).into(),
        })?;
        format::mark(path);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))?;
        let entered = runtime.enter();
        let owed = config.store.bucket.as_ref().map(|_| list_of(path)).transpose().map_err(StartError::Store)?;
        let set_aside = owed
            .as_ref()
            .and_then(|owed| owed.set_aside())
            .map(|told| by_its_name(Error::new(Code::Failed, told), path, &config.store.path).message);
        let blobs = Arc::new(LocalBlobStore::owing(path, owed.clone()).map_err(failed)?);
        let ingests = Arc::new(IngestDir::open(path.join("ingest")).map_err(failed)?);
        let metadata = Arc::new(SledMetadata::owing(path, owed));
        drop(entered);
        runtime.block_on(stock::take_stock(&blobs, &metadata, SystemClock.now()));
        let as_reached = Store { path: path.clone(), ..config.store.clone() };
        let budget = settings::budget(&as_reached).map_err(failed)?;
        let places = Arc::new(upstreams::places(config, FirstLook::Passing));
        let stores = Stores { blobs, ingests, metadata, places, clock: Arc::new(SystemClock) };
        let name = config.store.path.clone();
        Ok(OpenedStore { stores, budget, _lock: lock, runtime, owner, folder, name, set_aside, to_the_end: None })
    }

    /// What could not be read at the start and was set aside, and what comes of that.
    pub fn set_aside(&self) -> Option<&str> {
        self.set_aside.as_deref()
    }

    fn as_its_owner(&self) -> Result<Option<InHisName>, Error> {
        as_owner(self.owner, &self.folder.path)
    }

    /// Finds out what a bundle would be.
    ///
    /// # Errors
    /// [`Code::Usage`] for an order that nobody can mean, and what [`Plan::make`] says.
    pub fn export(&self, order: &orders::Export) -> Result<Outgoing<'_>, Error> {
        let _in_his_name = self.as_its_owner()?;
        let _entered = self.runtime.enter();
        let plan = Plan::make(&self.stores, &order.try_into()?, self.runtime.handle()).map_err(Error::from);
        let plan = plan.map_err(|error| self.with_advice(error))?;
        Ok(Outgoing { store: self, plan })
    }

    /// Takes a bundle in. The name is for the only image of one that has no name for it.
    ///
    /// # Errors
    /// What [`import::import`] says.
    pub fn import(&self, bundle: impl Read, name: Option<&ImageName>) -> Result<Imported, Error> {
        let _in_his_name = self.as_its_owner()?;
        let _entered = self.runtime.enter();
        let rest = Rest { blobs: Arc::clone(&self.stores.blobs), budget: self.budget };
        let intake = Intake { space: Some(&rest), name };
        let imported = import::import(&self.stores, bundle, &intake, self.runtime.handle()).map_err(Error::from);
        imported.map_err(|error| self.with_advice(error))
    }

    /// What a pull of `image` would get from a daemon that is started now.
    ///
    /// # Errors
    /// [`Code::NotFound`] for an image of no upstream, [`Code::Metadata`] when what is remembered cannot be read.
    pub fn why(&self, config: &Config, image: &ImageName) -> Result<Why, Error> {
        let _in_his_name = self.as_its_owner()?;
        let upstreams = config.upstreams.iter().map(|upstream| {
            let nobody: Arc<dyn Upstream> = Arc::new(Offline::new(upstream.host.clone()));
            (upstream.host.clone(), nobody)
        });
        let routes = Routes::new(config.routes.default.clone(), upstreams);
        let route = routes.of_image(image).map_err(|error| Error::new(Code::NotFound, error.to_string()))?;
        let pin = Pin { location: route.location, reference: image.reference.clone() };
        let _entered = self.runtime.enter();
        let (public, of_callers) = (upstreams::public(config), upstreams::of_callers(config));
        let standing = Standing { public, of_callers, places: Arc::clone(&self.stores.places) };
        let graph = Graph::new(self.stores.blobs.clone(), self.stores.metadata.clone());
        let graph = graph.of_what_counts(Arc::new(standing));
        let why = why::why(
            &graph,
            &pin,
            config.cache.policy,
            &Health::default(),
            false,
            HashSet::new(),
            self.stores.clock.now(),
        );
        why.map_err(|error| self.with_advice(Error::new(Code::Metadata, error.to_string())))
    }

    /// An error with what helps where it comes of something that is closed to who works here.
    fn with_advice(&self, error: Error) -> Error {
        let path = &self.folder.path;
        let closed = if error.hint.is_none() { closed::first(path, closed::A_FEW) } else { None };
        let Some(closed) = closed else { return by_its_name(error, path, &self.name) };
        let unusable = Unusable::of(path, closed);
        let whose = unusable.whose().map(|whose| format!("{whose}; ")).unwrap_or_default();
        let advised = error.with_hint(format!("{whose}as root: {}", unusable.giving()));
        by_its_name(advised, path, &self.name)
    }

    /// What is stored.
    ///
    /// # Errors
    /// [`Code::Store`] when the blobs cannot be listed.
    pub fn receipt(&self) -> Result<Receipt, Error> {
        let _in_his_name = self.as_its_owner()?;
        Ok(import::receipt(&self.stores, self.runtime.handle())?)
    }
}

fn as_owner(owner: Option<Owner>, store: &Path) -> Result<Option<InHisName>, Error> {
    owner.map(|owner| owner.enter_or_refuse(store)).transpose()
}

/// Whether there is a store, or something that may be one: an empty folder is none.
pub fn is_made(path: &Path) -> bool {
    format::is_made(path)
}

/// Looks whether the bucket of a configuration has anything of a store, before one is made for it. Blocks.
///
/// # Errors
/// [`Code::NotFound`] where it has nothing, [`Code::Configuration`] where there is none, or it cannot be used as it is
/// configured, [`Code::Failed`] where it does not say.
pub fn look_into_bucket(config: &Config) -> Result<(), Error> {
    let (bucket, runtime) = reached(config)?;
    let first = runtime.block_on(async { bucket.list(names::REPOSITORIES).next().await });
    match first {
        Some(listed) => listed.map(drop).map_err(|trouble| Error::new(Code::Failed, trouble.to_string())),
        None => Err(nothing_in_bucket(Some(&bucket.place()))),
    }
}

fn reached(config: &Config) -> Result<(Bucket, Runtime), Error> {
    let settings = &config.store.bucket.as_ref().ok_or_else(no_bucket)?.tier;
    let bucket =
        Bucket::open(settings, &Carrier::default(), |name| std::env::var(name).ok()).map_err(StartError::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))?;
    Ok((bucket, runtime))
}

/// Tries the bucket of a configuration with a few objects of its own, which it takes away again. Blocks.
///
/// # Errors
/// [`Code::Configuration`] where there is none, or it cannot be used as it is configured.
pub fn test_bucket(config: &Config) -> Result<StoreTest, Error> {
    let (bucket, runtime) = reached(config)?;
    let Trial { steps, conditional } = runtime.block_on(Trial::of(&bucket));
    let step = |(about, tried): (&str, Result<String, String>)| match tried {
        Ok(message) => Checked::ok(about, message),
        Err(trouble) => Checked::fail(about, trouble, "see [store.bucket], and what that key may do in the bucket"),
    };
    let mut checks: Vec<_> = steps.into_iter().map(step).collect();
    let about = "conditional writes";
    checks.extend(conditional.map(|found| match found {
        Conditional::Right => Checked::ok(about, "the store keeps to them"),
        Conditional::CreateOnly => Checked::ok(about, "one of many creates an object; versions are not compared"),
        Conditional::Lies => Checked::warn(
            about,
            "the store takes them and does not keep to them: several replicas may fetch the same",
            "all stays right without; a store that keeps to If-None-Match saves downloads",
        ),
    }));
    let ok = checks.iter().all(|check| check.verdict != Verdict::Fail);
    let conditions_hold = conditional.map(Conditional::creates);
    Ok(StoreTest { ok, bucket: bucket.name().to_owned(), conditions_hold, checks })
}

/// Carries the whole store of a configuration into its bucket or back, while no daemon runs. Blocks.
///
/// # Errors
/// What [`Daemon::open`](super::Daemon::open) says, and [`Code::Configuration`] where there is no bucket.
pub fn carry(mut config: Config, way: Direction, take: &mut dyn FnMut(Carried)) -> Result<(), Error> {
    config.store.bucket.as_ref().ok_or_else(no_bucket)?;
    let owner = Owner::to_write_for(&config.store.path);
    let folder = Reached::by(owner, &config.store.path)?;
    // While root may read what is his: keys and secrets.
    let path = std::mem::replace(&mut config.store.path, folder.path.clone());
    let prepared = Prepared::new(config, Arc::new(SystemClock), Carriers::default())?;
    // To the end of all that is opened here.
    let _in_his_name = as_owner(owner, &path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))?;
    let entered = runtime.enter();
    let daemon = prepared.open().map_err(|error| by_its_name(error.into(), &folder.path, &path))?;
    drop(entered);
    runtime.block_on(daemon.carry(way, take));
    Ok(())
}

impl Outgoing<'_> {
    /// What it will be.
    pub fn document(&self) -> documents::Plan {
        self.plan.document()
    }

    /// Writes the tar. What was written before an error is not a bundle.
    ///
    /// # Errors
    /// What [`Plan::write`] says.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let _in_his_name = self.store.as_its_owner()?;
        let _entered = self.store.runtime.enter();
        Ok(self.plan.write(&self.store.stores, out, self.store.runtime.handle())?)
    }
}
