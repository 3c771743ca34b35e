//! Adapter: metadata as small files with a sled index over them.
//!
//! Nothing outside knows `sled`. Truth: the files say what is so, the index only says it faster.
//! A write goes to the file first; a read that the index cannot answer goes to the file. The index
//! is believed only after it was closed in order or rebuilt: after a crash it may lag behind the
//! files (see `rebuild`). Blobs are packed in `pages`, or in `spare` while there is no index; what happens
//! when the engine fails is in `index`.

mod index;
mod pages;
mod rebuild;
mod spare;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sled::{IVec, Tree};

pub use index::IndexState;

use super::encoding::{
    decode_member_location, decode_tag_key, encode_digest, holder_key, member_key, member_prefix, tag_key, tag_prefix,
};
use super::files::{Files, Key};
use super::{
    BlobRecord, Changes, FrozenTag, HistoryEntry, KeptList, ListKey, Location, Membership, MetadataError,
    MetadataStore, Names, Note, Noted, Pin, TagKey, TagRecord,
};
use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Descriptor, Digest, Tag};
use crate::owed::Owed;
use index::{Index, open_or_replace};
use spare::Spare;

/// Writes to the same record exclude each other; this many are distinguished.
const STRIPES: usize = 64;

/// Tags and memberships in files, blobs in an index over them.
#[derive(Debug)]
pub struct SledMetadata {
    files: Files,
    index: Option<Index>,
    spare: Spare,
    stripes: [Mutex<()>; STRIPES],
    /// Nobody chooses names that share a stripe.
    stripe_of: RandomState,
    changes: Changes,
    replaced: bool,
}

impl SledMetadata {
    /// Opens the metadata of a store. Never fails: a damaged index is replaced, and where none can
    /// be opened the files answer. Blocks, for at most twice ten seconds.
    pub fn open(store: &Path) -> SledMetadata {
        SledMetadata::owing(store, None)
    }

    /// The same, which tells what has to go up into the bucket.
    pub fn owing(store: &Path, owed: Option<Arc<Owed>>) -> SledMetadata {
        let path = store.join("metadata");
        let (index, replaced) = open_or_replace(&path);
        SledMetadata {
            files: Files::open(store, owed),
            index,
            spare: Spare::default(),
            stripes: std::array::from_fn(|_| Mutex::default()),
            stripe_of: RandomState::new(),
            changes: Changes::default(),
            replaced,
        }
    }

    /// What the index is good for now.
    pub fn index_state(&self) -> IndexState {
        self.index.as_ref().map_or(IndexState::Absent, Index::state)
    }

    /// Whether a damaged index was moved aside when this was opened.
    pub const fn index_was_replaced(&self) -> bool {
        self.replaced
    }

    /// Visits every blob that the index knows, with its size in bytes. For the start, before
    /// [`SledMetadata::rebuild`].
    pub fn for_each_recorded(&self, mut visit: impl FnMut(Digest, u64)) {
        self.fenced("listing blobs", |index| index.blobs.for_each(|digest, record| visit(digest, record.size)));
    }

    /// Whether the last user of the store did not end well. An index that was deleted says nothing.
    pub fn was_interrupted(&self) -> bool {
        self.replaced || self.index.as_ref().is_some_and(|index| index.interrupted)
    }

    /// The size of the index on disk in bytes; `None` when there is none.
    pub fn index_bytes(&self) -> Option<u64> {
        self.fenced("measuring it", |index| index.db.size_on_disk())
    }

    fn index_value<T: serde::Serialize>(
        &self,
        doing: &'static str,
        key: Vec<u8>,
        value: Option<T>,
        tree: impl Fn(&Index) -> &Tree,
    ) {
        let value = value.and_then(|value| serde_json::to_vec(&value).ok());
        self.fenced(doing, |index| match value {
            Some(value) => tree(index).insert(key, value),
            None => tree(index).remove(key),
        });
    }

