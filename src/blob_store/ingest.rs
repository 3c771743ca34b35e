//! Ingests: blobs being written, not yet committed, in one folder beside the store.
//!
//! An ingest is always a local file. Its bytes are appended by one writer and read back at any
//! offset by everyone who follows the fill. Dropping an ingest removes its file, unless it was made
//! resumable: then the file stays, named by its digest, for whoever fills the same blob next, also
//! after a stop or a kill. What stays is not trusted; it is hashed again by the fill that goes on
//! with it. What an earlier boot of the machine left is removed: its bytes may never have reached the
//! disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use super::StoreError;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

/// The end of what is left over is cut off by so many bytes, so that there is always something to
/// ask upstream for, and the last write before a kill is not relied on.
const CUT_OFF: u64 = 4 << 10;
/// What is left over is kept when it has at least so many bytes: less is fetched sooner than resumed.
const WORTH_KEEPING: u64 = 256 << 10;
/// How long what is left over is kept.
const KEPT_FOR: Duration = Duration::from_secs(3 * 86_400);
/// The end of the name of a file with gaps: its length does not say how much of it can be resumed.
const GAPS: &str = "~";
/// The ending of the file beside the folder that names the boot of the machine in which it was last
/// used.
const BOOT: &str = "boot";

/// The folder of unfinished fills. It must lie on the file system of the blobs: a commit renames.
#[derive(Debug)]
pub struct IngestDir {
    path: PathBuf,
    next: AtomicU64,
    left_over: Arc<Mutex<LeftOver>>,
}

/// Files that wait for a fill to go on with them: name and size in bytes.
type LeftOver = HashMap<Digest, (PathBuf, u64)>;

impl IngestDir {
    /// Opens the folder, creating it if need be. Of what an earlier process left there the files
    /// that can be resumed are kept, one for each digest.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<IngestDir> {
        let path = path.into();
        create_folder(&path)?;
        let same_boot = note_boot(&path);
        let mut left_over = LeftOver::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            let size = entry.metadata().ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len());
            let digest = name.to_str().and_then(digest_in_name);
            match (digest, size) {
                (Some(digest), Some(size)) if same_boot => keep(&mut left_over, digest, entry.path(), size),
                _ => remove(&entry.path()),
            }
        }
        // Names must not clash with what is left over.
        let next =
            AtomicU64::new(left_over.values().filter_map(|(path, _)| number_in_name(path)).max().unwrap_or(0) + 1);
        Ok(IngestDir { path, next, left_over: Arc::new(Mutex::new(left_over)) })
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
        let ingest = Ingest::new(file, path, 0);
        ingest.allocate(size)?;
        Ok(ingest)
    }

    /// Takes over what is left of an earlier fill of this blob, if there is something. Its bytes
    /// have yet to be hashed. Nobody else gets it meanwhile.
    pub fn resume(&self, digest: &Digest) -> Option<Ingest> {
        let (path, size) = lock(&self.left_over).remove(digest)?;
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
        let written = size.saturating_sub(CUT_OFF);
        let cut = opened.and_then(|file| {
            if !file.metadata()?.is_file() || file.metadata()?.len() < written {
                return Err(io::ErrorKind::InvalidData.into());
            }
            file.set_len(written)?;
            Ok(file)
        });
        match cut {
            Ok(file) => {
                let mut ingest = Ingest::new(file, path, written);
                self.make_resumable(&mut ingest, digest);
                Some(ingest)
            }
            Err(_) => {
                remove(&path);
                None
            }
        }
    }

    /// From now on the file stays when the ingest is dropped, for [`IngestDir::resume`].
    pub fn make_resumable(&self, ingest: &mut Ingest, digest: &Digest) {
        ingest.resumable = Some((*digest, Arc::clone(&self.left_over)));
    }

    /// How many bytes are left over from earlier fills.
    pub fn left_over(&self) -> u64 {
        lock(&self.left_over).values().map(|(_, size)| size).sum()
    }

    /// Removes what is left over: the room is needed.
    pub fn drop_left_over(&self) {
        lock(&self.left_over).drain().for_each(|(_, (path, _))| remove(&path));
    }

    /// Removes what was left over too long ago.
    pub fn expire(&self, now: Timestamp) {
        let expired = |path: &Path| {
            let written = fs::metadata(path).and_then(|metadata| metadata.modified()).map(Timestamp::from);
            written.is_ok_and(|written| written.age(now).is_some_and(|age| age > KEPT_FOR))
        };
        lock(&self.left_over).retain(|_, (path, _)| {
            let stays = !expired(path);
            if !stays {
                remove(path);
            }
            stays
        });
    }
}

