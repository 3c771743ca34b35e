//! The side of a fill that faces the disk: puts chunks where they belong, tells readers, then hashes.
//!
//! Bytes are hashed in order. What came ahead of its turn is read back for that when the gap before it
//! has closed; it is in the page cache by then. A fill has no thread of its own: what came is written in
//! turns at the disk, each about one call long.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::blob_store::ingest::Ingest;
use crate::blob_store::{StoreError, read_file_at};
use crate::mirror::error::MirrorError;
use crate::mirror::fill::end::{End, Filled, compare};
use crate::mirror::fill::passing::Unkept;
use crate::mirror::fill::pieces::Chunk;
use crate::mirror::fill::{Fills, QUEUE};
use crate::mirror::flight::progress::{Doubt, Phase, Progress};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::room::Reservation;
use crate::oci::plausible::begins_like_a_page;
use crate::oci::{Algorithm, Verifier};
use crate::upstream::UpstreamError;

/// A body whose length nobody told, and that may have no end, is kept up to this part of what the store may hold.
const UNTOLD_SHARE: u64 = 4;

/// How many bytes of the file are read at a time to be hashed.
const REHASH: usize = 1 << 20;

/// Why a batch was not written whole.
enum Refusal {
    /// So many bytes more have to be reserved first.
    Room(u64),
    /// It goes on and on.
    Endless,
    Disk(StoreError),
}

/// Why nothing more is written.
pub(super) enum Stopped {
    For(End),
    /// The disk failed, or there is no room: what comes can only be passed on.
    Unkept(Box<Unkept>),
}

impl From<End> for Stopped {
    fn from(end: End) -> Stopped {
        Stopped::For(end)
    }
}

/// Writes one fill.
pub(super) struct Writer {
    fills: Arc<Fills>,
    ingest: Ingest,
    reservation: Reservation,
    verifier: Verifier,
    progress: Arc<watch::Sender<Progress>>,
    total: Option<u64>,
    algorithm: Algorithm,
    /// How many bytes came so far, in whatever order: so many must be reserved.
    came: u64,
    /// How many may come.
    most: u64,
    /// The first byte that the verifier has not seen.
    hashed: u64,
}

impl Writer {
    pub(super) fn new(
        fills: Arc<Fills>,
        Filled { mut ingest, reservation }: Filled,
        source: &BlobSource,
        progress: Arc<watch::Sender<Progress>>,
        total: Option<u64>,
    ) -> Writer {
        let algorithm = source.digest.algorithm();
        // What an earlier fill left in the file; after a restart it was hashed already.
        let hashed = ingest.take_hashed().map(|verifier| (verifier, ingest.written()));
        let (verifier, hashed) = hashed.unwrap_or_else(|| (Verifier::new(algorithm), 0));
        let came = ingest.written();
        let most = if total.is_some() { u64::MAX } else { fills.room.most_room() / UNTOLD_SHARE };
        Writer { fills, ingest, reservation, verifier, progress, total, algorithm, came, most, hashed }
    }

    /// Writes what comes until nothing more does.
    pub(super) async fn run(mut self, chunks: &mut mpsc::Receiver<Chunk>) -> Result<Writer, Stopped> {
        self = self.catch_up().await?;
        while let Some(first) = chunks.recv().await {
            let mut batch = VecDeque::from([first]);
            while batch.len() < QUEUE
                && let Ok(next) = chunks.try_recv()
            {
                batch.push_back(next);
            }
            self = self.write(batch).await?;
        }
        Ok(self.compare_with_file().await?)
    }

