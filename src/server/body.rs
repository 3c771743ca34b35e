//! Response bodies: what the mirror yields, as the connection takes it. Parts of files go to it without
//! TLS as frames for the kernel to send, with TLS as bytes in pooled buffers.
//!
//! Truths: an error ends the connection, not the body: the client sees fewer bytes than were announced,
//! or a chunked body without its end. Reads never make the reactor wait for a disk: what the page cache
//! has is read at once, the rest on a thread that may block.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, BoxStream};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use rustix::io::{ReadWriteFlags, preadv2};

use super::io::{Receipt, Regions};
use super::record::{Record, Sending};
use super::tags::TagsJson;
use crate::clients::Pace;
use crate::metrics::SentBy;
use crate::mirror::{BlobBody, Chunk, Complaint, MirrorError};

/// How much a frame stands for at most, in bytes. Mapping costs the same for much and for little, and
/// between two frames the connection is flushed.
const FRAME: u64 = 64 << 20;
/// How much is read at once where bytes are needed, in bytes.
const BUFFER: usize = 256 << 10;
/// How many buffers are kept for the next reader.
const SPARE_BUFFERS: usize = 64;
/// Bodies that are shorter, in bytes, are read: a frame would cost more.
const SMALL: u64 = 64 << 10;

/// Why a body was cut.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The rest of the content cannot be had, or is wrong.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The stored file cannot be read.
    #[error("reading the store: {0}")]
    Read(#[from] io::Error),
    /// More bytes came than the client was told of.
    #[error("more bytes than were announced")]
    Overlong,
}

/// The body of a response.
pub struct ResponseBody {
    frames: Frames,
    /// Bytes still to come, where that is known.
    remaining: Option<u64>,
    sending: Arc<Sending>,
}

