//! One blob through several connections, for upstreams that are slow on each of them.
//!
//! The first request asks for the first piece only. When upstream answers with just that, and the
//! blob is large, the rest is read in pieces: one stream leads, others help, and each takes the next
//! piece when it has finished one. What comes ahead of its turn is written where it belongs, so it
//! waits on the disk and not in memory; readers see the prefix without gaps.
//!
//! Truth: help never breaks a fill. Whatever goes wrong with a piece, an answer without the range,
//! another size, a connection that stays broken, its rest is given back and the leading stream goes
//! on alone; only what fails then fails the fill. The file is long because the handing out, the help and
//! the giving back of pieces are one protocol.

use std::ops::Range;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::poll;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::mirror::flight::bounds::{BUFFER, Bounds, Buffer};
use crate::mirror::flight::places::Place;
use crate::mirror::flight::transfer::{BlobSource, Transfer};
use crate::oci::Span;
use crate::upstream::{Contact, UpstreamError, UpstreamErrorClass};

/// How much is asked for at a time, in bytes.
const PIECE: u64 = 8 << 20;
/// What is left of a blob must be more than this, in bytes, to be read by several streams.
const LARGE: u64 = 24 << 20;

/// For so many bytes at the beginning everything is handed over as it comes: a client waits for it.
const EARLY: u64 = 512 << 10;

/// Bytes on their way to the file.
pub(super) struct Chunk {
    pub(super) offset: u64,
    buffer: Buffer,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes
    }

    /// The offset of the first byte behind it.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.buffer.bytes.len() as u64
    }

    /// Moves bytes from the front of `bytes` to the end, up to the next multiple of [`BUFFER`] in the file.
    /// How many they were.
    fn fill(&mut self, bytes: &mut Bytes) -> u64 {
        let taken = bytes.split_to(self.room().min(bytes.len()));
        self.buffer.bytes.extend_from_slice(&taken);
        taken.len() as u64
    }

    fn room(&self) -> usize {
        BUFFER - (self.offset % BUFFER as u64) as usize - self.buffer.bytes.len()
    }
}

/// An outage that took less time to show leaves time to ask in another way.
pub(super) const SOON: Duration = Duration::from_secs(3);

/// Asks upstream for the blob from `start` on, or for the whole where it will not give the rest: what is left over
/// must not be in the way of what is to be had.
pub(super) async fn open(source: &BlobSource, start: u64) -> Result<Transfer, UpstreamError> {
    let asked = Instant::now();
    let streams = source.upstream.health().streams;
    let may_be_the_range =
        |error: &UpstreamError| start > 0 || (streams > 1 && error.class == UpstreamErrorClass::Unavailable);
    match open_part(source, start).await {
        Err(error) if may_be_the_range(&error) && error.class.is_outage() && asked.elapsed() < SOON => {
            tracing::debug!(blob = ?source, start, %error, "no answer to a range, asking for everything");
            Transfer::open_whole(source.clone(), start).await
        }
        opened => opened,
    }
}

/// Asks upstream for the blob from `start` on, or for its first piece where several streams are
/// allowed.
async fn open_part(source: &BlobSource, start: u64) -> Result<Transfer, UpstreamError> {
    if source.upstream.health().streams > 1 {
        let first = Span { start, end: Some(start.saturating_add(PIECE)) };
        match Transfer::open(source.clone(), first, None).await {
            Ok(mut transfer) if transfer.size().is_some() || !transfer.is_part() => {
                transfer.widen();
                return Ok(transfer);
            }
            Ok(_) => {}
            // An answer such as 501 may be about the range.
            Err(error) if error.contact == Contact::Answered && error.class == UpstreamErrorClass::Unavailable => {
                tracing::debug!(blob = ?source, %error, "no answer to a range, asking for everything");
            }
            Err(error) => return Err(error),
        }
    }
    Transfer::open(source.clone(), Span::from(start), None).await
}

/// Where chunks go.
pub(super) struct Drain<'a> {
    pub(super) queue: mpsc::Sender<Chunk>,
    pub(super) bounds: &'a Bounds,
}

