//! Adapter: metadata as small files with a sled index over them.
//!
//! The only file that knows `sled`. Truth: the files say what is so, the index only says it faster.
//! A write goes to the file first; a read that the index cannot answer goes to the file. The index
//! is believed only after it was closed in order or rebuilt: after a crash it may lag behind the
//! files. Damage makes sled fail, hang or panic, so it is opened on a thread with a time limit and
//! every call is fenced; a damaged index is given up and, at the next start, moved aside and begun
//! anew. This needs `panic = "unwind"`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use sled::{Db, IVec, Tree};

use super::encoding::{
    decode_blob, decode_digest, decode_member_location, decode_tag_key, encode_blob, encode_digest, member_key,
    tag_key, tag_prefix,
};
use super::files::{Files, Key};
use super::{BlobRecord, FrozenTag, HistoryEntry, Location, MetadataError, MetadataStore, Pin, TagKey, TagRecord};
use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Descriptor, Digest, Tag};

/// How long an index may take to open before it is taken for damaged.
const LONGEST_OPEN: Duration = Duration::from_secs(10);

/// In bytes. A ceiling, not an allocation; sled needs more memory with a smaller one.
const CACHE_CAPACITY: u64 = 256 * 1024 * 1024;

/// Present in the folder of an index that was closed in order. Holds the number that the index
/// wrote last, under [`CLOSINGS`]: an index that lost its end without noticing has another one.
const CLOSED_MARK: &str = "closed-in-order";
/// The key of how often the index was closed in order.
const CLOSINGS: &str = "closings";
/// Present in the folder of an index that failed while it was in use.
const DAMAGED_MARK: &str = "damaged";

/// Writes to the same record exclude each other; this many are distinguished.
const STRIPES: usize = 64;

/// What the index is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IndexState {
    /// It answers.
    Ready,
    /// It is new, or its last user crashed: [`SledMetadata::rebuild`] is due, the files answer.
    Behind,
    /// It failed or cannot be opened: the files answer.
    Absent,
}

/// Tags and memberships in files, blobs in an index over them.
#[derive(Debug)]
pub struct SledMetadata {
    files: Files,
    index: Option<Index>,
    spare: Mutex<Spare>,
    stripes: [Mutex<()>; STRIPES],
    replaced: bool,
}

/// Stands in for the blobs of the index while there is none.
#[derive(Debug, Default)]
struct Spare {
    blobs: HashMap<Digest, BlobRecord>,
    /// Whether the blobs from before the index was given up are among them.
    complete: bool,
}

#[derive(Debug)]
struct Index {
    path: PathBuf,
    state: AtomicU8,
    db: Db,
    tags: Tree,
    members: Tree,
    blobs: Tree,
}

