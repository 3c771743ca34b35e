//! One fill: a blob on its way from upstream into the store, read by any number of clients meanwhile.
//!
//! Truths: a fill never waits for a client; whoever asked first is only its first reader. Readers
//! see every state, failure included: a fill that vanishes never looks like the end of the body.
//! Commit, then record, then leave the table: a newcomer finds either the flight or the blob.
//!
//! Bytes are published before they are hashed, so readers do not wait for SHA-256; what protects
//! them is that the last [`HELD_BACK`] bytes are not handed out before the digest was verified.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::error::{MirrorError, Subject};
use super::flights::Departure;
use super::resume::{BlobSource, Transfer};
use super::{BlobKey, Shared};
use crate::blob_store::ingest::Ingest;
use crate::blob_store::{Content, Source, StoreError};
use crate::metrics::FillResult;
use crate::oci::{Descriptor, Digest, MediaType, RegistryName, Span, Verifier};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// How many bytes at the end of a blob are kept from readers until its digest is verified.
pub const HELD_BACK: u64 = 64 << 10;
/// Chunks waiting for the disk, per fill; the bytes of all fills together are bounded by the budget.
const QUEUE: usize = 8;
/// How many bytes are written at most before readers are told.
const PUBLISH_EVERY: u64 = 256 << 10;

/// Where a fill stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Upstream has not answered yet.
    Starting,
    /// Bytes arrive.
    Streaming,
    /// All bytes are there and have the digest.
    Verified,
    /// The store could not take the bytes any more. Readers go on upstream by themselves, from
    /// `written` with this verifier.
    Unkept(Verifier),
    /// Upstream failed, or sent something else. There is nothing more to come.
    Failed(MirrorError),
}

/// What readers see of a fill.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Where it stands.
    pub phase: Phase,
    /// Size of the blob in bytes, once known.
    pub total: Option<u64>,
    /// How many bytes are in the file.
    pub written: u64,
    /// The growing file. Readable to the end even after the fill is over.
    pub file: Option<Arc<File>>,
}

impl Progress {
    /// A fill that was just seated.
    pub const fn starting() -> Progress {
        Progress { phase: Phase::Starting, total: None, written: 0, file: None }
    }

    /// How far a reader may read that wants the end: everything once it is verified, before that
    /// all but the tail. Where the store gave up, the tail is still to come, from upstream.
    pub fn readable(&self) -> u64 {
        match self.phase {
            Phase::Verified | Phase::Unkept(_) => self.written,
            _ => self.written.min(self.total.unwrap_or(self.written).saturating_sub(HELD_BACK)),
        }
    }
}

/// The handle by which a fill is followed.
pub type Following = watch::Receiver<Progress>;

/// The bounds of fills. Permits are counted per upstream, so that one which stalls takes nothing
/// from the others; memory is for all of them together.
#[derive(Debug)]
pub struct Budget {
    fills_per_upstream: usize,
    lanes: Mutex<HashMap<RegistryName, Arc<Semaphore>>>,
    memory: Arc<Semaphore>,
    memory_bytes: u32,
}

impl Budget {
    /// At most `fills_per_upstream` at a time, and at most `memory_bytes` bytes between the network
    /// and the disk.
    pub fn new(fills_per_upstream: usize, memory_bytes: u32) -> Budget {
        let memory = Arc::new(Semaphore::new(memory_bytes as usize));
        Budget { fills_per_upstream, lanes: Mutex::default(), memory, memory_bytes }
    }

    /// The permits of an upstream.
    fn lane(&self, upstream: &RegistryName) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(upstream.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.fills_per_upstream)));
        Arc::clone(lane)
    }

    /// Waits until `bytes` more bytes may be in memory. A chunk larger than all of it waits for all.
    async fn memory(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.memory_bytes);
        Arc::clone(&self.memory).acquire_many_owned(weight).await.ok()
    }
}

/// A fill to be run as a task of its own.
pub(super) struct Fill {
    pub(super) shared: Arc<Shared>,
    pub(super) source: BlobSource,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) departure: Departure<BlobKey, Following>,
}

impl Fill {
    /// Runs the fill to its end. The flight leaves the table when this returns or is dropped.
    pub(super) async fn run(self) {
        let Fill { shared, source, progress, departure } = self;
        shared.metrics.fill_started();
        let progress = Arc::new(progress);
        let result = match fetch(&shared, &source, &progress).await {
            Ok(Some(ingest)) => keep(&shared, &source, ingest).await,
            Ok(None) => FillResult::Stored,
            Err(End::Unkept(error)) => {
                tracing::warn!(blob = ?source, %error, "not kept, passed through");
                FillResult::NotStored
            }
            Err(End::Failed(error)) => {
                tracing::warn!(blob = ?source, %error, "fill failed");
                let wrong = error.upstream_class() == Some(UpstreamErrorClass::Protocol);
                progress.send_modify(|progress| progress.phase = Phase::Failed(error));
                if wrong { FillResult::Mismatch } else { FillResult::UpstreamFailed }
            }
        };
        shared.metrics.fill_ended(result);
        drop(departure);
    }
}

/// Why a fill ended without a verified ingest.
enum End {
    Unkept(StoreError),
    Failed(MirrorError),
}

impl From<UpstreamError> for End {
    fn from(error: UpstreamError) -> End {
        End::Failed(MirrorError::upstream(Subject::Blob, error))
    }
}

