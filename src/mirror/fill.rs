//! What brings content from upstream into the store: a fill for a blob, which any number of clients read
//! meanwhile; a manifest in one piece (`manifests`).
//!
//! Truths: a fill never waits for a client; whoever asked first is only its first reader. Readers
//! see every state, failure included: a fill that vanishes never looks like the end of the body.
//! Commit, then record, then leave the table: a newcomer finds either the flight or the blob.
//!
//! Bytes are published before they are hashed, so readers do not wait for SHA-256; what protects
//! them is that the last [`HELD_BACK`](crate::mirror::flight::progress::HELD_BACK) bytes are not handed out before the digest was verified.

mod end;
mod manifests;
mod pieces;
mod writer;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob_store::ingest::{Ingest, IngestDir};
use crate::blob_store::{Content, Source, StoreError};
use crate::metrics::Metrics;
use crate::mirror::error::MirrorError;
use crate::mirror::flight::BlobKey;
use crate::mirror::flight::bounds::Bounds;
use crate::mirror::flight::flights::{Departure, Flights, Seat};
use crate::mirror::flight::progress::{Following, Phase, Progress};
use crate::mirror::flight::transfer::{BlobSource, Transfer};
use crate::mirror::flight::unread::{self, FinishUnread};
use crate::mirror::keep::RoomKeeper;
use crate::mirror::recall::negatives::Negatives;
use crate::mirror::room::stored::Stored;
use crate::oci::Verifier;
use crate::outcome::Outcome;
use crate::upstream::UpstreamError;

use end::{End, Filled};
use pieces::Drain;
use writer::{STEP, Writer};

/// Chunks waiting for the disk, per fill; the bytes of all fills together are bounded by the
/// bounds.
const QUEUE: usize = 4;

/// All fills, and what they need.
pub(crate) struct Fills {
    pub(super) flights: Flights<BlobKey, Following>,
    pub(super) bounds: Bounds,
    pub(super) stored: Arc<Stored>,
    pub(super) ingests: Arc<IngestDir>,
    pub(super) room: Arc<RoomKeeper>,
    pub(super) negatives: Arc<Negatives>,
    pub(super) finish_unread: FinishUnread,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
    /// Cancelled when running fills have to end.
    pub(super) ending: CancellationToken,
}

impl Fills {
    /// Joins the fill of a blob, or starts it; at `place` among the fills, or else at the next that
    /// is free.
    pub(crate) fn fly(
        self: &Arc<Fills>,
        source: BlobSource,
        place: Option<OwnedSemaphorePermit>,
    ) -> (Following, Outcome) {
        let mut opened = None;
        let seat = self.flights.seat((source.location.clone(), source.digest), || {
            let (progress, following) = watch::channel(Progress::starting());
            opened = Some(progress);
            following
        });
        match (seat, opened) {
            (Seat::Lead(following, departure), Some(progress)) => {
                let fill = Fill { fills: Arc::clone(self), source, progress: Arc::new(progress) };
                self.tasks.spawn(fill.run(departure, place));
                (following, Outcome::Fill)
            }
            (Seat::Lead(following, _) | Seat::Join(following), _) => (following, Outcome::Join),
        }
    }
}

/// A fill, run as a task of its own.
struct Fill {
    fills: Arc<Fills>,
    source: BlobSource,
    progress: Arc<watch::Sender<Progress>>,
}

impl Fill {
    /// Runs the fill to its end. The flight leaves the table when this returns or is dropped.
    async fn run(self, departure: Departure<BlobKey, Following>, mut place: Option<OwnedSemaphorePermit>) {
        self.fills.metrics.fill_started();
        let fetched = loop {
            let fetched = tokio::select! {
                fetched = self.fetch(place.take()) => fetched,
                () = self.fills.ending.cancelled() => Err(End::Abandoned),
            };
            let left = |end: &End| match end {
                // Somebody may have come while it stopped: then it goes on from where it is.
                End::Deserted => departure.leave_if(|| unread::nobody_reads(&self.progress)),
                End::Doubted(error) => {
                    tracing::info!(blob = ?self.source, %error, "what was left over is wrong; it begins anew");
                    false
                }
                _ => true,
            };
            if fetched.as_ref().err().is_none_or(left) {
                break fetched;
            }
        };
        let result = self.end(fetched).await;
        self.fills.metrics.fill_ended(result);
        drop(departure);
    }

