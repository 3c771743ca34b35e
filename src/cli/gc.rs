//! `registry-mirror gc`: delete what no name leads to.

use super::client::{At, Remote};
use super::{Exit, say, show};
use crate::documents::{Error, Garbage, orders};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let said = Remote::find(&args.at)?.post::<Garbage>("gc", &orders::Collect { dry_run: args.dry_run })?;
    said.print(args.at.json, |garbage| {
        let verb = if garbage.dry_run { "would be deleted" } else { "deleted" };
        format!("{} blobs with {} {verb}", garbage.blobs, show::size(garbage.size_bytes))
    })?;
    let failed = said.document.failed;
    if failed > 0 && !args.at.json {
        say(&format!("{failed} blobs could not be deleted; see the daemon's log"));
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Partly })
}
