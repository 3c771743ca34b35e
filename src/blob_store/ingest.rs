//! Ingests: blobs being written, not yet committed, in one folder beside the store.
//!
//! An ingest is always a local file. Its bytes are appended by one writer and read back at any
//! offset by everyone who follows the fill. Dropping an ingest removes its file, unless it was made
//! resumable: then the file stays, named by its digest, for whoever fills the same blob next, also
//! after a stop, a kill or a power cut. What an earlier process left is not trusted, its bytes may
//! never have reached the disk: now and then the hash of what was written so far is noted beside it,
//! in an extended attribute, and only what still has that hash is gone on with, so that no reader
//! gets a byte that was not received. A file system without such attributes forgets at a restart.
//! Readers get what is left over before the whole is verified, so it is for the upstream that sent it only.
//! The file is long because what is noted and what is gone on with are two ends of one format.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::XattrFlags;

use super::{StoreError, read_file_at};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Verifier};
use crate::small_file::{self, make_folder};

/// The end of what is left over is cut off by so many bytes, so that there is always something to
/// ask upstream for, and the last write before a kill is not relied on.
const CUT_OFF: u64 = 4 << 10;
/// What is left over is kept when it has at least so many bytes: less is fetched sooner than resumed.
const WORTH_KEEPING: u64 = 256 << 10;
/// How long what is left over is kept.
const KEPT_FOR: Duration = Duration::from_secs(3 * 86_400);
/// The attribute that holds a length, in eight bytes, the hash of so many bytes, and who sent them.
const PROOF: &str = "user.registry-mirror.written";
/// The attribute of a file whose bytes came from an upstream that was in trouble.
const DOUBT: &str = "user.registry-mirror.doubtful";
/// A longer note is none of ours, in bytes.
const LONGEST_NOTE: usize = 8 + 64 + 512;
/// How many bytes are hashed at a time.
const PIECE: usize = 1 << 20;

/// The folder of unfinished fills. It must lie on the file system of the blobs: a commit renames.
#[derive(Debug)]
pub struct IngestDir {
    path: PathBuf,
    next: AtomicU64,
    left_over: Arc<Mutex<LeftOver>>,
    deleted: Deleted,
}

/// Files that were removed while somebody read them: in bytes, and who may.
type Deleted = Arc<Mutex<Vec<(u64, Weak<File>)>>>;

/// Who sends a blob, in a word, and the blob.
pub type Origin = (String, Digest);

/// Files that wait for a fill to go on with them.
type LeftOver = HashMap<Origin, Unfinished>;

#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    /// In bytes.
    size: u64,
    /// The hash of so many bytes, where an earlier process wrote them.
    proof: Option<Digest>,
    /// Whether the bytes may be others than they should.
    doubtful: bool,
    /// Whether its rest was waited for in vain, and the whole is to be asked for.
    by_whole: bool,
}

