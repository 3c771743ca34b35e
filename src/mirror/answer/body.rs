//! The bytes of a blob on their way to one client, wherever they come from, and what a range selects of them.
//!
//! Truth: a body that ends without an error was verified, but for lazy reads (see `lazy`).

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob_store::{Content, Source};
use crate::mirror::answer::reader::{FillReader, Piece};
use crate::mirror::answer::relay::Relay;
use crate::mirror::error::MirrorError;
use crate::mirror::room::stored::Complaint;
use crate::oci::{RangeHeader, Selection};

/// What was selected of a blob, and its bytes.
#[derive(Debug)]
pub enum Selected {
    /// All of it.
    Whole(BlobBody),
    /// A part.
    Part(Range<u64>, BlobBody),
    /// Several parts, in the order in which they are sent.
    Parts(Vec<(Range<u64>, BlobBody)>),
}

impl Selected {
    /// One part or several.
    pub(super) fn of(mut parts: Vec<(Range<u64>, BlobBody)>) -> Selected {
        match parts.pop() {
            Some((part, body)) if parts.is_empty() => Selected::Part(part, body),
            last => {
                parts.extend(last);
                Selected::Parts(parts)
            }
        }
    }
}

/// What `range` selects of a blob of `size` bytes, where that is known, with bodies that `body` makes.
pub(super) fn select(
    range: Option<&RangeHeader>,
    size: Option<u64>,
    body: impl Fn(Option<&Range<u64>>) -> BlobBody,
) -> Result<Selected, MirrorError> {
    match range.zip(size).map(|(range, size)| range.select(size)) {
        None | Some(Selection::Whole) => Ok(Selected::Whole(body(None))),
        Some(Selection::Part(part)) => Ok(Selected::Part(part.clone(), body(Some(&part)))),
        Some(Selection::Parts(parts)) => {
            Ok(Selected::Parts(parts.into_iter().map(|part| (part.clone(), body(Some(&part)))).collect()))
        }
        Some(Selection::Unsatisfiable) => Err(MirrorError::Range { size: size.unwrap_or_default() }),
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
            BlobBody::Stored(content, range, _) => Ok(next_of(content, range, limit)),
            BlobBody::Filling(reader) => {
                match reader.next(limit).await? {
                    Some(Piece::Kept(file, piece)) => return Ok(Some(Chunk::File(file, piece))),
                    Some(Piece::Passed(bytes)) => return Ok(Some(Chunk::Bytes(bytes))),
                    None => {}
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

fn next_of(content: &Content, range: &mut Range<u64>, limit: u64) -> Option<Chunk> {
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
