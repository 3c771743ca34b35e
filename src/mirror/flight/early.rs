//! What of a blob may be handed out as parts before it is verified.
//!
//! Truth: no upstream opens it by its own word. It takes a manifest that says how large the blob is, or bytes that were
//! counted once; and it is no more than a share, however often the blob is begun.

use std::sync::atomic::{AtomicU64, Ordering};

/// Of a blob of no more bytes nothing is handed out before it is verified but what is not held back of all of it.
pub const SMALL: u64 = 4 << 20;
/// How many bytes of a larger one may be, and one of so many if that is more.
const MOST: u64 = 1 << 20;
const SHARE: u64 = 10;
/// As many bytes as were handed out where nothing is to be any more.
const SPENT: u64 = u64::MAX;

/// The bytes of a blob of this size that may be handed out as parts before they are verified.
#[derive(Debug)]
pub struct Early {
    /// In bytes; `None` where nobody is believed.
    size: Option<u64>,
    taken: AtomicU64,
}

impl Early {
    /// Of a blob that is known to have so many bytes.
    pub const fn of(size: u64) -> Early {
        Early { size: Some(size), taken: AtomicU64::new(0) }
    }

    /// Nothing, of a blob of which nobody knows how large it is.
    pub const fn nothing() -> Early {
        Early { size: None, taken: AtomicU64::new(SPENT) }
    }

    /// The size of the blob in bytes, where it is known.
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Takes `length` of them where upstream says that the blob has `size` bytes; whether so many are left.
    pub fn claim(&self, length: u64, size: u64) -> bool {
        let most = if size > SMALL && self.size == Some(size) { (size / SHARE).max(MOST) } else { 0 };
        let taken = |taken: u64| taken.checked_add(length).filter(|sum| *sum <= most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives back what was claimed and is not handed out.
    pub fn unclaim(&self, length: u64) {
        let left = |taken: u64| (taken != SPENT).then(|| taken.saturating_sub(length));
        let _ = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }

    /// The blob came, and was what it should be: the next time it is begun nothing is taken of it.
    pub fn renew(&self) {
        self.unclaim(SPENT);
    }

    /// Nothing more is handed out early, ever.
    pub fn end(&self) {
        self.taken.store(SPENT, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_a_large_blob_of_known_size_is_handed_out_early_and_nothing_else() {
        let size = 100 << 20;
        let early = Early::of(size);
        assert!(early.claim(2, size) && early.claim((10 << 20) - 2, size));
        assert!(!early.claim(1, size));
        early.unclaim(1);
        assert!(early.claim(1, size) && !early.claim(u64::MAX, size));
        early.renew();
        assert!(early.claim(10 << 20, size));
        assert!(Early::of(SMALL + 1).claim(MOST, SMALL + 1) && !Early::of(SMALL).claim(1, SMALL));
        assert!(!Early::of(1000).claim(1, size) && !Early::of(size).claim(1, size + 1), "it is said to be another");
    }

    #[test]
    fn what_is_over_stays_over() {
        let size = 100 << 20;
        let early = Early::of(size);
        assert!(early.claim(1, size));
        early.end();
        early.unclaim(1);
        early.renew();
        assert!(!early.claim(1, size) && !early.claim(0, size));
    }
}