impl Drain<'_> {
    /// Moves what `transfer` brings, keeping `position` at its next byte; whether the writer is
    /// still there.
    ///
    /// After the beginning what comes at once goes together, because a turn at the disk, and waking the readers
    /// after it, costs as much as writing a small chunk. A buffer is held only while there
    /// are bytes for it, so that an upstream which stalls takes no memory from the others.
    async fn take_from(&self, transfer: &mut Transfer, position: &mut u64) -> Result<bool, UpstreamError> {
        let (mut gathered, early) = (None, *position + EARLY);
        loop {
            let mut bytes = match self.next_of(transfer, &mut gathered).await {
                Ok(Some(bytes)) => bytes,
                end => {
                    let taken = self.hand_over(&mut gathered).await;
                    return end.map(|_| taken);
                }
            };
            while !bytes.is_empty() {
                let chunk = match &mut gathered {
                    Some(chunk) => chunk,
                    None => gathered.insert(Chunk { offset: *position, buffer: self.bounds.buffer().await }),
                };
                *position += chunk.fill(&mut bytes);
                if chunk.room() == 0 && !self.hand_over(&mut gathered).await {
                    return Ok(false);
                }
            }
            if *position <= early && !self.hand_over(&mut gathered).await {
                return Ok(false);
            }
        }
    }

    /// The next bytes. What is gathered does not wait for them.
    async fn next_of(
        &self,
        transfer: &mut Transfer,
        gathered: &mut Option<Chunk>,
    ) -> Result<Option<Bytes>, UpstreamError> {
        let mut next = pin!(transfer.next());
        let mut ready = poll!(&mut next);
        if ready.is_pending() && gathered.is_some() {
            // The connection gets its turn; what it has by then goes along.
            tokio::task::yield_now().await;
            ready = poll!(&mut next);
        }
        match ready {
            Poll::Ready(next) => next,
            // Nobody wants more: upstream may stand still for long.
            Poll::Pending if !self.hand_over(gathered).await => Ok(None),
            Poll::Pending => next.await,
        }
    }

    /// Whether the writer is there to take it.
    async fn hand_over(&self, gathered: &mut Option<Chunk>) -> bool {
        match gathered.take() {
            Some(chunk) => self.queue.send(chunk).await.is_ok(),
            None => !self.queue.is_closed(),
        }
    }
}

/// Moves a blob from upstream to the writer, beginning with what `first` brings from `start` on; ends
/// early when the writer is gone. Where it may be helped, what comes may come ahead of its turn.
///
/// # Errors
/// What fails the leading stream when it is alone.
pub(super) async fn pump(
    source: &BlobSource,
    mut first: Transfer,
    start: u64,
    drain: Drain<'_>,
    may_be_helped: bool,
    metrics: &Metrics,
) -> Result<(), UpstreamError> {
    let mut position = start;
    let (size, end) = match (first.size(), first.end()) {
        (Some(size), Some(end)) if end < size => (size, end),
        _ => return drain.take_from(&mut first, &mut position).await.map(drop),
    };
    let mut places = Vec::new();
    if may_be_helped && size - end > LARGE {
        let lane = drain.bounds.lane(&source.location.upstream);
        let spare = || lane.fills.spare();
        places.extend(std::iter::from_fn(spare).take(source.upstream.health().streams - 1));
    }
    if !places.is_empty() {
        let streams = places.len();
        metrics.streams_helped(streams);
        tracing::info!(blob = ?source, streams = streams + 1, "reading a blob through several connections");
    }
    let alone = places.is_empty();
    let pieces = Pieces::new(source, end..size, alone, metrics);
    let helpers = async {
        join_all(places.into_iter().map(|place| pieces.help(&drain, place))).await;
        Ok(())
    };
    let lead = async {
        if drain.take_from(&mut first, &mut position).await? {
            drop(first);
            pieces.lead(&drain, alone).await?;
        } else {
            pieces.stop();
        }
        Ok(())
    };
    tokio::try_join!(lead, helpers)?;
    // What a helper gave back after the leading stream had found nothing more to do, or what that left.
    pieces.give_back(size..size);
    pieces.lead(&drain, true).await
}

/// What is left of a blob, and who reads which part of it.
struct Pieces<'a> {
    source: &'a BlobSource,
    metrics: &'a Metrics,
    size: u64,
    left: Mutex<Left>,
}

struct Left {
    /// The first byte that nobody has taken yet.
    next: u64,
    /// What was taken and not finished.
    given_back: Vec<Range<u64>>,
    /// Whether there is one stream only.
    alone: bool,
}

