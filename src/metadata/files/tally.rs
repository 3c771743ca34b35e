//! What the files of names take on disk, counted as they come and go.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::metadata::{BLOCK, Names};

/// Counts. What comes and goes while everything is counted at a start may be counted twice, until the next one.
#[derive(Debug, Default)]
pub(super) struct Tally {
    bytes: AtomicI64,
    inodes: AtomicI64,
}

impl Tally {
    /// So many folders more, or fewer.
    pub(super) fn folders(&self, more: i64) {
        self.add(more, more * BLOCK.cast_signed());
    }

    /// A file of one length, if there was one, is one of another, if there still is one; in bytes.
    pub(super) fn replaced(&self, before: Option<u64>, after: Option<u64>) {
        let blocks = |length: Option<u64>| length.map_or(0, |length| on_disk(length).cast_signed());
        self.add(i64::from(after.is_some()) - i64::from(before.is_some()), blocks(after) - blocks(before));
    }

    /// What was `before` everything was counted is among what was `found`.
    pub(super) fn correct(&self, before: Names, found: Names) {
        let more = |found: u64, before: u64| found.cast_signed() - before.cast_signed();
        self.add(more(found.inodes, before.inodes), more(found.bytes, before.bytes));
    }

    pub(super) fn names(&self) -> Names {
        let read = |count: &AtomicI64| count.load(Ordering::Relaxed).max(0).cast_unsigned();
        Names { bytes: read(&self.bytes), inodes: read(&self.inodes), index: 0 }
    }

    fn add(&self, inodes: i64, bytes: i64) {
        self.inodes.fetch_add(inodes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a file of so many bytes takes on disk, in bytes.
pub(super) const fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK) * BLOCK
}
