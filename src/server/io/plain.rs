//! The I/O object of a connection without TLS: sends frames that stand for files by sendfile(2).
//!
//! Truth: the thread of the reactor never waits for a disk. Before a piece of a file is sent the page
//! cache is asked for it (`preadv2` with `RWF_NOWAIT`, one byte every `STRIDE`), once for what is sent
//! within a moment, however many calls that takes; a piece that is not there is read on a thread
//! that may block, and sent from memory. The same happens where a file system knows no sendfile.
//! `cachestat(2)` would see more, but a seccomp filter that is older than it ends the process.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::net::sockopt::set_tcp_cork;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::JoinHandle;

use super::{FilePart, Regions};
use crate::blob_store::read_file_at;
use crate::metrics::SentBy;
use crate::server::connection::Connection;

/// How much is sent by one call at most, and before others get their turn, in bytes: a client that takes
/// as fast as we send would keep the thread for itself. Half of it cut layers of 3 MiB in two, and a tenth was lost with
/// 64 clients.
const BURST: u64 = 4 << 20;
/// How far apart the page cache is probed, in bytes. What is missing between two probes costs one
/// read of the disk.
const STRIDE: u64 = 512 << 10;
/// For how long the page cache is taken to hold what it held when it was asked.
const MOMENT: Duration = Duration::from_secs(1);

/// A TCP connection that knows frames.
#[derive(Debug)]
pub struct PlainStream {
    stream: Connection,
    regions: Arc<Regions>,
    corked: bool,
    /// The file system refused sendfile once.
    refused: bool,
    ahead: Ahead,
    found: Option<Found>,
    /// How many bytes were sent since others had their turn.
    in_this_turn: u64,
}

/// What the page cache was found to hold: of this file, up to this offset, at this moment.
#[derive(Debug)]
struct Found {
    /// Weak, so that a connection that is kept open keeps no file open.
    file: Weak<File>,
    range: Range<u64>,
    at: Instant,
}

impl Found {
    /// How many bytes at the beginning of `part` are still believed to be there.
    fn covers(&self, part: &FilePart) -> u64 {
        let same = Weak::as_ptr(&self.file) == Arc::as_ptr(&part.file) && self.range.contains(&part.offset);
        if same && self.at.elapsed() < MOMENT { self.range.end - part.offset } else { 0 }
    }
}

/// What is read on another thread, because the page cache has not got it.
#[derive(Debug)]
enum Ahead {
    Nothing,
    Reading(JoinHandle<io::Result<Piece>>),
    Read(Piece),
}

#[derive(Debug)]
struct Piece {
    file: Arc<File>,
    offset: u64,
    bytes: Bytes,
}

impl Piece {
    /// The bytes from `part` on, as far as they are here.
    fn from(&self, part: &FilePart) -> Option<&[u8]> {
        let skip = usize::try_from(part.offset.checked_sub(self.offset)?).ok()?;
        let bytes = Arc::ptr_eq(&self.file, &part.file).then(|| self.bytes.get(skip..))?;
        bytes.filter(|bytes| !bytes.is_empty())
    }
}

impl PlainStream {
    /// A connection that sends the frames of `regions`.
    pub const fn new(stream: Connection, regions: Arc<Regions>) -> PlainStream {
        PlainStream {
            stream,
            regions,
            corked: false,
            refused: false,
            ahead: Ahead::Nothing,
            found: None,
            in_this_turn: 0,
        }
    }