impl<'a> Pieces<'a> {
    fn new(source: &'a BlobSource, left: Range<u64>, alone: bool, metrics: &'a Metrics) -> Pieces<'a> {
        let (next, size) = (left.start, left.end);
        Pieces { source, metrics, size, left: Mutex::new(Left { next, given_back: Vec::new(), alone }) }
    }

    /// The next piece for the leading stream; everything up to the end when it is alone.
    fn take(&self) -> Option<Range<u64>> {
        let mut left = self.left.lock();
        if let Some(first) = (0..left.given_back.len()).min_by_key(|at| left.given_back.get(*at).map(|r| r.start)) {
            return Some(left.given_back.swap_remove(first));
        }
        let end = if left.alone { self.size } else { left.next.saturating_add(PIECE).min(self.size) };
        let piece = left.next..end;
        left.next = end;
        (!piece.is_empty()).then_some(piece)
    }

    /// The next piece for a stream that helps.
    fn take_to_help(&self) -> Option<Range<u64>> {
        if self.left.lock().alone { None } else { self.take() }
    }

    /// The writer is gone: there is nothing more to do.
    fn stop(&self) {
        let mut left = self.left.lock();
        (left.next, left.alone) = (self.size, true);
        left.given_back.clear();
    }

    /// From now on the leading stream is alone; `rest` is for it. Whether it was not alone before.
    fn give_back(&self, rest: Range<u64>) -> bool {
        let mut left = self.left.lock();
        if !rest.is_empty() {
            left.given_back.push(rest);
        }
        !std::mem::replace(&mut left.alone, true)
    }

    fn alone(&self, error: &UpstreamError) {
        self.metrics.streams_gave_up();
        tracing::warn!(blob = ?self.source, %error, "reading the rest of a blob through one connection");
    }

    /// Reads pieces, until somebody else wants the place.
    async fn help(&self, drain: &Drain<'_>, place: Place) {
        while !place.gives_way()
            && let Some(mut piece) = self.take_to_help()
        {
            match self.read(drain, &mut piece).await {
                Ok(true) => {}
                Ok(false) => return self.stop(),
                Err(error) => {
                    self.give_back(piece);
                    return self.alone(&error);
                }
            }
        }
    }

    /// Reads what is left. Where it is not `alone` somebody may be at it still: then trouble is no failure,
    /// and what it leaves is read later.
    async fn lead(&self, drain: &Drain<'_>, alone: bool) -> Result<(), UpstreamError> {
        while let Some(mut piece) = self.take() {
            match self.read(drain, &mut piece).await {
                Ok(true) => {}
                Ok(false) => self.stop(),
                Err(error) if alone => {
                    self.stop();
                    return Err(error);
                }
                Err(error) => {
                    // Those who help may be what stood in the way: the rest waits until they have left.
                    if self.give_back(piece) {
                        self.alone(&error);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads a piece, and moves its start over what has come; whether the writer is still there.
    async fn read(&self, drain: &Drain<'_>, piece: &mut Range<u64>) -> Result<bool, UpstreamError> {
        let BlobSource { location, digest, .. } = self.source;
        let broken = |what: &str| {
            let message = format!("{location}: blob {digest}: {what}, at byte {}", piece.start);
            UpstreamError::new(UpstreamErrorClass::Protocol, message)
        };
        let span = Span { start: piece.start, end: Some(piece.end) };
        let alone = self.left.lock().alone;
        let mut transfer = match Transfer::open(self.source.clone(), span, Some(self.size)).await {
            // Nobody else is at it: upstream gave the rest before, and is asked for it again.
            Err(error) if alone && error.class.is_outage() => Transfer::of(self.source.clone(), span, Some(self.size)),
            transfer => transfer?,
        };
        if !transfer.is_part() && !alone {
            return Err(broken("everything instead of a part"));
        }
        let mut position = piece.start;
        let taken = drain.take_from(&mut transfer, &mut position).await;
        piece.start = position;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::StreamExt as _;
    use futures_util::stream;

    use super::*;
    use crate::metadata::Location;
    use crate::oci::challenge::Challenge;
    use crate::oci::{AcceptSet, Algorithm, Cursor, Digest, Manifest, Page, Reference, Repository};
    use crate::upstream::{ReferrerList, Resolved, TagList, Upstream, UpstreamBlob};

    const CHUNK: u64 = 64 << 10;

    /// Sends blobs of `size` bytes as fast as they are taken, and counts what was taken.
    #[derive(Default)]
    struct Fast {
        size: u64,
        taken: Arc<AtomicU64>,
        /// Then nothing more comes, and no end either.
        stalls: bool,
    }

    #[async_trait]
    impl Upstream for Fast {
        async fn resolve(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Resolved, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn manifest(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Manifest, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn stat(&self, _: &Repository, _: &Digest) -> Result<Option<u64>, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn stat_by_get(&self, _: &Repository, _: &Digest) -> Result<Option<u64>, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn blob(&self, _: &Repository, _: &Digest, _: Span) -> Result<UpstreamBlob, UpstreamError> {
            let taken = Arc::clone(&self.taken);
            let rest = stream::iter(0..u64::from(self.stalls)).then(|_| std::future::pending());
            let chunks = stream::iter(0..self.size / CHUNK).map(move |_| {
                taken.fetch_add(CHUNK, Ordering::SeqCst);
                Ok(Bytes::from_static(&[0; CHUNK as usize]))
            });
            let body = chunks.chain(rest).boxed();
            Ok(UpstreamBlob::new(Some(self.size), 0, false, body))
        }

        async fn tags(&self, _: &Repository, _: &Page) -> Result<TagList, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn enter(&self) -> Result<(), UpstreamError> {
            unreachable!("not asked for")
        }

        async fn challenge(&self, _: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn referrers(
            &self,
            _: &Repository,
            _: &Digest,
            _: Option<&str>,
            _: Option<&Cursor>,
        ) -> Result<ReferrerList, UpstreamError> {
            unreachable!("not asked for")
        }
    }

    fn fast(number: u64, size: u64, taken: &Arc<AtomicU64>) -> BlobSource {
        of(Fast { size, taken: Arc::clone(taken), ..Fast::default() }, number)
    }

    fn of(upstream: Fast, number: u64) -> BlobSource {
        let upstream = Arc::new(upstream);
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "a".parse().expect("a name") };
        BlobSource::at(upstream, location, Digest::of(Algorithm::Sha256, &number.to_le_bytes()))
    }

    #[tokio::test]
    async fn what_comes_at_once_is_handed_over_in_pieces_that_end_at_multiples_of_a_buffer() {
        let size = 4 << 20;
        let bounds = Bounds::new(1, Duration::ZERO, 64 << 20);
        let (queue, mut chunks) = mpsc::channel(1000);
        let drain = Drain { queue, bounds: &bounds };
        let mut transfer = open(&fast(0, size, &Arc::default()), 0).await.expect("an answer");
        // As after a resume.
        let (start, mut position) = (1234, 1234);
        assert!(drain.take_from(&mut transfer, &mut position).await.is_ok_and(|taken| taken));
        drop(drain);
        assert_eq!(position, start + size);
        let mut next = start;
        while let Some(chunk) = chunks.recv().await {
            assert_eq!(chunk.offset, next);
            next += chunk.bytes().len() as u64;
            let is_early = next <= start + EARLY;
            assert!(is_early || next == position || next.is_multiple_of(BUFFER as u64), "a chunk ends at {next}");
        }
        assert_eq!(next, position);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_stands_still_is_left_when_the_writer_is_gone() {
        // One chunk more than is handed over as it comes.
        let early = EARLY / CHUNK;
        let stalling = Fast { size: (early + 1) * CHUNK, stalls: true, ..Fast::default() };
        let bounds = Bounds::new(1, Duration::ZERO, 64 << 20);
        let (queue, mut chunks) = mpsc::channel(1000);
        let drain = Drain { queue, bounds: &bounds };
        let mut transfer = open(&of(stalling, 0), 0).await.expect("an answer");
        let write = async move {
            for _ in 0..early {
                chunks.recv().await;
            }
        };
        let (patience, mut position) = (std::time::Duration::from_secs(60), 0);
        let (taken, ()) =
            tokio::join!(tokio::time::timeout(patience, drain.take_from(&mut transfer, &mut position)), write);
        assert!(matches!(taken, Ok(Ok(false))));
    }

    #[tokio::test]
    async fn fills_that_the_disk_cannot_take_stay_within_one_bound_of_memory_and_go_on_when_it_can() {
        const FILLS: u64 = 16;
        const MEMORY: u64 = 1 << 20;
        let taken = Arc::new(AtomicU64::new(0));
        let size = 4 << 20;
        let bounds = Bounds::new(64, Duration::ZERO, u32::try_from(MEMORY).expect("small"));
        let (mut queues, mut fills) = (Vec::new(), Vec::new());
        for number in 0..FILLS {
            let source = fast(number, size, &taken);
            let (queue, chunks) = mpsc::channel(super::super::QUEUE);
            queues.push(chunks);
            let drain = Drain { queue, bounds: &bounds };
            fills.push(async move {
                let mut transfer = open(&source, 0).await?;
                drain.take_from(&mut transfer, &mut 0).await
            });
        }
        let mut fills = pin!(join_all(fills));
        // Nobody writes: polled until nothing moves any more.
        let mut before = u64::MAX;
        while before != taken.load(Ordering::SeqCst) {
            before = taken.load(Ordering::SeqCst);
            assert!(poll!(&mut fills).is_pending());
            tokio::task::yield_now().await;
        }
        assert!(before >= MEMORY, "{before} bytes: the bound is not what stops them");
        assert!(before <= MEMORY + FILLS * CHUNK, "{before} bytes, and one chunk each that waits");
        let write = join_all(queues.iter_mut().map(|chunks| async move {
            let mut written = 0;
            while let Some(chunk) = chunks.recv().await {
                written += chunk.bytes().len() as u64;
            }
            written
        }));
        let (fills, written) = tokio::join!(fills, write);
        assert!(fills.into_iter().all(|fill| fill.is_ok_and(|taken| taken)));
        assert!(written.into_iter().all(|written| written == size));
    }
}
