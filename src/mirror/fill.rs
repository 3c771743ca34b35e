//! What brings content from upstream into the store: a fill for a blob, which any number of clients read
//! meanwhile; a manifest in one piece (`manifests`).
//!
//! Truths: a fill that is kept never waits for a client; whoever asked first is only its first reader. Readers
//! see every state, failure included: a fill that vanishes never looks like the end of the body.
//! Commit, then record, then leave the table: a newcomer finds either the flight or the blob.
//!
//! Bytes are published before they are hashed, so readers do not wait for SHA-256; what protects
//! them is that the last [`HELD_BACK`](crate::mirror::flight::progress::HELD_BACK) bytes are not handed out before the digest was verified.

pub(crate) mod disk;
mod end;
mod manifests;
mod passing;
mod pieces;
mod told;
pub(crate) mod whole_bucket;
mod writer;
mod wrong;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob_store::ingest::{Ingest, IngestDir, Origin, Resumed};
use crate::blob_store::{Content, Source, StoreError};
use crate::carrier::Carrier;
use crate::clients::ClientId;
use crate::metadata::{Location, Proof};
use crate::metrics::{FillResult, Metrics};
use crate::mirror::flight::BlobKey;
use crate::mirror::flight::bounds::{BUFFER, Bounds};
use crate::mirror::flight::flights::{Departure, Flights, Seat, Shareable};
use crate::mirror::flight::places::Place;
use crate::mirror::flight::progress::{Doubt, Following, Phase, Progress};
use crate::mirror::flight::transfer::{BlobSource, Transfer};
use crate::mirror::flight::unread::{self, FinishUnread};
use crate::mirror::flight::writing::Writing;
use crate::mirror::keep::RoomKeeper;
use crate::mirror::recall::negatives::Negatives;
use crate::mirror::recall::sizes::Sizes;
use crate::mirror::room::stored::Stored;
use crate::oci::Span;
use crate::outcome::Outcome;
use crate::upstream::{Contact, UpstreamError, UpstreamErrorClass};

use disk::Disk;
use end::{End, Filled};
use passing::{Passing, Unkept};
use pieces::Drain;
use writer::{Stopped, Writer};
pub(crate) use wrong::Wrong;

/// Chunks waiting for the disk, per fill; the bytes of all fills together are bounded by the
/// bounds.
const QUEUE: usize = 4;

/// So often a fill begins anew: for what was left over, and for each of some addresses.
const MOST_ANEW: usize = 8;

/// All fills, and what they need.
pub(crate) struct Fills {
    pub(super) flights: Flights<BlobKey, Following>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) stored: Arc<Stored>,
    pub(super) ingests: Arc<IngestDir>,
    pub(super) disk: Arc<Disk>,
    pub(super) carrier: Carrier,
    pub(super) writing: Arc<Writing>,
    pub(super) room: Arc<RoomKeeper>,
    pub(super) negatives: Arc<Negatives>,
    pub(super) sizes: Sizes,
    pub(super) wrong: Wrong,
    pub(super) reading: Flights<Location, Shareable<()>>,
    pub(super) finish_unread: FinishUnread,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
    /// Cancelled when running fills have to end.
    pub(super) ending: CancellationToken,
}

/// By what right a fill is begun.
pub(crate) enum Right {
    /// A client wants it: it waits for a place in his turn, if need be.
    Of(ClientId),
    /// It has a place.
    At(Place),
}

/// What a fill comes to when upstream has sent all.
enum Written<'a> {
    ToDisk(Box<Writer>),
    ToMemory(Box<Passing<'a>>),
}

impl Fills {
    /// What this upstream sent is not what its digest says.
    fn came_wrong(&self, Location { upstream, .. }: &Location, what: &impl ToString) {
        self.wrong.came(self.room.clock.now(), upstream, what.to_string());
    }

    /// Joins the fill of a blob, or starts it.
    pub(crate) fn fly(self: &Arc<Fills>, source: BlobSource, right: Right) -> (Following, Outcome) {
        let mut opened = None;
        let seat = self.flights.seat((source.location.clone(), source.digest), || {
            let (progress, following) = watch::channel(Progress::starting());
            opened = Some(progress);
            following
        });
        match (seat, opened) {
            (Seat::Lead(following, departure), Some(progress)) => {
                let (client, place) = match right {
                    Right::Of(client) => (client, None),
                    Right::At(place) => (ClientId::Operator, Some(place)),
                };
                let fill = Fill { fills: Arc::clone(self), source, client, progress: Arc::new(progress) };
                self.carrier.spawn(&self.tasks, fill.run(departure, place));
                (following, Outcome::Fill)
            }
            (Seat::Lead(following, _) | Seat::Join(following), _) => (following, Outcome::Join),
        }
    }

