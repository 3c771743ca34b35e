//! `registry-mirror ready`: can these images be pulled with no network, and if not, what is missing?

use serde_json::{Value, json};

use super::client::{At, Remote};
use super::pull::{self, Told, Which};
use super::{Exit, print, say, show};
use crate::mirror::images::catalog::Readiness;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Fetch what is missing first
    #[arg(long)]
    fetch: bool,
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let daemon = Remote::find(&args.at)?;
    let names = args.which.names()?;
    let mut images = ask(&daemon, &args.which, &names)?;
    let missing: Vec<String> = images.iter().filter(|image| !image.ready).map(|image| image.image.clone()).collect();
    if args.fetch && !missing.is_empty() {
        // How it went shows in what is asked next.
        let _ = pull::fetch(&daemon, &args.which.order(&missing), Told::Nothing)?;
        images = ask(&daemon, &args.which, &names)?;
    }
    let ready = images.iter().all(|image| image.ready);
    if args.at.json {
        print(&json!({ "ready": ready, "images": images }).to_string());
    } else {
        for image in &images {
            report(image);
        }
    }
    Ok(if ready { Exit::Done } else { Exit::NotFound })
}

fn ask(daemon: &Remote, which: &Which, names: &[String]) -> Result<Vec<Readiness>, Exit> {
    let answer: Value = daemon.post("ready", &which.order(names))?;
    serde_json::from_value(answer["images"].clone()).map_err(|error| {
        say(&format!("error: the daemon's answer cannot be read: {error}"));
        Exit::Failed
    })
}

fn report(image: &Readiness) {
    let Readiness { image: name, ready, completeness, reason, .. } = image;
    if *ready {
        print(&format!("{name}: ready, {}", show::size(completeness.size)));
        return;
    }
    print(&format!("{name}: not ready: {}", reason.as_deref().unwrap_or("it is not complete")));
    for part in &completeness.missing {
        print(&format!("  missing {} {} {}", part.digest, show::size(part.size), part.media_type));
    }
}
