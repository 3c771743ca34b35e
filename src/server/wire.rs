//! How a connection takes parts of files: without TLS as frames for the kernel to send, with TLS as
//! bytes in pooled buffers.
//!
//! Reads never make the reactor wait for a disk: what the page cache has is read at once, the rest
//! on a thread that may block.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use super::io::{Receipt, Regions};
use crate::metrics::SentBy;

/// How much a frame stands for at most, in bytes. Mapping costs the same for much and for little, and
/// between two frames the connection is flushed.
const FRAME: u64 = 64 << 20;
/// How much is read at once where bytes are needed, in bytes.
const BUFFER: usize = 256 << 10;
/// How many buffers are kept for the next reader.
const SPARE_BUFFERS: usize = 64;
/// Bodies that are shorter, in bytes, are read: a frame would cost more.
const SMALL: u64 = 64 << 10;

/// How a connection takes parts of files.
#[derive(Clone, Debug)]
pub enum Wire {
    /// As frames of these regions.
    Plain(Arc<Regions>),
    /// As bytes.
    Tls(Arc<Buffers>),
}

impl Wire {
    /// How many bytes of a file to ask for at a time.
    pub const fn piece(&self) -> u64 {
        match self {
            Wire::Plain(_) => FRAME,
            Wire::Tls(_) => BUFFER as u64,
        }
    }

    /// The beginning of a part of a file, or all of it, ready for the connection, for a body of
    /// `length` bytes. The receipt is told of the bytes when they are sent, or here and now if they
    /// are in memory.
    ///
    /// # Errors
    /// What the file system says; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    pub async fn load<R: Receipt + 'static>(
        &self,
        file: Arc<File>,
        range: Range<u64>,
        length: Option<u64>,
        receipt: &Arc<R>,
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
            Wire::Tls(_) if !small => SentBy::Tls,
            _ => SentBy::Memory,
        };
        let buffers = match self {
            Wire::Tls(buffers) => Arc::clone(buffers),
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
        let mut buffer = Buffer { bytes: self.take(), pool: self };
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

    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS && bytes.capacity() <= BUFFER {
            spare.push(bytes);
        }
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
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}
