//! Adapter: blobs as files in `blobs/<algorithm>/<hex>`, the layout of an OCI image layout.
//!
//! A file appears under its digest by a rename after its bytes were synced, is never written again
//! and disappears by unlinking. Files are reached through the descriptor of their folder, opened
//! once, without following links; whatever is not a plain file with one name is a miss. The sizes
//! of `known` blobs are held in memory: a file whose size changed behind our back is a miss too and
//! is set aside in `quarantine`, so that the next fill replaces it.

mod known;
mod listing;
mod quarantine;
mod readers;

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::ingest::Ingest;
use super::{BlobStore, Content, Flaw, Source, StoreError, Usage, key_of};
use crate::oci::{Algorithm, Digest};
use crate::owed::Owed;
use crate::small_file::{self, InTheWay, make_folder};
use crate::staged;
use known::Known;
use readers::Readers;

/// What marks a folder as an OCI image layout (image-spec, image-layout.md, "oci-layout file").
const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Blobs below a folder of the local file system.
#[derive(Clone, Debug)]
pub struct LocalBlobStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    sha256: Folder,
    sha512: Folder,
    known: RwLock<Known>,
    readers: Mutex<Readers>,
    removals: AtomicU64,
    /// Digests whose file was already complained about.
    reported: Mutex<HashSet<Digest>>,
    /// Held while a name appears or disappears, never while bytes are synced.
    naming: Mutex<()>,
    /// Told of what has to go up into the bucket, where there is one.
    owed: Option<Arc<Owed>>,
}

/// The blobs of one algorithm.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    descriptor: RwLock<Arc<OwnedFd>>,
}

/// Why what lies under a digest is not served.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("it is not a plain file")]
    NotAPlainFile,
    #[error("it has more than one name")]
    Linked,
    #[error("it has {found} bytes instead of {expected}")]
    WrongSize { expected: u64, found: u64 },
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
}

impl LocalBlobStore {
    /// Opens the store below `root`, creating what is not there. Blobs are served at once; call
    /// [`BlobStore::list`] in the background so that [`BlobStore::usage`] becomes complete.
    ///
    /// # Errors
    /// What the file system says when a folder cannot be created or opened, and
    /// [`io::ErrorKind::NotADirectory`] when a link stands where a folder of blobs should be.
    pub fn open(root: &Path) -> io::Result<LocalBlobStore> {
        LocalBlobStore::owing(root, None)
    }

    /// The same, which tells what has to go up into the bucket.
    ///
    /// # Errors
    /// Those of [`LocalBlobStore::open`].
    pub fn owing(root: &Path, owed: Option<Arc<Owed>>) -> io::Result<LocalBlobStore> {
        make_folder(root)?;
        warn_if_open_to_everybody(root);
        let blobs = root.join("blobs");
        make_folder(&blobs)?;
        write_layout_mark(root)?;
        let inner = Inner {
            root: root.to_owned(),
            sha256: Folder::open(blobs.join(Algorithm::Sha256.as_str()))?,
            sha512: Folder::open(blobs.join(Algorithm::Sha512.as_str()))?,
            known: RwLock::default(),
            readers: Mutex::default(),
            removals: AtomicU64::new(0),
            reported: Mutex::default(),
            naming: Mutex::default(),
            owed,
        };
        inner.count_set_aside();
        Ok(LocalBlobStore(Arc::new(inner)))
    }

    /// From now on blobs are unproven that are found without having been remembered: the last user of
    /// the store did not end well. Call it before the first request.
    pub fn distrust(&self) {
        self.0.known.write().interrupted = true;
    }

    /// Takes sizes, in bytes, that were recorded when the blobs were stored, so that a file which
    /// was cut while the daemon was not running is recognised, and so that [`BlobStore::list`] need
    /// not ask for them. Call it before that; it forgets those that are no longer there.
    pub fn remember_sizes(&self, sizes: impl IntoIterator<Item = (Digest, u64)>) {
        let mut known = self.0.known.write();
        for (digest, size) in sizes {
            known.learn(&digest, size);
        }
    }
}

#[async_trait]
impl BlobStore for LocalBlobStore {
    async fn open(&self, digest: &Digest) -> Option<Content> {
        // Inline: opening and `fstat` take microseconds, a hop to a blocking thread takes longer.
        self.0.open(digest)
    }

