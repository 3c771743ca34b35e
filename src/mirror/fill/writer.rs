//! The side of a fill that faces the disk: puts chunks where they belong, tells readers, then hashes.
//!
//! Bytes are hashed in order. What came ahead of its turn is read back for that when the gap before it
//! has closed; it is in the page cache by then.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::blob_store::ingest::Ingest;
use crate::blob_store::{StoreError, read_file_at};
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::end::{End, Filled};
use crate::mirror::fill::pieces::Chunk;
use crate::mirror::flight::progress::{Phase, Progress};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::keep::RoomKeeper;
use crate::mirror::room::Reservation;
use crate::oci::{Algorithm, Digest, Verifier};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// How many bytes are written at most before readers are told.
const PUBLISH_EVERY: usize = 256 << 10;
/// How many bytes are reserved at a time for a blob of unknown size.
pub(super) const STEP: u64 = 8 << 20;
/// How many bytes of the file are read at a time to be hashed.
const REHASH: usize = 256 << 10;

/// Writes one fill. Runs on a thread that may block.
pub(super) struct Writer {
    room: Arc<RoomKeeper>,
    ingest: Ingest,
    reservation: Reservation,
    verifier: Verifier,
    progress: Arc<watch::Sender<Progress>>,
    total: Option<u64>,
    algorithm: Algorithm,
    /// The first byte that the verifier has not seen.
    hashed: u64,
    /// Whether room was made on the disk already.
    relieved: bool,
}

impl Writer {
    pub(super) fn new(
        room: Arc<RoomKeeper>,
        ingest: Ingest,
        reservation: Reservation,
        algorithm: Algorithm,
        progress: Arc<watch::Sender<Progress>>,
        total: Option<u64>,
    ) -> Writer {
        let verifier = Verifier::new(algorithm);
        Writer { room, ingest, reservation, verifier, progress, total, algorithm, hashed: 0, relieved: false }
    }

    pub(super) fn run(mut self, mut chunks: mpsc::Receiver<Chunk>) -> Result<Writer, End> {
        // What an earlier fill left in the file; after a restart it was hashed already.
        if let Some(verifier) = self.ingest.take_hashed() {
            (self.verifier, self.hashed) = (verifier, self.ingest.written());
        }
        if let Err(error) = self.catch_up() {
            return Err(self.unreadable(&error));
        }
        if let Err(error) = self.allocate() {
            return Err(self.give_up(error));
        }
        while let Some(first) = chunks.blocking_recv() {
            let (mut batch, mut failure) = (Vec::new(), None);
            let (mut next, mut bytes) = (Some(first), 0);
            let before = self.ingest.written();
            while let Some(chunk) = next.take() {
                if let Err(error) = self.put(&chunk) {
                    failure = Some(error);
                    break;
                }
                bytes += chunk.bytes().len();
                batch.push(chunk);
                if bytes < PUBLISH_EVERY {
                    next = chunks.try_recv().ok();
                }
            }
            let written = self.ingest.written();
            if failure.is_none() && written > before {
                self.progress.send_modify(|progress| progress.written = written);
            }
            for chunk in batch {
                if chunk.offset == self.hashed {
                    self.verifier.update(chunk.bytes());
                    self.hashed += chunk.bytes().len() as u64;
                }
            }
            if let Err(error) = self.catch_up() {
                return Err(self.unreadable(&error));
            }
            if let Some(error) = failure {
                return Err(self.give_up(error));
            }
            if self.ingest.is_proof_due() {
                self.prove();
            }
        }
        self.prove();
        self.compare_with_file()
    }

