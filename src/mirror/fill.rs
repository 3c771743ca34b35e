//! One fill: a blob on its way from upstream into the store, read by any number of clients meanwhile.
//!
//! Truths: a fill never waits for a client; whoever asked first is only its first reader. Readers
//! see every state, failure included: a fill that vanishes never looks like the end of the body.
//! Commit, then record, then leave the table: a newcomer finds either the flight or the blob.
//!
//! Bytes are published before they are hashed, so readers do not wait for SHA-256; what protects
//! them is that the last [`HELD_BACK`](crate::mirror::flight::progress::HELD_BACK) bytes are not handed out before the digest was verified.

mod pieces;
mod writer;

use std::sync::Arc;

use pieces::Drain;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use writer::{STEP, Writer};

use crate::blob_store::ingest::Ingest;
use crate::blob_store::{Content, Source, StoreError};
use crate::metrics::FillResult;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::flight::flights::Departure;
use crate::mirror::flight::progress::{Following, Phase, Progress};
use crate::mirror::flight::transfer::{BlobSource, Transfer};
use crate::mirror::flight::unread;
use crate::mirror::recall::negatives::Missing;
use crate::mirror::room::Reservation;
use crate::mirror::{BlobKey, Shared};
use crate::oci::{Digest, Verifier};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// Chunks waiting for the disk, per fill; the bytes of all fills together are bounded by the
/// bounds.
const QUEUE: usize = 4;

/// A fill to be run as a task of its own.
pub(super) struct Fill {
    pub(super) shared: Arc<Shared>,
    pub(super) source: BlobSource,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) departure: Departure<BlobKey, Following>,
    /// Its place among the fills, where it has got one already.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