enum Frames {
    Empty,
    Bytes(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

impl ResponseBody {
    fn new(frames: Frames, length: Option<u64>, mut record: Box<Record>, complaint: Option<Complaint>) -> ResponseBody {
        record.announced(length);
        ResponseBody { frames, remaining: length, sending: Sending::new(record, complaint) }
    }

    /// No bytes at all.
    pub fn empty(record: Box<Record>) -> ResponseBody {
        ResponseBody::new(Frames::Empty, Some(0), record, None)
    }

    /// Bytes that are in memory.
    pub fn bytes(bytes: Bytes, mut record: Box<Record>, pace: Option<Pace>) -> ResponseBody {
        let length = bytes.len() as u64;
        if let Some(pace) = pace {
            let way = Way { wire: Wire::Buffered(Arc::default()), pace: Some(pace) };
            return ResponseBody::pieces(vec![Piece::Bytes(bytes)], Some(length), record, None, way);
        }
        record.sent(SentBy::Memory, length);
        ResponseBody::new(Frames::Bytes(Some(bytes)), Some(length), record, None)
    }

    /// A list, sent piece by piece.
    pub fn list(list: TagsJson, record: Box<Record>, pace: Option<Pace>) -> ResponseBody {
        let way = Way { wire: Wire::Buffered(Arc::default()), pace };
        let length = list.bytes();
        let pieces = list.pieces().into_iter().filter(|piece| !piece.is_empty()).map(Piece::Bytes);
        ResponseBody::pieces(pieces.collect(), Some(length), record, None, way)
    }

    /// A blob of `length` bytes, where that is known, for this kind of connection.
    pub fn blob(body: BlobBody, length: Option<u64>, record: Box<Record>, way: Way) -> ResponseBody {
        let complaint = body.complaint();
        ResponseBody::pieces(vec![Piece::Blob(body, length)], length, record, complaint, way)
    }

    /// Parts of a blob, with `end` behind the last of them.
    pub fn sections(sections: Vec<Section>, end: Bytes, record: Box<Record>, way: Way) -> ResponseBody {
        let length = sections.iter().map(Section::bytes).sum::<u64>() + end.len() as u64;
        let complaint = sections.first().and_then(|section| section.body.complaint());
        let parts = sections
            .into_iter()
            .flat_map(|section| [Piece::Bytes(section.head), Piece::Blob(section.body, Some(section.length))]);
        let pieces = parts.chain([Piece::Bytes(end)]).collect();
        ResponseBody::pieces(pieces, Some(length), record, complaint, way)
    }

    fn pieces(
        pieces: Vec<Piece>,
        length: Option<u64>,
        record: Box<Record>,
        complaint: Option<Complaint>,
        way: Way,
    ) -> ResponseBody {
        let mut response = ResponseBody::new(Frames::Empty, length, record, complaint);
        let begin = Sources { pieces: pieces.into(), rest: None, way, sending: Arc::clone(&response.sending) };
        let frames =
            stream::try_unfold(
                begin,
                |mut sources| async move { Ok(sources.next().await?.map(|bytes| (bytes, sources))) },
            );
        response.frames = Frames::Stream(Box::pin(frames));
        response
    }
}

/// A part of a blob in a body of several (RFC 9110, 14.6).
#[derive(Debug)]
pub struct Section {
    /// What comes before it.
    pub head: Bytes,
    /// Its length in bytes.
    pub length: u64,
    /// Its bytes.
    pub body: BlobBody,
}

impl Section {
    /// How many bytes of the body it takes.
    pub const fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.length
    }
}

/// What a body is made of: of a blob mostly, so that its size is not worth an allocation for each.
#[expect(clippy::large_enum_variant)]
enum Piece {
    Bytes(Bytes),
    /// With its length in bytes, where that is known.
    Blob(BlobBody, Option<u64>),
}

/// Where the bytes of a body come from, piece by piece.
struct Sources {
    pieces: VecDeque<Piece>,
    /// A part of a file that is begun.
    rest: Option<(Arc<File>, Range<u64>)>,
    way: Way,
    sending: Arc<Sending>,
}

impl Sources {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let most = self.way.piece();
        loop {
            let (body, length) = match self.pieces.front_mut() {
                None => return Ok(None),
                Some(Piece::Bytes(bytes)) => {
                    let piece = bytes.split_to(bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)));
                    if bytes.is_empty() {
                        self.pieces.pop_front();
                    }
                    return Ok(Some(in_memory(&self.way, &self.sending, piece).await));
                }
                Some(Piece::Blob(body, length)) => (body, *length),
            };
            let (file, range) = match self.rest.take() {
                Some(rest) => rest,
                None => match body.next(most).await? {
                    None => {
                        self.pieces.pop_front();
                        continue;
                    }
                    Some(Chunk::Bytes(bytes)) => return Ok(Some(in_memory(&self.way, &self.sending, bytes).await)),
                    Some(Chunk::File(file, range)) => (file, range),
                },
            };
            let part = range.start..range.end.min(range.start.saturating_add(most));
            self.way.wait(part.end - part.start).await;
            let bytes = self.way.wire.load(Arc::clone(&file), part, length, &self.sending).await?;
            let rest = range.start + bytes.len() as u64..range.end;
            self.rest = (!rest.is_empty()).then_some((file, rest));
            return Ok(Some(bytes));
        }
    }
}

/// Bytes that are in memory, when they may go.
async fn in_memory(way: &Way, sending: &Sending, bytes: Bytes) -> Bytes {
    way.wait(bytes.len() as u64).await;
    sending.sent(SentBy::Memory, bytes.len() as u64);
    bytes
}

/// How bytes get to a client.
#[derive(Clone, Debug)]
pub struct Way {
    /// How his connection takes parts of files.
    pub wire: Wire,
    /// How fast, where that is limited.
    pub pace: Option<Pace>,
}

impl Way {
    /// How many bytes to ask for at a time.
    fn piece(&self) -> u64 {
        let most = self.wire.piece();
        self.pace.as_ref().map_or(most, |pace| most.min(pace.piece()))
    }

