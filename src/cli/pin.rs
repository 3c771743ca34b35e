//! `registry-mirror pin`, `unpin` and `forget`: what is to stay, and what is to go.

use serde_json::{Value, json};

use super::client::{At, Remote};
use super::{Exit, print};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Images, such as redis:7
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// Asks for `verb` and says of each image what became of it: `done`, or `not` when there was nothing
/// to do, which makes the exit code 5.
pub(super) fn run(args: &Args, verb: &str, done: &str, not: &str) -> Result<Exit, Exit> {
    let answer: Value = Remote::find(&args.at)?.post(verb, &json!({ "images": args.images }))?;
    let images = answer["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    let changed = |image: &Value| image["changed"] == Value::Bool(true);
    if args.at.json {
        print(&answer.to_string());
    } else {
        for image in images {
            let became = if changed(image) { done } else { not };
            print(&format!("{}: {became}", image["image"].as_str().unwrap_or_default()));
        }
    }
    Ok(match images.iter().filter(|image| changed(image)).count() {
        changed if changed == images.len() => Exit::Done,
        0 => Exit::NotFound,
        _ => Exit::Partly,
    })
}
