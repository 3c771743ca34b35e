//! `registry-mirror status`: how the daemon is doing.

use std::time::Duration;

use serde_json::Value;

use super::client::{At, Daemon};
use super::{Exit, print, show};
use crate::mirror::status::{FillStatus, Status};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(2);
/// Clears a terminal and goes to its top.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look again every two seconds
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let daemon = Daemon::find(&args.at)?;
    loop {
        let answer: Value = daemon.get("status")?;
        let text = if args.at.json {
            answer.to_string()
        } else {
            let status: Status = serde_json::from_value(answer).map_err(|_| Exit::Failed)?;
            let clear = if args.watch { CLEAR } else { "" };
            format!("{clear}{}", described(&status))
        };
        let printed = print(&text);
        if !args.watch || printed != Exit::Done {
            return Ok(printed);
        }
        std::thread::sleep(EVERY);
    }
}

fn described(status: &Status) -> String {
    let Status { requests, bytes, store, .. } = status;
    let upstreams: Vec<_> = status.upstreams.iter().map(|upstream| upstream.host.as_str()).collect();
    let mut lines = vec![
        format!("registry-mirror {}, {}, since {}", status.version, status.mode, show::moment(status.started_at)),
        format!(
            "  hits       {} of {} requests, {} of bytes",
            show::percent(requests.hit_ratio),
            requests.total,
            show::percent(bytes.hit_ratio)
        ),
        format!(
            "  served     {}, fetched {}, saved {}",
            show::size(bytes.total),
            show::size(status.fetched_bytes),
            show::size(status.saved_bytes)
        ),
        format!(
            "  store      {} in {} blobs, of {}",
            show::size(store.used_bytes),
            store.blobs,
            show::size(store.budget_bytes)
        ),
        format!("  upstreams  {}", upstreams.join(", ")),
        format!("  filling    {}", status.fills.len()),
    ];
    lines.extend(status.fills.iter().map(fill));
    lines.join("\n")
}

fn fill(fill: &FillStatus) -> String {
    let total = fill.total.map_or_else(|| "?".to_owned(), show::size);
    let FillStatus { repository, digest, written, readers, .. } = fill;
    format!("    {repository} {} {} of {total}, {readers} reading", show::short(digest), show::size(*written))
}
