//! Taking stock: the index over the blobs is brought up to date with the files, which are the truth.

use std::sync::Arc;

use crate::blob_store::BlobStore as _;
use crate::blob_store::local::LocalBlobStore;
use crate::clock::Timestamp;
use crate::metadata::sled::SledMetadata;

/// How many sizes of blobs are taken from the index at a time, so that requests can come in between.
const SIZES_AT_ONCE: usize = 4096;

/// Lists the blobs and brings the index up to date with the files. `now` is a moment before that.
pub(super) async fn take_stock(blobs: &Arc<LocalBlobStore>, metadata: &Arc<SledMetadata>, now: Timestamp) {
    let (known, index) = (Arc::clone(blobs), Arc::clone(metadata));
    let remembered = tokio::task::spawn_blocking(move || {
        let mut sizes = Vec::with_capacity(SIZES_AT_ONCE);
        index.for_each_recorded(|digest, size| {
            sizes.push((digest, size));
            if sizes.len() == SIZES_AT_ONCE {
                known.remember_sizes(sizes.drain(..));
            }
        });
        known.remember_sizes(sizes);
    });
    if let Err(error) = remembered.await {
        tracing::error!(%error, "the sizes of blobs were not read from the index; the files tell");
    }
    match blobs.list().await {
        Ok(stored) => {
            let metadata = Arc::clone(metadata);
            let rebuilt = tokio::task::spawn_blocking(move || metadata.rebuild(&stored, now)).await;
            if let Err(error) = rebuilt {
                tracing::error!(%error, "the index could not be brought up to date; the files answer");
            }
        }
        Err(error) => tracing::error!(%error, "the blobs could not be listed"),
    }
}
