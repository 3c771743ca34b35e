//! Adapter: blobs in memory, for tests and examples.
//!
//! Passes the same contract suite as the store on disk. Ingests are local files here too; a commit
//! reads the file and removes it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::ingest::Ingest;
use super::{BlobStore, Content, Source, StoreError, Usage, read_file_at};
use crate::oci::Digest;

/// Blobs in a table.
#[derive(Debug, Default)]
pub struct MemoryBlobStore {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    /// Whose content was set aside; it is not kept.
    set_aside: Mutex<HashSet<Digest>>,
    removals: AtomicU64,
}

impl MemoryBlobStore {
    /// An empty store.
    pub fn new() -> MemoryBlobStore {
        MemoryBlobStore::default()
    }
}

#[async_trait]
impl BlobStore for MemoryBlobStore {
    async fn open(&self, digest: &Digest) -> Option<Content> {
        let bytes = self.blobs.lock().get(digest)?.clone();
        Some(Content { size: bytes.len() as u64, source: Source::Memory(bytes) })
    }

    async fn commit(&self, ingest: Ingest, digest: &Digest) -> Result<(), StoreError> {
        let length = usize::try_from(ingest.written()).unwrap_or(usize::MAX);
        let bytes = read_file_at(&ingest.file(), 0, length)?;
        self.blobs.lock().insert(*digest, bytes);
        Ok(())
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        self.blobs.lock().remove(digest);
        self.set_aside.lock().remove(digest);
        self.removals.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        Ok(self.blobs.lock().iter().map(|(digest, bytes)| (*digest, bytes.len() as u64)).collect())
    }

    async fn set_aside(&self, digest: &Digest, content: &Content) -> Result<bool, StoreError> {
        let mut blobs = self.blobs.lock();
        let same = blobs.get(digest).is_some_and(|bytes| match &content.source {
            Source::Memory(opened) => opened.as_ptr() == bytes.as_ptr(),
            Source::File(_) => false,
        });
        if same {
            blobs.remove(digest);
            self.set_aside.lock().insert(*digest);
            self.removals.fetch_add(1, Ordering::SeqCst);
        }
        Ok(same)
    }

    fn is_damaged(&self, digest: &Digest) -> bool {
        !self.blobs.lock().contains_key(digest) && self.set_aside.lock().contains(digest)
    }

    async fn drop_set_aside(&self) -> Result<(), StoreError> {
        self.set_aside.lock().clear();
        Ok(())
    }

    fn usage(&self) -> Usage {
        let blobs = self.blobs.lock();
        Usage { bytes: blobs.values().map(|bytes| bytes.len() as u64).sum(), blobs: blobs.len() as u64, set_aside: 0 }
    }

    fn removals(&self) -> u64 {
        self.removals.load(Ordering::SeqCst)
    }
}
