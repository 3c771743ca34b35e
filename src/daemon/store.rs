//! The store without a daemon, for commands that work on it themselves.
//!
//! Whoever holds the lock may: either the daemon, or one command at a time.

use std::any::Any;
use std::sync::Arc;

use crate::blob_store::ingest::IngestDir;
use crate::blob_store::local::LocalBlobStore;
use crate::blob_store::lock::{LockError, StoreLock};
use crate::bundle::Stores;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::metadata::sled::SledMetadata;

/// A store that no daemon uses, and that none can use until this is dropped.
pub struct OpenedStore {
    /// What is in it.
    pub stores: Stores,
    /// How many bytes it may hold.
    pub budget: u64,
    /// The right to use it.
    pub lock: Box<dyn Any + Send>,
}

impl std::fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStore").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// Why a store cannot be opened, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A daemon, or another command, works on it.
    InUse(String),
    /// Anything else.
    Failed(String),
}

/// Opens the store of a configuration, if no daemon uses it. Brings its index up to date, which
/// takes as long as listing the blobs. Blocks; call it within a runtime, on a thread that may block.
///
/// # Errors
/// [`OpenError::InUse`] when somebody has the lock, [`OpenError::Failed`] for everything else.
pub fn open(config: &Config) -> Result<OpenedStore, OpenError> {
    let path = &config.store.path;
    let failed = |error: std::io::Error| OpenError::Failed(format!("the store {}: {error}", path.display()));
    let lock = StoreLock::acquire(path).map_err(|error| match error {
        LockError::Held { .. } => OpenError::InUse(error.to_string()),
        LockError::Io { .. } => OpenError::Failed(error.to_string()),
    })?;
    let blobs = Arc::new(LocalBlobStore::open(path).map_err(failed)?);
    let ingests = Arc::new(IngestDir::open(path.join("ingest")).map_err(failed)?);
    let metadata = Arc::new(SledMetadata::open(path));
    tokio::runtime::Handle::current().block_on(super::stock::take_stock(&blobs, &metadata, SystemClock.now()));
    let budget = super::budget(&config.store).map_err(failed)?;
    let stores = Stores { blobs, ingests, metadata, clock: Arc::new(SystemClock) };
    Ok(OpenedStore { stores, budget, lock: Box::new(lock) })
}
