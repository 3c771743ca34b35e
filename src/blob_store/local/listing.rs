//! Which blobs there are: a million names read in seconds.
//!
//! Names come with their kind, so that nothing is asked of a file whose size is known from the index:
//! [`super::Inner::open`] compares it before the first byte is served. The others are looked at in
//! the order in which the disk has them, by a few threads. Commits and deletions go on meanwhile.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::{Damage, Inner, kind_and_size};
use crate::oci::{Algorithm, Digest};

/// How many files a thread looks at before it takes the next.
const AT_ONCE: usize = 1024;
/// More threads than these only take turns.
const MOST_THREADS: usize = 4;

/// A name of which no size is known.
struct Unknown {
    /// Roughly where the disk has what is known of the file.
    place: u64,
    digest: Digest,
}

impl Inner {
    /// Every blob with its size in bytes, by digest. What is no blob is complained about.
    pub(super) fn list(&self) -> io::Result<Vec<(Digest, u64)>> {
        self.known.write().begin_listing();
        let listed = self.list_folders();
        self.known.write().end_listing();
        let mut blobs = listed?;
        blobs.sort_unstable();
        let missing = self.known.read().missing_in(&blobs);
        for digest in missing {
            self.forget_if_gone(&digest);
        }
        Ok(blobs)
    }

    fn list_folders(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut blobs = Vec::new();
        for algorithm in Algorithm::ALL {
            let mut unknown = self.read_names(algorithm, &mut blobs)?;
            unknown.sort_unstable_by_key(|unknown| unknown.place);
            self.look_at_all(&unknown, &mut blobs);
        }
        Ok(blobs)
    }

    /// Names in the folder of an algorithm: those whose size is known go to `blobs`.
    fn read_names(&self, algorithm: Algorithm, blobs: &mut Vec<(Digest, u64)>) -> io::Result<Vec<Unknown>> {
        let mut unknown = Vec::new();
        for entry in Dir::read_from(&*self.folder_of(algorithm).descriptor())? {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().ok().and_then(|name| algorithm.digest(name)) else {
                continue;
            };
            let size = self.known.read().size(&digest);
            match (size, entry.file_type()) {
                (Some(size), FileType::RegularFile) => blobs.push((digest, size)),
                (None, FileType::RegularFile) | (_, FileType::Unknown) => {
                    unknown.push(Unknown { place: entry.ino(), digest });
                }
                _ => self.report(&digest, &Damage::NotAPlainFile),
            }
        }
        Ok(unknown)
    }

    fn look_at_all(&self, unknown: &[Unknown], blobs: &mut Vec<(Digest, u64)>) {
        let next = AtomicUsize::new(0);
        let look = || {
            let mut found = Vec::new();
            while let Some(batch) = unknown.chunks(AT_ONCE).nth(next.fetch_add(1, Ordering::Relaxed)) {
                self.look_at(batch, &mut found);
            }
            found
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
        let threads = threads.min(unknown.len() / AT_ONCE);
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(look)).collect();
            blobs.append(&mut look());
            for other in others {
                match other.join() {
                    Ok(mut found) => blobs.append(&mut found),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }

    fn look_at(&self, batch: &[Unknown], found: &mut Vec<(Digest, u64)>) {
        let first = found.len();
        for Unknown { digest, .. } in batch {
            let folder = self.folder(digest).descriptor();
            let stat = rustix::fs::statat(&*folder, digest.hex(), AtFlags::SYMLINK_NOFOLLOW);
            match stat.map_err(|error| Damage::Unreadable(error.into())).and_then(|stat| kind_and_size(&stat)) {
                Ok(size) => found.push((*digest, size)),
                // Deleted since the folder was read.
                Err(Damage::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(damage) => self.report(digest, &damage),
            }
        }
        let mut known = self.known.write();
        for (digest, size) in &found[first..] {
            known.learn_listed(digest, *size);
        }
    }

    /// Drops the size of a blob whose file somebody else removed.
    fn forget_if_gone(&self, digest: &Digest) {
        let _naming = self.naming.lock();
        let folder = self.folder(digest).descriptor();
        if matches!(rustix::fs::statat(folder, digest.hex(), AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
            self.remember(digest, None);
        }
    }
}