impl IngestDir {
    /// Opens the folder, creating it if need be. Of what an earlier process left there the files
    /// that can be resumed are kept, one for each digest and who sends it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<IngestDir> {
        let path = path.into();
        make_folder(&path)?;
        let mut left_over = LeftOver::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(digest_in_name);
            match digest.and_then(|digest| proven(entry.path(), digest)) {
                Some((origin, unfinished)) => keep(&mut left_over, origin, unfinished),
                None => remove(&entry.path()),
            }
        }
        // Names must not clash with what is left over.
        let next = AtomicU64::new(
            left_over.values().filter_map(|unfinished| number_in_name(&unfinished.path)).max().unwrap_or(0) + 1,
        );
        Ok(IngestDir { path, next, left_over: Arc::new(Mutex::new(left_over)), deleted: Arc::default() })
    }

    /// Begins to write a blob that should turn out to have `digest`. Nothing is allocated for it: that would keep its
    /// first byte waiting the longer the larger it is said to be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self, digest: &Digest) -> Result<Ingest, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{}-{}.{number}", digest.algorithm(), digest.hex()));
        let create = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = match create() {
            // The folder was removed under a running daemon.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&self.path)?;
                create()?
            }
            result => result?,
        };
        Ok(Ingest::new(file, path, 0, &self.deleted))
    }

    /// How many bytes are left of an earlier fill of this blob. Does not look at the disk.
    pub fn left_over_of(&self, origin: &Origin) -> Option<u64> {
        self.left_over.lock().get(origin).map(|unfinished| unfinished.size)
    }

    /// Takes over what is left of an earlier fill of this blob, if there is something. Nobody else
    /// gets it meanwhile.
    pub fn resume(&self, origin: &Origin) -> Option<Resumed> {
        let Unfinished { path, size, proof, doubtful, by_whole } = self.left_over.lock().remove(origin)?;
        let written = if proof.is_some() { size } else { size.saturating_sub(CUT_OFF) };
        match reopen(&path, written) {
            Ok(file) => {
                let mut ingest = Box::new(Ingest::new(file, path, written, &self.deleted));
                (ingest.proof, ingest.doubtful, ingest.by_whole) = (proof, doubtful, by_whole);
                self.make_resumable(&mut ingest, origin);
                Some(match proof {
                    Some(proof) => {
                        let seen = Verifier::new(proof.algorithm());
                        Resumed::Unproven(Box::new(Unproven { ingest, seen, offset: 0 }))
                    }
                    None => Resumed::Ready(ingest),
                })
            }
            Err(error) => {
                of_no_use(&origin.1, &error);
                remove(&path);
                None
            }
        }
    }

    /// From now on the file stays when the ingest is dropped, for [`IngestDir::resume`].
    pub fn make_resumable(&self, ingest: &mut Ingest, origin: &Origin) {
        ingest.resumable = Some((origin.clone(), Arc::clone(&self.left_over)));
    }

    /// How many files are left over from earlier fills.
    pub fn left_over_files(&self) -> u64 {
        self.left_over.lock().len() as u64
    }

    /// How many bytes are left over from earlier fills.
    pub fn left_over(&self) -> u64 {
        self.left_over.lock().values().map(|unfinished| unfinished.size).sum()
    }

    /// How many bytes are of files that were removed and are still read.
    pub fn lingering(&self) -> u64 {
        let mut deleted = self.deleted.lock();
        deleted.retain(|(_, file)| file.strong_count() > 0);
        deleted.iter().map(|(bytes, _)| bytes).sum()
    }

    /// Removes what is left over: the room is needed.
    pub fn drop_left_over(&self) {
        self.left_over.lock().drain().for_each(|(_, unfinished)| remove(&unfinished.path));
    }

    /// Removes what was left over too long ago.
    pub fn expire(&self, now: Timestamp) {
        let expired = |path: &Path| {
            let written = fs::metadata(path).and_then(|metadata| metadata.modified()).map(Timestamp::from);
            written.is_ok_and(|written| written.age(now).is_some_and(|age| age > KEPT_FOR))
        };
        self.left_over.lock().retain(|_, Unfinished { path, .. }| {
            let stays = !expired(path);
            if !stays {
                remove(path);
            }
            stays
        });
    }
}

/// What an earlier process wrote and noted the hash and the origin of.
fn proven(path: PathBuf, digest: Digest) -> Option<(Origin, Unfinished)> {
    let length = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?.len();
    let mut note = [0; LONGEST_NOTE];
    let noted = rustix::fs::lgetxattr(&path, PROOF, &mut note[..]).ok()?;
    let (size, rest) = note.get(..noted)?.split_first_chunk()?;
    let (hash, sender) = rest.split_at_checked(digest.as_bytes().len())?;
    let sender = std::str::from_utf8(sender).ok().filter(|sender| !sender.is_empty())?.to_owned();
    let proof = match digest.algorithm() {
        Algorithm::Sha256 => Digest::Sha256(hash.try_into().ok()?),
        Algorithm::Sha512 => Digest::Sha512(hash.try_into().ok()?),
    };
    let size = Some(u64::from_le_bytes(*size)).filter(|size| *size <= length)?;
    let doubtful = rustix::fs::lgetxattr(&path, DOUBT, &mut [0; 1][..]).is_ok();
    Some(((sender, digest), Unfinished { path, size, proof: Some(proof), doubtful, by_whole: false }))
}