impl SledMetadata {
    /// Opens the metadata of a store. Never fails: a damaged index is replaced, and where none can
    /// be opened the files answer. Blocks, for at most twice ten seconds.
    pub fn open(store: &Path) -> SledMetadata {
        let path = store.join("metadata");
        let (index, replaced) = open_or_replace(&path);
        SledMetadata {
            files: Files::open(store),
            index,
            spare: Mutex::default(),
            stripes: std::array::from_fn(|_| Mutex::default()),
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

    /// The size of the index on disk in bytes; `None` when there is none.
    pub fn index_bytes(&self) -> Option<u64> {
        self.fenced("measuring it", |index| index.db.size_on_disk())
    }

    /// Brings the index up to date with the files, unless it is, and always with the blobs that
    /// are stored (sizes in bytes), then lets it answer. Blocks; meant for a thread of its own at
    /// every start, while requests are served. `now` is a moment before the list of blobs was
    /// made: blobs that the index did not know count as used then.
    pub fn rebuild(&self, blobs: &[(Digest, u64)], now: Timestamp) {
        let fresh = |size| BlobRecord::new(size, now);
        if self.index_state() == IndexState::Behind {
            self.fenced("clearing it", |index| index.tags.clear().and_then(|()| index.members.clear()));
            self.files.for_each_key(&mut |key| self.reindex(&key));
        }
        let stored: HashMap<Digest, u64> = blobs.iter().copied().collect();
        let rebuilt = self.fenced("rebuilding it", |index| {
            for entry in &index.blobs {
                let (key, value) = entry?;
                // What was stored since the list was made is not in it.
                let kept = decode_digest(&key).zip(decode_blob(&value)).is_some_and(|(digest, record)| {
                    record.stored_at >= now || stored.get(&digest) == Some(&record.size)
                });
                if !kept {
                    index.blobs.remove(key)?;
                }
            }
            for (digest, size) in &stored {
                let known = index.blobs.compare_and_swap(
                    encode_digest(digest),
                    None::<&[u8]>,
                    Some(&encode_blob(&fresh(*size))[..]),
                )?;
                drop(known);
            }
            index.db.flush()?;
            Ok(())
        });
        match (rebuilt, &self.index) {
            (Some(()), Some(index)) => index.become_ready(),
            _ => {
                let mut spare = self.spare();
                spare.blobs.retain(|digest, record| record.stored_at >= now || stored.contains_key(digest));
                for (digest, size) in stored {
                    spare.blobs.entry(digest).or_insert(fresh(size));
                }
                spare.complete = true;
            }
        }
    }

    /// Copies a record from its file to the index.
    fn reindex(&self, key: &Key) {
        match key {
            Key::Tag(key) => {
                let _writing = self.stripe(&key.location, key.tag.as_str());
                if let Ok(record) = self.files.tag(key) {
                    self.index_value("copying a tag", tag_key(key), record, |index| &index.tags);
                }
            }
            Key::Member(location, digest) => {
                let _writing = self.stripe(location, &digest.hex());
                if let Ok(descriptor) = self.files.member(location, digest) {
                    self.index_value("copying a membership", member_key(location, digest), descriptor, |index| {
                        &index.members
                    });
                }
            }
        }
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

    /// Every record of a tree, if the index may be believed.
    fn all_indexed<K, V: serde::de::DeserializeOwned>(
        &self,
        doing: &'static str,
        decode: impl Fn(&[u8]) -> Option<K>,
        tree: impl Fn(&Index) -> &Tree,
    ) -> Option<Vec<(K, V)>> {
        if self.index_state() != IndexState::Ready {
            return None;
        }
        let decode = |(key, value): (IVec, IVec)| decode(&key).zip(serde_json::from_slice(&value).ok());
        self.fenced(doing, |index| tree(index).iter().filter_map(|entry| entry.map(decode).transpose()).collect())
    }

    /// The one way to sled. A call that fails or panics ends the index, never the process; `None`
    /// then and from then on.
    fn fenced<T>(&self, doing: &'static str, call: impl FnOnce(&Index) -> sled::Result<T>) -> Option<T> {
        let index = self.index.as_ref().filter(|index| index.state() != IndexState::Absent)?;
        let reason = match catch_unwind(AssertUnwindSafe(|| call(index))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        index.give_up(doing, &reason);
        None
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a record is written, so that file and index see writes in the same order.
    fn stripe(&self, location: &Location, name: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (location, name).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or_default();
        self.stripes[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetadataStore for SledMetadata {
    fn tag(&self, key: &TagKey) -> Result<Option<TagRecord>, MetadataError> {
        if let Some(record) = self.indexed("reading a tag", |index| index.tags.get(tag_key(key))) {
            return Ok(Some(record));
        }
        let found = self.files.tag(key).map_err(|error| MetadataError::new("reading a tag", error))?;
        if found.is_some() && self.index_state() == IndexState::Ready {
            self.reindex(&Key::Tag(key.clone()));
        }
        Ok(found)
    }

    /// A handful of small files, asked for when a client comes whose types nobody had: not worth an
    /// index that might lack one.
    fn tag_records(&self, location: &Location, tag: &Tag) -> Result<Vec<(AcceptSet, TagRecord)>, MetadataError> {
        self.files.tag_records(location, tag).map_err(|error| MetadataError::new("reading the records of a tag", error))
    }

    fn put_tag(&self, key: &TagKey, record: &TagRecord) -> Result<(), MetadataError> {
        let _writing = self.stripe(&key.location, key.tag.as_str());
        self.files.put_tag(key, record).map_err(|error| MetadataError::new("writing a tag", error))?;
        self.index_value("writing a tag", tag_key(key), Some(record), |index| &index.tags);
        Ok(())
    }

    fn remove_tag(&self, location: &Location, tag: &Tag) -> Result<(), MetadataError> {
        let _writing = self.stripe(location, tag.as_str());
        self.fenced("removing a tag", |index| {
            for key in index.tags.scan_prefix(tag_prefix(location, tag)).keys() {
                index.tags.remove(key?)?;
            }
            Ok(())
        });
        self.files.remove_tag(location, tag).map_err(|error| MetadataError::new("removing a tag", error))
    }

    fn member(&self, location: &Location, digest: &Digest) -> Result<Option<Descriptor>, MetadataError> {
        let key = member_key(location, digest);
        if let Some(descriptor) = self.indexed("reading a membership", |index| index.members.get(key)) {
            return Ok(Some(descriptor));
        }
        let found =
            self.files.member(location, digest).map_err(|error| MetadataError::new("reading a membership", error))?;
        if found.is_some() && self.index_state() == IndexState::Ready {
            self.reindex(&Key::Member(location.clone(), *digest));
        }
        Ok(found)
    }

    fn put_member(&self, location: &Location, descriptor: &Descriptor) -> Result<(), MetadataError> {
        let digest = &descriptor.digest;
        let _writing = self.stripe(location, &digest.hex());
        self.files
            .put_member(location, descriptor)
            .map_err(|error| MetadataError::new("writing a membership", error))?;
        self.index_value("writing a membership", member_key(location, digest), Some(descriptor), |index| {
            &index.members
        });
        Ok(())
    }

    fn remove_member(&self, location: &Location, digest: &Digest) -> Result<(), MetadataError> {
        let _writing = self.stripe(location, &digest.hex());
        self.fenced("removing a membership", |index| index.members.remove(member_key(location, digest)));
        self.files.remove_member(location, digest).map_err(|error| MetadataError::new("removing a membership", error))
    }

    fn history(&self, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>, MetadataError> {
        self.files.history(location, tag).map_err(|error| MetadataError::new("reading the history of a tag", error))
    }

    // Pins and frozen tags are few and must not be forgotten: the files alone have them.

    fn pin(&self, pin: &Pin) -> Result<(), MetadataError> {
        self.files.pin(pin).map_err(|error| MetadataError::new("writing a pin", error))
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, MetadataError> {
        self.files.unpin(pin).map_err(|error| MetadataError::new("removing a pin", error))
    }

    fn pins(&self) -> Result<Vec<Pin>, MetadataError> {
        self.files.pins().map_err(|error| MetadataError::new("listing pins", error))
    }

    fn freeze(&self, frozen: &FrozenTag) -> Result<(), MetadataError> {
        self.files.freeze(frozen).map_err(|error| MetadataError::new("freezing a tag", error))
    }

    fn unfreeze(&self, location: &Location, tag: &Tag) -> Result<bool, MetadataError> {
        self.files.unfreeze(location, tag).map_err(|error| MetadataError::new("unfreezing a tag", error))
    }

    fn frozen(&self, location: &Location, tag: &Tag) -> Result<Option<Digest>, MetadataError> {
        self.files.frozen(location, tag).map_err(|error| MetadataError::new("reading what a tag is frozen to", error))
    }

    fn frozen_tags(&self) -> Result<Vec<FrozenTag>, MetadataError> {
        self.files.frozen_tags().map_err(|error| MetadataError::new("listing frozen tags", error))
    }

    fn put_blob(&self, digest: &Digest, record: &BlobRecord) -> Result<(), MetadataError> {
        let value = &encode_blob(record)[..];
        if self.fenced("writing a blob", |index| index.blobs.insert(encode_digest(digest), value)).is_none() {
            self.spare().blobs.insert(*digest, *record);
        }
        Ok(())
    }

    fn remove_blob(&self, digest: &Digest) -> Result<(), MetadataError> {
        if self.fenced("removing a blob", |index| index.blobs.remove(encode_digest(digest))).is_none() {
            self.spare().blobs.remove(digest);
        }
        Ok(())
    }

    /// Without an index this fails until the next [`SledMetadata::rebuild`]: to call half of the
    /// blobs all of them would mislead the eviction.
    fn blobs(&self) -> Result<Vec<(Digest, BlobRecord)>, MetadataError> {
        let indexed = self.fenced("listing blobs", |index| {
            let decode = |(key, value): (IVec, IVec)| decode_digest(&key).zip(decode_blob(&value));
            index.blobs.iter().filter_map(|entry| entry.map(decode).transpose()).collect()
        });
        if let Some(blobs) = indexed {
            return Ok(blobs);
        }
        let spare = self.spare();
        if !spare.complete {
            return Err(MetadataError::new("listing blobs", "there is no index, and the store was not listed yet"));
        }
        Ok(spare.blobs.iter().map(|(digest, record)| (*digest, *record)).collect())
    }

    fn tags(&self) -> Result<Vec<(TagKey, TagRecord)>, MetadataError> {
        if let Some(tags) = self.all_indexed("listing tags", decode_tag_key, |index| &index.tags) {
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

    fn members(&self) -> Result<Vec<(Location, Descriptor)>, MetadataError> {
        if let Some(members) = self.all_indexed("listing memberships", decode_member_location, |index| &index.members) {
            return Ok(members);
        }
        let mut members = Vec::new();
        self.files.for_each_key(&mut |key| {
            if let Key::Member(location, digest) = key
                && let Ok(Some(descriptor)) = self.files.member(&location, &digest)
            {
                members.push((location, descriptor));
            }
        });
        Ok(members)
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), MetadataError> {
        let touched = self.fenced("noting uses", |index| {
            for (digest, used_at) in uses {
                index.blobs.fetch_and_update(encode_digest(digest), |value| {
                    value.and_then(decode_blob).map(|record| encode_blob(&record.used(*used_at)).to_vec())
                })?;
            }
            Ok(())
        });
        if touched.is_none() {
            let mut spare = self.spare();
            for (digest, used_at) in uses {
                if let Some(record) = spare.blobs.get_mut(digest) {
                    *record = record.used(*used_at);
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), MetadataError> {
        self.fenced("writing it to disk", |index| index.db.flush());
        Ok(())
    }
}

impl Drop for SledMetadata {
    fn drop(&mut self) {
        let ready = self.index_state() == IndexState::Ready;
        let closing = if ready { self.fenced("closing it", Index::write_closing) } else { None };
        let Some(index) = self.index.take() else { return };
        let path = index.path.clone();
        // Closing a damaged index may panic like everything else.
        let closed = catch_unwind(AssertUnwindSafe(|| drop(index))).is_ok();
        if let Some(closing) = closing.filter(|_| closed) {
            // Without the mark the next start rebuilds: slower, not wrong.
            let _ = mark_closed(&path, &closing);
        }
    }
}

impl Index {
    fn open(path: PathBuf) -> sled::Result<Index> {
        let db = sled::Config::new().path(&path).cache_capacity(CACHE_CAPACITY).flush_every_ms(None).open()?;
        let (tags, members, blobs) = (db.open_tree("tags")?, db.open_tree("members")?, db.open_tree("blobs")?);
        let last = db.get(CLOSINGS)?;
        let marked = fs::read(path.join(CLOSED_MARK)).is_ok_and(|mark| last.is_some_and(|last| last == mark));
        // The mark must be gone from the disk before the first write, or a crash goes unnoticed.
        let unmarked = fs::remove_file(path.join(CLOSED_MARK)).and_then(|()| File::open(&path)?.sync_all());
        let state = if marked && unmarked.is_ok() { IndexState::Ready } else { IndexState::Behind };
        Ok(Index { path, state: AtomicU8::new(state as u8), db, tags, members, blobs })
    }

    /// Writes, as the last thing, how often the index was closed.
    fn write_closing(&self) -> sled::Result<IVec> {
        let last = self.db.get(CLOSINGS)?;
        let last = last.and_then(|last| std::str::from_utf8(&last).ok()?.parse::<u64>().ok()).unwrap_or_default();
        let closing = IVec::from(last.wrapping_add(1).to_string().as_str());
        self.db.flush()?;
        self.db.insert(CLOSINGS, closing.clone())?;
        self.db.flush()?;
        Ok(closing)
    }

    fn state(&self) -> IndexState {
        match self.state.load(Ordering::Acquire) {
            state if state == IndexState::Ready as u8 => IndexState::Ready,
            state if state == IndexState::Behind as u8 => IndexState::Behind,
            _ => IndexState::Absent,
        }
    }

    /// From behind only: an index that failed meanwhile stays given up.
    fn become_ready(&self) {
        let (behind, ready) = (IndexState::Behind as u8, IndexState::Ready as u8);
        let _ = self.state.compare_exchange(behind, ready, Ordering::AcqRel, Ordering::Acquire);
    }

    fn give_up(&self, doing: &'static str, reason: &str) {
        if self.state.swap(IndexState::Absent as u8, Ordering::AcqRel) != IndexState::Absent as u8 {
            let _ = File::create(self.path.join(DAMAGED_MARK));
            tracing::warn!(doing, reason, "the metadata index failed; the files answer, a restart begins a new index");
        }
    }
}

/// The index below `path`, or a new one in its place, or none; and whether it was replaced.
fn open_or_replace(path: &Path) -> (Option<Index>, bool) {
    let reason = match open_guarded(path, LONGEST_OPEN) {
        Ok(index) => return (Some(index), false),
        Err(reason) => reason,
    };
    if let Err(error) = move_aside(path) {
        tracing::warn!(%reason, %error, "the metadata index cannot be opened nor moved aside; going on without one");
        return (None, false);
    }
    match open_guarded(path, LONGEST_OPEN) {
        Ok(index) => {
            tracing::warn!(%reason, "the metadata index was damaged and is rebuilt from the files");
            (Some(index), true)
        }
        Err(error) => {
            tracing::warn!(%reason, %error, "no metadata index can be opened; going on without one");
            (None, true)
        }
    }
}

/// Opens an index on a thread of its own. A thread that hangs is left behind with the folder it
/// hangs on, which is then moved aside.
fn open_guarded(path: &Path, limit: Duration) -> Result<Index, String> {
    if path.join(DAMAGED_MARK).exists() {
        return Err("it failed while it was last used".to_owned());
    }
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    let open = move || {
        // A receiver that gave up drops the index.
        let _ = sender.send(catch_unwind(|| Index::open(path)));
    };
    thread::Builder::new().name("open-index".to_owned()).spawn(open).map_err(|error| error.to_string())?;
    match receiver.recv_timeout(limit) {
        Ok(Ok(Ok(index))) => Ok(index),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("opening it panicked".to_owned()),
        Err(_) => Err(format!("it did not open within {limit:?}")),
    }
}

/// Renames the folder to `metadata.damaged-<n>` and removes an earlier one of that kind.
fn move_aside(path: &Path) -> std::io::Result<()> {
    let prefix = "metadata.damaged-";
    let mut last = 0;
    for entry in fs::read_dir(path.parent().unwrap_or(path))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u64>().ok());
        if let Some(number) = number {
            last = last.max(number);
            let earlier = entry.path();
            let _ = if entry.file_type()?.is_dir() { fs::remove_dir_all(earlier) } else { fs::remove_file(earlier) };
        }
    }
    let number = last.checked_add(1).ok_or(std::io::ErrorKind::InvalidInput)?;
    fs::rename(path, path.with_file_name(format!("{prefix}{number}")))
}

/// Marks an index as closed in order, after everything in it reached the disk.
fn mark_closed(path: &Path, closing: &[u8]) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    let mut mark = File::create(path.join(CLOSED_MARK))?;
    mark.write_all(closing)?;
    mark.sync_all()?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{AcceptSet, Algorithm, MediaType};

    fn key() -> TagKey {
        let location =
            Location { upstream: "docker.io".parse().expect("valid"), repository: "a/b".parse().expect("valid") };
        TagKey { location, tag: "1".parse().expect("valid"), accept: AcceptSet::everything() }
    }

    fn record(moment: u64) -> TagRecord {
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        let descriptor = Descriptor { digest, size: 8, media_type: MediaType::ImageManifest };
        TagRecord { descriptor, checked_at: Timestamp(moment), since: Timestamp(1) }
    }

    fn ready(folder: &Path) -> SledMetadata {
        let store = SledMetadata::open(folder);
        store.rebuild(&[], Timestamp(0));
        store.put_tag(&key(), &record(1)).expect("writes");
        assert_eq!(store.index_state(), IndexState::Ready);
        store
    }

    #[test]
    fn a_panic_inside_sled_ends_the_index_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ready(folder.path());
        assert_eq!(store.fenced("panicking", |_| -> sled::Result<()> { std::panic::panic_any("damaged") }), None);
        assert_eq!(store.index_state(), IndexState::Absent);
        assert_eq!(store.tag(&key()).expect("answers"), Some(record(1)));
        store.put_tag(&key(), &record(2)).expect("writes");
        assert!(store.blobs().is_err(), "which blobs there were is not known");
        store.rebuild(&[(record(1).descriptor.digest, 8)], Timestamp(5));
        assert_eq!(store.index_state(), IndexState::Absent);
        assert_eq!(store.blobs().expect("answers").len(), 1);
        drop(store);

        let next = SledMetadata::open(folder.path());
        assert!(next.index_was_replaced());
        assert_eq!(next.tag(&key()).expect("answers"), Some(record(2)));
    }

    #[test]
    fn an_error_of_sled_ends_the_index_so_that_it_cannot_answer_with_old_records() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ready(folder.path());
        let failed = store.fenced("failing", |_| -> sled::Result<()> { Err(sled::Error::Unsupported("test".into())) });
        assert_eq!((failed, store.index_state()), (None, IndexState::Absent));
        store.put_tag(&key(), &record(2)).expect("writes");
        assert_eq!(store.tag(&key()).expect("answers"), Some(record(2)));
    }

    #[test]
    fn an_index_that_lost_a_record_learns_it_from_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ready(folder.path());
        let lookup = || store.fenced("looking", |index| index.tags.get(tag_key(&key()))).flatten();
        store.fenced("forgetting", |index| index.tags.clear());
        assert!(lookup().is_none());
        assert_eq!(store.tag(&key()).expect("answers"), Some(record(1)));
        assert!(lookup().is_some());
    }

    #[test]
    fn an_index_that_hangs_while_it_is_opened_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let conf = folder.path().join("conf");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &conf, kind, mode, 0).expect("makes a fifo that nobody writes to");
        let refused = open_guarded(folder.path(), Duration::from_millis(20)).expect_err("it hangs");
        assert!(refused.contains("did not open within"), "{refused}");
        // Lets the thread that hangs go.
        drop(fs::OpenOptions::new().read(true).write(true).open(&conf));
    }
}