/// Remembers the present boot of the machine; whether it was that one before. Where boots cannot be
/// told apart nothing is kept.
fn note_boot(folder: &Path) -> bool {
    let Ok(boot) = fs::read("/proc/sys/kernel/random/boot_id") else { return false };
    let file = folder.with_extension(BOOT);
    let same = fs::read(&file).is_ok_and(|before| before == boot);
    if !same && let Err(error) = fs::write(&file, boot) {
        tracing::debug!(%error, "unfinished fills will not be resumed after a restart");
    }
    same
}

/// Keeps the longest file of each digest, if it is worth it.
fn keep(left_over: &mut LeftOver, digest: Digest, path: PathBuf, size: u64) {
    let longest = left_over.get(&digest).map_or(WORTH_KEEPING, |(_, known)| *known);
    if size < longest {
        remove(&path);
    } else if let Some((shorter, _)) = left_over.insert(digest, (path, size)) {
        remove(&shorter);
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "could not remove an unfinished fill");
        }
        _ => {}
    }
}

fn digest_in_name(name: &str) -> Option<Digest> {
    let (algorithm, rest) = name.split_once('-')?;
    let (hex, _) = rest.split_once('.').filter(|(_, number)| !number.ends_with(GAPS))?;
    Algorithm::ALL.iter().find(|known| known.as_str() == algorithm)?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn number_in_name(path: &Path) -> Option<u64> {
    path.extension()?.to_str()?.parse().ok()
}

fn lock(left_over: &Mutex<LeftOver>) -> MutexGuard<'_, LeftOver> {
    left_over.lock().unwrap_or_else(PoisonError::into_inner)
}

fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A blob being written.
#[derive(Debug)]
pub struct Ingest {
    file: Arc<File>,
    /// `None` once the file was taken over by a store.
    path: Option<PathBuf>,
    written: u64,
    /// What was written ahead of that, start and end, without touching each other.
    ahead: BTreeMap<u64, u64>,
    /// Where the file is kept for the next fill when this is dropped.
    resumable: Option<(Digest, Arc<Mutex<LeftOver>>)>,
}

impl Ingest {
    fn new(file: File, path: PathBuf, written: u64) -> Ingest {
        Ingest { file: Arc::new(file), path: Some(path), written, ahead: BTreeMap::new(), resumable: None }
    }

    /// Allocates the blocks of a file of `size` bytes without changing its length. File systems that
    /// cannot are left alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn allocate(&self, size: Option<u64>) -> Result<(), StoreError> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        let Some(rest) = size.and_then(|size| size.checked_sub(self.written)).filter(|rest| *rest > 0) else {
            return Ok(());
        };
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.written, rest) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            result => Ok(result.map_err(io::Error::from)?),
        }
    }

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

    /// Writes bytes that may be ahead of their turn. They count as written when everything before them
    /// is. What is left over after a kill with gaps in it is not resumed.
    ///
    /// # Errors
    /// [`StoreError`]; the bytes then do not count, as in [`Ingest::append`].
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if offset == self.written {
            self.append(bytes)?;
        } else {
            if self.ahead.is_empty() {
                self.rename(true)?;
            }
            self.file.write_all_at(bytes, offset)?;
            let end = offset + bytes.len() as u64;
            let before = self.ahead.range(..offset).next_back().filter(|(_, end)| **end == offset);
            let start = before.map_or(offset, |(start, _)| *start);
            self.ahead.insert(start, end);
        }
        let had_gaps = !self.ahead.is_empty();
        while let Some((start, end)) = self.ahead.first_key_value().map(|(start, end)| (*start, *end))
            && start <= self.written
        {
            self.ahead.remove(&start);
            self.written = self.written.max(end);
        }
        if had_gaps && self.ahead.is_empty() {
            self.rename(false)?;
        }
        Ok(())
    }

    /// Gives the file the name of one with gaps, or of one without.
    fn rename(&mut self, gaps: bool) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
        let name = name.trim_end_matches(GAPS);
        let path = path.with_file_name(if gaps { format!("{name}{GAPS}") } else { name.to_owned() });
        fs::rename(self.path.as_deref().unwrap_or(&path), &path)?;
        self.path = Some(path);
        Ok(())
    }

    /// How many bytes were written, without a gap.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The file, for reading at an offset below [`Ingest::written`]. It stays readable after a
    /// commit and after the ingest was dropped.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Removes the file although it was resumable: its bytes are wrong, or take room.
    pub fn discard(mut self) {
        self.resumable = None;
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
        if self.resumable.is_some() {
            // Gives back what was allocated and not written, or written behind a gap.
            let cut = self.file.set_len(self.written);
            if !self.ahead.is_empty() && cut.and_then(|()| self.rename(false)).is_err() {
                self.resumable = None;
            }
        }
        match (self.path.take(), self.resumable.take()) {
            (Some(path), Some((digest, left_over))) => {
                keep(&mut lock(&left_over), digest, path, self.written);
            }
            (Some(path), None) => remove(&path),
            (None, _) => {}
        }
    }
}
