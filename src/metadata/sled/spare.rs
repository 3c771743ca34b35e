//! Stands in for the blobs of the index while there is none.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::metadata::BlobRecord;
use crate::oci::Digest;

/// Blobs that no index could take.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    blobs: HashMap<Digest, BlobRecord>,
    /// Whether the blobs from before the index was given up are among them.
    complete: bool,
}

impl Spare {
    pub(super) fn put(&self, digest: Digest, record: BlobRecord) {
        self.0.lock().blobs.insert(digest, record);
    }

    pub(super) fn remove(&self, digest: &Digest) {
        self.0.lock().blobs.remove(digest);
    }

    pub(super) fn touch(&self, uses: &[(Digest, Timestamp)]) {
        let mut table = self.0.lock();
        for (digest, used_at) in uses {
            if let Some(record) = table.blobs.get_mut(digest) {
                *record = record.used(*used_at);
            }
        }
    }

    /// Every blob; `None` while some may be missing.
    pub(super) fn all(&self) -> Option<Vec<(Digest, BlobRecord)>> {
        let table = self.0.lock();
        table.complete.then(|| table.blobs.iter().map(|(digest, record)| (*digest, *record)).collect())
    }

    /// From now on these are the blobs, with their sizes in bytes, and what was put since `now`.
    pub(super) fn reconcile(&self, stored: &[(Digest, u64)], now: Timestamp) {
        let stored: HashMap<Digest, u64> = stored.iter().copied().collect();
        let mut table = self.0.lock();
        table.blobs.retain(|digest, record| record.stored_at >= now || stored.contains_key(digest));
        for (digest, size) in stored {
            table.blobs.entry(digest).or_insert(BlobRecord::new(size, now));
        }
        table.complete = true;
    }
}
