//! `registry-mirror gc`: delete what no name leads to.

use serde_json::{Value, json};

use super::client::{At, Remote};
use super::{Exit, print, show};
use crate::mirror::keep::garbage::Garbage;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let answer: Value = Remote::find(&args.at)?.post("gc", &json!({ "dry_run": args.dry_run }))?;
    let garbage: Garbage = serde_json::from_value(answer.clone()).map_err(|_| Exit::Failed)?;
    if args.at.json {
        print(&answer.to_string());
    } else {
        let verb = if garbage.dry_run { "would be deleted" } else { "deleted" };
        print(&format!("{} blobs with {} {verb}", garbage.blobs, show::size(garbage.bytes)));
        if garbage.failed > 0 {
            super::say(&format!("{} blobs could not be deleted; see the daemon's log", garbage.failed));
        }
    }
    Ok(if garbage.failed == 0 { Exit::Done } else { Exit::Partly })
}