    /// Brings the blob into an ingest and verifies it. `None` when it was in the store after all.
    async fn fetch(&self, place: Option<OwnedSemaphorePermit>) -> Result<Option<Filled>, End> {
        let Fill { fills, source, progress } = self;
        let _place = match place {
            Some(place) => Some(place),
            None => fills.bounds.place(&source.location.upstream).await,
        };
        if self.is_stored().await {
            return Ok(None);
        }
        let (transfer, ingest) = self.open().await?;
        let total = transfer.size();
        let Filled { ingest, reservation } = self.begin(total, ingest).await.map_err(|error| {
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
            progress.doubtful = ingest.is_doubtful();
            progress.file = Some(ingest.file());
            progress.phase = Phase::Streaming;
        });

        let (queue, chunks) = mpsc::channel(QUEUE);
        let (algorithm, start) = (source.digest.algorithm(), ingest.written());
        let writer = Writer::new(Arc::clone(&fills.room), ingest, reservation, algorithm, Arc::clone(progress), total);
        let writer = fills.tasks.spawn_blocking(move || writer.run(chunks));
        let drain = Drain { queue, bounds: &fills.bounds };
        // Whichever is left behind lets go of upstream.
        let pumped = tokio::select! {
            pumped = pieces::pump(source, transfer, start, drain, &fills.metrics) => Some(pumped),
            () = unread::deserted(fills.finish_unread, progress) => None,
        };
        let written = writer.await.map_err(|error| End::Failed(MirrorError::Internal(error.to_string())))??;
        written.verify(source, pumped.ok_or(End::Deserted)?).map(Some)
    }

    /// Whether the fill that ended between our reader's look at the store and its seat has left the
    /// blob there.
    async fn is_stored(&self) -> bool {
        let Fill { fills, source, progress } = self;
        let found = fills.stored.open(&source.location, &source.digest).await;
        let Some((_, Content { size, source: Source::File(file) })) = found else { return false };
        progress.send_modify(|progress| {
            progress.phase = Phase::Verified;
            progress.total = Some(size);
            progress.written = size;
            progress.file = Some(file);
        });
        true
    }

    /// Asks upstream for the blob, or for what is missing of it when an earlier fill got somewhere. The
    /// file is made meanwhile, so that the first byte does not wait for it.
    async fn open(&self) -> Result<(Transfer, Result<Ingest, StoreError>), UpstreamError> {
        let source = &self.source;
        if let Some(left_over) = self.left_over().await {
            let start = left_over.written();
            match pieces::open(source, start).await {
                Ok(transfer) => {
                    tracing::info!(blob = ?source, start, "resuming an earlier fill");
                    self.fills.metrics.resumed(start);
                    return Ok((transfer, Ok(left_over)));
                }
                Err(error) if error.class.is_outage() => return Err(error),
                // It may have more bytes than the blob has.
                Err(_) => left_over.discard(),
            }
        }
        let (transfer, ingest) = tokio::join!(pieces::open(source, 0), self.create());
        Ok((transfer?, ingest))
    }

    async fn left_over(&self) -> Option<Ingest> {
        let (ingests, digest) = (Arc::clone(&self.fills.ingests), self.source.digest);
        if !ingests.is_left_over(&digest) {
            return None;
        }
        tokio::task::spawn_blocking(move || ingests.resume(&digest)).await.ok().flatten()
    }

    /// Reserves the room in the bounds. A disk that is full gets one chance more, after something was
    /// evicted.
    async fn begin(&self, total: Option<u64>, ingest: Result<Ingest, StoreError>) -> Result<Filled, StoreError> {
        let Fill { fills, source, .. } = self;
        let bytes = total.unwrap_or(STEP).max(ingest.as_ref().map_or(0, Ingest::written));
        let reservation = match fills.room.reserve(bytes).await {
            Ok(reservation) => reservation,
            Err(error) => {
                let _ = ingest.map(Ingest::discard);
                return Err(error);
            }
        };
        let mut ingest = match ingest {
            Err(StoreError::NoSpace(_)) => {
                fills.room.relieve(bytes).await;
                self.create().await?
            }
            ingest => ingest?,
        };
        fills.ingests.make_resumable(&mut ingest, &source.digest);
        Ok(Filled { ingest, reservation })
    }

    async fn create(&self) -> Result<Ingest, StoreError> {
        let (ingests, digest) = (Arc::clone(&self.fills.ingests), self.source.digest);
        tokio::task::spawn_blocking(move || ingests.begin(&digest, None))
            .await
            .unwrap_or_else(|error| Err(StoreError::Io(std::io::Error::other(error))))
    }
}