    /// Removes what is of no use.
    async fn discard(&self, ingest: Ingest) {
        // Where nothing runs any more it is dropped, and goes that way.
        let _ = self.disk.run(move || ingest.discard()).await;
    }
}

/// A fill, run as a task of its own.
struct Fill {
    fills: Arc<Fills>,
    source: BlobSource,
    /// Who asked first.
    client: ClientId,
    progress: Arc<watch::Sender<Progress>>,
}

impl Fill {
    /// Runs the fill to its end. The flight leaves the table when this returns or is dropped.
    async fn run(mut self, departure: Departure<BlobKey, Following>, mut place: Option<Place>) {
        self.fills.metrics.fill_started();
        let BlobSource { location, digest, waited, .. } = &self.source;
        let early = self.fills.early_of(location, *digest).await;
        let shared = self.fills.stored.blob_behind(location, digest, waited).await;
        let replica = self.fills.stored.at_replica(location, digest, waited);
        (self.source.shared, self.source.replica) = (shared, replica);
        self.source.told = early.as_ref().and_then(|early| early.size());
        self.progress.send_modify(|progress| {
            progress.early.clone_from(&early);
            progress.shared.clone_from(&self.source.shared);
            progress.replica.clone_from(&self.source.replica);
        });
        let mut begun_anew = 0;
        let fetched = loop {
            let fetched = Box::pin(self.fetch(place.take(), &departure)).await.map_err(|end| self.judged(end));
            let left = |end: &End| match end {
                // Somebody may have come while it stopped: then it goes on from where it is.
                End::Deserted => {
                    departure.leave_if(|| unread::nobody_follows(&self.progress)) || {
                        tracing::info!(blob = ?self.source, "waits for its turn: a client who has no place needs one");
                        false
                    }
                }
                End::Doubted(error) if begun_anew < MOST_ANEW => {
                    begun_anew += 1;
                    tracing::info!(blob = ?self.source, %error, "what came is wrong, and nobody has any of it; it begins anew");
                    false
                }
                _ => true,
            };
            if fetched.as_ref().err().is_none_or(left) {
                break fetched;
            }
        };
        if let Some(early) = early.filter(|_| matches!(self.progress.borrow().phase, Phase::Verified)) {
            early.renew();
        }
        let result = self.end(fetched, &departure).await;
        self.fills.metrics.fill_ended(result);
        // The lease of what is stored ends when it is in the bucket.
        if let Some(replica) = self.source.replica.take().filter(|_| result != FillResult::Stored) {
            self.fills.tasks.spawn(async move { replica.over().await });
        }
        drop(departure);
    }

    /// What came and is not the blob is held against who gave it. Where no reader has any of it, and it was left over, or
    /// another address or upstream itself may have it, it begins anew.
    fn judged(&self, end: End) -> End {
        let error = match end {
            End::Failed(error) if error.upstream_class() == Some(UpstreamErrorClass::Protocol) => error,
            end => return end,
        };
        let (is_of_tier, BlobSource { location, digest, shared, .. }) = (self.is_tier_wrong(), &self.source);
        let another = self.source.fell_short() || is_of_tier;
        self.fills.sizes.was_wrong((location.clone(), *digest));
        let mut anew = false;
        self.progress.send_modify(|progress| anew = progress.begin_anew(another));
        if anew {
            shared.iter().for_each(|shared| shared.is_of_no_use());
            End::Doubted(error)
        } else {
            End::Failed(error)
        }
    }

    /// Takes note that what came is not the blob, where the bucket or another replica gave some of it; whether one did.
    /// They are asked no more, from before anybody is told: who asks again would be given the same.
    fn is_tier_wrong(&self) -> bool {
        let BlobSource { shared, replica, .. } = &self.source;
        let of_bucket = shared.as_ref().filter(|shared| shared.gave_some());
        of_bucket.iter().for_each(|shared| shared.distrust());
        let is_of_replica = replica.as_ref().is_some_and(|replica| replica.distrust());
        of_bucket.is_some() || is_of_replica
    }

    /// Brings the blob into an ingest and verifies it. `None` when it was in the store after all.
    async fn fetch(
        &self,
        place: Option<Place>,
        departure: &Departure<BlobKey, Following>,
    ) -> Result<Option<Filled>, End> {
        let ending = self.fills.ending.cancelled();
        let place = match place {
            Some(place) => Some(place),
            None => tokio::select! {
                place = self.place() => place?,
                () = ending => return Err(End::Abandoned),
            },
        };
        match place {
            Some(place) => {
                let begun = tokio::select! {
                    begun = self.begin() => begun?,
                    () = self.fills.ending.cancelled() => return Err(End::Abandoned),
                    () = unread::displaced(&place, &self.progress) => return Err(End::Deserted),
                };
                let Some((transfer, filled)) = begun else { return Ok(None) };
                self.stream(transfer, filled, &mut Some(place), departure).await
            }
            None => self.relay(departure).await,
        }
    }

