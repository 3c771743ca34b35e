//! `registry-mirror check`: is this configuration valid?
//!
//! The same code as at the start of `serve`, with the same environment, and a look at the files that
//! it names; nothing after that: no network, nothing is written. All problems at once, as text or as one JSON object.

use std::path::PathBuf;

use super::talk::print_document;
use super::{Exit, environment, print, say};
use crate::config::{self, Config, ConfigError, Overrides};
use crate::daemon;
use crate::documents::{Check, Error, Problem};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let variables = environment()?;
    let folder =
        variables.iter().find(|(name, _)| name == "CREDENTIALS_DIRECTORY").map(|(_, value)| PathBuf::from(value));
    let loaded = Config::load(args.file.as_deref(), variables, Overrides::default()).and_then(|config| {
        match config.missing_files(folder.as_deref()) {
            problems if problems.is_empty() => {
                config.admin_token()?;
                with_certificates(config)
            }
            problems => Err(ConfigError { problems }),
        }
    });
    match &loaded {
        Ok(config) if args.json => {
            print_document(&Check { valid: true, problems: Vec::new(), warnings: config.warnings().to_vec() })?;
        }
        Err(error) if args.json => {
            let problems = error.problems.iter().map(problem).collect();
            print_document(&Check { valid: false, problems, warnings: Vec::new() })?;
        }
        Ok(config) => {
            for warning in config.warnings() {
                say(&format!("warning: {warning}"));
            }
            print(&summary(config))?;
        }
        Err(error) => error.problems.iter().for_each(|problem| say(&format!("error: {problem}"))),
    }
    Ok(if loaded.is_ok() { Exit::Done } else { Exit::Usage })
}

fn problem(problem: &config::Problem) -> Problem {
    let config::Problem { place, line, column, message, hint, .. } = problem.clone();
    Problem { place, line, column, message, hint }
}

/// The configuration, if its certificates are of use.
fn with_certificates(config: Config) -> Result<Config, ConfigError> {
    match daemon::check_certificates(&config.server) {
        Ok(()) => Ok(config),
        Err(error) => Err(config::Problem::at("server.tls", error.to_string()).into()),
    }
}

/// What the configuration means, in short.
fn summary(config: &Config) -> String {
    let source = config.source.as_ref().map_or("defaults".to_owned(), |path| path.display().to_string());
    let upstreams: Vec<_> = config.upstreams.iter().map(|upstream| upstream.host.as_str()).collect();
    format!("{source}: valid\n  store      {}\n  upstreams  {}", config.store.path.display(), upstreams.join(", "))
}
