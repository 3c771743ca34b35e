//! `registry-mirror freeze` and `unfreeze`: hold a tag still, whatever upstream says about it.

use serde_json::{Value, json};

use super::client::{At, Remote};
use super::{Exit, print};
use crate::oci::Digest;

#[derive(Debug, clap::Args)]
pub(super) struct Freeze {
    /// The tag, such as redis:7
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The digest to answer with. Without it: the one it has now
    #[arg(long, value_name = "DIGEST")]
    to: Option<Digest>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(super) struct Unfreeze {
    /// The tag, such as redis:7
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    at: At,
}

pub(super) fn freeze(args: &Freeze) -> Result<Exit, Exit> {
    let answer: Value = Remote::find(&args.at)?.post("freeze", &json!({ "image": args.image, "digest": args.to }))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    Ok(print(&if args.at.json {
        answer.to_string()
    } else {
        format!("{}: frozen to {}", text("image"), text("digest"))
    }))
}

pub(super) fn unfreeze(args: &Unfreeze) -> Result<Exit, Exit> {
    let answer: Value = Remote::find(&args.at)?.post("unfreeze", &json!({ "image": args.image }))?;
    let changed = answer["changed"] == Value::Bool(true);
    let image = answer["image"].as_str().unwrap_or_default();
    let became = if changed { "follows upstream again" } else { "was not frozen" };
    print(&if args.at.json { answer.to_string() } else { format!("{image}: {became}") });
    Ok(if changed { Exit::Done } else { Exit::NotFound })
}
