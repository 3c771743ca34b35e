//! Where a command works that needs a whole store: in the running daemon, or on the store itself.
//!
//! Whoever holds the lock of the store may work on it. A command that gets the lock does so itself;
//! one that does not asks the daemon that has it.

use super::client::{At, Remote};
use crate::config::Config;
use crate::daemon::store::OpenedStore;
use crate::documents::Error;

/// Where a command works.
pub(super) enum Place {
    /// On the store.
    Store(OpenedStore),
    /// In the daemon.
    Remote(Remote),
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
    /// The configuration that is meant.
    pub(super) fn config(&self) -> Result<Config, Error> {
        self.at.config(self.store.clone())
    }

    /// Finds out who does the work.
    pub(super) fn place(&self) -> Result<Place, Error> {
        if self.at.admin.is_some() {
            return Remote::find(&self.at).map(Place::Remote);
        }
        let config = self.config()?;
        let remote = match self.store {
            Some(_) => Remote::of_store(&config, self.at.timeout)?,
            None => Remote::find(&self.at)?,
        };
        // A store that nobody made yet is not what somebody means who has a daemon running.
        if self.store.is_none() && !config.store.path.exists() && remote.takes_connections() {
            return Ok(Place::Remote(remote));
        }
        match OpenedStore::open(&config) {
            Ok(opened) => Ok(Place::Store(opened)),
            Err(_) if remote.takes_connections() => Ok(Place::Remote(remote)),
            Err(error) => Err(error),
        }
    }
}