    /// Holds back packets that are not full, or lets them go. It only saves packets: a socket that
    /// does not know it works without.
    fn cork(&mut self, on: bool) {
        if self.corked != on {
            self.corked = on;
            let _ = set_tcp_cork(self.stream.socket(), on);
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, part: &FilePart, length: usize) -> Poll<io::Result<usize>> {
        self.cork(true);
        if self.in_this_turn >= BURST {
            self.in_this_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match &mut self.ahead {
                Ahead::Reading(reading) => {
                    let piece = ready!(Pin::new(reading).poll(context));
                    self.ahead = Ahead::Nothing;
                    let piece = piece.unwrap_or_else(|error| Err(io::Error::other(error)));
                    self.ahead = Ahead::Read(piece.inspect_err(|_| part.receipt.unreadable())?);
                    continue;
                }
                Ahead::Read(piece) => {
                    if let Some(bytes) = piece.from(part) {
                        let bytes = bytes.get(..length).unwrap_or(bytes);
                        let sent = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
                        part.receipt.sent(SentBy::Copy, sent as u64);
                        return Poll::Ready(Ok(sent));
                    }
                    self.ahead = Ahead::Nothing;
                }
                Ahead::Nothing => {}
            }
            ready!(self.stream.poll_writable(context))?;
            let wanted = BURST.min(length as u64);
            let cached = if self.refused { 0 } else { self.cached(part, wanted) };
            if cached == 0 {
                let (file, offset, length) = (Arc::clone(&part.file), part.offset, wanted.min(STRIDE));
                self.ahead = Ahead::Reading(tokio::task::spawn_blocking(move || {
                    let bytes = read_file_at(&file, offset, usize::try_from(length).unwrap_or_default())?;
                    Ok(Piece { file, offset, bytes })
                }));
                continue;
            }
            match self.sendfile(part, cached) {
                Ok(0) => {
                    part.receipt.unreadable();
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(sent) => {
                    part.receipt.sent(SentBy::Sendfile, sent as u64);
                    self.stream.took(sent)?;
                    self.in_this_turn += sent as u64;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_refusal(&error) => self.refused = true,
                Err(error) => {
                    // Everything else is about the socket.
                    if Errno::from_io_error(&error) == Some(Errno::IO) {
                        part.receipt.unreadable();
                    }
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// How many of the `wanted` bytes of this part can be sent without waiting for the disk.
    fn cached(&mut self, part: &FilePart, wanted: u64) -> u64 {
        let known = self.found.as_ref().map_or(0, |found| found.covers(part));
        if known > 0 {
            return known.min(wanted);
        }
        let cached = cached(&part.file, part.offset, wanted);
        let range = part.offset..part.offset + cached;
        self.found = Some(Found { file: Arc::downgrade(&part.file), range, at: Instant::now() });
        cached
    }

    fn sendfile(&self, part: &FilePart, length: u64) -> io::Result<usize> {
        let mut offset = part.offset;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // Tried again until the socket refuses, also after it took less: what room the client makes
        // meanwhile is worth more than the call. With 64 clients, waiting at once cost twice the CPU.
        let socket = self.stream.socket();
        socket.try_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(socket, &part.file, Some(&mut offset), length)?))
    }
}

fn is_refusal(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// How many of the `length` bytes at `offset` can be sent without waiting for the disk, as far as
/// probes tell. The end of the file counts: who sends finds out about it.
fn cached(file: &File, offset: u64, length: u64) -> u64 {
    let mut known = 0;
    while known < length {
        let mut byte = [0];
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset + known, ReadWriteFlags::NOWAIT) {
            Ok(_) => known += STRIDE,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) if is_in_memory(file) => return length,
            Err(_) => break,
        }
    }
    known.min(length)
}

/// Whether the file has no disk: tmpfs does not answer the question what the page cache holds, because
/// it is nowhere else.
fn is_in_memory(file: &File) -> bool {
    /// statfs(2), `TMPFS_MAGIC`.
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == TMPFS)
}

impl AsyncRead for PlainStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.regions.part(bytes) {
            Some(part) => this.poll_send(context, &part, bytes.len()),
            None => Pin::new(&mut this.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let begin = slices.iter().take_while(|slice| slice.is_empty()).count();
        let slices = slices.get(begin..).unwrap_or_default();
        let mut plain = 0;
        for slice in slices {
            match this.regions.part(slice) {
                Some(part) if plain == 0 => return this.poll_send(context, &part, slice.len()),
                // The head of the response waits for the first bytes of its file.
                Some(_) => {
                    this.cork(true);
                    break;
                }
                None => plain += 1,
            }
        }
        Pin::new(&mut this.stream).poll_write_vectored(context, slices.get(..plain).unwrap_or_default())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.cork(false);
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.cork(false);
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