    async fn commit(&self, ingest: Ingest, digest: &Digest) -> Result<(), StoreError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        blocking(move || inner.commit(ingest, &digest)).await
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        blocking(move || inner.delete(&digest)).await
    }

    async fn list(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.list()).await
    }

    async fn set_aside(&self, digest: &Digest, content: &Content) -> Result<bool, StoreError> {
        let (inner, digest, content) = (Arc::clone(&self.0), *digest, content.clone());
        blocking(move || inner.set_aside_if_same(&digest, &content)).await
    }

    async fn drop_set_aside(&self) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.drop_set_aside()).await
    }

    fn is_damaged(&self, digest: &Digest) -> bool {
        self.0.look(digest).map_or(true, |found| found.is_none() && self.0.known.read().aside.contains(digest))
    }

    fn flaw(&self, digest: &Digest) -> Option<Flaw> {
        match self.0.look(digest) {
            Err(Damage::Unreadable(error)) => Some(Flaw::Closed(error.to_string())),
            Err(damage) => Some(Flaw::Damaged(damage.to_string())),
            Ok(None) => self.0.known.read().aside.contains(digest).then(Flaw::set_aside),
            Ok(Some(_)) => None,
        }
    }

    fn is_unproven(&self, digest: &Digest) -> bool {
        let known = self.0.known.read();
        known.interrupted && known.is_unproven(digest)
    }

    fn vouch(&self, digest: &Digest) {
        self.0.known.write().vouch(digest);
    }

    fn usage(&self) -> Usage {
        self.0.known.read().usage()
    }

    fn rounding(&self) -> u64 {
        self.0.known.read().rounding()
    }

    fn lingering(&self) -> u64 {
        self.0.readers.lock().lingering()
    }

    fn reading(&self) -> HashSet<Digest> {
        self.0.readers.lock().reading()
    }

    fn tables(&self) -> Vec<(&'static str, u64)> {
        let (reported, unproven) = (self.0.reported.lock().len(), self.0.known.read().unproven());
        vec![
            ("blob_readers", self.0.readers.lock().noted()),
            ("blobs_reported", reported as u64),
            ("blobs_unproven", unproven as u64),
        ]
    }

    fn removals(&self) -> u64 {
        self.0.removals.load(Ordering::SeqCst)
    }
}

/// Runs file system work on a thread where it may block. It runs to its end even when the caller
/// goes away in between.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(stopped) => Err(StoreError::Io(io::Error::other(stopped))),
    }
}

impl Inner {
    fn open(&self, digest: &Digest) -> Option<Content> {
        match self.look(digest) {
            Ok(found) => found,
            Err(damage) => {
                self.report(digest, &damage);
                if matches!(damage, Damage::WrongSize { .. }) {
                    self.set_aside_if_damaged(digest);
                }
                None
            }
        }
    }

