//! The commands' way to a running daemon.
//!
//! What goes wrong becomes an error document here, so that commands only deal with answers.

mod address;
mod bundles;
mod endpoint;
mod tls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde::Serialize;

use super::talk::{print, print_json};
use super::{environment, explain};
use crate::config::{Config, Overrides, Secret};
use crate::documents::{Code, Document, Error};
use crate::oci::RegistryName;
use address::Address;
use endpoint::{nothing, parsed};
use tls::Trust;

pub(super) use endpoint::Endpoint;
pub(super) use tls::names_in_certificate;

/// Why a file does not name authorities, if it does not.
pub(super) fn no_authorities(file: &Path) -> Option<String> {
    Trust::authorities(file).problem().map(str::to_owned)
}

/// What every command that asks the daemon can be told.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The daemon: its admin address, such as http://127.0.0.1:5080, or unix:PATH
    #[arg(long, value_name = "URL|unix:PATH")]
    pub(super) admin: Option<String>,
    /// Authorities to trust for an https:// address, and no others, PEM
    #[arg(long, value_name = "FILE", requires = "admin")]
    ca: Option<PathBuf>,
    /// File with the token that lets addresses act [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    admin_token: Option<PathBuf>,
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
        configuration(self.config.as_deref(), store)
    }

    fn search(&self) -> Search<'_> {
        Search {
            admin: self.admin.as_deref(),
            ca: self.ca.as_deref(),
            token: self.admin_token.as_deref(),
            config: self.config.as_deref(),
            patience: self.timeout,
        }
    }
}

/// The first of these addresses for clients.
pub(super) fn first(addresses: Vec<(String, RegistryName)>) -> Result<(String, RegistryName), Error> {
    let none = || Error::new(Code::Configuration, "server.listen names no address");
    addresses.into_iter().next().ok_or_else(none)
}

/// The configuration in this file, else that of the daemon.
pub(super) fn configuration(path: Option<&Path>, store: Option<String>) -> Result<Config, Error> {
    let overrides = Overrides { store, ..Overrides::default() };
    let config = Config::load(path, environment()?, overrides)?;
    let source = config.source.as_ref().map_or("the defaults, no file".to_owned(), |file| file.display().to_string());
    explain(&format!("the configuration is {source}"));
    Ok(config)
}

/// What a command knows of the daemon that it wants to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    /// Its address as typed.
    pub(super) admin: Option<&'a str>,
    /// Authorities to trust there.
    pub(super) ca: Option<&'a Path>,
    /// A file with the token.
    pub(super) token: Option<&'a Path>,
    /// Its configuration.
    pub(super) config: Option<&'a Path>,
    /// How long it may be silent.
    pub(super) patience: Duration,
}

impl Search<'_> {
    /// The daemon that is named, else the one of the configuration.
    pub(super) fn find(self) -> Result<Endpoint, Error> {
        let Some(typed) = self.admin else {
            let config = configuration(self.config, None)?;
            let token = self.token(Some(&config))?;
            return Ok(Endpoint::new(address::configured(&config), self.patience).with_token(token, false));
        };
        let trust = || self.ca.map_or_else(Trust::system, Trust::authorities);
        let address = address::parse(typed, trust).ok_or_else(|| not_an_address(typed))?;
        if let Address::Tls(_, trust) = &address
            && let Some(problem) = trust.problem()
        {
            return Err(Error::new(Code::Usage, format!("--ca: {problem}")));
        }
        // Only for the token: who names the daemon needs no configuration, unless they name one.
        let config = match configuration(self.config, None) {
            Err(error) if self.config.is_some() => return Err(error),
            config => config.ok(),
        };
        let token = self.token(config.as_ref())?;
        Ok(Endpoint::new(vec![address], self.patience).with_token(token, true))
    }

    /// The token that was named, else the configured one where this user can read it.
    fn token(self, config: Option<&Config>) -> Result<Option<Secret>, Error> {
        match self.token {
            Some(path) => {
                Secret::read(path).map(Some).map_err(|error| Error::new(Code::Usage, format!("--admin-token: {error}")))
            }
            None => Ok(config.and_then(|config| config.admin_token().ok().flatten())),
        }
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
        if json { print_json(&self.text) } else { print(&means(&self.document)) }
    }
}

impl Remote {
    /// The daemon that `at` names, else the one of the configuration.
    pub(super) fn find(at: &At) -> Result<Remote, Error> {
        Remote::at(at.search().find()?)
    }

    /// The daemon at the socket that `at` names, else at that of the configuration. `None` where there is none.
    pub(super) fn at_socket(at: &At) -> Result<Option<Remote>, Error> {
        let addresses = match at.admin.as_deref() {
            Some(typed) => vec![address::parse(typed, Trust::system).ok_or_else(|| not_an_address(typed))?],
            None => address::configured(&configuration(at.config.as_deref(), None)?),
        };
        let sockets: Vec<_> = addresses.into_iter().filter(|address| matches!(address, Address::Unix(_))).collect();
        if sockets.is_empty() {
            return Ok(None);
        }
        Remote::at(Endpoint::new(sockets, at.timeout)).map(Some)
    }

    /// The daemon that surely has the store of this configuration.
    pub(super) fn of_store(config: &Config, patience: Duration) -> Result<Remote, Error> {
        Remote::at(Endpoint::new(address::of_store(config), patience))
    }

    fn at(endpoint: Endpoint) -> Result<Remote, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::new(Code::Failed, format!("starting the runtime: {error}")))?;
        Ok(Remote { endpoint, runtime })
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
            let mut lines = 0;
            while let Some(line) = answer.line().await? {
                let (document, text) = parsed(&line)?;
                take(document, &text);
                lines += 1;
            }
            let rest = answer.whole().await?;
            if lines > 0 && rest.is_empty() { Ok(()) } else { parsed::<T>(&rest).map(drop) }
        })
    }

    /// The answer to any GET, as text.
    pub(super) fn text(&self, path: &str) -> Result<String, Error> {
        let whole = self.runtime.block_on(async { self.endpoint.get(path).await?.whole().await })?;
        Ok(String::from_utf8_lossy(&whole).into_owned())
    }

    /// Whether the daemon can serve.
    pub(super) fn is_ready(&self) -> Result<bool, Error> {
        let answer = self.endpoint.send(Method::GET, "/readyz", nothing());
        Ok(self.runtime.block_on(answer)?.status.is_success())
    }
}

/// That this is no address of a daemon.
pub(super) fn not_an_address(typed: &str) -> Error {
    Error::new(Code::Usage, format!("--admin: {typed:?} is neither http://ADDRESS:PORT, https://NAME nor unix:PATH"))
}
