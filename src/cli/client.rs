//! The commands' way to a running daemon.
//!
//! What goes wrong becomes an error document here, so that commands only deal with answers.

mod address;
mod bundles;
mod endpoint;

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde::Serialize;

use super::environment;
use super::talk::print;
use crate::config::{Config, Overrides};
use crate::documents::{Code, Document, Error};
use endpoint::{nothing, parsed};

pub(super) use address::{Address, parse as parse_address};
pub(super) use endpoint::Endpoint;

/// What every command that asks the daemon can be told.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The daemon: its admin address, such as http://127.0.0.1:5080, or unix:PATH
    #[arg(long, value_name = "URL|unix:PATH")]
    pub(super) admin: Option<String>,
    /// Configuration of the daemon, which says where it listens [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// How long to wait for a sign of life
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// Answer in JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

impl At {
    /// The configuration that is meant, with the store in `store` if that is given.
    pub(super) fn config(&self, store: Option<String>) -> Result<Config, Error> {
        let overrides = Overrides { store, ..Overrides::default() };
        Ok(Config::load(self.config.as_deref(), environment()?, overrides)?)
    }
}

/// A daemon that may answer, for commands that do one thing after the other.
pub(super) struct Remote {
    endpoint: Endpoint,
    runtime: tokio::runtime::Runtime,
}

/// What a daemon said.
pub(super) struct Said<T> {
    /// The document.
    pub(super) document: T,
    /// Its text as it came, with what a later version may have added.
    text: String,
}

impl<T> Said<T> {
    /// Prints the document as it came, or else what it means for people.
    pub(super) fn print(&self, json: bool, means: impl FnOnce(&T) -> String) -> Result<(), Error> {
        if json { print(&self.text) } else { print(&means(&self.document)) }
    }
}

impl Remote {
    /// The daemon that `at` names, else the one of the configuration.
    pub(super) fn find(at: &At) -> Result<Remote, Error> {
        let addresses = match &at.admin {
            Some(typed) => vec![parse_address(typed).ok_or_else(|| not_an_address(typed))?],
            None => address::configured(&at.config(None)?),
        };
        Remote::at(addresses, at.timeout)
    }

    /// The daemon of a configuration; with `store_only` only one that surely has the store of it.
    pub(super) fn of(config: &Config, store_only: bool, patience: Duration) -> Result<Remote, Error> {
        let addresses = if store_only { address::of_store(config) } else { address::configured(config) };
        Remote::at(addresses, patience)
    }

    fn at(addresses: Vec<Address>, patience: Duration) -> Result<Remote, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))?;
        Ok(Remote { endpoint: Endpoint::new(addresses, patience), runtime })
    }

    /// Whether somebody takes a connection.
    pub(super) fn takes_connections(&self) -> bool {
        self.runtime.block_on(self.endpoint.takes_connections())
    }

    /// The answer to a GET below `/api/v1`.
    pub(super) fn get<T: Document>(&self, path: &str) -> Result<Said<T>, Error> {
        let (document, text) =
            self.runtime.block_on(async { self.endpoint.get(&format!("/api/v1/{path}")).await?.document().await })?;
        Ok(Said { document, text })
    }

    /// The answer to an order.
    pub(super) fn post<T: Document>(&self, path: &str, order: &impl Serialize) -> Result<Said<T>, Error> {
        let (document, text) =
            self.runtime.block_on(async { self.endpoint.post(path, order).await?.document().await })?;
        Ok(Said { document, text })
    }

    /// Hands over the documents of the answer to an order as they come, each with its text.
    pub(super) fn post_lines<T: Document>(
        &self,
        path: &str,
        order: &impl Serialize,
        take: &mut dyn FnMut(T, &str),
    ) -> Result<(), Error> {
        self.runtime.block_on(async {
            let mut answer = self.endpoint.post(path, order).await?;
            while let Some(line) = answer.line().await? {
                let (document, text) = parsed(&line)?;
                take(document, &text);
            }
            Ok(())
        })
    }

    /// Whether the daemon can serve.
    pub(super) fn is_ready(&self) -> Result<bool, Error> {
        let answer = self.endpoint.send(Method::GET, "/readyz", nothing());
        Ok(self.runtime.block_on(answer)?.status.is_success())
    }
}

/// That this is no address of a daemon.
pub(super) fn not_an_address(typed: &str) -> Error {
    Error::new(Code::Usage, format!("--admin: {typed:?} is neither http://ADDRESS:PORT nor unix:PATH"))
}
