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

use crate::graph::links::Known;

/// Tells what the store may hold, given how many bytes it holds and has promised.
pub type Allowance = dyn Fn(u64) -> Allowed + Send + Sync;

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
        Room { allowance, promised: Arc::default(), known: tokio::sync::Mutex::default() }
    }

    /// Bytes promised to running fills.
    pub fn promised(&self) -> u64 {
        *self.promised.lock()
    }

    /// Held by whoever makes room, and by those who must not be overtaken by that.
    pub(crate) async fn one_at_a_time(&self) -> impl Drop + '_ {
        self.known.lock().await
    }

    pub(crate) fn reserve(&self, stored: u64, bytes: u64) -> Option<Reservation> {
        let mut promised = self.promised.lock();
        let taken = stored.saturating_add(*promised);
        let allowed = (self.allowance)(taken);
        if taken.saturating_add(bytes) > allowed.bytes || allowed.inodes_short > 0 {
            return None;
        }
        *promised += bytes;
        Some(Reservation { promised: Arc::clone(&self.promised), bytes })
    }

    /// How many bytes are too many, if `bytes` more are to come, and what the store may hold.
    pub(crate) fn excess(&self, stored: u64, bytes: u64) -> (u64, Allowed) {
        let taken = stored.saturating_add(self.promised());
        let allowed = (self.allowance)(taken);
        (taken.saturating_add(bytes).saturating_sub(allowed.bytes), allowed)
    }
}
