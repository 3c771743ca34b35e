//! What is written to the metadata, on threads that may block, because every change ends in a sync.
//!
//! Truths: a change that fails is logged, and the pull goes on without it. A pull waits for what it
//! adds, so that it is there when the client comes back, but not for long: an index or a disk that
//! stalls delays pulls by a second once, not for as long as it stalls. What is taken away is
//! waited for, and comes after what was added before, also where nobody waited for that.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

use crate::metadata::{BlobRecord, MetadataError, MetadataStore};
use crate::mirror::{Location, OCTET_STREAM, Shared};
use crate::oci::{Descriptor, Digest, MediaType};

/// How long a pull waits for what it adds. While something is late, the next do not wait at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Each addition that is late keeps a thread from other work; beyond so many, none is begun.
const MOST_LATE: usize = 64;

impl Shared {
    /// Remembers that upstream has the content in this repository.
    pub(in crate::mirror) async fn record_member(&self, location: &Location, descriptor: Descriptor) {
        let location = location.clone();
        self.add("membership not remembered", move |metadata| metadata.put_member(&location, &descriptor)).await;
    }

    /// Remembers that upstream has the blob in this repository. What is known as a manifest there
    /// stays one: clients may ask for a manifest among the blobs.
    pub(in crate::mirror) async fn record_blob_member(&self, location: &Location, digest: Digest, size: u64) {
        if self.member(location, &digest).is_none_or(|known| known.media_type.as_ref() == OCTET_STREAM) {
            let descriptor = Descriptor { digest, size, media_type: MediaType::from(OCTET_STREAM) };
            self.record_member(location, descriptor).await;
        }
    }

    pub(in crate::mirror) async fn forget_member(&self, location: &Location, digest: &Digest) {
        let (location, digest) = (location.clone(), *digest);
        self.take_away("membership not forgotten", move |metadata| metadata.remove_member(&location, &digest)).await;
    }

    /// Remembers a blob that was just committed.
    pub(in crate::mirror) async fn record_blob(&self, digest: &Digest, size: u64) {
        let (digest, now) = (*digest, self.clock.now());
        let record = BlobRecord::new(size, now);
        self.add("stored, but not in the index", move |metadata| metadata.put_blob(&digest, &record)).await;
    }

    /// Adds to the metadata. Returns when it is there, or when that takes long.
    pub(in crate::mirror) async fn add(
        &self,
        otherwise: &'static str,
        change: impl FnOnce(&dyn MetadataStore) -> Result<(), MetadataError> + Send + 'static,
    ) {
        let late = self.late.count();
        if late >= MOST_LATE {
            tracing::warn!(late, "{otherwise}: the metadata does not keep up");
            return;
        }
        let mut changing = self.change(change);
        let patience = if late == 0 { PATIENCE } else { Duration::ZERO };
        match tokio::time::timeout(patience, &mut changing).await {
            Ok(changed) => report(otherwise, changed),
            Err(_) => {
                let late = self.late.one_more();
                self.tasks.spawn(async move {
                    report(otherwise, changing.await);
                    drop(late);
                });
            }
        }
    }

    /// Takes something away from the metadata. Returns when it is gone.
    pub(in crate::mirror) async fn take_away(
        &self,
        otherwise: &'static str,
        change: impl FnOnce(&dyn MetadataStore) -> Result<(), MetadataError> + Send + 'static,
    ) {
        self.late.nothing_left().await;
        report(otherwise, self.change(change).await);
    }

    /// Makes durable what was recorded.
    pub(in crate::mirror) async fn flush(&self, otherwise: &'static str) {
        report(otherwise, self.change(|metadata| metadata.flush()).await);
    }

    fn change(
        &self,
        change: impl FnOnce(&dyn MetadataStore) -> Result<(), MetadataError> + Send + 'static,
    ) -> JoinHandle<Result<(), MetadataError>> {
        let metadata = Arc::clone(&self.metadata);
        tokio::task::spawn_blocking(move || change(&*metadata))
    }
}

fn report(otherwise: &'static str, changed: Result<Result<(), MetadataError>, JoinError>) {
    match changed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{otherwise}"),
        Err(error) => tracing::error!(%error, "{otherwise}"),
    }
}
