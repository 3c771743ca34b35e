//! Small objects of the bucket that cannot be read as what their name says: they stay so until somebody writes them anew.
//!
//! Truth: whoever finds one and has a file of that name sends it up in its place; nobody makes one up.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{LONGEST, Shared};
use crate::clock::Timestamp;
use crate::metadata::names::{self, Name};
use crate::metadata::{HistoryEntry, KeptList, ListKey, Location, Membership, Note, TagRecord};
use crate::oci::{Digest, Tag};
use crate::tier::{Listed, Trouble};

/// How long it is waited until what replaces such an object has gone up, and how often it is looked.
const GOING_UP: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of it to take over what others saw a tag have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// It is known now.
    Known,
    /// It is not there, or is not known.
    Unknown,
    /// What is there cannot be read.
    Unread,
}

/// Why a name that the bucket lists did not become known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It left the bucket meanwhile.
    Gone,
    /// What is there cannot be read, however often somebody tries.
    Unread,
    /// What the bucket notes of its repository, under this name, cannot be read.
    UnreadNote(String),
    /// The bucket does not give it.
    Trouble(Trouble),
    /// It can be read, and did not become known in time.
    Late,
}

impl Shared {
    /// Takes over what others saw a tag have.
    pub(crate) async fn recall_history(&self, location: &Location, tag: &Tag) -> Recalled {
        let name = names::history(location, tag);
        let Some(Some(found)) = self.told(&name, self.bucket.read(&name, LONGEST).await) else {
            return Recalled::Unknown;
        };
        let entries = changes(&found.bytes);
        if entries.is_empty() {
            tracing::warn!(name, bucket = self.bucket.name(), "a history in the bucket cannot be read");
            self.replace(&name, &Name::History(location.clone(), tag.clone()));
            return Recalled::Unread;
        }
        let (location, tag) = (location.clone(), tag.clone());
        let is_taken = self.take_over(&name, move |metadata| metadata.add_history(&location, &tag, &entries)).await;
        if is_taken { Recalled::Known } else { Recalled::Unknown }
    }

    /// Why this is not known here. What cannot be read is replaced by the file of that name, where there is one.
    pub(crate) async fn why_unknown(&self, Listed { key, size, .. }: &Listed, name: &Name) -> Unknown {
        if *size > LONGEST {
            self.replace(key, name);
            return Unknown::Unread;
        }
        match self.bucket.read(key, LONGEST).await {
            Err(trouble) => return Unknown::Trouble(trouble),
            Ok(None) => return Unknown::Gone,
            Ok(Some(found)) if !says(name, &found.bytes) => {
                self.replace(key, name);
                return Unknown::Unread;
            }
            Ok(Some(_)) => {}
        }
        let Some(location) = location_with_notes(name) else { return Unknown::Late };
        for note in [Note::Denied, Note::Public].map(|note| names::note(location, note)) {
            match self.bucket.read(&note, LONGEST).await {
                Err(trouble) => return Unknown::Trouble(trouble),
                Ok(Some(found)) if json::<Timestamp>(&found.bytes).is_none() => return Unknown::UnreadNote(note),
                Ok(_) => {}
            }
        }
        Unknown::Late
    }

    /// What is known here goes up in the place of what cannot be read. What is not known is not owed: that would count.
    fn replace(&self, key: &str, name: &Name) {
        if self.knows(key, name) {
            self.owed.up(key);
        }
    }

    /// Whether something of this name is known here.
    pub(crate) fn knows(&self, key: &str, name: &Name) -> bool {
        let metadata = &self.metadata;
        match name {
            Name::Tag(tag) => metadata.tag(tag).is_ok_and(|known| known.is_some()),
            Name::History(location, tag) => metadata.history(location, tag).is_ok_and(|known| !known.is_empty()),
            Name::Member(location, digest) => metadata.member(location, digest).is_ok_and(|known| known.is_some()),
            Name::Note(location) => {
                let note = if *key == names::note(location, Note::Denied) { Note::Denied } else { Note::Public };
                metadata.noted(location, note).is_ok_and(|known| known.is_some())
            }
            Name::Pin(pin) => metadata.pins().is_ok_and(|known| known.contains(pin)),
            Name::Frozen(location, tag) => metadata.frozen(location, tag).is_ok_and(|known| known.is_some()),
            // What it was asked with stands in what cannot be read.
            Name::List(..) => false,
        }
    }

    /// Waits until what replaces these has gone up, while the bucket takes it; not for long.
    pub(crate) async fn replaced(&self, keys: &[&str]) {
        let until = Instant::now() + GOING_UP;
        while keys.iter().any(|key| self.owes(key)) && self.bucket.is_well() && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The repository whose notes are taken over before this is.
const fn location_with_notes(name: &Name) -> Option<&Location> {
    match name {
        Name::Tag(tag) => Some(&tag.location),
        Name::Member(location, _) | Name::List(location, _) | Name::Note(location) => Some(location),
        Name::History(..) | Name::Pin(_) | Name::Frozen(..) => None,
    }
}

/// Whether these bytes are what something of this name says.
fn says(name: &Name, bytes: &[u8]) -> bool {
    match name {
        Name::Tag(_) => json::<TagRecord>(bytes).is_some(),
        Name::History(..) => !changes(bytes).is_empty(),
        Name::Member(_, digest) => json::<Membership>(bytes).is_some_and(|of| of.descriptor.digest == *digest),
        Name::Note(_) => json::<Timestamp>(bytes).is_some(),
        Name::Pin(_) => json::<String>(bytes).is_some(),
        Name::Frozen(..) => json::<Digest>(bytes).is_some(),
        Name::List(location, about) => ListKey::of_written(location.clone(), *about, bytes)
            .is_some_and(|key| KeptList::of_written(&key, bytes).is_some()),
    }
}

/// The changes of a history, without what cannot be read.
fn changes(bytes: &[u8]) -> Vec<HistoryEntry> {
    bytes.split(|byte| *byte == b'\n').filter_map(json).collect()
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