    fn index_member(&self, doing: &'static str, location: &Location, digest: &Digest, member: Option<&Membership>) {
        let holder = holder_key(digest, location);
        self.fenced(doing, |index| match member {
            Some(_) => index.holders.insert(holder, &[]),
            None => index.holders.remove(holder),
        });
        self.index_value(doing, member_key(location, digest), member, |index| &index.members);
    }

    /// What the index says, if it may be believed.
    fn indexed<T: serde::de::DeserializeOwned>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Index) -> sled::Result<Option<IVec>>,
    ) -> Option<T> {
        if self.index_state() != IndexState::Ready {
            return None;
        }
        let value = self.fenced(doing, read)??;
        serde_json::from_slice(&value).ok()
    }

    /// Every record of a tree whose key begins so, if the index may be believed.
    fn all_indexed<K, V: serde::de::DeserializeOwned>(
        &self,
        doing: &'static str,
        prefix: &str,
        decode: impl Fn(&[u8]) -> Option<K>,
        tree: impl Fn(&Index) -> &Tree,
    ) -> Option<Vec<(K, V)>> {
        if self.index_state() != IndexState::Ready {
            return None;
        }
        let decode = |(key, value): (IVec, IVec)| decode(&key).zip(serde_json::from_slice(&value).ok());
        self.fenced(doing, |index| {
            tree(index).scan_prefix(prefix).filter_map(|entry| entry.map(decode).transpose()).collect()
        })
    }

    /// [`Index::call`] on the index, if there is one.
    fn fenced<T>(&self, doing: &'static str, call: impl FnOnce(&Index) -> sled::Result<T>) -> Option<T> {
        self.index.as_ref()?.call(doing, call)
    }

    fn stripe_of(&self, key: &Key) -> &Mutex<()> {
        match key {
            Key::Tag(key) => self.stripe(&key.location, key.tag.as_str()),
            Key::Member(location, digest) => self.stripe(location, &digest.hex()),
        }
    }

    /// Locked while a record is written, so that file and index see writes in the same order.
    fn stripe(&self, location: &Location, name: &str) -> &Mutex<()> {
        let place = usize::try_from(self.stripe_of.hash_one((location, name)) % STRIPES as u64).unwrap_or_default();
        &self.stripes[place]
    }
}

/// Says of an error what was being done.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, MetadataError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, MetadataError> {
        self.map_err(|error| MetadataError::new(doing, error))
    }
}

impl MetadataStore for SledMetadata {
    fn tag(&self, key: &TagKey) -> Result<Option<TagRecord>, MetadataError> {
        if let Some(record) = self.indexed("reading a tag", |index| index.tags.get(tag_key(key))) {
            return Ok(Some(record));
        }
        let found = self.files.tag(key).doing("reading a tag")?;
        if found.is_some() && self.index_state() == IndexState::Ready {
            self.reindex_unless_written(&Key::Tag(key.clone()));
        }
        Ok(found)
    }

    /// A handful of small files, asked for when a client comes whose types nobody had: not worth an
    /// index that might lack one.
    fn tag_records(&self, location: &Location, tag: &Tag) -> Result<Vec<(AcceptSet, TagRecord)>, MetadataError> {
        self.files.tag_records(location, tag).doing("reading the records of a tag")
    }

