//! `registry-mirror verify`: read everything that is stored and compare it with its name.

use std::io::IsTerminal as _;

use indicatif::ProgressBar;

use super::client::{At, Remote};
use super::talk::print_json;
use super::{Exit, print, show};
use crate::documents::{Code, Error, Finding, orders};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Delete what is damaged and fetch it again
    #[arg(long)]
    repair: bool,
    /// Read at most so much a second, such as 50MB
    #[arg(long, value_name = "SIZE")]
    rate: Option<bytesize::ByteSize>,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let order = orders::Verify { repair: args.repair, rate: args.rate.map(|rate| rate.as_u64()) };
    let bar = (std::io::stderr().is_terminal() && !args.at.json).then(ProgressBar::no_length);
    let mut end = None;
    let mut printed = Ok(());
    Remote::find(&args.at)?.post_lines("verify", &order, &mut |finding: Finding, line| {
        if args.at.json {
            printed = print_json(line);
        }
        match finding {
            Finding::Progress { checked, of, .. } => {
                if let Some(bar) = &bar {
                    bar.set_length(of);
                    bar.set_position(checked);
                }
            }
            Finding::Damaged { digest, repaired } if !args.at.json => {
                let state = if repaired { "damaged, fetched again" } else { "damaged" };
                printed = print(&format!("{digest}: {state}"));
            }
            Finding::Damaged { .. } => {}
            Finding::Done { checked, checked_bytes, damaged, repaired } => {
                end = Some((checked, checked_bytes, damaged, repaired));
            }
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printed?;
    let Some((checked, bytes, damaged, repaired)) = end else {
        return Err(Error::new(Code::Failed, "the daemon ended before everything was read"));
    };
    if !args.at.json {
        print(&format!("{checked} blobs with {} read, {damaged} damaged, {repaired} repaired", show::size(bytes)))?;
    }
    Ok(if damaged == repaired { Exit::Done } else { Exit::Corrupt })
}
