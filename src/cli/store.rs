//! Where a command works that needs a whole store: in the running daemon, or on the store itself.
//!
//! Whoever holds the lock of the store may work on it. A command that gets the lock does so itself;
//! one that does not asks the daemon that has it.

use std::any::Any;

use super::client::{At, Daemon};
use super::{Exit, say};
use crate::bundle::Stores;
use crate::config::Config;

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

/// Opens the store of a configuration. Blocks; called within a runtime, on a thread that may block.
pub type OpenStore = fn(&Config) -> Result<OpenedStore, OpenError>;

/// Where a command works.
pub(super) enum Place {
    /// On the store, which is opened within the runtime.
    Store(OpenedStore, tokio::runtime::Runtime),
    /// In the daemon.
    Daemon(Daemon),
}

/// The flags that say which store or which daemon is meant.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    #[command(flatten)]
    pub(super) at: At,
    /// Folder of the store; the daemon that uses it is asked, if there is one
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    store: Option<String>,
}

impl StoreArgs {
    /// Finds out who does the work.
    pub(super) fn place(&self, open: OpenStore) -> Result<Place, Exit> {
        if self.at.admin.is_some() {
            return Daemon::find(&self.at).map(Place::Daemon);
        }
        let config = self.at.config(self.store.clone())?;
        let daemon = Daemon::of(&config, self.store.is_some(), self.at.timeout)?;
        // A store that nobody made yet is not what somebody means who has a daemon running.
        if self.store.is_none() && !config.store.path.exists() && daemon.answers() {
            return Ok(Place::Daemon(daemon));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            say(&format!("error: starting the runtime: {error}"));
            Exit::Failed
        })?;
        let entered = runtime.enter();
        let opened = open(&config);
        drop(entered);
        match opened {
            Ok(opened) => Ok(Place::Store(opened, runtime)),
            Err(_) if daemon.answers() => Ok(Place::Daemon(daemon)),
            Err(OpenError::InUse(told)) => {
                say(&format!("error: {told}, or say where it answers with --admin"));
                Err(Exit::Unreachable)
            }
            Err(OpenError::Failed(told)) => {
                say(&format!("error: {told}"));
                Err(Exit::Failed)
            }
        }
    }
}
