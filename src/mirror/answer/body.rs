//! The bytes of a blob on their way to one client: stored, filling, or relayed.
//!
//! Truth: a body that ends without an error was verified. The exception is a client that asks for a
//! part of a blob which is still arriving, where the part does not reach the end or is read lazily
//! (see `lazy`): no digest covers a part, and holding it back until the whole is there would
//! stall those who read lazily.
//!
//! Every reader has its own offset and its own pace; none of them is known to the fill.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::blob_store::{Content, Source};
use crate::mirror::answer::relay::Relay;
use crate::mirror::error::MirrorError;
use crate::mirror::flight::progress::{Following, Phase};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::keep::scrub::Complaint;
use crate::oci::Span;

/// The next piece of a body.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes of a file that is never rewritten: the edge decides how they get to the socket.
    File(Arc<File>, Range<u64>),
}

impl Chunk {
    /// How many bytes it is.
    pub const fn len(&self) -> u64 {
        match self {
            Chunk::Bytes(bytes) => bytes.len() as u64,
            Chunk::File(_, range) => range.end - range.start,
        }
    }

    /// Whether it is nothing at all. Bodies do not yield such chunks.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The bytes of a blob for one client.
#[derive(Debug)]
pub enum BlobBody {
    /// From the store.
    Stored(Content, Range<u64>, Complaint),
    /// Following a fill.
    Filling(FillReader),
    /// Straight from upstream.
    Relayed(Box<Relay>),
}

impl BlobBody {
    /// Where to complain when the stored file turns out to be unreadable.
    pub fn complaint(&self) -> Option<Complaint> {
        match self {
            BlobBody::Stored(_, _, complaint) => Some(complaint.clone()),
            _ => None,
        }
    }

    /// The next piece, of at most `limit` bytes where it comes from a file; `None` at the end.
    ///
    /// # Errors
    /// When the rest cannot be had, or is not what the digest names. The response must then be
    /// aborted, not ended.
    pub async fn next(&mut self, limit: u64) -> Result<Option<Chunk>, MirrorError> {
        match self {
            BlobBody::Stored(content, range, _) => Ok(stored(content, range, limit)),
            BlobBody::Filling(reader) => {
                if let Some(chunk) = reader.next(limit).await? {
                    return Ok(Some(chunk));
                }
                match reader.go_on_alone() {
                    Some(relay) => {
                        *self = BlobBody::Relayed(Box::new(relay));
                        Box::pin(self.next(limit)).await
                    }
                    None => Ok(None),
                }
            }
            BlobBody::Relayed(relay) => Ok(relay.next().await?.map(Chunk::Bytes)),
        }
    }
}

fn stored(content: &Content, range: &mut Range<u64>, limit: u64) -> Option<Chunk> {
    let piece = range.start..range.end.min(range.start.saturating_add(limit));
    if piece.is_empty() {
        return None;
    }
    range.start = piece.end;
    Some(match &content.source {
        Source::File(file) => Chunk::File(Arc::clone(file), piece),
        Source::Memory(bytes) => {
            let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Chunk::Bytes(bytes.slice(index(piece.start)..index(piece.end)))
        }
    })
}

/// Reads along with a running fill.
#[derive(Debug)]
pub struct FillReader {
    fill: Following,
    source: BlobSource,
    offset: u64,
    /// The first byte that is not wanted; `None` for everything up to the end.
    end: Option<u64>,
    _seat: Arc<AtomicBool>,
}

impl FillReader {
    /// Reads `span` of the blob that `fill` brings from `source`.
    pub fn new(fill: Following, source: BlobSource, span: Span) -> FillReader {
        let seat = Arc::clone(&fill.borrow().seats);
        seat.store(true, Ordering::Relaxed);
        FillReader { fill, source, offset: span.start, end: span.end, _seat: seat }
    }

    /// The next piece. `None` at the end, and also when the store gave up: see
    /// [`FillReader::go_on_alone`].
    async fn next(&mut self, limit: u64) -> Result<Option<Chunk>, MirrorError> {
        loop {
            match self.step(limit)? {
                Step::Read(chunk) => return Ok(Some(chunk)),
                Step::End => return Ok(None),
                Step::Wait => {}
            }
            if self.fill.changed().await.is_err() {
                // The fill is gone. Its last word counts; a fill without one has failed.
                return match self.step(limit)? {
                    Step::Read(chunk) => Ok(Some(chunk)),
                    Step::End => Ok(None),
                    Step::Wait => Err(MirrorError::Internal("the fill ended without a result".to_owned())),
                };
            }
        }
    }

    fn step(&mut self, limit: u64) -> Result<Step, MirrorError> {
        let FillReader { fill, offset, end, .. } = self;
        let progress = fill.borrow_and_update();
        let part = end.filter(|end| progress.total.is_some_and(|total| *end < total));
        let readable = part.map_or(progress.readable(), |end| progress.written.min(end));
        let piece = *offset..readable.min(offset.saturating_add(limit));
        if let (false, Some(file)) = (piece.is_empty(), &progress.file) {
            *offset = piece.end;
            return Ok(Step::Read(Chunk::File(Arc::clone(file), piece)));
        }
        match &progress.phase {
            _ if part.is_some_and(|end| *offset >= end) => Ok(Step::End),
            Phase::Starting | Phase::Streaming => Ok(Step::Wait),
            Phase::Verified | Phase::Unkept(_) => Ok(Step::End),
            Phase::Failed(error) => Err(error.clone()),
        }
    }

    /// After the store gave up on the fill: the rest of this reader's bytes, straight from upstream.
    fn go_on_alone(&self) -> Option<Relay> {
        let progress = self.fill.borrow();
        match &progress.phase {
            Phase::Unkept(verifier) => {
                let span = Span { start: self.offset, end: self.end };
                Some(Relay::from(self.source.clone(), span, progress.total, progress.written, verifier.clone()))
            }
            _ => None,
        }
    }
}

enum Step {
    Read(Chunk),
    Wait,
    End,
}
