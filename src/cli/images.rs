//! `registry-mirror images`: what is stored, by name.

use super::client::{At, Remote};
use super::{Exit, show};
use crate::documents::{Error, ImageSummary, Images, State};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
}

pub(super) fn run(args: &Args) -> Result<Exit, Error> {
    let said = Remote::find(&args.at)?.get::<Images>("images")?;
    said.print(args.at.json, |Images { images }| {
        let heading = ["IMAGE", "DIGEST", "STATE", "SIZE", "MISSING", "CHECKED", ""].map(str::to_owned).to_vec();
        show::table(&std::iter::once(heading).chain(images.iter().map(row)).collect::<Vec<_>>())
    })?;
    Ok(Exit::Done)
}

fn row(image: &ImageSummary) -> Vec<String> {
    let marks = [(image.pinned, "pinned"), (image.frozen, "frozen"), (!image.damaged.is_empty(), "damaged")];
    let marks: Vec<_> = marks.into_iter().filter_map(|(set, mark)| set.then_some(mark)).collect();
    vec![
        image.image.clone(),
        image.digest.as_ref().map_or_else(|| "-".to_owned(), show::short),
        state(image),
        show::size(image.stored_bytes),
        if image.missing_bytes == 0 { "-".to_owned() } else { show::size(image.missing_bytes) },
        image.checked_at.map_or_else(|| "-".to_owned(), show::ago),
        marks.join(", "),
    ]
}

/// What of an image is stored, in a word or by its platforms.
pub(super) fn state(image: &ImageSummary) -> String {
    match image.state {
        State::Complete => "complete".to_owned(),
        State::SomePlatforms => image.platforms.join(" "),
        State::Partly => "partly".to_owned(),
        State::Missing => "missing".to_owned(),
    }
}
