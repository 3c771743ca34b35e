//! The lock of a store: one daemon at a time.
//!
//! Two daemons on one store would each remove the other's ingests and overrun the budget. The lock
//! is an advisory lock on `<store>/lock`; the kernel drops it when the process ends, however it
//! ends, so a lock is never left over. The file holds the process id for the message, and where that process takes
//! orders, for commands whose configuration names another place by now.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::format::{self, Refusal};
use super::unusable::Unusable;
use crate::small_file::{self, InTheWay};

/// The right to use a store, until dropped.
#[derive(Debug)]
pub struct StoreLock {
    /// Closing it gives the lock back.
    file: File,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process uses it.
    #[error(
        "the store {} is in use by another registry-mirror{}",
        path.display(),
        process.as_ref().map(|id| format!(" (process {id})")).unwrap_or_default()
    )]
    Held {
        /// The store.
        path: PathBuf,
        /// The process that holds it, as far as is known.
        process: Option<u32>,
    },
    /// The folder is none of ours, or of a newer version. Nothing in it was touched.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The folder or the lock file cannot be made, or not locked. Nothing says that somebody else uses the store.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

impl LockError {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            LockError::Held { .. } => Some("stop that one or choose another store".to_owned()),
            LockError::Refused(refusal) => Some(refusal.hint()),
            LockError::Unusable(unusable) => unusable.hint(),
        }
    }
}

impl StoreLock {
    /// Takes the lock of the store below `root`, which is created if need be. Does not wait.
    ///
    /// # Errors
    /// [`LockError::Refused`] when the folder cannot be our store, [`LockError::Held`] when somebody else has
    /// it, [`LockError::Unusable`] otherwise.
    pub fn acquire(root: &Path) -> Result<StoreLock, LockError> {
        format::examine(root)?;
        let failed = |source| Unusable::new(root, source);
        if !root.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
            made.map_err(|error| failed(InTheWay::of_folder(root).map_or(error, io::Error::from)))?;
        }
        format::look(root).map_err(failed)?;
        let path = root.join("lock");
        let mut writable = OpenOptions::new();
        writable.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match small_file::open(&mut writable, &path) {
            // A store that cannot be written to is served all the same.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                // One that was never used has nothing to serve.
                small_file::open(OpenOptions::new().read(true), &path).map_err(|_| error)
            }
            result => result,
        }
        .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { path: root.to_owned(), process: read_process(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source).into()),
        }
        // For the message of whoever comes second; a full disk must not stop us here.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(StoreLock { file })
    }

    /// Says where the process that holds it takes orders.
    pub fn say_where(&self, socket: &Path) {
        let line = std::path::absolute(socket).map(|socket| format!("{}\n", socket.display()));
        // Whoever does not find it there has to be told.
        let _ = line.and_then(|line| (&self.file).write_all(line.as_bytes()));
    }
}

/// The process that holds the lock of the store below `root`, as far as can be told without asking for the lock.
pub fn holder(root: &Path) -> Option<u32> {
    let process = read_process(&mut small_file::open(OpenOptions::new().read(true), &root.join("lock")).ok()?)?;
    Path::new("/proc").join(process.to_string()).exists().then_some(process)
}

/// The Unix socket where that process takes orders, as far as it has said so.
pub fn socket_of_holder(root: &Path) -> Option<PathBuf> {
    holder(root)?;
    let text = String::from_utf8(small_file::read(&root.join("lock"), format::LONGEST_LOCK).ok()?).ok()?;
    text.lines().nth(1).map(PathBuf::from)
}

fn read_process(file: &mut File) -> Option<u32> {
    let mut text = Vec::new();
    file.take(16).read_to_end(&mut text).ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}
