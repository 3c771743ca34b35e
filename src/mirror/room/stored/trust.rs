//! How it is found out whether content is what its digest says, and what need not be hashed again.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use moka::sync::Cache;

use crate::blob_store::{Content, Source};
use crate::oci::{Digest, Verifier};

/// How many bytes are read at a time.
const PIECE: usize = 1 << 20;

/// Content that is hashed piece by piece; no thread is kept for longer than it takes to read one.
pub(crate) struct Hashing {
    pub(super) digest: Digest,
    pub(super) content: Content,
    offset: u64,
    verifier: io::Result<Verifier>,
}

impl Hashing {
    pub(crate) fn of(digest: Digest, content: Content) -> Hashing {
        Hashing { digest, content, offset: 0, verifier: Ok(Verifier::new(digest.algorithm())) }
    }

    /// Reads a piece; how many bytes were read so far. `None` at the end, or where it cannot be read.
    pub(crate) async fn more(&mut self) -> Option<u64> {
        let (content, offset) = (self.content.clone(), self.offset);
        let verifier = self.verifier.as_mut().ok().filter(|_| offset < content.size)?;
        let mut verifier = std::mem::replace(verifier, Verifier::new(self.digest.algorithm()));
        let read = move || {
            let bytes = content.read_at(offset, PIECE)?;
            verifier.update(&bytes);
            Ok((verifier, offset + bytes.len() as u64))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        let offset = read.as_ref().ok().map(|(_, offset)| *offset);
        (self.offset, self.verifier) = (offset.unwrap_or(self.offset), read.map(|(verifier, _)| verifier));
        offset
    }

    /// The digest of all that was read.
    pub(super) fn found(self) -> io::Result<Digest> {
        self.verifier.map(Verifier::finish)
    }
}

/// What was hashed on read a moment ago: the parts of one blob, asked for one after another, are
/// checked once.
pub(super) struct Trust {
    pub(super) always: bool,
    pub(super) lately: Cache<Digest, Likeness>,
}

/// By which content is known again: what changes when somebody writes to its file, or puts another in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Likeness {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Likeness {
    pub(super) fn of(content: &Content) -> Option<Likeness> {
        let Source::File(file) = &content.source else {
            return Some(Likeness { size: content.size, ..Likeness::default() });
        };
        let known = file.metadata().ok()?;
        let (modified, changed) = ((known.mtime(), known.mtime_nsec()), (known.ctime(), known.ctime_nsec()));
        Some(Likeness { size: known.len(), inode: known.ino(), modified, changed })
    }
}

impl Trust {
    const MAX: u64 = 10_000;
    const LATELY: Duration = Duration::from_secs(30);

    pub(super) fn new(always: bool) -> Trust {
        Trust { always, lately: Cache::builder().max_capacity(Trust::MAX).time_to_live(Trust::LATELY).build() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn of_what_was_checked_lately_so_much_is_remembered() {
        let lately = Trust::new(true).lately;
        for number in 0..2 * Trust::MAX {
            lately.insert(Digest::of(Algorithm::Sha256, &number.to_le_bytes()), Likeness::default());
        }
        lately.run_pending_tasks();
        assert!((1..=Trust::MAX).contains(&lately.entry_count()), "{}", lately.entry_count());
    }
}
