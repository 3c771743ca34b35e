//! The names of small files below a store, which are the keys of the objects of a bucket.
//!
//! `repositories/<upstream>/<repository>/` and what lies below it; see `files` for what is in each.

use super::lists::about_this;
use super::{ListKey, Location, Note, Pin, TagKey};
use crate::oci::{AcceptSet, Algorithm, Digest, Reference, Tag};

/// What all begin with.
pub const REPOSITORIES: &str = "repositories";
pub(super) const TAGS: &str = "_tags";
pub(super) const LINKS: &str = "_links";
pub(super) const HISTORY: &str = "history";
pub(super) const PINS: &str = "_pins";
pub(super) const FROZEN: &str = "_frozen";
/// Lists that upstreams gave.
pub(super) const LISTS: &str = "_lists";
/// How much of the hash of a question stands in the name of a list.
const QUESTION: usize = 32;

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

/// Where it lies what of a repository is pinned or frozen.
pub fn kept_folders(location: &Location) -> [String; 2] {
    [PINS, FROZEN].map(|folder| format!("{}/{folder}", repository(location)))
}

/// A list.
pub fn list(key: &ListKey) -> String {
    let part = Digest::of(Algorithm::Sha256, key.part.as_bytes()).hex();
    format!("{}/{LISTS}/{}{}", repository(&key.location), about_this(key.about.as_ref()), &part[..QUESTION])
}

const fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// What a small object is, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// What a tag points at.
    Tag(TagKey),
    /// The changes of a tag.
    History(Location, Tag),
    /// A membership.
    Member(Location, Digest),
    /// What is noted of a repository.
    Note(Location),
    /// That an image is to be kept.
    Pin(Pin),
    /// That a tag is held still.
    Frozen(Location, Tag),
    /// A list of tags, or of what refers to a manifest.
    List(Location, Option<Digest>),
}

/// What has this key; `None` for what is none of ours.
pub fn parse(key: &str) -> Option<Name> {
    let (upstream, rest) = key.strip_prefix(REPOSITORIES)?.strip_prefix('/')?.split_once('/')?;
    // No component of a repository begins so.
    let (repository, below) = rest.split_once("/_")?;
    let location = Location { upstream: upstream.parse().ok()?, repository: repository.parse().ok()? };
    let below: Vec<&str> = below.split('/').collect();
    match below.as_slice() {
        ["tags", tag, HISTORY] => Some(Name::History(location, tag.parse().ok()?)),
        ["tags", tag, accept] => {
            Some(Name::Tag(TagKey { location, tag: tag.parse().ok()?, accept: accept.parse().ok()? }))
        }
        ["links", algorithm, hex] => {
            let algorithm = Algorithm::ALL.into_iter().find(|known| known.as_str() == *algorithm)?;
            Some(Name::Member(location, algorithm.digest(hex)?))
        }
        ["pins", name] => {
            let tag = name.parse().ok().map(Reference::Tag);
            let reference = tag.or_else(|| name.parse().ok().map(Reference::Digest))?;
            Some(Name::Pin(Pin { location, reference }))
        }
        ["lists", name] => {
            let (about, question) = name.rsplit_once('.')?;
            let is_hashed = question.len() == QUESTION && !question.bytes().any(|byte| !is_hex(byte));
            if !is_hashed {
                return None;
            }
            let about = if about == "tags" { None } else { Some(about.replacen('.', ":", 1).parse().ok()?) };
            Some(Name::List(location, about))
        }
        ["frozen", tag] => Some(Name::Frozen(location, tag.parse().ok()?)),
        ["public" | "denied"] => Some(Name::Note(location)),
        _ => None,
    }
}

/// Whether all replicas share what has this name; what is on its way to one begins with a dot.
pub fn is_shared(key: &str) -> bool {
    !key.split('/').any(|part| part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_as_what_it_was_written_for() {
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "a/b_c".parse().expect("a name") };
        let (tag, digest): (Tag, _) = ("1".parse().expect("a tag"), Digest::of(Algorithm::Sha256, b"x"));
        let key = TagKey { location: location.clone(), tag: tag.clone(), accept: AcceptSet::everything() };
        let pin = |reference| Pin { location: location.clone(), reference };
        let about = |about| ListKey { location: location.clone(), about, part: "n=1".to_owned() };
        for (written, read) in [
            (super::tag(&key), Name::Tag(key)),
            (history(&location, &tag), Name::History(location.clone(), tag.clone())),
            (member(&location, &digest), Name::Member(location.clone(), digest)),
            (note(&location, Note::Denied), Name::Note(location.clone())),
            (note(&location, Note::Public), Name::Note(location.clone())),
            (super::pin(&pin(Reference::Digest(digest))), Name::Pin(pin(Reference::Digest(digest)))),
            (super::pin(&pin(Reference::Tag(tag.clone()))), Name::Pin(pin(Reference::Tag(tag.clone())))),
            (frozen(&location, &tag), Name::Frozen(location.clone(), tag.clone())),
            (list(&about(None)), Name::List(location.clone(), None)),
            (list(&about(Some(digest))), Name::List(location.clone(), Some(digest))),
        ] {
            assert_eq!(parse(&written), Some(read), "{written}");
        }
        let below = |name: &str| format!("repositories/docker.io/a/{name}");
        let (long, odd) = ("0".repeat(33), format!("{}Z", "0".repeat(31)));
        let lists = [&long, &odd, "", "x"].map(|question| below(&format!("_lists/tags.{question}")));
        let links =
            ["_links/sha256/..", "_tags/../history", "_tags/1/..", "_pins/..", "_frozen/..", "_public/x", "_other"];
        let others = ["repositories/../a/_public", "repositories/docker.io/../a/_public", "/etc/passwd", "../x"];
        let short =
            [below("_lists/1"), "repositories/docker.io/a".to_owned(), "blobs/sha256/1".to_owned(), String::new()];
        let odd = short.into_iter().chain(lists).chain(links.map(below)).chain(others.map(str::to_owned));
        for odd in odd {
            assert_eq!(parse(&odd), None, "{odd}");
        }
    }
}
