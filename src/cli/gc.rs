//! `registry-mirror gc`: delete what no name leads to.

use super::client::{At, Remote};
use super::{Exit, insist, show};
use crate::documents::{Error, Garbage, counted, orders};

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
        format!("{} with {} {verb}", counted(garbage.blobs, "blob"), show::size(garbage.size_bytes))
    })?;
    let Garbage { failed, unreadable, damaged, .. } = &said.document;
    if !args.at.json {
        for manifest in damaged {
            insist(&format!("{manifest} is damaged; mend it with: registry-mirror verify --repair"));
        }
        if *unreadable > 0 {
            let (manifests, missing) = (counted(*unreadable, "manifest"), *unreadable - damaged.len() as u64);
            insist(&format!(
                "{manifests} cannot be read, {missing} of them missing; what they may lead to in their repositories stays"
            ));
        }
        if *failed > 0 {
            insist(&format!("{} could not be deleted; see the daemon's log", counted(*failed, "blob")));
        }
    }
    Ok(if *failed == 0 { Exit::Done } else { Exit::Partly })
}
