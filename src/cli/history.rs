//! `registry-mirror history`: every digest a tag was seen with, when and from where.

use serde_json::Value;

use super::client::{At, Remote};
use super::{Exit, print, show};
use crate::mirror::images::catalog::HistoryEntry;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tag, such as redis:7
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let answer: Value = Remote::find(&args.at)?.get(&format!("history?{}", super::query(&args.image)))?;
    if args.at.json {
        return Ok(print(&answer.to_string()));
    }
    let entries: Vec<HistoryEntry> = serde_json::from_value(answer["history"].clone()).map_err(|_| Exit::Failed)?;
    let heading = ["SEEN", "DIGEST", "FROM"].map(str::to_owned).to_vec();
    let row = |entry: &HistoryEntry| vec![show::moment(entry.at), entry.digest.to_string(), entry.from.to_string()];
    let rows: Vec<_> = std::iter::once(heading).chain(entries.iter().map(row)).collect();
    Ok(print(&show::table(&rows)))
}
