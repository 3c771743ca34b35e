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

use super::exchange::Exchange;
use crate::blob_store::read_file_at;
use crate::mirror::{BlobBody, Chunk, MirrorError};

/// How much of a file is read at once, in bytes.
const READ_SIZE: u64 = 256 << 10;

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
    exchange: Exchange,
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
    /// No bytes at all.
    pub fn empty(mut exchange: Exchange) -> ResponseBody {
        exchange.completed();
        ResponseBody { frames: Frames::Empty, remaining: Some(0), exchange }
    }

    /// Bytes that are in memory.
    pub fn bytes(bytes: Bytes, exchange: Exchange) -> ResponseBody {
        let remaining = Some(bytes.len() as u64);
        ResponseBody { frames: Frames::Bytes(Some(bytes)), remaining, exchange }
    }

    /// A blob of `length` bytes, where that is known.
    pub fn blob(body: BlobBody, length: Option<u64>, exchange: Exchange) -> ResponseBody {
        let frames = stream::try_unfold(body, |mut body| async move {
            Ok(match body.next(READ_SIZE).await? {
                Some(chunk) => Some((load(chunk).await?, body)),
                None => None,
            })
        });
        ResponseBody { frames: Frames::Stream(Box::pin(frames)), remaining: length, exchange }
    }
}

async fn load(chunk: Chunk) -> Result<Bytes, BodyError> {
    match chunk {
        Chunk::Bytes(bytes) => Ok(bytes),
        Chunk::File(file, range) => {
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let file = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || read_file_at(&file, range.start, length)).await;
            Ok(read.unwrap_or_else(|error| Err(std::io::Error::other(error)))?)
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
        match &next {
            Some(Ok(bytes)) => {
                this.exchange.sent(bytes.len() as u64);
                this.remaining = this.remaining.map(|remaining| remaining.saturating_sub(bytes.len() as u64));
                if this.remaining == Some(0) {
                    this.exchange.completed();
                }
            }
            Some(Err(error)) => this.exchange.aborted(error),
            None => this.exchange.completed(),
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
