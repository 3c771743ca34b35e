//! Where a command works that needs a whole store: in the running daemon, or on the store itself.
//!
//! Whoever holds the lock of the store may work on it. A command that gets the lock does so itself;
//! one that does not asks the daemon that has it.

use super::client::{At, Remote};
use super::{Exit, say};
use crate::daemon::store::{self, OpenError, OpenedStore};

/// Where a command works.
pub(super) enum Place {
    /// On the store, which is opened within the runtime.
    Store(OpenedStore, tokio::runtime::Runtime),
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
    /// Finds out who does the work.
    pub(super) fn place(&self) -> Result<Place, Exit> {
        if self.at.admin.is_some() {
            return Remote::find(&self.at).map(Place::Remote);
        }
        let config = self.at.config(self.store.clone())?;
        let daemon = Remote::of(&config, self.store.is_some(), self.at.timeout)?;
        // A store that nobody made yet is not what somebody means who has a daemon running.
        if self.store.is_none() && !config.store.path.exists() && daemon.answers() {
            return Ok(Place::Remote(daemon));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            say(&format!("error: starting the runtime: {error}"));
            Exit::Failed
        })?;
        let entered = runtime.enter();
        let opened = store::open(&config);
        drop(entered);
        match opened {
            Ok(opened) => Ok(Place::Store(opened, runtime)),
            Err(_) if daemon.answers() => Ok(Place::Remote(daemon)),
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
