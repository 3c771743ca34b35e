//! `registry-mirror freeze` and `unfreeze`: hold a tag still, whatever upstream says about it.

use super::Exit;
use super::client::{At, Remote};
use crate::documents::{Error, Frozen, Unfrozen, orders};
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

pub(super) fn freeze(args: &Freeze) -> Result<Exit, Error> {
    let order = orders::Freeze { image: args.image.clone(), digest: args.to };
    let said = Remote::find(&args.at)?.post::<Frozen>("freeze", &order)?;
    said.print(args.at.json, |Frozen { image, digest }| format!("{image}: frozen to {digest}"))?;
    Ok(Exit::Done)
}

pub(super) fn unfreeze(args: &Unfreeze) -> Result<Exit, Error> {
    let order = orders::Freeze { image: args.image.clone(), digest: None };
    let said = Remote::find(&args.at)?.post::<Unfrozen>("unfreeze", &order)?;
    said.print(args.at.json, |Unfrozen { image, changed }| {
        format!("{image}: {}", if *changed { "follows upstream again" } else { "was not frozen" })
    })?;
    Ok(if said.document.changed { Exit::Done } else { Exit::NotFound })
}
