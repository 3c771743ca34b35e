//! `registry-mirror history`: every digest a tag was seen with, when and from where.

use super::client::{At, Remote};
use super::{Exit, show};
use crate::documents::{Error, History, HistoryEntry};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tag, such as redis:7
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let said = Remote::find(&args.at)?.get::<History>(&format!("history?{}", super::query(&args.image)))?;
    said.print(args.at.json, |History { history, .. }| {
        let heading = ["SEEN", "DIGEST", "FROM"].map(str::to_owned).to_vec();
        show::table(&std::iter::once(heading).chain(history.iter().map(row)).collect::<Vec<_>>())
    })?;
    Ok(Exit::Done)
}

fn row(entry: &HistoryEntry) -> Vec<String> {
    vec![show::moment(entry.seen_at), entry.digest.to_string(), entry.from.to_string()]
}
