//! Response bodies: what the mirror yields, turned into frames for the connection.
//!
//! An error ends the connection, not the body: the client sees fewer bytes than were announced, or
//! a chunked body without its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, BoxStream};
use http_body::{Frame, SizeHint};

use super::exchange::{Exchange, Sending};
use super::io::Receipt as _;
use super::wire::Wire;
use crate::metrics::SentBy;
use crate::mirror::{BlobBody, Chunk, Complaint, MirrorError};

/// Why a body was cut.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The rest of the content cannot be had, or is wrong.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The stored file cannot be read.
    #[error("reading the store: {0}")]
    Read(#[from] std::io::Error),
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
    fn new(frames: Frames, length: Option<u64>, exchange: Exchange) -> ResponseBody {
        ResponseBody::of(frames, length, exchange, None)
    }

    fn of(frames: Frames, length: Option<u64>, mut exchange: Exchange, complaint: Option<Complaint>) -> ResponseBody {
        exchange.announced(length);
        ResponseBody { frames, remaining: length, sending: Sending::new(exchange, complaint) }
    }

    /// No bytes at all.
    pub fn empty(exchange: Exchange) -> ResponseBody {
        ResponseBody::new(Frames::Empty, Some(0), exchange)
    }

    /// Bytes that are in memory.
    pub fn bytes(bytes: Bytes, mut exchange: Exchange) -> ResponseBody {
        let length = bytes.len() as u64;
        exchange.sent(SentBy::Memory, length);
        ResponseBody::new(Frames::Bytes(Some(bytes)), Some(length), exchange)
    }

    /// A blob of `length` bytes, where that is known, for this kind of connection.
    pub fn blob(body: BlobBody, length: Option<u64>, exchange: Exchange, wire: Wire) -> ResponseBody {
        let mut response = ResponseBody::of(Frames::Empty, length, exchange, body.complaint());
        let sending = Arc::clone(&response.sending);
        let begin = (body, wire, sending, None);
        let frames = stream::try_unfold(begin, move |(mut body, wire, sending, rest)| async move {
            let chunk = match rest {
                Some(rest) => rest,
                None => match body.next(wire.piece()).await? {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
            };
            let (bytes, rest) = match chunk {
                Chunk::Bytes(bytes) => {
                    sending.sent(SentBy::Memory, bytes.len() as u64);
                    (bytes, None)
                }
                Chunk::File(file, range) => {
                    let bytes = wire.load(Arc::clone(&file), range.clone(), length, &sending).await?;
                    let rest = range.start + bytes.len() as u64..range.end;
                    (bytes, (!rest.is_empty()).then_some(Chunk::File(file, rest)))
                }
            };
            Ok(Some((bytes, (body, wire, sending, rest))))
        });
        response.frames = Frames::Stream(Box::pin(frames));
        response
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
        match &next {
            Some(Ok(bytes)) => {
                this.remaining = this.remaining.map(|remaining| remaining.saturating_sub(bytes.len() as u64));
            }
            Some(Err(error)) => this.sending.exchange().aborted(error),
            None => this.sending.exchange().completed(),
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
