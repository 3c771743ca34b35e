//! `registry-mirror serve`: run the mirror.
//!
//! Loads the configuration, starts the log and hands over. The flags are the few settings that
//! people change from one run to the next; everything else is in the file.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use super::banner::banner;
use super::colour::Color;
use super::{Exit, environment, say};
use crate::config::{Config, Overrides, Source};
use crate::daemon::{self, Bound, Given};
use crate::documents::Error;
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for clients, such as 127.0.0.1:5000; may be given again
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Address for health and metrics, such as 127.0.0.1:5080; may be given again
    #[arg(long, value_name = "ADDR")]
    admin: Vec<String>,
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    store: Option<String>,
    /// What the store may hold: 200GB, or 80% of the file system
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Never ask upstream
    #[arg(long)]
    offline: bool,
}

/// Runs it, with the log at this level if one is given.
pub(super) fn run(args: &Args, level: Option<&str>, color: Color) -> Result<Exit, Error> {
    let hang_up = daemon::hang_up()?;
    let given = Given::take()?;
    let overrides = Overrides {
        listen: args.listen.clone(),
        admin: args.admin.clone(),
        store: args.store.clone(),
        max_size: args.max_size.clone(),
        offline: args.offline,
        log_level: level.map(str::to_owned),
        handed: given.addresses(),
    };
    let (source, loaded) = Source::open(args.config.clone(), environment()?, overrides)?;
    let config = &loaded.config;
    config.admin_token()?;
    telemetry::start(&config.log, color.fixed());
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    // Not a reason to refuse: what is stored can be served, and a credential may come later.
    for warning in daemon::credential_warnings(config) {
        tracing::warn!("{warning}");
    }
    daemon::run(source, loaded, hang_up, given, announce)?;
    Ok(Exit::Done)
}

/// Says that the daemon is about to serve, and where.
fn announce(config: &Config, bound: Bound<'_>, budget: u64) {
    if io::stderr().is_terminal() {
        say(banner(config, bound, budget).trim_end());
    } else {
        let Bound { pull, admin } = bound;
        tracing::info!(?pull, ?admin, store = %config.store.path.display(), budget_bytes = budget, "serving");
    }
}
