//! `registry-mirror pin`, `unpin` and `forget`: what is to stay, and what is to go.

use super::Exit;
use super::client::{At, Remote};
use crate::documents::{Changed, Document, Error, Forgotten, Pinned, Unpinned, orders};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Images, such as redis:7
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// What was done to images, and how that is called.
pub(super) trait Acted: Document {
    /// What an image became.
    const DONE: &'static str;
    /// What is said where there was nothing to do.
    const NOT: &'static str;

    /// The images.
    fn images(&self) -> &[Changed];
}

impl Acted for Pinned {
    const DONE: &'static str = "pinned";
    const NOT: &'static str = "not pinned";

    fn images(&self) -> &[Changed] {
        &self.images
    }
}

impl Acted for Unpinned {
    const DONE: &'static str = "no longer pinned";
    const NOT: &'static str = "was not pinned";

    fn images(&self) -> &[Changed] {
        &self.images
    }
}

impl Acted for Forgotten {
    const DONE: &'static str = "forgotten";
    const NOT: &'static str = "was not known";

    fn images(&self) -> &[Changed] {
        &self.images
    }
}

/// Asks for it and says of each image what became of it. Where there was nothing to do the exit code
/// is 5.
pub(super) fn run<T: Acted>(args: &Args) -> Result<Exit, Error> {
    let order = orders::Images { images: args.images.clone(), ..orders::Images::default() };
    // The path is named like the document.
    let said = Remote::find(&args.at)?.post::<T>(T::NAME, &order)?;
    let became = |image: &Changed| {
        let became = format!("{}: {}", image.image, if image.changed { T::DONE } else { T::NOT });
        let went: String = [(image.unpinned, ", no longer pinned"), (image.unfrozen, ", no longer frozen")]
            .iter()
            .filter_map(|(is_so, words)| is_so.filter(|is_so| *is_so).map(|_| *words))
            .collect();
        match image.stored {
            Some(false) => format!("{became}, and not stored; fetch it with: registry-mirror pull {}", image.image),
            _ => became + &went,
        }
    };
    said.print(args.at.json, |acted| acted.images().iter().map(became).collect::<Vec<_>>().join("\n"))?;
    let images = said.document.images();
    Ok(match images.iter().filter(|image| image.changed).count() {
        changed if changed == images.len() => Exit::Done,
        0 => Exit::NotFound,
        _ => Exit::Partly,
    })
}