    async fn wait(&self, bytes: u64) {
        if let Some(pace) = &self.pace {
            pace.wait(bytes).await;
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let next = match &mut this.frames {
            Frames::Empty => None,
            Frames::Bytes(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()).map(Ok),
            Frames::Stream(frames) => ready!(Pin::new(frames).poll_next(context)),
        };
        let overlong = |bytes: &Bytes| this.remaining.is_some_and(|remaining| bytes.len() as u64 > remaining);
        let next =
            next.map(|next| next.and_then(|bytes| if overlong(&bytes) { Err(BodyError::Overlong) } else { Ok(bytes) }));
        match &next {
            Some(Ok(bytes)) => {
                this.remaining = this.remaining.map(|remaining| remaining.saturating_sub(bytes.len() as u64));
            }
            Some(Err(error)) => this.sending.record().aborted(error),
            None => this.sending.record().completed(),
        }
        Poll::Ready(next.map(|result| result.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// How a connection takes parts of files.
#[derive(Clone, Debug)]
pub enum Wire {
    /// As frames of these regions.
    Plain(Arc<Regions>),
    /// As bytes.
    Buffered(Arc<Buffers>),
}

impl Wire {
    /// How many bytes of a file to ask for at a time.
    const fn piece(&self) -> u64 {
        match self {
            Wire::Plain(_) => FRAME,
            Wire::Buffered(_) => BUFFER as u64,
        }
    }

    /// The beginning of a part of a file, or all of it, ready for the connection, for a body of
    /// `length` bytes. The receipt is told of the bytes when they are sent, or here and now if they
    /// are in memory.
    ///
    /// # Errors
    /// What the file system says; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    async fn load(
        &self,
        file: Arc<File>,
        range: Range<u64>,
        length: Option<u64>,
        receipt: &Arc<Sending>,
    ) -> io::Result<Bytes> {
        let small = length.is_some_and(|length| length < SMALL);
        let by = match self {
            Wire::Plain(regions) if !small => {
                let receipt = Arc::clone(receipt) as Arc<dyn Receipt>;
                match regions.frame(Arc::clone(&file), range.clone(), receipt) {
                    Ok(frame) => return Ok(frame),
                    // Out of mappings, or a file system without them.
                    Err(error) => tracing::debug!(%error, "a file is read instead of mapped"),
                }
                SentBy::Copy
            }
            Wire::Buffered(_) if !small => SentBy::Tls,
            _ => SentBy::Memory,
        };
        let buffers = match self {
            Wire::Buffered(buffers) => Arc::clone(buffers),
            Wire::Plain(_) => Arc::default(),
        };
        let end = range.end.min(range.start.saturating_add(BUFFER as u64));
        let bytes = buffers.read(file, range.start..end).await.inspect_err(|_| receipt.unreadable())?;
        receipt.sent(by, bytes.len() as u64);
        Ok(bytes)
    }
}

/// Buffers that are used again. What they held before is overwritten before anybody sees it.
#[derive(Debug, Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    async fn read(self: Arc<Buffers>, file: Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(too_long)?;
        let spare = self.0.lock().pop();
        let mut buffer = Buffer { bytes: spare.unwrap_or_default(), pool: self };
        buffer.bytes.resize(length, 0);
        let slices = &mut [IoSliceMut::new(&mut buffer.bytes)];
        // Refused where the file system does not know it, and short where the page cache ends.
        let cached = preadv2(&file, slices, range.start, ReadWriteFlags::NOWAIT).unwrap_or(0);
        if cached < length {
            let read = tokio::task::spawn_blocking(move || {
                let (_, rest) = buffer.bytes.split_at_mut(cached);
                file.read_exact_at(rest, range.start + cached as u64).map(|()| buffer)
            });
            buffer = read.await.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        }
        Ok(Bytes::from_owner(buffer))
    }
}

/// Bytes that go back to the pool when the last slice of them is gone.
struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<Buffers>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.pool.0.lock();
        if spare.len() < SPARE_BUFFERS && self.bytes.capacity() <= BUFFER {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}