impl Fill {
    /// Runs the fill to its end. The flight leaves the table when this returns or is dropped.
    pub(super) async fn run(self) {
        let Fill { shared, source, progress, departure, mut place } = self;
        shared.metrics.fill_started();
        let progress = Arc::new(progress);
        let fetched = loop {
            let fetched = tokio::select! {
                fetched = fetch(&shared, &source, &progress, place.take()) => fetched,
                () = shared.ending.cancelled() => Err(End::Abandoned),
            };
            // Somebody may have come while it stopped: then it goes on from where it is.
            let left =
                |end: &End| !matches!(end, End::Deserted) || departure.leave_if(|| unread::nobody_reads(&progress));
            if fetched.as_ref().err().is_none_or(left) {
                break fetched;
            }
        };
        let result = match fetched {
            Ok(Some(filled)) => keep(&shared, &source, filled).await,
            Ok(None) => FillResult::Stored,
            Err(End::Unkept(error)) => {
                tracing::warn!(blob = ?source, %error, "not kept, passed through");
                FillResult::NotStored
            }
            Err(End::Abandoned) => {
                let error = MirrorError::Internal("the mirror is stopping".to_owned());
                progress.send_modify(|progress| progress.phase = Phase::Failed(error));
                FillResult::Abandoned
            }
            Err(End::Deserted) => {
                tracing::info!(blob = ?source, "nobody reads it any more; what is there is kept for who comes next");
                FillResult::Abandoned
            }
            Err(End::Failed(error)) => {
                tracing::warn!(blob = ?source, %error, "fill failed");
                let class = error.upstream_class().unwrap_or(UpstreamErrorClass::Unavailable);
                shared.negatives.note(|| Missing::blob(&source.location, source.digest), class, shared.clock.now());
                let wrong = class == UpstreamErrorClass::Protocol;
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
    Abandoned,
    /// The last reader has left.
    Deserted,
}

/// Verified bytes, and the room they take.
struct Filled {
    ingest: Ingest,
    reservation: Reservation,
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
    place: Option<OwnedSemaphorePermit>,
) -> Result<Option<Filled>, End> {
    let _place = match place {
        Some(place) => Some(place),
        None => shared.bounds.place(&source.location.upstream).await,
    };
    // The fill that ended between our reader's look at the store and its seat has left it there.
    if let Some((_, Content { size, source: Source::File(file) })) =
        shared.open_member(&source.location, &source.digest).await
    {
        progress.send_modify(|progress| {
            progress.phase = Phase::Verified;
            progress.total = Some(size);
            progress.written = size;
            progress.file = Some(file);
        });
        return Ok(None);
    }
    let (transfer, ingest) = open(shared, source).await?;
    let total = transfer.size();
    let Filled { ingest, reservation } = begin(shared, source.digest, total, ingest).await.map_err(|error| {
        let verifier = Verifier::new(source.digest.algorithm());
        progress.send_modify(|progress| {
            progress.total = total;
            progress.phase = Phase::Unkept(verifier);
        });
        End::Unkept(error)
    })?;
    progress.send_modify(|progress| {
        progress.total = total;
        progress.written = ingest.written();
        progress.file = Some(ingest.file());
        progress.phase = Phase::Streaming;
    });

    let (queue, chunks) = mpsc::channel(QUEUE);
    let (verifier, start) = (Verifier::new(source.digest.algorithm()), ingest.written());
    let writer = Writer::new(Arc::clone(shared), ingest, reservation, verifier, Arc::clone(progress), total);
    let writer = shared.tasks.spawn_blocking(move || writer.run(chunks));
    let drain = Drain { queue, bounds: &shared.bounds };
    let told = Told { shared, source };
    // Whichever is left behind lets go of upstream.
    let pumped = tokio::select! {
        pumped = pieces::pump(source, transfer, start, drain, &told) => Some(pumped),
        () = unread::deserted(shared.finish_unread, progress) => None,
    };
    let Writer { ingest, verifier, reservation, .. } =
        writer.await.map_err(|error| End::Failed(MirrorError::Internal(error.to_string())))??;
    let Some(pumped) = pumped else { return Err(End::Deserted) };
    let checked = pumped.and_then(|()| verify(source, verifier.finish(), total, ingest.written()));
    if let Err(error) = checked {
        // After an outage the bytes so far are good for the next fill; else they are suspect.
        if !error.class.is_outage() {
            ingest.discard();
        }
        return Err(error.into());
    }
    progress.send_modify(|progress| {
        progress.total = Some(progress.written);
        progress.phase = Phase::Verified;
    });
    Ok(Some(Filled { ingest, reservation }))
}

/// Asks upstream for the blob, or for what is missing of it when an earlier fill got somewhere. The
/// file is made meanwhile, so that the first byte does not wait for it.
async fn open(
    shared: &Arc<Shared>,
    source: &BlobSource,
) -> Result<(Transfer, Result<Ingest, StoreError>), UpstreamError> {
    if let Some(left_over) = left_over(shared, source.digest).await {
        let start = left_over.written();
        match pieces::open(source, start).await {
            Ok(transfer) => {
                tracing::info!(blob = ?source, start, "resuming an earlier fill");
                shared.metrics.resumed(start);
                return Ok((transfer, Ok(left_over)));
            }
            Err(error) if error.class.is_outage() => return Err(error),
            // It may have more bytes than the blob has.
            Err(_) => left_over.discard(),
        }
    }
    let (transfer, ingest) = tokio::join!(pieces::open(source, 0), create(shared, source.digest));
    Ok((transfer?, ingest))
}

async fn left_over(shared: &Arc<Shared>, digest: Digest) -> Option<Ingest> {
    if !shared.ingests.is_left_over(&digest) {
        return None;
    }
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || shared.ingests.resume(&digest)).await.ok().flatten()
}

/// Reserves the room in the bounds. A disk that is full gets one chance more, after something was
/// evicted.
async fn begin(
    shared: &Arc<Shared>,
    digest: Digest,
    total: Option<u64>,
    ingest: Result<Ingest, StoreError>,
) -> Result<Filled, StoreError> {
    let bytes = total.unwrap_or(STEP).max(ingest.as_ref().map_or(0, Ingest::written));
    let reservation = match shared.reserve(bytes).await {
        Ok(reservation) => reservation,
        Err(error) => {
            let _ = ingest.map(Ingest::discard);
            return Err(error);
        }
    };
    let mut ingest = match ingest {
        Err(StoreError::NoSpace(_)) => {
            shared.relieve(bytes).await;
            create(shared, digest).await?
        }
        ingest => ingest?,
    };
    shared.ingests.make_resumable(&mut ingest, &digest);
    Ok(Filled { ingest, reservation })
}

async fn create(shared: &Arc<Shared>, digest: Digest) -> Result<Ingest, StoreError> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || shared.ingests.begin(&digest, None))
        .await
        .unwrap_or_else(|error| Err(StoreError::Io(std::io::Error::other(error))))
}

/// Tells the log and the metrics of streams that help.
struct Told<'a> {
    shared: &'a Shared,
    source: &'a BlobSource,
}

impl pieces::Told for Told<'_> {
    fn helped(&self, streams: usize) {
        self.shared.metrics.streams_helped(streams);
        tracing::info!(blob = ?self.source, streams = streams + 1, "reading a blob through several connections");
    }

    fn alone(&self, error: &UpstreamError) {
        self.shared.metrics.streams_gave_up();
        tracing::warn!(blob = ?self.source, %error, "reading the rest of a blob through one connection");
    }
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

/// Commits, then records. Readers have the verified bytes already: what fails here fails nobody.
async fn keep(shared: &Arc<Shared>, source: &BlobSource, filled: Filled) -> FillResult {
    let Filled { ingest, reservation: _reservation } = filled;
    let size = ingest.written();
    if let Err(error) = shared.blobs.commit(ingest, &source.digest).await {
        tracing::warn!(blob = ?source, %error, "verified and served, but not kept");
        return FillResult::NotStored;
    }
    shared.record_blob(&source.digest, size).await;
    shared.record_blob_member(&source.location, source.digest, size).await;
    FillResult::Stored
}