    fn put_tag(&self, key: &TagKey, record: &TagRecord) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let _writing = self.stripe(&key.location, key.tag.as_str()).lock();
        self.files.put_tag(key, record).doing("writing a tag")?;
        self.index_value("writing a tag", tag_key(key), Some(record), |index| &index.tags);
        Ok(())
    }

    fn remove_tag(&self, location: &Location, tag: &Tag) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let _writing = self.stripe(location, tag.as_str()).lock();
        self.fenced("removing a tag", |index| {
            for key in index.tags.scan_prefix(tag_prefix(location, tag)).keys() {
                index.tags.remove(key?)?;
            }
            Ok(())
        });
        self.files.remove_tag(location, tag).doing("removing a tag")
    }

    fn remove_tag_for(&self, key: &TagKey) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let _writing = self.stripe(&key.location, key.tag.as_str()).lock();
        self.fenced("removing a tag", |index| index.tags.remove(tag_key(key)).map(drop));
        self.files.remove_tag_for(key).doing("removing a tag")
    }

    fn member(&self, location: &Location, digest: &Digest) -> Result<Option<Membership>, MetadataError> {
        let key = member_key(location, digest);
        if let Some(member) = self.indexed("reading a membership", |index| index.members.get(key)) {
            return Ok(Some(member));
        }
        let found = self.files.member(location, digest).doing("reading a membership")?;
        if found.is_some() && self.index_state() == IndexState::Ready {
            self.reindex_unless_written(&Key::Member(location.clone(), *digest));
        }
        Ok(found)
    }

    fn put_member(&self, location: &Location, membership: &Membership) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let digest = &membership.descriptor.digest;
        let _writing = self.stripe(location, &digest.hex()).lock();
        let stands = self.files.put_member(location, membership).doing("writing a membership")?;
        self.index_member("writing a membership", location, digest, Some(&stands));
        Ok(())
    }

    fn holders(&self, digest: &Digest) -> Result<Vec<(Location, Membership)>, MetadataError> {
        let prefix = encode_digest(digest);
        let locations = |index: &Index| -> sled::Result<Vec<Location>> {
            let location = |key: IVec| key.get(prefix.len()..).and_then(decode_member_location);
            index.holders.scan_prefix(&prefix).keys().filter_map(|key| key.map(location).transpose()).collect()
        };
        let ready = self.index_state() == IndexState::Ready;
        let Some(locations) = ready.then(|| self.fenced("looking for who has content", locations)).flatten() else {
            return self.files.holders(digest).doing("looking for who has content");
        };
        let member = |location: Location| Ok(self.member(&location, digest)?.map(|member| (location, member)));
        locations.into_iter().filter_map(|location| member(location).transpose()).collect()
    }

    fn noted(&self, location: &Location, note: Note) -> Result<Option<Noted>, MetadataError> {
        self.files.noted(location, note).doing("reading a note on a repository")
    }

    fn note(&self, location: &Location, note: Note, noted: Option<&Noted>) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        self.files.note(location, note, noted).doing("writing a note on a repository")
    }

    fn remove_member(&self, location: &Location, digest: &Digest) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let _writing = self.stripe(location, &digest.hex()).lock();
        self.index_member("removing a membership", location, digest, None);
        self.files.remove_member(location, digest).doing("removing a membership")
    }

    fn history(&self, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>, MetadataError> {
        self.files.history(location, tag).doing("reading the history of a tag")
    }

    fn add_history(&self, location: &Location, tag: &Tag, entries: &[HistoryEntry]) -> Result<(), MetadataError> {
        let _writing = self.stripe(location, tag.as_str()).lock();
        self.files.add_history(location, tag, entries).doing("writing the history of a tag")
    }

    fn repositories(&self) -> Result<Vec<Location>, MetadataError> {
        self.files.repositories().doing("listing repositories")
    }

    fn retain_histories(
        &self,
        location: &Location,
        stays: &dyn Fn(&Tag, &[HistoryEntry]) -> bool,
    ) -> Result<(), MetadataError> {
        self.files.retain_histories(location, stays).doing("removing histories of tags")
    }

    // Pins and frozen tags are few and must not be forgotten: the files alone have them.

    fn pin(&self, pin: &Pin) -> Result<(), MetadataError> {
        self.files.pin(pin).doing("writing a pin")
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, MetadataError> {
        self.files.unpin(pin).doing("removing a pin")
    }

    fn pins(&self) -> Result<Vec<Pin>, MetadataError> {
        self.files.pins().doing("listing pins")
    }

    fn freeze(&self, frozen: &FrozenTag) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        self.files.freeze(frozen).doing("freezing a tag")
    }

    fn unfreeze(&self, location: &Location, tag: &Tag) -> Result<bool, MetadataError> {
        let _change = self.changes.begin();
        self.files.unfreeze(location, tag).doing("unfreezing a tag")
    }

    fn frozen(&self, location: &Location, tag: &Tag) -> Result<Option<Digest>, MetadataError> {
        self.files.frozen(location, tag).doing("reading what a tag is frozen to")
    }

    fn frozen_tags(&self) -> Result<Vec<FrozenTag>, MetadataError> {
        self.files.frozen_tags().doing("listing frozen tags")
    }

    // Lists are asked for seldom, and by their files' names.

    fn list(&self, key: &ListKey) -> Result<Option<KeptList>, MetadataError> {
        self.files.list(key).doing("reading a list")
    }

    fn put_list(&self, key: &ListKey, list: &KeptList) -> Result<(), MetadataError> {
        self.files.put_list(key, list).doing("writing a list")
    }

    fn remove_lists(&self, location: &Location, about: Option<&Digest>) -> Result<(), MetadataError> {
        self.files.remove_lists(location, about).doing("removing lists")
    }

    fn shrink_lists(&self, most: u64) -> Result<(), MetadataError> {
        self.files.shrink_lists(most).doing("removing lists")
    }

    fn names(&self) -> Names {
        let index = self.index.as_ref().map_or(0, Index::on_disk);
        Names { index, ..self.files.names() }
    }

    fn put_blob(&self, digest: &Digest, record: &BlobRecord) -> Result<(), MetadataError> {
        if self.fenced("writing a blob", |index| index.blobs.put(digest, record)).is_none() {
            self.spare.put(*digest, *record);
        }
        Ok(())
    }

    fn remove_blob(&self, digest: &Digest) -> Result<(), MetadataError> {
        if self.fenced("removing a blob", |index| index.blobs.remove(digest)).is_none() {
            self.spare.remove(digest);
        }
        Ok(())
    }

    /// Without an index this fails until the next [`SledMetadata::rebuild`]: to call half of the
    /// blobs all of them would mislead the eviction.
    fn blobs(&self) -> Result<Vec<(Digest, BlobRecord)>, MetadataError> {
        let indexed = self.fenced("listing blobs", |index| {
            let mut blobs = Vec::new();
            index.blobs.for_each(|digest, record| blobs.push((digest, record)))?;
            Ok(blobs)
        });
        let unlisted = || MetadataError::new("listing blobs", "there is no index, and the store was not listed yet");
        indexed.or_else(|| self.spare.all()).ok_or_else(unlisted)
    }

    fn tags(&self) -> Result<Vec<(TagKey, TagRecord)>, MetadataError> {
        if let Some(tags) = self.all_indexed("listing tags", "", decode_tag_key, |index| &index.tags) {
            return Ok(tags);
        }
        let mut tags = Vec::new();
        self.files.for_each_key(&mut |key| {
            if let Key::Tag(key) = key
                && let Ok(Some(record)) = self.files.tag(&key)
            {
                tags.push((key, record));
            }
        });
        Ok(tags)
    }

    fn members(&self, of: Option<&Location>) -> Result<Vec<(Location, Descriptor)>, MetadataError> {
        let (doing, prefix) = ("listing memberships", of.map_or_else(String::new, member_prefix));
        if let Some(members) = self.all_indexed(doing, &prefix, decode_member_location, |index| &index.members) {
            return Ok(members);
        }
        let mut members = Vec::new();
        let mut visit = |key| {
            if let Key::Member(location, digest) = key
                && let Ok(Some(member)) = self.files.member(&location, &digest)
            {
                members.push((location, member.descriptor));
            }
        };
        match of {
            Some(location) => self.files.for_each_member(location, &mut visit),
            None => {
                self.files.for_each_key(&mut visit);
            }
        }
        Ok(members)
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), MetadataError> {
        if self.fenced("noting uses", |index| index.blobs.touch(uses)).is_none() {
            self.spare.touch(uses);
        }
        Ok(())
    }

    fn changes(&self) -> u64 {
        self.changes.count()
    }

    fn flush(&self) -> Result<(), MetadataError> {
        self.fenced("writing it to disk", |index| index.db.flush());
        Ok(())
    }
}

impl Drop for SledMetadata {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            index.close();
        }
    }
}

#[cfg(test)]
mod tests;