    /// What lies under the digest, if it can be what it should be.
    fn look(&self, digest: &Digest) -> Result<Option<Content>, Damage> {
        // NONBLOCK: a fifo in place of a file must not stop us; plain files do not know it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(self.folder(digest).descriptor(), digest.hex(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(Damage::NotAPlainFile),
            Err(error) => return Err(Damage::Unreadable(error.into())),
        };
        let size = self.check(digest, || rustix::fs::fstat(&file))?;
        let file = Arc::new(File::from(file));
        self.readers.lock().note(digest, &file);
        Ok(Some(Content { size, source: Source::File(file) }))
    }

    /// The size of a file in bytes, when kind, names and size are those of a blob. Learns the size
    /// of a blob that was not known yet.
    fn check(&self, digest: &Digest, stat: impl Fn() -> rustix::io::Result<Stat>) -> Result<u64, Damage> {
        let first = stat().map_err(|error| Damage::Unreadable(error.into()))?;
        let found = kind_and_size(&first)?;
        let expected = self.known.read().size(digest);
        match expected {
            Some(expected) if expected != found => return Err(Damage::WrongSize { expected, found }),
            Some(_) => {}
            None => {
                let mut known = self.known.write();
                // Again, with sizes held still: what was deleted meanwhile must not be counted.
                if stat().is_ok_and(|now| now.st_nlink == 1) {
                    known.find(digest, found);
                }
            }
        }
        Ok(found)
    }

    fn commit(&self, mut ingest: Ingest, digest: &Digest) -> io::Result<()> {
        let size = ingest.written();
        let path = ingest.path().ok_or(io::ErrorKind::NotFound)?.to_owned();
        let file = ingest.file();
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        ingest.remove_proof();
        let _coming = self.owed.as_ref().and_then(|owed| owed.coming(&key_of(digest)));
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()?;
        {
            let _naming = self.naming.lock();
            // Before the rename: a reader in between sets the old, wrong file aside, not the new one.
            self.remember(digest, Some(size));
            self.readers.lock().note(digest, &file);
            ingest.give_room_back();
            if let Err(error) = self.rename_into_place(&path, digest) {
                self.remember(digest, None);
                return Err(error);
            }
            self.reported.lock().remove(digest);
        }
        ingest.release();
        if let Err(error) = rustix::fs::fsync(self.folder(digest).descriptor()) {
            let _ = self.delete(digest);
            return Err(error.into());
        }
        Ok(())
    }

    /// Replaces whatever was there: the bytes in hand were verified a moment ago, those were not.
    fn rename_into_place(&self, from: &Path, digest: &Digest) -> io::Result<()> {
        let folder = self.folder(digest);
        let rename = || rustix::fs::renameat(CWD, from, folder.descriptor(), digest.hex());
        match rename() {
            // The folder was removed under a running daemon.
            Err(Errno::NOENT) => {
                folder.reopen()?;
                Ok(rename()?)
            }
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.set_aside(digest)?;
                Ok(rename()?)
            }
            result => Ok(result?),
        }
    }

    fn delete(&self, digest: &Digest) -> io::Result<()> {
        let _naming = self.naming.lock();
        match rustix::fs::unlinkat(self.folder(digest).descriptor(), digest.hex(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => self.set_aside(digest)?,
            Err(error) => return Err(error.into()),
        }
        self.remember(digest, None);
        self.drop_set_aside_as(digest);
        Ok(())
    }

    fn report(&self, digest: &Digest, damage: &Damage) {
        if self.reported.lock().insert(*digest) {
            tracing::warn!(%digest, reason = %damage, "a stored blob is not served; it is fetched again when asked for");
        }
    }

    fn remember(&self, digest: &Digest, size: Option<u64>) {
        let mut known = self.known.write();
        self.readers.lock().deleted(digest, known.size(digest).unwrap_or_default());
        known.forget(digest);
        match size {
            Some(size) => {
                known.learn(digest, size);
            }
            None => {
                self.removals.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn folder(&self, digest: &Digest) -> &Folder {
        self.folder_of(digest.algorithm())
    }

    const fn folder_of(&self, algorithm: Algorithm) -> &Folder {
        match algorithm {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        }
    }
}

/// The size in bytes of what can be a blob.
fn kind_and_size(stat: &Stat) -> Result<u64, Damage> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Damage::NotAPlainFile);
    }
    // Zero names: deleted since it was opened, and as good as before.
    if stat.st_nlink > 1 {
        return Err(Damage::Linked);
    }
    Ok(u64::try_from(stat.st_size).unwrap_or_default())
}

impl Folder {
    fn open(path: PathBuf) -> io::Result<Folder> {
        let descriptor = RwLock::new(Arc::new(open_folder(&path)?));
        Ok(Folder { path, descriptor })
    }

    fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.descriptor.read())
    }

    fn reopen(&self) -> io::Result<()> {
        let descriptor = Arc::new(open_folder(&self.path)?);
        *self.descriptor.write() = descriptor;
        Ok(())
    }
}

/// Folders that everybody may write are what some volumes come as, so this is no reason not to start:
/// what lies in them is closed to others. Who may replace the folders themselves can still do harm
/// between a stop and a start.
fn warn_if_open_to_everybody(root: &Path) {
    // With the sticky bit, names belong to their owners.
    if fs::metadata(root).is_ok_and(|folder| folder.permissions().mode() & 0o1002 == 0o002) {
        tracing::warn!(
            store = %root.display(),
            "every user of this machine may replace the folders of the store; take that away with chmod o-w"
        );
    }
}

/// Creates the folder if need be, closes it to other users and opens it.
fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    make_folder(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| InTheWay::of_own_folder(path).map_or_else(|| error.into(), io::Error::from))?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&descriptor)?.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO)
        && let Err(error) = rustix::fs::fchmod(&descriptor, Mode::RWXU)
    {
        let error = io::Error::from(error);
        tracing::warn!(folder = %path.display(), %error, "other users of this machine may read the stored blobs");
    }
    Ok(descriptor)
}

/// Writes `oci-layout`. Tools read it, we do not: a store that cannot be written to is served all
/// the same.
fn write_layout_mark(root: &Path) -> io::Result<()> {
    let path = root.join("oci-layout");
    if small_file::read(&path, 1 << 10).is_ok_and(|content| content == OCI_LAYOUT.as_bytes()) {
        return Ok(());
    }
    if let Err(error) = staged::replace(&path, 0o644, OCI_LAYOUT.as_bytes()) {
        tracing::warn!(file = %path.display(), %error, "could not mark the store as an image layout");
    }
    Ok(())
}
