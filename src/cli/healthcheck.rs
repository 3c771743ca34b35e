//! `registry-mirror healthcheck`: can the daemon serve? For containers, which have no other client.

use serde_json::json;

use super::client::{At, Remote};
use super::{Exit, print};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let ready = Remote::find(&args.at)?.is_ready()?;
    let text = if ready { "ready" } else { "not ready" };
    print(&if args.at.json { json!({ "ready": ready }).to_string() } else { text.to_owned() });
    Ok(if ready { Exit::Done } else { Exit::NotFound })
}
