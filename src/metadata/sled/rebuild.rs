//! From the files to the index: all records at a start, and one that a reader found missing there.

use std::borrow::Cow;
use std::num::NonZero;
use std::sync::mpsc;
use std::thread;

use parking_lot::Mutex;

use super::{IndexState, Key, SledMetadata, tag_key};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Threads that read files at a time, and how many names each takes at once.
const MOST_THREADS: usize = 4;
const AT_ONCE: usize = 256;

impl SledMetadata {
    /// Brings the index up to date with the files, unless it is, and always with the blobs that
    /// are stored (sizes in bytes), then lets it answer. Blocks; meant for a thread of its own at
    /// every start, while requests are served. `now` is a moment before the list of blobs was
    /// made: blobs that the index did not know count as used then.
    pub fn rebuild(&self, blobs: &[(Digest, u64)], now: Timestamp) {
        let _change = self.changes.begin();
        let mut is_whole = true;
        if self.index_state() == IndexState::Behind {
            self.fenced("clearing it", |index| {
                [&index.tags, &index.members, &index.holders].into_iter().try_for_each(|tree| tree.clear())
            });
            is_whole = self.reindex_all();
        }
        let mut stored = Cow::Borrowed(blobs);
        if !stored.is_sorted() {
            stored.to_mut().sort_unstable();
        }
        let rebuilt = self.fenced("rebuilding it", |index| {
            index.blobs.reconcile(&stored, now)?;
            index.mark_form(is_whole)?;
            index.db.flush()?;
            Ok(())
        });
        self.files.count_names();
        match (rebuilt, &self.index) {
            (Some(()), Some(index)) => index.become_ready(),
            _ => self.spare.reconcile(&stored, now),
        }
    }

    /// Copies every record from its file to the index. Returns whether all files could be found.
    fn reindex_all(&self) -> bool {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        let (sender, receiver) = mpsc::sync_channel::<Vec<Key>>(4 * threads);
        let receiver = Mutex::new(receiver);
        let next = || receiver.lock().recv();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Ok(keys) = next() {
                        keys.iter().for_each(|key| self.reindex(key));
                    }
                });
            }
            let mut keys = Vec::with_capacity(AT_ONCE);
            let is_whole = self.files.for_each_key(&mut |key| {
                keys.push(key);
                if keys.len() == AT_ONCE {
                    let _ = sender.send(std::mem::replace(&mut keys, Vec::with_capacity(AT_ONCE)));
                }
            });
            let _ = sender.send(keys);
            drop(sender);
            is_whole
        })
    }

    /// Copies a record from its file to the index.
    fn reindex(&self, key: &Key) {
        let _writing = self.stripe_of(key).lock();
        self.copy_to_index(key);
    }

    /// The same for a record that a reader found in its file and not in the index, unless it is being
    /// written just now: readers never wait for writers, and who writes tells the index.
    pub(super) fn reindex_unless_written(&self, key: &Key) {
        if let Some(_writing) = self.stripe_of(key).try_lock() {
            self.copy_to_index(key);
        }
    }

    /// Call it with the stripe of the key locked.
    fn copy_to_index(&self, key: &Key) {
        match key {
            Key::Tag(key) => {
                if let Ok(record) = self.files.tag(key) {
                    self.index_value("copying a tag", tag_key(key), record, |index| &index.tags);
                }
            }
            Key::Member(location, digest) => {
                if let Ok(member) = self.files.member(location, digest) {
                    self.index_member("copying a membership", location, digest, member.as_ref());
                }
            }
        }
    }
}
