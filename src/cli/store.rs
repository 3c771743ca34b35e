//! Where a command works that needs a whole store: in the running daemon, or on the store itself.
//!
//! Whoever holds the lock of the store may work on it. A command that gets the lock does so itself;
//! one that does not asks the daemon that has it.

use super::client::{At, Remote};
use super::{insist, say};
use crate::config::Config;
use crate::daemon::store::{OpenedStore, is_made, look_into_bucket};
use crate::documents::{Code, Error};

/// What a command makes of it that there is no store where one is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfNone {
    /// It makes one, as it brings something into it.
    Make,
    /// The same, once the bucket has something to bring.
    MakeForBucket,
    /// It says so: nothing can be had from it.
    Tell,
    /// It says so where somebody typed the path; else it looks at what a daemon would begin with.
    TellIfTyped,
}

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
    pub(super) fn place(&self, if_none: IfNone) -> Result<Place, Error> {
        if self.at.admin.is_some() {
            return Remote::find(&self.at).map(Place::Remote);
        }
        let config = self.config()?;
        let remote = match self.store {
            Some(_) => Remote::of_store(&config, self.at.timeout)?,
            None => Remote::find(&self.at)?,
        };
        let path = &config.store.path;
        let is_there = match if_none {
            // A daemon would begin with an empty folder.
            IfNone::TellIfTyped => path.try_exists().unwrap_or(true),
            IfNone::Make | IfNone::MakeForBucket | IfNone::Tell => is_made(path),
        };
        // A store that nobody made yet is not what somebody means who has a daemon running.
        if self.store.is_none() && !is_there && remote.takes_connections() {
            return Ok(Place::Remote(remote));
        }
        let is_told = if_none == IfNone::Tell || if_none == IfNone::TellIfTyped && self.store.is_some();
        if !is_there && is_told {
            let error = Error::new(Code::Configuration, format!("there is no store at {}", path.display()));
            return Err(error.with_hint("say where it is with --store DIR, or as [store] path in the configuration"));
        }
        if !is_there && if_none == IfNone::MakeForBucket {
            look_into_bucket(&config)?;
        }
        match OpenedStore::open(&config) {
            Ok(opened) => {
                if !is_there && matches!(if_none, IfNone::Make | IfNone::MakeForBucket) {
                    say(&format!("{}: a new store", path.display()));
                }
                if let Some(told) = opened.set_aside() {
                    insist(&format!("warning: {told}"));
                }
                Ok(Place::Store(opened))
            }
            Err(_) if remote.takes_connections() => Ok(Place::Remote(remote)),
            Err(error) => Err(error),
        }
    }
}
