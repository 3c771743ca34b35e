//! Ingests: blobs being written, not yet committed, in one folder beside the store.
//!
//! An ingest is always a local file. Its bytes are appended by one writer and read back at any
//! offset by everyone who follows the fill. Dropping an ingest that was not committed removes its
//! file. What a crash left in the folder is removed when it is opened.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use crate::oci::Digest;

/// The folder of unfinished fills. It must lie on the file system of the blobs: a commit renames.
#[derive(Debug)]
pub struct IngestDir {
    path: PathBuf,
    next: AtomicU64,
}

impl IngestDir {
    /// Opens the folder, creating it if need be, and removes what an earlier process left there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<IngestDir> {
        let path = path.into();
        create_folder(&path)?;
        for entry in fs::read_dir(&path)? {
            let entry = entry?.path();
            if let Err(error) = fs::remove_file(&entry) {
                tracing::warn!(file = %entry.display(), %error, "could not remove an unfinished fill");
            }
        }
        Ok(IngestDir { path, next: AtomicU64::new(0) })
    }

    /// Begins to write a blob that should turn out to have `digest`. With a known `size` in bytes
    /// the room is allocated at once, so that a full disk shows before the first byte.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self, digest: &Digest, size: Option<u64>) -> Result<Ingest, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{}-{}.{number}", digest.algorithm(), digest.hex()));
        let create = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match create() {
            // The folder was removed under a running daemon.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_folder(&self.path)?;
                create()?
            }
            result => result?,
        };
        let ingest = Ingest { file: Arc::new(file), path: Some(path), written: 0 };
        if let Some(size) = size.filter(|size| *size > 0) {
            allocate(&ingest.file, size)?;
        }
        Ok(ingest)
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Allocates blocks without changing the length of the file. File systems that cannot are left alone.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(()),
        result => Ok(result?),
    }
}

/// A blob being written.
#[derive(Debug)]
pub struct Ingest {
    file: Arc<File>,
    /// `None` once the file was taken over by a store.
    path: Option<PathBuf>,
    written: u64,
}

impl Ingest {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`StoreError`]; an unknown part of `bytes` may then have been written, [`Ingest::written`]
    /// does not count it and the next call overwrites it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes were written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The file, for reading at an offset below [`Ingest::written`]. It stays readable after a
    /// commit and after the ingest was dropped.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Where the file is until a store takes it over.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The file is now somebody else's: dropping the ingest no longer removes it.
    pub(crate) fn release(mut self) {
        self.path = None;
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = fs::remove_file(path);
        }
    }
}