/// Brings the blob into an ingest and verifies it. `None` when it was in the store after all.
async fn fetch(
    shared: &Arc<Shared>,
    source: &BlobSource,
    progress: &Arc<watch::Sender<Progress>>,
) -> Result<Option<Ingest>, End> {
    let _permit = shared.budget.lane(&source.location.upstream).acquire_owned().await;
    // The fill that ended between our reader's look at the store and its seat has left it there.
    if let Some((_, Content { size, source: Source::File(file) })) =
        shared.open_member(&source.location, &source.digest).await
    {
        progress.send_replace(Progress { phase: Phase::Verified, total: Some(size), written: size, file: Some(file) });
        return Ok(None);
    }
    let mut transfer = Transfer::open(source.clone(), Span::default()).await?;
    let total = transfer.size();
    let ingest = begin(shared, source.digest, total).await.map_err(|error| {
        let verifier = Verifier::new(source.digest.algorithm());
        progress.send_modify(|progress| {
            progress.total = total;
            progress.phase = Phase::Unkept(verifier);
        });
        End::Unkept(error)
    })?;
    progress.send_modify(|progress| {
        progress.total = total;
        progress.file = Some(ingest.file());
        progress.phase = Phase::Streaming;
    });

    let (queue, chunks) = mpsc::channel(QUEUE);
    let verifier = Verifier::new(source.digest.algorithm());
    let writer = Writer { ingest, verifier, progress: Arc::clone(progress) };
    let writer = tokio::task::spawn_blocking(move || writer.run(chunks));
    let pumped = pump(&mut transfer, queue, &shared.budget).await;
    let Writer { ingest, verifier, .. } =
        writer.await.map_err(|error| End::Failed(MirrorError::Internal(error.to_string())))??;
    pumped?;
    verify(source, verifier.finish(), total, ingest.written())?;
    progress.send_modify(|progress| {
        progress.total = Some(progress.written);
        progress.phase = Phase::Verified;
    });
    Ok(Some(ingest))
}

async fn begin(shared: &Arc<Shared>, digest: Digest, total: Option<u64>) -> Result<Ingest, StoreError> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || shared.ingests.begin(&digest, total))
        .await
        .unwrap_or_else(|error| Err(StoreError::Io(std::io::Error::other(error))))
}

/// Moves chunks from upstream to the writer; ends early when the writer is gone.
async fn pump(
    transfer: &mut Transfer,
    queue: mpsc::Sender<(Bytes, Option<OwnedSemaphorePermit>)>,
    budget: &Budget,
) -> Result<(), UpstreamError> {
    while let Some(bytes) = transfer.next().await? {
        let permit = budget.memory(bytes.len()).await;
        if queue.send((bytes, permit)).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn verify(source: &BlobSource, found: Digest, total: Option<u64>, written: u64) -> Result<(), UpstreamError> {
    let BlobSource { location, digest, .. } = source;
    let broken = |what: String| {
        Err(UpstreamError::new(UpstreamErrorClass::Protocol, format!("{location}: blob {digest}: {what}")))
    };
    if total.is_some_and(|total| total != written) {
        return broken(format!("upstream sent {written} bytes of {total:?}"));
    }
    if found != *digest {
        return broken(format!("upstream sent {found}"));
    }
    Ok(())
}

/// Puts chunks into the ingest, tells readers, then hashes. Runs on a thread that may block.
struct Writer {
    ingest: Ingest,
    verifier: Verifier,
    progress: Arc<watch::Sender<Progress>>,
}

impl Writer {
    fn run(mut self, mut chunks: mpsc::Receiver<(Bytes, Option<OwnedSemaphorePermit>)>) -> Result<Writer, End> {
        while let Some(first) = chunks.blocking_recv() {
            let mut batch = vec![first];
            let mut failure = None;
            let before = self.ingest.written();
            let mut next = 0;
            while let Some((bytes, _)) = batch.get(next) {
                if let Err(error) = self.ingest.append(bytes) {
                    batch.truncate(next);
                    failure = Some(error);
                    break;
                }
                next += 1;
                if self.ingest.written() - before < PUBLISH_EVERY {
                    batch.extend(chunks.try_recv());
                }
            }
            if failure.is_none() {
                let written = self.ingest.written();
                self.progress.send_modify(|progress| progress.written = written);
            }
            batch.iter().for_each(|(bytes, _)| self.verifier.update(bytes));
            if let Some(error) = failure {
                return Err(self.give_up(error));
            }
        }
        Ok(self)
    }

    /// The disk failed: readers keep what is in the file and go on by themselves.
    fn give_up(self, error: StoreError) -> End {
        let written = self.ingest.written();
        self.progress.send_modify(|progress| {
            progress.written = written;
            progress.phase = Phase::Unkept(self.verifier);
        });
        End::Unkept(error)
    }
}

/// Commits, then records. Readers have the verified bytes already: what fails here fails nobody.
async fn keep(shared: &Arc<Shared>, source: &BlobSource, ingest: Ingest) -> FillResult {
    let size = ingest.written();
    if let Err(error) = shared.blobs.commit(ingest, &source.digest).await {
        tracing::warn!(blob = ?source, %error, "verified and served, but not kept");
        return FillResult::NotStored;
    }
    shared.record_blob(&source.digest, size).await;
    let media_type = MediaType::from("application/octet-stream");
    shared.record_member(&source.location, Descriptor { digest: source.digest, size, media_type }).await;
    FillResult::Stored
}