/// Opens a file of which `written` bytes are wanted.
fn reopen(path: &Path, written: u64) -> io::Result<File> {
    let file = small_file::open(OpenOptions::new().read(true).write(true), path)?;
    if file.metadata()?.len() < written {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is shorter than it was"));
    }
    file.set_len(written)?;
    Ok(file)
}

fn of_no_use(digest: &Digest, error: &io::Error) {
    tracing::info!(%digest, %error, "an unfinished fill is of no use; it begins anew");
}

/// What is left of an earlier fill.
#[derive(Debug)]
pub enum Resumed {
    /// It can be gone on with.
    Ready(Box<Ingest>),
    /// An earlier process wrote it.
    Unproven(Box<Unproven>),
}

/// What an earlier process wrote, until it was hashed and has the hash that was noted.
#[derive(Debug)]
pub struct Unproven {
    ingest: Box<Ingest>,
    seen: Verifier,
    offset: u64,
}

impl Unproven {
    /// Reads and hashes the next of it. `None` when that is not what was written; it is then removed.
    pub fn hash_next(mut self: Box<Unproven>) -> Option<Resumed> {
        let Ingest { file, written, proof, .. } = &*self.ingest;
        let length = usize::try_from(written - self.offset).unwrap_or(usize::MAX).min(PIECE);
        let read = read_file_at(file, self.offset, length);
        if let Ok(bytes) = &read {
            self.seen.update(bytes);
            self.offset += length as u64;
            if self.offset < *written {
                return Some(Resumed::Unproven(self));
            }
        }
        if read.is_ok() && *proof == Some(self.seen.clone().finish()) {
            (self.ingest.proof, self.ingest.hashed) = (None, Some(self.seen));
            return Some(Resumed::Ready(self.ingest));
        }
        if let Some(((_, digest), _)) = &self.ingest.resumable {
            of_no_use(digest, &io::Error::new(io::ErrorKind::InvalidData, "its bytes are not those that were written"));
        }
        self.ingest.discard();
        None
    }
}

