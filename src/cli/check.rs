//! `registry-mirror check`: would `serve` start with this configuration, and what would it stumble over?
//!
//! The same code as at the start of `serve`, with the same environment, and a look at what it names; nothing
//! after that: no network, nothing is written. All problems at once, as text or as one JSON object.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::talk::print_document;
use super::{Exit, environment, insist, print};
use crate::config::{Config, Handed, Overrides};
use crate::daemon::{self, Findings};
use crate::documents::{Check, Error};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 2 for whatever serve refuses to start with: certificates that are none, a store folder \
    that is neither empty nor ours (lost+found and hidden names do not count). It warns, and exits with 0, of what serve \
    goes on without (a password, a helper program, the admin socket), and of what depends on who asks and when (a store \
    that this user may not write, a port that is taken while no mirror runs on that store). What Kubernetes sets for \
    Services whose names begin with ours, REGISTRY_MIRROR_PORT and the like, is ignored."
)]
pub(super) struct Args {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as other commands have it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let file = args.file.as_deref().or(args.config.as_deref());
    let environment = environment()?;
    let loaded = Config::load(file, environment.clone(), Overrides::default());
    let Findings { problems, mut warnings } = match &loaded {
        Ok(config) => daemon::preflight(config),
        Err(error) => Findings { problems: error.problems.clone(), warnings: Vec::new() },
    };
    if let Some(config) = loaded.as_ref().ok().filter(|_| is_run_by_systemd(&environment)) {
        warnings.extend(refused_at_sockets(config, file, environment));
    }
    let valid = problems.is_empty();
    if args.json {
        print_document(&Check { valid, problems: problems.iter().map(Into::into).collect(), warnings })?;
    } else {
        warnings.iter().for_each(|warning| insist(&format!("warning: {warning}")));
        problems.iter().for_each(|problem| insist(&format!("error: {problem}")));
        if let Some(config) = loaded.ok().filter(|_| valid) {
            print(&summary(&config))?;
        }
    }
    Ok(if valid { Exit::Done } else { Exit::Usage })
}

/// Whether systemd itself runs this, as what stands before a start, which is not told of sockets.
fn is_run_by_systemd(environment: &[(String, String)]) -> bool {
    let process = std::process::id().to_string();
    environment.iter().any(|(name, value)| name == "SYSTEMD_EXEC_PID" && *value == process)
}

/// What `serve` would refuse to start with where sockets of systemd were open to others, if that is so.
fn refused_at_sockets(config: &Config, file: Option<&Path>, environment: Vec<(String, String)>) -> Option<String> {
    let port = config.server.listen.first()?.port();
    let handed = Handed { pull: vec![(Ipv4Addr::UNSPECIFIED, port).into()], ..Handed::default() };
    let error = Config::load(file, environment, Overrides { handed, ..Overrides::default() }).err()?;
    let message = &error.problems.first()?.message;
    Some(format!(
        "where registry-mirror.socket opens an address, that one counts and not server.listen; beyond loopback serve would \
         not start: {message}"
    ))
}

/// What the configuration means, in short.
fn summary(config: &Config) -> String {
    let source = config.source.as_ref().map_or("defaults".to_owned(), |path| path.display().to_string());
    let upstreams: Vec<_> = config.upstreams.iter().map(|upstream| upstream.host.as_str()).collect();
    format!("{source}: valid\n  store      {}\n  upstreams  {}", config.store.path.display(), upstreams.join(", "))
}
