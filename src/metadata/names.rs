//! The names of small files below a store, which are the keys of the objects of a bucket.
//!
//! `repositories/<upstream>/<repository>/` and what lies below it; see `files` for what is in each.

use super::{Location, Note, Pin, TagKey};
use crate::oci::{AcceptSet, Digest, Reference, Tag};

/// What all begin with.
pub const REPOSITORIES: &str = "repositories";
pub(super) const TAGS: &str = "_tags";
pub(super) const LINKS: &str = "_links";
pub(super) const HISTORY: &str = "history";
pub(super) const PINS: &str = "_pins";
pub(super) const FROZEN: &str = "_frozen";
/// Lists that upstreams gave: each replica keeps its own.
pub(super) const LISTS: &str = "_lists";

/// The folder of a repository.
pub fn repository(location: &Location) -> String {
    format!("{REPOSITORIES}/{}/{}", location.upstream.as_str(), location.repository.as_str())
}

/// The folder of a tag.
pub fn tag_folder(location: &Location, tag: &Tag) -> String {
    format!("{}/{TAGS}/{}", repository(location), tag.as_str())
}

/// What a tag points at.
pub fn tag(key: &TagKey) -> String {
    format!("{}/{}", tag_folder(&key.location, &key.tag), key.accept)
}

/// The changes of a tag.
pub fn history(location: &Location, tag: &Tag) -> String {
    format!("{}/{HISTORY}", tag_folder(location, tag))
}

/// The types for which a file in the folder of a tag says what it points at.
pub fn accept_of(key: &str) -> Option<AcceptSet> {
    key.rsplit('/').next()?.parse().ok()
}

/// A membership.
pub fn member(location: &Location, digest: &Digest) -> String {
    format!("{}/{LINKS}/{}/{}", repository(location), digest.algorithm().as_str(), digest.hex())
}

/// A note.
pub fn note(location: &Location, note: Note) -> String {
    let name = match note {
        Note::Public => "_public",
        Note::Denied => "_denied",
    };
    format!("{}/{name}", repository(location))
}

/// A pin.
pub fn pin(pin: &Pin) -> String {
    format!("{}/{PINS}/{}", repository(&pin.location), pin.reference)
}

/// What a tag is frozen to.
pub fn frozen(location: &Location, tag: &Tag) -> String {
    format!("{}/{FROZEN}/{}", repository(location), tag.as_str())
}

/// What an operator asked for, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// To keep an image.
    Pin(Pin),
    /// To hold a tag still.
    Freeze(Location, Tag),
}

/// What an operator asked for that has this key.
pub fn act(key: &str) -> Option<Act> {
    let (folder, name) = key.strip_prefix(REPOSITORIES)?.strip_prefix('/')?.rsplit_once('/')?;
    let (repository, kind) = folder.rsplit_once('/')?;
    let (upstream, repository) = repository.split_once('/')?;
    let location = Location { upstream: upstream.parse().ok()?, repository: repository.parse().ok()? };
    let tag = || name.parse::<Tag>().ok();
    match kind {
        PINS => {
            let reference = tag().map(Reference::Tag).or_else(|| name.parse().ok().map(Reference::Digest))?;
            Some(Act::Pin(Pin { location, reference }))
        }
        FROZEN => Some(Act::Freeze(location, tag()?)),
        _ => None,
    }
}

/// Whether all replicas share what has this name; what is on its way to one begins with a dot.
pub fn is_shared(key: &str) -> bool {
    !key.split('/').any(|part| part == LISTS || part.starts_with('.'))
}
