//! What was not carried into the bucket or back, as an operator is told of it: the image that it belongs to, why it is
//! where it was, and what helps.

use crate::documents::{Direction, NotCarried};
use crate::graph::image::{self, Platforms};
use crate::graph::{Graph, Lane};
use crate::metadata::names::{self, Name};
use crate::metadata::{Location, MetadataError, Pin};
use crate::mirror::Mirror;
use crate::oci::{Algorithm, Digest, Reference};

/// So many tags of a repository are looked at to find one that leads to something.
const MOST_TAGS: usize = 1_000;

/// Why something is where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// What is there is not what its name says.
    Damaged(String),
    /// Its name is there, and it is not.
    Missing,
    /// It could not be read or written now.
    Failed(String),
    /// There is no room for it, or it is not for this replica.
    Out(String),
}

impl Mirror {
    /// What is told of something under this key that was left.
    pub async fn not_carried(&self, way: Direction, key: String, left: Left) -> NotCarried {
        let (location, digest, tag) = match names::parse(&key) {
            Some(Name::Member(location, digest)) => (Some(location), Some(digest), None),
            Some(Name::Tag(of)) => (Some(of.location), None, Some(Reference::Tag(of.tag))),
            Some(Name::History(location, tag) | Name::Frozen(location, tag)) => {
                (Some(location), None, Some(Reference::Tag(tag)))
            }
            Some(Name::Pin(pin)) => (Some(pin.location), None, Some(pin.reference)),
            Some(Name::Note(location) | Name::List(location, _)) => (Some(location), None, None),
            None => (None, digest_of(&key), None),
        };
        let image = match (location, digest, tag) {
            (Some(location), _, Some(reference)) => Some(Pin { location, reference }.to_string()),
            (Some(location), None, None) => Some(location.to_string()),
            (location, Some(digest), None) => self.image_with(location, digest).await,
            (None, None, _) | (None, Some(_), Some(_)) => None,
        };
        let hint = hint(way, &left, image.as_deref());
        let reason = match left {
            Left::Damaged(what) => {
                format!("{}: {what}", if way == Direction::Push { "damaged here" } else { "damaged in the bucket" })
            }
            Left::Missing if way == Direction::Push => "neither the store nor the bucket has it".to_owned(),
            Left::Missing => "the bucket has its name, and not the content".to_owned(),
            Left::Failed(why) | Left::Out(why) => why,
        };
        NotCarried { key, image, digest, reason, hint }
    }

    /// An image that this belongs to: by a tag, where one leads to it.
    async fn image_with(&self, location: Option<Location>, digest: Digest) -> Option<String> {
        let place = self.0.graph.place(Lane::People).await;
        let named = self.0.graph.look(&place, move |graph| name_of(graph, location, digest));
        named.await.ok().flatten()
    }
}

fn name_of(graph: &Graph, location: Option<Location>, digest: Digest) -> Result<Option<String>, MetadataError> {
    let held = || Ok(graph.metadata().holders(&digest)?.into_iter().next().map(|(location, _)| location));
    let Some(location) = location.map_or_else(held, |location| Ok(Some(location)))? else { return Ok(None) };
    let tags = graph.metadata().tags()?.into_iter().filter(|(key, _)| key.location == location);
    for (key, record) in tags.take(MOST_TAGS) {
        let image = graph.image(Some(&location), record.descriptor);
        if image::parts(&image, &Platforms::All).into_iter().any(|part| part.digest == digest) {
            return Ok(Some(Pin { location, reference: Reference::Tag(key.tag) }.to_string()));
        }
    }
    Ok(Some(Pin { location, reference: Reference::Digest(digest) }.to_string()))
}

/// What helps.
fn hint(way: Direction, left: &Left, image: Option<&str>) -> Option<String> {
    let image = image.unwrap_or("IMAGE");
    let fetched = format!("`registry-mirror pull {image}` fetches it from its registry");
    match (way, left) {
        (Direction::Push, Left::Damaged(_)) => {
            Some("`registry-mirror verify --repair` fetches it again from its registry; then push once more".to_owned())
        }
        (Direction::Push, Left::Missing) => {
            Some(format!("{fetched}, `registry-mirror forget {image}` drops its name; then push once more"))
        }
        (Direction::Pull, Left::Damaged(_)) => {
            Some(format!("{fetched} and puts it in the place of what is there, at the second try at the latest"))
        }
        (Direction::Pull, Left::Missing) => {
            Some(format!("`registry-mirror store push` brings it there from a store that has it; {fetched}"))
        }
        (_, Left::Failed(_)) => Some("do it again: what is carried stays".to_owned()),
        (_, Left::Out(_)) => None,
    }
}

/// The digest of the content that has this key.
fn digest_of(key: &str) -> Option<Digest> {
    let (algorithm, hex) = key.strip_prefix("blobs/")?.split_once('/')?;
    Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm)?.digest(hex)
}
