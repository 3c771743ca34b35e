//! Metadata whose additions, and removals of lists, stand still for as long as a test likes. Everything else
//! goes through: what is looked up is in memory, and what else is taken away has to overtake nothing.

#![allow(unreachable_pub)]

use std::sync::{Condvar, Mutex};

use registry_mirror::clock::Timestamp;
use registry_mirror::metadata::sled::SledMetadata;
use registry_mirror::metadata::{
    BlobRecord, FrozenTag, HistoryEntry, KeptList, ListKey, Location, Membership, MetadataError, MetadataStore, Names,
    Note, Noted, Pin, TagKey, TagRecord,
};
use registry_mirror::oci::{AcceptSet, Descriptor, Digest, Tag};

type Result<T> = std::result::Result<T, MetadataError>;

/// The metadata of a store, and a gate in front of what stands still.
pub struct Stalling {
    inner: SledMetadata,
    gate: Mutex<Gate>,
    opened: Condvar,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    stood: Vec<&'static str>,
}

/// Everything stands still until this is dropped.
pub struct Standing<'a>(&'a Stalling);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.gate.lock().unwrap().closed = false;
        self.0.opened.notify_all();
    }
}

impl Stalling {
    pub fn new(inner: SledMetadata) -> Stalling {
        Stalling { inner, gate: Mutex::default(), opened: Condvar::new() }
    }

    pub fn stand_still(&self) -> Standing<'_> {
        self.gate.lock().unwrap().closed = true;
        Standing(self)
    }

    /// What stood at the gate so far.
    pub fn stood(&self) -> Vec<&'static str> {
        self.gate.lock().unwrap().stood.clone()
    }

    fn pass(&self, what: &'static str) {
        let mut gate = self.gate.lock().unwrap();
        if gate.closed {
            gate.stood.push(what);
        }
        drop(self.opened.wait_while(gate, |gate| gate.closed).unwrap());
    }
}

impl MetadataStore for Stalling {
    fn tag(&self, key: &TagKey) -> Result<Option<TagRecord>> {
        self.inner.tag(key)
    }

    fn tag_records(&self, location: &Location, tag: &Tag) -> Result<Vec<(AcceptSet, TagRecord)>> {
        self.inner.tag_records(location, tag)
    }

    fn put_tag(&self, key: &TagKey, record: &TagRecord) -> Result<()> {
        self.pass("put_tag");
        self.inner.put_tag(key, record)
    }

    fn remove_tag(&self, location: &Location, tag: &Tag) -> Result<()> {
        self.inner.remove_tag(location, tag)
    }

    fn remove_tag_for(&self, key: &TagKey) -> Result<()> {
        self.inner.remove_tag_for(key)
    }

    fn member(&self, location: &Location, digest: &Digest) -> Result<Option<Membership>> {
        self.inner.member(location, digest)
    }

    fn put_member(&self, location: &Location, membership: &Membership) -> Result<()> {
        self.pass("put_member");
        self.inner.put_member(location, membership)
    }

    fn holders(&self, digest: &Digest) -> Result<Vec<(Location, Membership)>> {
        self.inner.holders(digest)
    }

    fn noted(&self, location: &Location, note: Note) -> Result<Option<Noted>> {
        self.inner.noted(location, note)
    }

    fn note(&self, location: &Location, note: Note, noted: Option<&Noted>) -> Result<()> {
        self.inner.note(location, note, noted)
    }

    fn remove_member(&self, location: &Location, digest: &Digest) -> Result<()> {
        self.inner.remove_member(location, digest)
    }

    fn history(&self, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>> {
        self.inner.history(location, tag)
    }

    fn add_history(&self, location: &Location, tag: &Tag, entries: &[HistoryEntry]) -> Result<()> {
        self.inner.add_history(location, tag, entries)
    }

    fn repositories(&self) -> Result<Vec<Location>> {
        self.inner.repositories()
    }

    fn retain_histories(&self, location: &Location, stays: &dyn Fn(&Tag, &[HistoryEntry]) -> bool) -> Result<()> {
        self.inner.retain_histories(location, stays)
    }

    fn shrink_lists(&self, most: u64) -> Result<()> {
        self.inner.shrink_lists(most)
    }

    fn names(&self) -> Names {
        self.inner.names()
    }

    fn pin(&self, pin: &Pin) -> Result<()> {
        self.inner.pin(pin)
    }

    fn unpin(&self, pin: &Pin) -> Result<bool> {
        self.inner.unpin(pin)
    }

    fn pins(&self) -> Result<Vec<Pin>> {
        self.inner.pins()
    }

    fn freeze(&self, frozen: &FrozenTag) -> Result<()> {
        self.inner.freeze(frozen)
    }

    fn unfreeze(&self, location: &Location, tag: &Tag) -> Result<bool> {
        self.inner.unfreeze(location, tag)
    }

    fn frozen(&self, location: &Location, tag: &Tag) -> Result<Option<Digest>> {
        self.inner.frozen(location, tag)
    }

    fn frozen_tags(&self) -> Result<Vec<FrozenTag>> {
        self.inner.frozen_tags()
    }

    fn list(&self, key: &ListKey) -> Result<Option<KeptList>> {
        self.inner.list(key)
    }

    fn put_list(&self, key: &ListKey, list: &KeptList) -> Result<()> {
        self.pass("put_list");
        self.inner.put_list(key, list)
    }

    fn remove_lists(&self, location: &Location, about: Option<&Digest>) -> Result<()> {
        self.pass("remove_lists");
        self.inner.remove_lists(location, about)
    }

    fn put_blob(&self, digest: &Digest, record: &BlobRecord) -> Result<()> {
        self.pass("put_blob");
        self.inner.put_blob(digest, record)
    }

    fn remove_blob(&self, digest: &Digest) -> Result<()> {
        self.inner.remove_blob(digest)
    }

    fn blobs(&self) -> Result<Vec<(Digest, BlobRecord)>> {
        self.inner.blobs()
    }

    fn tags(&self) -> Result<Vec<(TagKey, TagRecord)>> {
        self.inner.tags()
    }

    fn members(&self, of: Option<&Location>) -> Result<Vec<(Location, Descriptor)>> {
        self.inner.members(of)
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<()> {
        self.pass("touch");
        self.inner.touch(uses)
    }

    fn changes(&self) -> u64 {
        self.inner.changes()
    }

    fn flush(&self) -> Result<()> {
        self.pass("flush");
        self.inner.flush()
    }
}
