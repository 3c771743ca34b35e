//! The hash of what was passed on of a blob that nobody had verified yet, compared with the file once it is.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::blob_store::read_file_at;
use crate::metrics::Metrics;
use crate::mirror::flight::progress::{Following, Phase, is_over};
use crate::mirror::flight::transfer::BlobSource;
use crate::oci::{Algorithm, Digest, Verifier};

/// How much of a file is compared at once, in bytes.
const COMPARED_AT_ONCE: usize = 256 << 10;

/// Remembers the hash of what was passed on, and compares it when the blob is there.
pub(super) struct Witness {
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    fill: Following,
    source: BlobSource,
    seen: Range<u64>,
    hash: Option<Verifier>,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").field("source", &self.source).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Witness {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        fill: Following,
        source: BlobSource,
        start: u64,
    ) -> Witness {
        let hash = Some(Verifier::new(Algorithm::Sha256));
        Witness { metrics, tasks, fill, source, seen: start..start, hash }
    }

    /// These bytes go to the client.
    pub(super) fn saw(&mut self, bytes: &Bytes) {
        self.seen.end += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
    }
}

/// The client has got what it wanted, or has left.
impl Drop for Witness {
    fn drop(&mut self) {
        let Some(found) = self.hash.take().map(Verifier::finish).filter(|_| !self.seen.is_empty()) else { return };
        // Without a runtime the process is ending.
        if Handle::try_current().is_err() {
            return;
        }
        let (metrics, source, seen) = (Arc::clone(&self.metrics), self.source.clone(), self.seen.clone());
        let compared = compare(metrics, self.fill.clone(), source, seen, found);
        self.tasks.spawn(compared);
    }
}

async fn compare(metrics: Arc<Metrics>, mut fill: Following, source: BlobSource, seen: Range<u64>, found: Digest) {
    let over = fill.wait_for(|progress| is_over(&progress.phase)).await;
    let Some(file) =
        over.ok().filter(|progress| matches!(progress.phase, Phase::Verified)).and_then(|p| p.file.clone())
    else {
        return;
    };
    match hash_of(file, seen.clone()).await {
        Ok(stored) if stored == found => {}
        Ok(_) => {
            metrics.error("relayed-mismatch");
            tracing::error!(
                blob = ?source, first = seen.start, last = seen.end.saturating_sub(1),
                "upstream sent a client other bytes in this range than the blob has, which is now verified; \
                 pull the image there again, and ask whoever runs the upstream"
            );
        }
        Err(error) => tracing::debug!(blob = ?source, %error, "what was passed on could not be compared"),
    }
}

/// No thread is kept for longer than it takes to read a piece.
async fn hash_of(file: Arc<File>, mut range: Range<u64>) -> std::io::Result<Digest> {
    let mut hash = Verifier::new(Algorithm::Sha256);
    while !range.is_empty() {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(COMPARED_AT_ONCE);
        let (file, offset) = (Arc::clone(&file), range.start);
        let read = tokio::task::spawn_blocking(move || read_file_at(&file, offset, length));
        hash.update(&read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?);
        range.start += length as u64;
    }
    Ok(hash.finish())
}
