//! `registry-mirror store`: the bucket behind the store, by the configuration. No daemon is asked.

use std::path::PathBuf;

use clap::Subcommand;

use super::talk::print_document;
use super::{Exit, doctor, environment, print};
use crate::config::{Config, Overrides};
use crate::daemon::store::test_bucket;
use crate::documents::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try the bucket: write, read, list, remove, parts, and whether conditional writes hold
    Test(Test),
}

#[derive(Debug, clap::Args)]
struct Test {
    /// Configuration file [env: REGISTRY_MIRROR_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer with one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let Command::Test(Test { config, json }) = &args.command;
    let said = test_bucket(&Config::load(config.as_deref(), environment()?, Overrides::default())?)?;
    if *json {
        print_document(&said)?;
    } else {
        said.checks.iter().try_for_each(|check| print(&doctor::line(check)))?;
    }
    Ok(if said.ok { Exit::Done } else { Exit::Failed })
}
