//! Adapter: metadata in memory, for tests and examples.
//!
//! Passes the same contract suite as the store on disk and forgets everything when dropped.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use super::{
    BlobRecord, CHANGES_KEPT, Changes, FrozenTag, HistoryEntry, KeptList, ListKey, Location, Membership, MetadataError,
    MetadataStore, Names, Note, Noted, Pin, TagKey, TagRecord, merged,
};
use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Descriptor, Digest, Tag};

/// Metadata in tables.
#[derive(Debug, Default)]
pub struct MemoryMetadata {
    tables: Mutex<Tables>,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Tables {
    tags: HashMap<TagKey, TagRecord>,
    members: HashMap<(Location, Digest), Membership>,
    notes: HashMap<(Location, Note), Noted>,
    blobs: HashMap<Digest, BlobRecord>,
    history: HashMap<(Location, Tag), Vec<HistoryEntry>>,
    pins: BTreeSet<Pin>,
    frozen: HashMap<(Location, Tag), Digest>,
    lists: HashMap<ListKey, KeptList>,
}

impl MemoryMetadata {
    /// An empty store.
    pub fn new() -> MemoryMetadata {
        MemoryMetadata::default()
    }
}

impl MetadataStore for MemoryMetadata {
    fn tag(&self, key: &TagKey) -> Result<Option<TagRecord>, MetadataError> {
        Ok(self.tables.lock().tags.get(key).cloned())
    }

    fn tag_records(&self, location: &Location, tag: &Tag) -> Result<Vec<(AcceptSet, TagRecord)>, MetadataError> {
        let tables = self.tables.lock();
        let of_tag = tables.tags.iter().filter(|(key, _)| key.location == *location && key.tag == *tag);
        Ok(of_tag.map(|(key, record)| (key.accept.clone(), record.clone())).collect())
    }

    fn put_tag(&self, key: &TagKey, record: &TagRecord) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let mut tables = self.tables.lock();
        let before = tables.tags.insert(key.clone(), record.clone());
        if before.is_none_or(|before| before.descriptor.digest != record.descriptor.digest) {
            let history = tables.history.entry((key.location.clone(), key.tag.clone())).or_default();
            let entry = HistoryEntry::of(key, record);
            if history.last().is_none_or(|last| last.digest != entry.digest) {
                history.push(entry);
                history.drain(..history.len().saturating_sub(CHANGES_KEPT));
            }
        }
        Ok(())
    }

