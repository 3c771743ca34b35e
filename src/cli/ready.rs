//! `registry-mirror ready`: can these images be pulled with no network, and if not, what is missing?

use super::client::{At, Remote};
use super::pull::{self, Told, Which};
use super::{Exit, show};
use crate::documents::{Error, Readiness, Ready};

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

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let remote = Remote::find(&args.at)?;
    let order = args.which.order(args.which.names()?);
    let mut said = remote.post::<Ready>("ready", &order)?;
    if args.fetch && !said.document.ready {
        let missing = said.document.images.iter().filter(|image| !image.ready).map(|image| image.image.clone());
        // How it went shows in what is asked next.
        let _ = pull::fetch(&remote, &args.which.order(missing.collect()), Told::Nothing)?;
        said = remote.post("ready", &order)?;
    }
    said.print(args.at.json, |ready| ready.images.iter().map(report).collect::<Vec<_>>().join("\n"))?;
    Ok(if said.document.ready { Exit::Done } else { Exit::NotFound })
}

fn report(image: &Readiness) -> String {
    let Readiness { image: name, ready, completeness, reason, .. } = image;
    if *ready {
        let behind = completeness.bucket_bytes;
        let behind = if behind > 0 { format!(", {} of it from the bucket", show::size(behind)) } else { String::new() };
        return format!("{name}: ready, {}{behind}", show::size(completeness.size_bytes));
    }
    let mut lines = vec![format!("{name}: not ready: {}", reason.as_deref().unwrap_or("it is not complete"))];
    let missing = completeness.missing.iter();
    lines.extend(missing.map(|part| {
        let state = if completeness.damaged.contains(&part.digest) { "damaged" } else { "missing" };
        format!("  {state} {} {} {}", part.digest, show::size(part.size_bytes), part.media_type)
    }));
    lines.join("\n")
}
