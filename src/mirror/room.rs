//! Room in the store, and what is in it: nouns of what is promised, held, stored, doubted and recorded.
//!
//! Every fill reserves what came before it is written, and nothing for what it is told will come, so blobs
//! and reservations together stay within the allowance, and a promise takes nothing from anybody.

#[cfg(test)]
mod access_histories;
pub(crate) mod doubts;
pub(crate) mod holds;
pub(crate) mod records;
pub(crate) mod shared;
pub(crate) mod stored;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::graph::links::Known;

/// A store that may hold less does not count the first part of its index, so that it holds something.
const SMALL: u64 = 4 << 20;
/// That part: what an index with little in it takes, in bytes.
const INDEX: u64 = 1 << 20;

/// Tells what the store may hold, given how many bytes it holds and has promised.
pub type Allowance = dyn Fn(u64) -> Allowed + Send + Sync;

/// What the store has, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// Blobs and names, and whatever else is there.
    pub(crate) content: u64,
    /// The index over them.
    pub(crate) index: u64,
}

/// What the store may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// In bytes.
    pub bytes: u64,
    /// So many files and folders fewer should be on the disk: it has nearly no names left.
    pub inodes_short: u64,
}

impl From<u64> for Allowed {
    fn from(bytes: u64) -> Allowed {
        Allowed { bytes, inodes_short: 0 }
    }
}

/// The accountant of the store.
pub struct Room {
    allowance: Box<Allowance>,
    /// Bytes promised to running fills.
    promised: Arc<Mutex<u64>>,
    /// What was refused last, if nothing was granted since: when, and how many bytes.
    refused: Mutex<Option<(Timestamp, u64)>>,
    /// What stored manifests lead to: that never changes, so each is read once. Held while room is
    /// made: one at a time.
    pub(crate) known: tokio::sync::Mutex<Known>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("promised", &self.promised()).finish_non_exhaustive()
    }
}

/// Bytes that a fill may write. Given back when dropped: when the blob is counted, or gone.
#[derive(Debug)]
pub struct Reservation {
    promised: Arc<Mutex<u64>>,
    bytes: u64,
}

impl Reservation {
    /// How many bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds another reservation to this one.
    pub fn add(&mut self, mut more: Reservation) {
        self.bytes += std::mem::take(&mut more.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.promised.lock() -= self.bytes;
    }
}

impl Room {
    /// An accountant that grants as much as `allowance` says.
    pub fn new<A: Into<Allowed>>(allowance: impl Fn(u64) -> A + Send + Sync + 'static) -> Room {
        let allowance = Box::new(move |taken| allowance(taken).into());
        Room { allowance, promised: Arc::default(), refused: Mutex::default(), known: tokio::sync::Mutex::default() }
    }

    /// Bytes promised to running fills.
    pub fn promised(&self) -> u64 {
        *self.promised.lock()
    }

    /// Held by whoever makes room, and by those who must not be overtaken by that.
    pub(crate) async fn one_at_a_time(&self) -> impl Drop + '_ {
        self.known.lock().await
    }

    pub(crate) fn reserve(&self, stored: Taken, bytes: u64) -> Option<Reservation> {
        let mut promised = self.promised.lock();
        let (taken, allowed) = self.weigh(stored, *promised);
        if taken.saturating_add(bytes) > allowed.bytes || allowed.inodes_short > 0 {
            return None;
        }
        *promised += bytes;
        *self.refused.lock() = None;
        Some(Reservation { promised: Arc::clone(&self.promised), bytes })
    }

    /// There is no room for so many bytes, and none to be made.
    pub(crate) fn refuse(&self, now: Timestamp, bytes: u64) {
        *self.refused.lock() = Some((now, bytes));
    }

    /// What was refused last, if nothing was granted since: when, and how many bytes.
    pub(crate) fn refused(&self) -> Option<(Timestamp, u64)> {
        *self.refused.lock()
    }

    /// What is taken with what is promised, as far as it counts, and what may be.
    fn weigh(&self, Taken { content, index }: Taken, promised: u64) -> (u64, Allowed) {
        let content = content.saturating_add(promised);
        let allowed = (self.allowance)(content.saturating_add(index));
        let counted = if allowed.bytes < SMALL { index.saturating_sub(INDEX) } else { index };
        (content.saturating_add(counted), allowed)
    }

    /// How many bytes are too many, if `bytes` more are to come, and what the store may hold.
    pub(crate) fn excess(&self, stored: Taken, bytes: u64) -> (u64, Allowed) {
        let (taken, allowed) = self.weigh(stored, self.promised());
        (taken.saturating_add(bytes).saturating_sub(allowed.bytes), allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_counts_whole_but_in_a_store_that_would_hold_nothing_else() {
        const MIB: u64 = 1 << 20;
        for (allowed, content, index, excess) in [
            (8 * MIB, 6 * MIB, 2 * MIB, 0),
            (8 * MIB, 6 * MIB, 2 * MIB + 1, 1),
            (SMALL, SMALL, 7, 7),
            (MIB, MIB, MIB, 0),
            (MIB, MIB, MIB + 7, 7),
            (MIB, MIB, 5, 0),
        ] {
            let room = Room::new(move |_| allowed);
            let taken = Taken { content, index };
            assert_eq!(room.excess(taken, 0).0, excess, "{content} and {index} of {allowed}");
            assert_eq!(room.reserve(taken, 0).is_some(), excess == 0);
            assert!(room.reserve(taken, 1).is_none());
        }
    }
}