    /// Does something in one turn at the disk.
    async fn turn<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Writer) -> T + Send + 'static,
    ) -> Result<(Writer, T), End> {
        let fills = Arc::clone(&self.fills);
        let turn = move || {
            let done = work(&mut self);
            (self, done)
        };
        fills.disk.run(turn).await.map_err(|error| End::Failed(MirrorError::Internal(error.to_string())))
    }

    /// Writes a batch, with room reserved for what is in it. A disk that is full gets one chance more, after
    /// something was evicted.
    async fn write(mut self, mut batch: VecDeque<Chunk>) -> Result<Writer, Stopped> {
        let mut relieved = false;
        loop {
            let put = move |writer: &mut Writer| {
                let put = writer.put(&mut batch);
                (batch, put)
            };
            let (writer, (rest, put)) = self.turn(put).await?;
            (self, batch) = (writer.catch_up().await?, rest);
            let error = match put {
                Ok(()) => return Ok(self),
                Err(Refusal::Room(bytes)) => {
                    let promised = self.total.unwrap_or_default().saturating_sub(self.came + length_of(&batch));
                    match self.fills.room.reserve(bytes, promised).await {
                        Ok(reservation) => {
                            self.reservation.add(reservation);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                Err(Refusal::Endless) => {
                    let reason = format!("its length is not told, and it has more than {} bytes", self.most);
                    StoreError::NoSpace(io::Error::new(io::ErrorKind::StorageFull, reason))
                }
                Err(Refusal::Disk(StoreError::NoSpace(_))) if !relieved => {
                    relieved = true;
                    self.fills.room.relieve(length_of(&batch)).await;
                    continue;
                }
                Err(Refusal::Disk(error)) => error,
            };
            return Err(self.give_up(&error, batch).await);
        }
    }

    /// Writes, tells readers, then hashes. What could not be written stays in the batch.
    fn put(&mut self, batch: &mut VecDeque<Chunk>) -> Result<(), Refusal> {
        let in_all = self.came + length_of(batch);
        if in_all > self.most {
            return Err(Refusal::Endless);
        }
        let missing = in_all.saturating_sub(self.reservation.bytes());
        if missing > 0 {
            let reservation = self.fills.room.reserve_at_once(missing).ok_or(Refusal::Room(missing))?;
            self.reservation.add(reservation);
        }
        let (before, mut put) = (self.ingest.written(), Vec::new());
        let mut result = Ok(());
        while let Some(chunk) = batch.pop_front() {
            result = self.ingest.write_at(chunk.offset, chunk.bytes());
            if result.is_err() {
                batch.push_front(chunk);
                break;
            }
            self.came += chunk.bytes().len() as u64;
            put.push(chunk);
        }
        let written = self.ingest.written();
        if written > before {
            let begins = |chunk: &&Chunk| before == 0 && chunk.offset == 0;
            let is_page = put.iter().find(begins).is_some_and(|chunk| begins_like_a_page(chunk.bytes()));
            self.progress.send_modify(|progress| {
                progress.written = written;
                if is_page {
                    progress.doubt = Doubt::Page;
                }
            });
        }
        for chunk in put {
            if chunk.offset == self.hashed {
                self.verifier.update(chunk.bytes());
                self.hashed = chunk.end();
            }
        }
        if self.hashed == written && self.ingest.is_proof_due() {
            self.prove();
        }
        result.map_err(Refusal::Disk)
    }

    /// Lets a later process go on from here. What is complete has no use for it.
    fn prove(&mut self) {
        if self.total.is_some_and(|total| self.ingest.written() < total) {
            self.ingest.prove(&self.verifier.clone().finish());
        }
    }

    /// Hashes what is in the file without a gap and was not hashed when it came.
    async fn catch_up(mut self) -> Result<Writer, End> {
        while self.hashed < self.ingest.written() {
            let (writer, read) = self.turn(Writer::hash_next).await?;
            self = writer;
            if let Err(error) = read {
                return Err(self.unreadable(&error).await);
            }
        }
        Ok(self)
    }

    fn hash_next(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.ingest.written() - self.hashed).unwrap_or(usize::MAX).min(REHASH);
        self.verifier.update(&read_file_at(&self.ingest.file(), self.hashed, length)?);
        self.hashed += length as u64;
        Ok(())
    }

    /// What was hashed on its way must be what is in the file: nobody may have cut that meanwhile, because
    /// what is written later would leave a hole.
    async fn compare_with_file(self) -> Result<Writer, End> {
        let last_look = |writer: &mut Writer| {
            writer.prove();
            let is_whole = writer.total.is_none_or(|total| total == writer.ingest.written());
            !is_whole || writer.ingest.is_uncut()
        };
        let (mut writer, is_sound) = self.turn(last_look).await?;
        if is_sound {
            return Ok(writer);
        }
        let seen = std::mem::replace(&mut writer.verifier, Verifier::new(writer.algorithm)).finish();
        writer.hashed = 0;
        writer = writer.catch_up().await?;
        if writer.verifier.clone().finish() == seen {
            return Ok(writer);
        }
        Err(writer.unreadable(&io::Error::other("it was changed while it was written")).await)
    }

    async fn unreadable(self, error: &io::Error) -> End {
        self.fills.discard(self.ingest).await;
        End::Failed(MirrorError::Internal(format!("an unfinished fill cannot be read: {error}")))
    }

    /// Whether what was written is the blob; tells readers if it is.
    pub(super) async fn verify(self, source: &BlobSource, pumped: Result<(), UpstreamError>) -> Result<Filled, End> {
        let Writer { fills, mut ingest, verifier, reservation, total, progress, .. } = self;
        let compared = pumped.and_then(|()| compare(source, verifier.finish(), total, ingest.written()));
        if let Err(error) = compared {
            if error.class.is_outage() {
                // The bytes so far may be good for the next fill.
                ingest.doubt();
            } else {
                fills.discard(ingest).await;
            }
            return Err(error.into());
        }
        progress.send_modify(|progress| {
            progress.total = Some(progress.written);
            progress.phase = Phase::Verified;
        });
        Ok(Filled { ingest, reservation })
    }

    /// Readers keep what is in the file.
    async fn give_up(self, error: &StoreError, rest: VecDeque<Chunk>) -> Stopped {
        let Writer { fills, ingest, verifier, hashed, .. } = self;
        fills.discard(ingest).await;
        Stopped::Unkept(Box::new(Unkept { reason: error.to_string(), rest, position: hashed, verifier }))
    }
}

/// In bytes.
fn length_of(batch: &VecDeque<Chunk>) -> u64 {
    batch.iter().map(|chunk| chunk.bytes().len() as u64).sum()
}
