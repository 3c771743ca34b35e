//! `registry-mirror check`: is this configuration valid?
//!
//! The same code as at the start of `serve`, with the same environment, and a look at the files that
//! it names; nothing after that: no network, nothing is written. All problems at once, as text or as one JSON object.

use std::path::PathBuf;

use serde::Serialize;

use super::{Exit, complain, environment, print, say};
use crate::config::{Config, ConfigError, Overrides, Problem};
use crate::daemon;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The answer for scripts.
#[derive(Serialize)]
struct Report<'a> {
    valid: bool,
    problems: &'a [Problem],
    warnings: &'a [String],
}

pub(super) fn run(args: &Args) -> Exit {
    let variables = match environment() {
        Ok(variables) => variables,
        Err(exit) => return exit,
    };
    let folder =
        variables.iter().find(|(name, _)| name == "CREDENTIALS_DIRECTORY").map(|(_, value)| PathBuf::from(value));
    let loaded = Config::load(args.file.as_deref(), variables, Overrides::default()).and_then(|config| {
        match config.missing_files(folder.as_deref()) {
            problems if problems.is_empty() => with_certificates(config),
            problems => Err(ConfigError { problems }),
        }
    });
    if args.json {
        let report = match &loaded {
            Ok(config) => Report { valid: true, problems: &[], warnings: config.warnings() },
            Err(error) => Report { valid: false, problems: &error.problems, warnings: &[] },
        };
        let printed = serde_json::to_string(&report).map_or(Exit::Failed, |json| print(&json));
        return if loaded.is_ok() { printed } else { Exit::Usage };
    }
    match &loaded {
        Ok(config) => {
            for warning in config.warnings() {
                say(&format!("warning: {warning}"));
            }
            print(&summary(config))
        }
        Err(error) => complain(error),
    }
}

/// The configuration, if its certificates are of use.
fn with_certificates(config: Config) -> Result<Config, ConfigError> {
    match daemon::check_certificates(&config.server) {
        Ok(()) => Ok(config),
        Err(error) => Err(Problem::at("server.tls", error.to_string()).into()),
    }
}

/// What the configuration means, in short.
fn summary(config: &Config) -> String {
    let source = config.source.as_ref().map_or("defaults".to_owned(), |path| path.display().to_string());
    let upstreams: Vec<_> = config.upstreams.iter().map(|upstream| upstream.host.as_str()).collect();
    format!("{source}: valid\n  store      {}\n  upstreams  {}", config.store.path.display(), upstreams.join(", "))
}
