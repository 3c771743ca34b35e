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
use std::time::Duration;

use super::format::{self, Refusal};
use super::unusable::Unusable;
use crate::small_file::{self, InTheWay};

/// So often, and so long apart, a lock is asked for that is shared by who looks whether somebody has it.
const LOOKS: u32 = 100;
const A_LOOK: Duration = Duration::from_millis(1);

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
        match lock_between_looks(&file, || std::thread::sleep(A_LOOK)) {
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

/// Takes the lock. Who only looks whether somebody has it shares it for a moment, and is in nobody's way.
fn lock_between_looks(file: &File, mut wait: impl FnMut()) -> Result<(), TryLockError> {
    for _ in 0..LOOKS {
        let taken = file.try_lock();
        if !matches!(taken, Err(TryLockError::WouldBlock)) {
            return taken;
        }
        // Refused where a store is in use; else it was a look, which is over by now.
        file.try_lock_shared()?;
        wait();
    }
    Err(TryLockError::WouldBlock)
}

/// Whether a process has the lock of the store below `root`. What the file says is left over by who is gone, and in
/// another container the same number is somebody else. So the kernel is asked, without keeping what it gives.
pub fn is_held(root: &Path) -> bool {
    let Ok(mut file) = small_file::open(OpenOptions::new().read(true), &root.join("lock")) else { return false };
    match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        // Where there are no locks, what the file says is all that is known.
        Err(TryLockError::Error(_)) => {
            read_process(&mut file).is_some_and(|process| Path::new("/proc").join(process.to_string()).exists())
        }
    }
}

/// The process that holds the lock of the store below `root`, by its own word.
pub fn holder(root: &Path) -> Option<u32> {
    let said = || read_process(&mut small_file::open(OpenOptions::new().read(true), &root.join("lock")).ok()?);
    is_held(root).then(said)?
}

/// The Unix socket where that process takes orders, as far as it has said so.
pub fn socket_of_holder(root: &Path) -> Option<PathBuf> {
    let text = || String::from_utf8(small_file::read(&root.join("lock"), format::LONGEST_LOCK).ok()?).ok();
    is_held(root).then(text)??.lines().nth(1).map(PathBuf::from)
}

fn read_process(file: &mut File) -> Option<u32> {
    let mut text = Vec::new();
    file.take(16).read_to_end(&mut text).ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_in_use_where_its_lock_is_taken_whatever_the_file_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, path) = (folder.path(), folder.path().join("lock"));
        let ours = std::process::id();
        for left in [String::new(), "1\n".to_owned(), format!("{ours}\n/run/mirror.sock\n")] {
            std::fs::write(&path, &left).expect("written");
            let found = (is_held(root), holder(root), socket_of_holder(root));
            assert_eq!(found, (false, None, None), "{left:?} is left over");
        }
        let lock = StoreLock::acquire(root).expect("nobody has it");
        lock.say_where(Path::new("/run/mirror.sock"));
        assert_eq!((holder(root), socket_of_holder(root)), (Some(ours), Some("/run/mirror.sock".into())));
        // A full disk took what it said.
        std::fs::write(&path, "").expect("written");
        assert_eq!((is_held(root), holder(root)), (true, None));
        assert!(matches!(StoreLock::acquire(root), Err(LockError::Held { .. })));
        drop(lock);
        assert!(!is_held(root));
    }

    #[test]
    fn who_looks_whether_a_store_is_in_use_is_in_nobodys_way() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(StoreLock::acquire(folder.path()).expect("made"));
        let look = File::open(folder.path().join("lock")).expect("opens");
        look.lock_shared().expect("nobody has it");
        let lock = File::options().write(true).open(folder.path().join("lock")).expect("opens");
        let mut looks = Some(look);
        assert!(lock_between_looks(&lock, || drop(looks.take())).is_ok());
        assert!(looks.is_none() && is_held(folder.path()));
    }
}