    /// Waits for a place, as long as somebody wants it; `None` when that takes too long.
    async fn place(&self) -> Result<Option<Place>, End> {
        let Fill { fills, source, client, progress } = self;
        let lane = fills.bounds.lane(&source.location.upstream);
        let _waiting = fills.metrics.fill_waits();
        tokio::select! {
            biased;
            place = tokio::time::timeout(fills.bounds.fill_wait, lane.fills.take(*client)) => Ok(place.ok()),
            () = unread::left(progress) => Err(End::Deserted),
        }
    }

    /// Passes the blob on without a place, while upstream has a connection free.
    async fn relay(&self, departure: &Departure<BlobKey, Following>) -> Result<Option<Filled>, End> {
        let Fill { fills, source, client, .. } = self;
        fills.metrics.fill_unplaced();
        let place = fills.bounds.lane(&source.location.upstream).relay_place(*client);
        let place = Arc::new(place.ok_or(End::Busy)?);
        self.progress.send_modify(|progress| progress.relay = Some(place));
        if self.is_stored().await {
            return Ok(None);
        }
        let transfer = tokio::select! {
            // What is not kept is for no other replica.
            transfer = Transfer::open(BlobSource { replica: None, ..source.clone() }, Span::default(), None) => transfer?,
            () = fills.ending.cancelled() => return Err(End::Abandoned),
        };
        let reason = "there was no place among the fills in time".to_owned();
        self.stream(transfer, Err(reason), &mut None, departure).await
    }

    /// Has upstream's answer, and a file for what comes, or the reason why there is none. `None` when the blob
    /// is stored.
    async fn begin(&self) -> Result<Option<(Transfer, Result<Filled, String>)>, End> {
        if self.is_stored().await {
            return Ok(None);
        }
        let (transfer, ingest) = self.open().await?;
        if let Some((replica, size)) = self.source.replica.clone().zip(transfer.size()) {
            self.fills.tasks.spawn(async move { replica.told(size).await });
        }
        let filled = self.reserve(transfer.size(), ingest).await;
        if let Ok(Filled { ingest, .. }) = &filled {
            self.progress.send_modify(|progress| {
                progress.total = transfer.size();
                progress.written = ingest.written();
                progress.doubt = match (ingest.is_doubtful(), transfer.is_page(), transfer.has_another()) {
                    (true, _, _) => Doubt::LeftOver,
                    (_, true, _) => Doubt::Page,
                    (_, _, true) => Doubt::Another,
                    _ => Doubt::None,
                };
                (progress.file, progress.passed) = (Some(ingest.file()), None);
                progress.phase = Phase::Streaming;
            });
        }
        Ok(Some((transfer, filled.map_err(|error| error.to_string()))))
    }

    /// Moves what comes to the file, or else to memory, as long as somebody wants it.
    async fn stream(
        &self,
        transfer: Transfer,
        filled: Result<Filled, String>,
        place: &mut Option<Place>,
        departure: &Departure<BlobKey, Following>,
    ) -> Result<Option<Filled>, End> {
        let Fill { fills, source, progress, .. } = self;
        let (queue, mut chunks) = mpsc::channel(QUEUE);
        let (total, is_kept) = (transfer.size(), filled.is_ok());
        let start = filled.as_ref().map_or(0, |filled| filled.ingest.written());
        let (over, passed_on) = (CancellationToken::new(), CancellationToken::new());
        let (ends, unkept_now) = (over.clone().drop_guard(), passed_on.clone());
        let written = async move {
            let _ends = ends;
            let unkept = match filled {
                Ok(filled) => {
                    let writer = Writer::new(Arc::clone(fills), filled, source, Arc::clone(progress), total);
                    match writer.run(&mut chunks).await {
                        Ok(writer) => return Ok(Written::ToDisk(Box::new(writer))),
                        Err(Stopped::For(end)) => return Err(end),
                        Err(Stopped::Unkept(unkept)) => *unkept,
                    }
                }
                Err(reason) => Unkept::at_all(reason, source),
            };
            unkept_now.cancel();
            self.pass(unkept, total, &mut chunks, departure).await.map(|passing| Written::ToMemory(Box::new(passing)))
        };
        let displaced = async {
            if let Some(held) = place {
                tokio::select! {
                    () = unread::displaced(held, progress) => return,
                    () = passed_on.cancelled() => {}
                }
            }
            // What is passed on goes at the pace of who reads it, and has bounds of its own.
            *place = None;
            std::future::pending().await
        };
        // Whatever ends it lets go of upstream, and the writer ends with what it has.
        let drain = Drain { queue, bounds: &fills.bounds };
        // In a box, for it is large.
        let pump = Box::pin(pieces::pump(source, transfer, start, drain, is_kept, &fills.metrics));
        let pumped = async {
            tokio::select! {
                pumped = pump => Ok(pumped),
                () = unread::deserted(fills.finish_unread, progress) => Err(End::Deserted),
                () = displaced => Err(End::Deserted),
                () = fills.ending.cancelled() => Err(End::Abandoned),
                () = over.cancelled() => Ok(Ok(())),
            }
        };
        let (written, pumped) = tokio::join!(written, pumped);
        match written? {
            Written::ToDisk(writer) => writer.verify(source, pumped?).await.map(Some),
            Written::ToMemory(passing) => Err(passing.verify(source, pumped?)),
        }
    }

