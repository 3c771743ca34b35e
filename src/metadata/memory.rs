//! Adapter: metadata in memory, for tests and examples.
//!
//! Passes the same contract suite as the store on disk and forgets everything when dropped.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{BlobRecord, Location, MetadataError, MetadataStore, TagKey, TagRecord};
use crate::clock::Timestamp;
use crate::oci::{Descriptor, Digest, Tag};

/// Metadata in tables.
#[derive(Debug, Default)]
pub struct MemoryMetadata(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    tags: HashMap<TagKey, TagRecord>,
    members: HashMap<(Location, Digest), Descriptor>,
    blobs: HashMap<Digest, BlobRecord>,
}

impl MemoryMetadata {
    /// An empty store.
    pub fn new() -> MemoryMetadata {
        MemoryMetadata::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetadataStore for MemoryMetadata {
    fn tag(&self, key: &TagKey) -> Result<Option<TagRecord>, MetadataError> {
        Ok(self.tables().tags.get(key).cloned())
    }

    fn put_tag(&self, key: &TagKey, record: &TagRecord) -> Result<(), MetadataError> {
        self.tables().tags.insert(key.clone(), record.clone());
        Ok(())
    }

    fn remove_tag(&self, location: &Location, tag: &Tag) -> Result<(), MetadataError> {
        self.tables().tags.retain(|key, _| key.location != *location || key.tag != *tag);
        Ok(())
    }

    fn member(&self, location: &Location, digest: &Digest) -> Result<Option<Descriptor>, MetadataError> {
        Ok(self.tables().members.get(&(location.clone(), *digest)).cloned())
    }

    fn put_member(&self, location: &Location, descriptor: &Descriptor) -> Result<(), MetadataError> {
        self.tables().members.insert((location.clone(), descriptor.digest), descriptor.clone());
        Ok(())
    }

    fn remove_member(&self, location: &Location, digest: &Digest) -> Result<(), MetadataError> {
        self.tables().members.remove(&(location.clone(), *digest));
        Ok(())
    }

    fn put_blob(&self, digest: &Digest, record: &BlobRecord) -> Result<(), MetadataError> {
        self.tables().blobs.insert(*digest, *record);
        Ok(())
    }

    fn remove_blob(&self, digest: &Digest) -> Result<(), MetadataError> {
        self.tables().blobs.remove(digest);
        Ok(())
    }

    fn blobs(&self) -> Result<Vec<(Digest, BlobRecord)>, MetadataError> {
        Ok(self.tables().blobs.iter().map(|(digest, record)| (*digest, *record)).collect())
    }

    fn tags(&self) -> Result<Vec<(TagKey, TagRecord)>, MetadataError> {
        Ok(self.tables().tags.iter().map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    fn members(&self) -> Result<Vec<(Location, Descriptor)>, MetadataError> {
        let tables = self.tables();
        let members = tables.members.iter();
        Ok(members.map(|((location, _), descriptor)| (location.clone(), descriptor.clone())).collect())
    }

    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), MetadataError> {
        let mut tables = self.tables();
        for (digest, used_at) in uses {
            if let Some(record) = tables.blobs.get_mut(digest) {
                *record = record.used(*used_at);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), MetadataError> {
        Ok(())
    }
}