    /// What was hashed on its way must be what is in the file: nobody may have cut that meanwhile, because
    /// what is written later would leave a hole.
    fn compare_with_file(mut self) -> Result<Writer, End> {
        let is_whole = self.total.is_none_or(|total| total == self.ingest.written());
        if !is_whole || self.ingest.is_uncut() {
            return Ok(self);
        }
        let seen = std::mem::replace(&mut self.verifier, Verifier::new(self.algorithm));
        self.hashed = 0;
        let read = self.catch_up();
        match read {
            Ok(()) if self.verifier.clone().finish() == seen.finish() => Ok(self),
            Ok(()) => Err(self.unreadable(&io::Error::other("it was changed while it was written"))),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// Lets a later process go on from here. What is complete has no use for it.
    fn prove(&mut self) {
        if self.total.is_some_and(|total| self.ingest.written() < total) {
            self.ingest.prove(&self.verifier.clone().finish());
        }
    }

    /// Allocates the blocks of the whole blob. A disk that is full gets one chance more, after something
    /// was evicted.
    fn allocate(&mut self) -> Result<(), StoreError> {
        match self.ingest.allocate(self.total) {
            Err(StoreError::NoSpace(_)) => {
                self.relieve();
                self.ingest.allocate(self.total)
            }
            result => result,
        }
    }

    fn relieve(&mut self) {
        self.relieved = true;
        let rest = self.total.map_or(STEP, |total| total.saturating_sub(self.ingest.written()));
        tokio::runtime::Handle::current().block_on(self.room.relieve(rest));
    }

    /// Hashes what is in the file without a gap and was not hashed when it came.
    fn catch_up(&mut self) -> io::Result<()> {
        let file = self.ingest.file();
        while self.hashed < self.ingest.written() {
            let length = usize::try_from(self.ingest.written() - self.hashed).unwrap_or(usize::MAX).min(REHASH);
            self.verifier.update(&read_file_at(&file, self.hashed, length)?);
            self.hashed += length as u64;
        }
        Ok(())
    }

    fn unreadable(self, error: &io::Error) -> End {
        self.ingest.discard();
        End::Failed(MirrorError::Internal(format!("an unfinished fill cannot be read: {error}")))
    }

    /// Writes, with room reserved for it. A disk that is full gets one chance more, after something
    /// was evicted.
    fn put(&mut self, chunk: &Chunk) -> Result<(), StoreError> {
        let (offset, bytes) = (chunk.offset, chunk.bytes());
        let runtime = tokio::runtime::Handle::current();
        let end = offset + bytes.len() as u64;
        if let Some(missing) = end.checked_sub(self.reservation.bytes()).filter(|missing| *missing > 0) {
            self.reservation.add(runtime.block_on(self.room.reserve(missing.max(STEP)))?);
        }
        match self.ingest.write_at(offset, bytes) {
            Err(StoreError::NoSpace(_)) if !self.relieved => {
                self.relieve();
                self.ingest.write_at(offset, bytes)
            }
            result => result,
        }
    }

    /// Whether what was written is the blob; tells readers if it is.
    pub(super) fn verify(self, source: &BlobSource, pumped: Result<(), UpstreamError>) -> Result<Filled, End> {
        let Writer { mut ingest, verifier, reservation, total, progress, .. } = self;
        let compared = pumped.and_then(|()| compare(source, verifier.finish(), total, ingest.written()));
        if let Err(error) = compared {
            let doubtful = ingest.is_doubtful();
            if error.class.is_outage() {
                // The bytes so far may be good for the next fill.
                ingest.doubt();
                return Err(error.into());
            }
            ingest.discard();
            return Err(if doubtful {
                End::Doubted(MirrorError::upstream(Subject::Blob, error))
            } else {
                error.into()
            });
        }
        progress.send_modify(|progress| {
            progress.total = Some(progress.written);
            progress.phase = Phase::Verified;
        });
        Ok(Filled { ingest, reservation })
    }

    /// The disk failed: readers keep what is in the file and go on by themselves.
    fn give_up(self, error: StoreError) -> End {
        let written = self.ingest.written();
        self.progress.send_modify(|progress| {
            progress.written = written;
            progress.phase = Phase::Unkept(self.verifier);
        });
        self.ingest.discard();
        End::Unkept(error)
    }
}

fn compare(source: &BlobSource, found: Digest, total: Option<u64>, written: u64) -> Result<(), UpstreamError> {
    let BlobSource { location, digest, .. } = source;
    let broken = |what: String| {
        Err(UpstreamError::new(UpstreamErrorClass::Protocol, format!("{location}: blob {digest}: {what}")))
    };
    if total.is_some_and(|total| total != written) {
        return broken(format!("upstream sent {written} bytes of {total:?}"));
    }
    if found != *digest {
        return broken(format!("upstream sent {found}"));
    }
    Ok(())
}
