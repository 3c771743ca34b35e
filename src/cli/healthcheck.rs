//! `registry-mirror healthcheck`: can the daemon serve? For containers, which have no other client.

use super::client::{At, Remote};
use super::talk::print_document;
use super::{Exit, print};
use crate::documents::{Error, Health};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let ready = Remote::find(&args.at)?.is_ready()?;
    if args.at.json {
        print_document(&Health { ready })?;
    } else {
        print(if ready { "ready" } else { "not ready" })?;
    }
    Ok(if ready { Exit::Done } else { Exit::NotFound })
}
