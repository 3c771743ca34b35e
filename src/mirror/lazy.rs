//! Lazy reads: a small part of a blob that the fill has not reached yet, passed on from upstream at
//! once while the fill runs behind.
//!
//! No digest covers a part, so what is passed on here is the one thing that nobody has verified; it
//! is never stored. Its hash is kept and compared with the file once the blob is verified, and an
//! upstream that sent something else is told of in the log and counted.
//!
//! Only parts with an end are read this way. `bytes=N-` asks for everything from there on, and some
//! clients ask so from many places at once and hang up early: they follow the fill, or upstream would
//! be paid for twice. For the same reason only a tenth of a blob is read this way: who fetches all of
//! it in parallel parts follows the fill as well.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::Shared;
use super::blobs::{BlobAnswer, select, started};
use super::body::{BlobBody, Relay};
use super::error::MirrorError;
use super::fill::{Following, Phase};
use super::resume::BlobSource;
use crate::blob_store::read_file_at;
use crate::oci::{Algorithm, Digest, RangeHeader, Verifier};
use crate::outcome::Outcome;

/// A part that begins no further than this ahead of the fill is waited for, in bytes.
const NEAR: u64 = 4 << 20;
/// How long it is waited for.
const PATIENCE: Duration = Duration::from_millis(250);
/// A longer part is no lazy read, in bytes.
const LARGEST: u64 = 32 << 20;
/// How many bytes are read lazily of a small blob, however small.
const ALWAYS: u64 = 1 << 20;
/// Of a larger one, one of so many.
const SHARE: u64 = 10;
/// How much of a file is compared at once, in bytes.
const COMPARED_AT_ONCE: usize = 256 << 10;

impl Shared {
    /// The part that `range` selects, from upstream, where the fill would keep the client waiting for
    /// it; `None` where following the fill is the better way, or the only one.
    ///
    /// # Errors
    /// [`MirrorError::Range`] when the range selects nothing.
    pub(super) async fn lazy_part(
        self: &Arc<Self>,
        following: &Following,
        source: &BlobSource,
        range: &RangeHeader,
    ) -> Result<Option<BlobAnswer>, MirrorError> {
        let mut fill = following.clone();
        let size = match tokio::time::timeout(PATIENCE, started(&mut fill)).await {
            // The client is told by whoever follows the fill.
            Ok(Err(_)) => return Ok(None),
            Ok(Ok(progress)) => progress.total,
            Err(_) => None,
        };
        let size = match size {
            Some(size) => size,
            None => match source.upstream.stat(&source.location.repository, &source.digest).await {
                Ok(Some(size)) => size,
                _ => return Ok(None),
            },
        };
        let Some(part) = select(Some(range), size)?.filter(|part| part.end - part.start <= LARGEST) else {
            return Ok(None);
        };
        if is_reached(&mut fill, part.start).await {
            return Ok(None);
        }
        let relayed = Arc::clone(&fill.borrow().relayed);
        let length = part.end - part.start;
        if !claim(&relayed, length, size) {
            return Ok(None);
        }
        let witness = Witness::new(self, following.clone(), source.clone(), part.start);
        let relay = Relay::part(source.clone(), part.clone(), witness).await;
        if !matches!(relay, Ok(Some(_))) {
            relayed.fetch_sub(length, Ordering::Relaxed);
        }
        match relay {
            Ok(Some(relay)) => Ok(Some(BlobAnswer {
                digest: source.digest,
                size: Some(size),
                part: Some(part),
                body: BlobBody::Relayed(Box::new(relay)),
                outcome: Outcome::Relayed,
            })),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::debug!(blob = ?source, %error, "a part is not to be had by itself; waiting for the fill");
                Ok(None)
            }
        }
    }
}

/// Takes `length` of the bytes that may be read lazily of a blob of `size` bytes, if so many are left.
fn claim(relayed: &AtomicU64, length: u64, size: u64) -> bool {
    let most = (size / SHARE).max(ALWAYS);
    let claimed = |relayed: u64| relayed.checked_add(length).filter(|sum| *sum <= most);
    relayed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claimed).is_ok()
}

/// Whether a reader of the fill gets on at `start`, or will in a moment.
async fn is_reached(fill: &mut Following, start: u64) -> bool {
    let written = fill.borrow().written;
    let patience = if start.saturating_sub(written) <= NEAR { PATIENCE } else { Duration::ZERO };
    let over = |phase: &Phase| !matches!(phase, Phase::Starting | Phase::Streaming);
    let reached = fill.wait_for(|progress| progress.written > start || over(&progress.phase));
    tokio::time::timeout(patience, reached).await.is_ok()
}

/// Remembers the hash of what was passed on, and compares it when the blob is there.
pub(super) struct Witness {
    shared: Arc<Shared>,
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
    fn new(shared: &Arc<Shared>, fill: Following, source: BlobSource, start: u64) -> Witness {
        let hash = Some(Verifier::new(Algorithm::Sha256));
        Witness { shared: Arc::clone(shared), fill, source, seen: start..start, hash }
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
        let (shared, source, seen) = (Arc::clone(&self.shared), self.source.clone(), self.seen.clone());
        let compared = compare(shared, self.fill.clone(), source, seen, found);
        self.shared.tasks.spawn(compared);
    }
}

async fn compare(shared: Arc<Shared>, mut fill: Following, source: BlobSource, seen: Range<u64>, found: Digest) {
    let over = fill.wait_for(|progress| !matches!(progress.phase, Phase::Starting | Phase::Streaming)).await;
    let Some(file) =
        over.ok().filter(|progress| matches!(progress.phase, Phase::Verified)).and_then(|p| p.file.clone())
    else {
        return;
    };
    let range = seen.clone();
    match tokio::task::spawn_blocking(move || hash_of(&file, range)).await {
        Ok(Ok(stored)) if stored == found => {}
        Ok(Ok(_)) => {
            shared.metrics.error("relayed-mismatch");
            tracing::error!(
                blob = ?source, first = seen.start, last = seen.end.saturating_sub(1),
                "upstream sent a client other bytes in this range than the blob has, which is now verified; \
                 pull the image there again, and ask whoever runs the upstream"
            );
        }
        Ok(Err(error)) => tracing::debug!(blob = ?source, %error, "what was passed on could not be compared"),
        Err(error) => tracing::error!(blob = ?source, %error, "what was passed on could not be compared"),
    }
}

fn hash_of(file: &File, mut range: Range<u64>) -> std::io::Result<Digest> {
    let mut hash = Verifier::new(Algorithm::Sha256);
    while !range.is_empty() {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(COMPARED_AT_ONCE);
        hash.update(&read_file_at(file, range.start, length)?);
        range.start += length as u64;
    }
    Ok(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_blob_is_read_lazily_and_something_of_every_blob() {
        let relayed = AtomicU64::new(0);
        let size = 100 << 20;
        assert!(claim(&relayed, 2, size) && claim(&relayed, (10 << 20) - 2, size));
        assert!(!claim(&relayed, 1, size));
        assert!(claim(&AtomicU64::new(0), ALWAYS, 0) && !claim(&AtomicU64::new(1), u64::MAX, u64::MAX));
    }
}
