//! Port: verified content under its digest.
//!
//! Truth: a blob visible under its digest has that digest. Staging is always a local file, an
//! [`Ingest`], whatever the store, so following a running fill, verifying and
//! cleaning up after a crash are written once; a store only takes finished ingests over.

pub mod closed;
pub mod format;
pub mod ingest;
pub mod local;
pub mod lock;
pub mod memory;
pub mod unusable;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::oci::Digest;
use ingest::Ingest;

/// Content opened for reading. Stays readable after the blob was deleted.
#[derive(Clone, Debug)]
pub struct Content {
    /// In bytes.
    pub size: u64,
    /// The bytes.
    pub source: Source,
}

/// Where the bytes of opened content are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a file that is never rewritten or truncated.
    File(Arc<File>),
    /// In memory.
    Memory(Bytes),
}

impl Content {
    /// Reads at most `length` bytes at `offset`; fewer at the end of the content.
    ///
    /// # Errors
    /// What the file system says, and [`io::ErrorKind::UnexpectedEof`] when the file is shorter
    /// than it was when it was opened: somebody truncated it behind our back.
    pub fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let length = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        match &self.source {
            Source::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start + length))
            }
            Source::File(file) => read_file_at(file, offset, length),
        }
    }
}

/// Reads exactly `length` bytes at `offset`.
///
/// # Errors
/// What the file system says; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
pub fn read_file_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(Bytes::from(buffer))
}

/// The name of a blob below the store, and its key in a bucket.
pub fn key_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// How much a store holds and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in blobs.
    pub bytes: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes of damaged content that was set aside; they are not among `bytes`.
    pub set_aside: u64,
}

/// Why content could not be kept. The pull it belongs to goes on without the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room: the disk, the quota or the budget is exhausted. A file that is too large for the
    /// process or the file system is no such case: deleting others would not help it.
    #[error("no room in the store")]
    NoSpace(#[source] io::Error),
    /// Anything else the disk said.
    #[error("the store failed: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace(error),
            _ => StoreError::Io(error),
        }
    }
}

/// Why something that is stored is not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It cannot be what its digest says.
    Damaged(String),
    /// It may be, and who works here cannot read it.
    Closed(String),
}

impl Flaw {
    fn set_aside() -> Flaw {
        Flaw::Damaged("it was set aside".to_owned())
    }
}

/// Holds verified content.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Opens a blob. `None` when it is not there, or when what is there cannot be it (not a plain
    /// file, unreadable): that is a miss, never an error of the pull.
    async fn open(&self, digest: &Digest) -> Option<Content>;

    /// Takes over an ingest whose bytes were verified against `digest`. When this returns `Ok` the
    /// blob survives a power cut. Committing what is already there succeeds.
    ///
    /// # Errors
    /// [`StoreError`]; the ingest is then gone and nothing is visible.
    async fn commit(&self, ingest: Ingest, digest: &Digest) -> Result<(), StoreError>;

    /// Deletes a blob, and what was set aside under its digest. Content opened before stays readable; deleting
    /// what is not there succeeds.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    async fn delete(&self, digest: &Digest) -> Result<(), StoreError>;

    /// Every blob with its size in bytes. For start-up and housekeeping, never for a request.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    async fn list(&self) -> Result<Vec<(Digest, u64)>, StoreError>;

    /// Takes content out of sight that turned out not to be what its digest says, unless it was
    /// replaced since it was opened as `content`. Whether it was still there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    async fn set_aside(&self, digest: &Digest, content: &Content) -> Result<bool, StoreError>;

    /// Whether there is something under a digest that cannot be it, so that it is not opened, or nothing because
    /// it was set aside. Blocks for as long as it takes to open a file.
    fn is_damaged(&self, digest: &Digest) -> bool;

    /// Why what is under a digest is not opened; `None` where it is, or nothing is there. Blocks as long.
    fn flaw(&self, digest: &Digest) -> Option<Flaw> {
        self.is_damaged(digest).then(Flaw::set_aside)
    }

    /// Deletes for good what was set aside.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    async fn drop_set_aside(&self) -> Result<(), StoreError>;

    /// Whether nothing says that the blob reached the disk whole: whoever serves it hashes it before.
    fn is_unproven(&self, _digest: &Digest) -> bool {
        false
    }

    /// The blob was hashed and is what it should be.
    fn vouch(&self, _digest: &Digest) {}

    /// How much is stored, from memory.
    fn usage(&self) -> Usage;

    /// Bytes that the disk takes for blobs beyond what they have, because it gives whole blocks; from memory.
    fn rounding(&self) -> u64 {
        0
    }

    /// Bytes of blobs that were deleted and that somebody reads still, from memory: the disk has them until then.
    fn lingering(&self) -> u64 {
        0
    }

    /// The blobs that somebody reads just now: to delete them frees nothing yet.
    fn reading(&self) -> HashSet<Digest> {
        HashSet::new()
    }

    /// How many entries there are in what grows with what is read.
    fn tables(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// How often a blob was taken out of sight, from memory: deleted, set aside, found missing.
    /// Rises after the blob is gone and before the call that took it away returns, so what was
    /// opened since a number was read is still there as long as the number stands.
    fn removals(&self) -> u64;
}