    fn remove_tag(&self, location: &Location, tag: &Tag) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        self.tables.lock().tags.retain(|key, _| key.location != *location || key.tag != *tag);
        Ok(())
    }

    fn remove_tag_for(&self, key: &TagKey) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        self.tables.lock().tags.remove(key);
        Ok(())
    }

    fn member(&self, location: &Location, digest: &Digest) -> Result<Option<Membership>, MetadataError> {
        Ok(self.tables.lock().members.get(&(location.clone(), *digest)).cloned())
    }

    fn put_member(&self, location: &Location, membership: &Membership) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let mut tables = self.tables.lock();
        let key = (location.clone(), membership.descriptor.digest);
        let membership = membership.clone().after(tables.members.get(&key));
        tables.members.insert(key, membership);
        Ok(())
    }

    fn holders(&self, digest: &Digest) -> Result<Vec<(Location, Membership)>, MetadataError> {
        let tables = self.tables.lock();
        let holders = tables.members.iter().filter(|((_, of), _)| of == digest);
        Ok(holders.map(|((location, _), membership)| (location.clone(), membership.clone())).collect())
    }

    fn noted(&self, location: &Location, note: Note) -> Result<Option<Noted>, MetadataError> {
        Ok(self.tables.lock().notes.get(&(location.clone(), note)).cloned())
    }

    fn note(&self, location: &Location, note: Note, noted: Option<&Noted>) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let (mut tables, key) = (self.tables.lock(), (location.clone(), note));
        match noted {
            Some(noted) => tables.notes.insert(key, noted.clone()),
            None => tables.notes.remove(&key),
        };
        Ok(())
    }

    fn remove_member(&self, location: &Location, digest: &Digest) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        self.tables.lock().members.remove(&(location.clone(), *digest));
        Ok(())
    }

    fn history(&self, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>, MetadataError> {
        Ok(self.tables.lock().history.get(&(location.clone(), tag.clone())).cloned().unwrap_or_default())
    }

    fn add_history(&self, location: &Location, tag: &Tag, entries: &[HistoryEntry]) -> Result<(), MetadataError> {
        let mut tables = self.tables.lock();
        let mine = tables.history.entry((location.clone(), tag.clone())).or_default();
        *mine = merged(std::mem::take(mine), entries.to_vec());
        Ok(())
    }

    fn repositories(&self) -> Result<Vec<Location>, MetadataError> {
        let tables = self.tables.lock();
        let (members, tags) = (tables.members.keys(), tables.history.keys());
        let all: BTreeSet<_> = members.map(|(at, _)| at).chain(tags.map(|(at, _)| at)).cloned().collect();
        Ok(all.into_iter().collect())
    }

    fn retain_histories(
        &self,
        location: &Location,
        stays: &dyn Fn(&Tag, &[HistoryEntry]) -> bool,
    ) -> Result<(), MetadataError> {
        self.tables.lock().history.retain(|(at, tag), history| at != location || stays(tag, history));
        Ok(())
    }

    fn pin(&self, pin: &Pin) -> Result<(), MetadataError> {
        self.tables.lock().pins.insert(pin.clone());
        Ok(())
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, MetadataError> {
        Ok(self.tables.lock().pins.remove(pin))
    }

    fn pins(&self) -> Result<Vec<Pin>, MetadataError> {
        Ok(self.tables.lock().pins.iter().cloned().collect())
    }

    fn freeze(&self, frozen: &FrozenTag) -> Result<(), MetadataError> {
        let _change = self.changes.begin();
        let key = (frozen.location.clone(), frozen.tag.clone());
        self.tables.lock().frozen.insert(key, frozen.digest);
        Ok(())
    }

    fn unfreeze(&self, location: &Location, tag: &Tag) -> Result<bool, MetadataError> {
        let _change = self.changes.begin();
        Ok(self.tables.lock().frozen.remove(&(location.clone(), tag.clone())).is_some())
    }

    fn frozen(&self, location: &Location, tag: &Tag) -> Result<Option<Digest>, MetadataError> {
        Ok(self.tables.lock().frozen.get(&(location.clone(), tag.clone())).copied())
    }

    fn frozen_tags(&self) -> Result<Vec<FrozenTag>, MetadataError> {
        let tables = self.tables.lock();
        let frozen = tables.frozen.iter().map(|((location, tag), digest)| FrozenTag {
            location: location.clone(),
            tag: tag.clone(),
            digest: *digest,
        });
        Ok(frozen.collect())
    }

    fn list(&self, key: &ListKey) -> Result<Option<KeptList>, MetadataError> {
        Ok(self.tables.lock().lists.get(key).cloned())
    }

    fn put_list(&self, key: &ListKey, list: &KeptList) -> Result<(), MetadataError> {
        self.tables.lock().lists.insert(key.clone(), list.clone());
        Ok(())
    }

    fn remove_lists(&self, location: &Location, about: Option<&Digest>) -> Result<(), MetadataError> {
        self.tables.lock().lists.retain(|key, _| key.location != *location || key.about.as_ref() != about);
        Ok(())
    }

    fn shrink_lists(&self, most: u64) -> Result<(), MetadataError> {
        if most == 0 {
            self.tables.lock().lists.clear();
        }
        Ok(())
    }

    fn names(&self) -> Names {
        Names::default()
    }

    fn put_blob(&self, digest: &Digest, record: &BlobRecord) -> Result<(), MetadataError> {
        self.tables.lock().blobs.insert(*digest, *record);
        Ok(())
    }

    fn remove_blob(&self, digest: &Digest) -> Result<(), MetadataError> {
        self.tables.lock().blobs.remove(digest);
        Ok(())
    }

    fn blobs(&self) -> Result<Vec<(Digest, BlobRecord)>, MetadataError> {
        Ok(self.tables.lock().blobs.iter().map(|(digest, record)| (*digest, *record)).collect())
    }

    fn tags(&self) -> Result<Vec<(TagKey, TagRecord)>, MetadataError> {
        Ok(self.tables.lock().tags.iter().map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    fn members(&self, of: Option<&Location>) -> Result<Vec<(Location, Descriptor)>, MetadataError> {
        let tables = self.tables.lock();
        let members = tables.members.iter().filter(|((at, _), _)| of.is_none_or(|of| of == at));
        Ok(members.map(|((location, _), member)| (location.clone(), member.descriptor.clone())).collect())
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), MetadataError> {
        let mut tables = self.tables.lock();
        for (digest, used_at) in uses {
            if let Some(record) = tables.blobs.get_mut(digest) {
                *record = record.used(*used_at);
            }
        }
        Ok(())
    }

    fn changes(&self) -> u64 {
        self.changes.count()
    }

    fn flush(&self) -> Result<(), MetadataError> {
        Ok(())
    }
}