/// Keeps the longest file of each blob, if it is worth it.
fn keep(left_over: &mut LeftOver, origin: Origin, unfinished: Unfinished) {
    let longest = left_over.get(&origin).map_or(WORTH_KEEPING, |known| known.size);
    if unfinished.size < longest {
        remove(&unfinished.path);
    } else if let Some(shorter) = left_over.insert(origin, unfinished) {
        remove(&shorter.path);
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
    let (hex, _) = rest.split_once('.')?;
    Algorithm::ALL.iter().find(|known| known.as_str() == algorithm)?;
    format!("{algorithm}:{hex}").parse().ok()
}

fn number_in_name(path: &Path) -> Option<u64> {
    path.extension()?.to_str()?.parse().ok()
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
    deleted: Deleted,
    /// Where the file is kept for the next fill when this is dropped.
    resumable: Option<(Origin, Arc<Mutex<LeftOver>>)>,
    /// What an earlier process noted as the hash of what it wrote, as long as that was not compared.
    proof: Option<Digest>,
    /// The hash of what was written by whoever began.
    hashed: Option<Verifier>,
    /// How much of it the note beside the file is about.
    proven: u64,
    /// Whether what is written may be other bytes than it should.
    doubtful: bool,
    /// See [`Ingest::is_by_whole`].
    by_whole: bool,
    /// What was taken for the bytes until the store counts them.
    room: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl Ingest {
    fn new(file: File, path: PathBuf, written: u64, deleted: &Deleted) -> Ingest {
        let (file, path, deleted) = (Arc::new(file), Some(path), Arc::clone(deleted));
        let (resumable, proof, hashed) = (None, None, None);
        let ahead = BTreeMap::new();
        Ingest {
            file,
            path,
            written,
            ahead,
            deleted,
            resumable,
            proof,
            hashed,
            proven: written,
            doubtful: false,
            by_whole: false,
            room: None,
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
    /// is.
    ///
    /// # Errors
    /// [`StoreError`]; the bytes then do not count, as in [`Ingest::append`].
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if offset == self.written {
            self.append(bytes)?;
        } else {
            self.file.write_all_at(bytes, offset)?;
            let end = offset + bytes.len() as u64;
            let before = self.ahead.range(..offset).next_back().filter(|(_, end)| **end == offset);
            let start = before.map_or(offset, |(start, _)| *start);
            self.ahead.insert(start, end);
        }
        while let Some((start, end)) = self.ahead.first_key_value().map(|(start, end)| (*start, *end))
            && start <= self.written
        {
            self.ahead.remove(&start);
            self.written = self.written.max(end);
        }
        Ok(())
    }

    /// The hash of what an earlier process wrote, if that is known already.
    pub fn take_hashed(&mut self) -> Option<Verifier> {
        self.hashed.take()
    }

    /// Whether so much came since the last time that [`Ingest::prove`] is due.
    pub const fn is_proof_due(&self) -> bool {
        let step = self.written / 16;
        self.written - self.proven >= if step > WORTH_KEEPING { step } else { WORTH_KEEPING }
    }

    /// Notes beside the file that what was written so far has the hash `found`, so that a later
    /// process may go on with it. Where that is not possible it will begin anew.
    pub fn prove(&mut self, found: &Digest) {
        let Some(((sender, _), _)) = &self.resumable else { return };
        let note = [&self.written.to_le_bytes(), found.as_bytes(), sender.as_bytes()].concat();
        if let Err(error) = rustix::fs::fsetxattr(&self.file, PROOF, &note, XattrFlags::empty()) {
            tracing::debug!(%error, "an unfinished fill would not be resumed after a restart");
        }
        self.proven = self.written;
    }

    /// Notes that upstream was in trouble while this was written: other things may be wrong with it, too.
    pub fn doubt(&mut self) {
        self.doubtful = true;
        // Where that is not possible there is no proof either, and nothing is resumed after a restart.
        let _ = rustix::fs::fsetxattr(&self.file, DOUBT, b"1", XattrFlags::empty());
    }

    /// Whether what is written may be other bytes than it should: see [`Ingest::doubt`].
    pub const fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether it is gone on with by asking for the whole: who asked for the rest waited in vain.
    pub const fn is_by_whole(&self) -> bool {
        self.by_whole
    }

    /// Says so to whoever goes on with it in this process.
    pub fn go_on_by_whole(&mut self, by_whole: bool) {
        self.by_whole = by_whole;
    }

    /// Removes the notes: the file is about to be a blob.
    pub(crate) fn remove_proof(&self) {
        if self.proven > 0 {
            let _ = rustix::fs::fremovexattr(&self.file, PROOF);
        }
        if self.doubtful {
            let _ = rustix::fs::fremovexattr(&self.file, DOUBT);
        }
    }

    /// Whether the file has the bytes that were written and no hole among them: nobody cut it meanwhile.
    /// Some file systems make holes of zeros, so a hole proves nothing; its absence does.
    pub fn is_uncut(&self) -> bool {
        let length = self.file.metadata().map(|found| found.len());
        // Reads and writes are at offsets of their own: nobody minds where the file stands.
        let hole = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(0));
        length.is_ok_and(|length| length == self.written)
            && (self.written == 0 || hole.is_ok_and(|hole| hole >= self.written))
    }

    /// Keeps `room` until a store counts the bytes, or they are gone: they are never counted twice.
    pub fn keep_room(&mut self, room: impl Send + Sync + 'static) {
        self.room = Some(Box::new(room));
    }

    /// The bytes are counted from now on: what was taken for them is given back.
    pub(crate) fn give_room_back(&mut self) {
        self.room = None;
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
        // Gives back what was written in part, or behind a gap.
        if self.resumable.is_some() && self.file.set_len(self.written).is_err() && !self.ahead.is_empty() {
            self.resumable = None;
        }
        match (self.path.take(), self.resumable.take()) {
            (Some(path), Some((origin, left_over))) => {
                let (proof, doubtful, by_whole) = (self.proof, self.doubtful, self.by_whole);
                let unfinished = Unfinished { path, size: self.written, proof, doubtful, by_whole };
                keep(&mut left_over.lock(), origin, unfinished);
            }
            (Some(path), None) => {
                remove(&path);
                if Arc::strong_count(&self.file) > 1 {
                    self.deleted.lock().push((self.written, Arc::downgrade(&self.file)));
                }
            }
            (None, _) => {}
        }
    }
}