    /// Whether the fill that ended between our reader's look at the store and its seat has left the
    /// blob there.
    async fn is_stored(&self) -> bool {
        let Fill { fills, source, progress, .. } = self;
        let found = fills.stored.open(&source.location, &source.digest).await;
        let Some((member, Content { size, source: Source::File(file) })) = found else { return false };
        // It may be what this fill is to prove.
        if member.proof == Proof::Unknown {
            return false;
        }
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
        if let Some(mut left_over) = self.left_over().await {
            let (start, by_whole, asked) = (left_over.written(), left_over.is_by_whole(), Instant::now());
            let opened = match by_whole {
                true => Transfer::open_whole(source.clone(), start).await,
                false => pieces::open(source, start).await,
            };
            match opened {
                Ok(transfer) => {
                    tracing::info!(blob = ?source, start, "resuming an earlier fill");
                    source.givers.note_untold();
                    if !transfer.repeats() {
                        self.fills.metrics.resumed(start);
                    }
                    return Ok((transfer, Ok(left_over)));
                }
                Err(error) if error.class.is_outage() => {
                    // Who comes next asks in the other way.
                    let in_vain = error.contact != Contact::Unreachable && asked.elapsed() >= pieces::SOON;
                    left_over.go_on_by_whole(!by_whole && in_vain);
                    return Err(error);
                }
                // It may have more bytes than the blob has.
                Err(_) => self.fills.discard(left_over).await,
            }
        }
        let (transfer, ingest) = tokio::join!(pieces::open(source, 0), self.create());
        Ok((transfer?.or_anew(), ingest))
    }

    fn origin(&self) -> Origin {
        (self.fills.stored.standing.sender_of(&self.source.location), self.source.digest)
    }

    /// What is left of an earlier fill. What an earlier process wrote is hashed first.
    async fn left_over(&self) -> Option<Ingest> {
        let (ingests, disk) = (&self.fills.ingests, &self.fills.disk);
        let (found, origin) = (Arc::clone(ingests), self.origin());
        ingests.left_over_of(&origin)?;
        let mut resumed = disk.run(move || found.resume(&origin)).await.ok().flatten();
        loop {
            match resumed? {
                Resumed::Ready(ingest) => return Some(*ingest),
                Resumed::Unproven(unproven) => resumed = disk.run(move || unproven.hash_next()).await.ok().flatten(),
            }
        }
    }

    /// Has room for what is there already. What upstream promises beyond that is refused where the store can
    /// never hold it; else it takes room as it comes.
    async fn reserve(&self, total: Option<u64>, ingest: Result<Ingest, StoreError>) -> Result<Filled, StoreError> {
        let Fill { fills, .. } = self;
        let written = ingest.as_ref().map_or(0, Ingest::written);
        let reserved = match fills.room.could_hold(total.unwrap_or_default()) {
            Ok(()) => fills.room.reserve(written, 0).await,
            Err(error) => Err(error),
        };
        let (reservation, ingest) = match (reserved, ingest) {
            (Ok(reservation), ingest) => (reservation, ingest),
            (Err(error), Ok(ingest)) => {
                fills.discard(ingest).await;
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        let mut ingest = match ingest {
            Err(StoreError::NoSpace(_)) => {
                fills.room.relieve(BUFFER as u64).await;
                self.create().await?
            }
            ingest => ingest?,
        };
        fills.ingests.make_resumable(&mut ingest, &self.origin());
        Ok(Filled { ingest, reservation })
    }

    async fn create(&self) -> Result<Ingest, StoreError> {
        let (ingests, digest) = (Arc::clone(&self.fills.ingests), self.source.digest);
        self.fills.disk.run(move || ingests.begin(&digest)).await?
    }
}
