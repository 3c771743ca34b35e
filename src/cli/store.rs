//! Which store a command works on: the flags that say so, and how it is opened.

use std::any::Any;
use std::path::PathBuf;

use super::{Exit, complain, environment, say};
use crate::bundle::Stores;
use crate::config::{Config, Overrides};

/// A store that no daemon uses, and that none can use until this is dropped.
pub struct OpenedStore {
    /// What is in it.
    pub stores: Stores,
    /// How many bytes more it may hold.
    pub room: u64,
    /// The right to use it.
    pub lock: Box<dyn Any + Send>,
}

impl std::fmt::Debug for OpenedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedStore").field("room", &self.room).finish_non_exhaustive()
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

/// The flags that say which store is meant.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub(super) store: Option<String>,
}

impl StoreArgs {
    /// The configuration that is meant.
    pub(super) fn config(&self) -> Result<Config, Exit> {
        let overrides = Overrides { store: self.store.clone(), ..Overrides::default() };
        Config::load(self.config.as_deref(), environment()?, overrides).map_err(|error| complain(&error))
    }
}

/// A runtime for a command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        say(&format!("error: starting the runtime: {error}"));
        Exit::Failed
    })
}
