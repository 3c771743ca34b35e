//! What is known of the blobs without looking at the disk: their sizes, and how much they are together.
//!
//! There is one entry for each blob that is stored, so they are small: a million take 80 MB at most.
//! Truths: the first size stands; it was recorded when the bytes were verified, or soonest after. A
//! blob that is merely found after an unclean stop is unproven until somebody hashed it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::super::Usage;
use crate::oci::Digest;

/// What disks give at a time, in bytes.
const BLOCK: u64 = 4096;

/// The sizes of blobs that were committed, listed or opened, in bytes.
#[derive(Debug, Default)]
pub(super) struct Known {
    sha256: HashMap<[u8; 32], u64>,
    sha512: HashMap<[u8; 64], u64>,
    bytes: u64,
    /// What the disk takes for them beyond that, about.
    rounding: u64,
    /// Bytes of what was set aside, and under which digests.
    pub(super) set_aside: u64,
    pub(super) aside: HashSet<Digest>,
    /// How many listings are under way, and what was forgotten meanwhile: they may have seen it.
    listings: u32,
    forgotten: HashSet<Digest>,
    /// Whether the last user of the store did not end well.
    pub(super) interrupted: bool,
    unproven: HashSet<Digest>,
}

impl Known {
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        match digest {
            Digest::Sha256(hash) => self.sha256.get(hash).copied(),
            Digest::Sha512(hash) => self.sha512.get(hash).copied(),
        }
    }

    /// Whether the blob was there when nobody had recorded it, and was not hashed since.
    pub(super) fn is_unproven(&self, digest: &Digest) -> bool {
        self.unproven.contains(digest)
    }

    pub(super) fn unproven(&self) -> usize {
        self.unproven.len()
    }

    pub(super) fn vouch(&mut self, digest: &Digest) {
        self.unproven.remove(digest);
    }

    /// [`Known::learn`], for what was found on the disk.
    pub(super) fn find(&mut self, digest: &Digest, size: u64) {
        if self.learn(digest, size) && self.interrupted {
            self.unproven.insert(*digest);
        }
    }

    /// Whether it was not known before.
    pub(super) fn learn(&mut self, digest: &Digest, size: u64) -> bool {
        let vacant = match digest {
            Digest::Sha256(hash) => insert(self.sha256.entry(*hash), size),
            Digest::Sha512(hash) => insert(self.sha512.entry(*hash), size),
        };
        if vacant {
            self.bytes += size;
            self.rounding += rounding(size);
        }
        vacant
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        let known = match digest {
            Digest::Sha256(hash) => self.sha256.remove(hash),
            Digest::Sha512(hash) => self.sha512.remove(hash),
        };
        self.bytes -= known.unwrap_or_default();
        self.rounding -= known.map_or(0, rounding);
        self.unproven.remove(digest);
        if self.listings > 0 {
            self.forgotten.insert(*digest);
        }
    }

    pub(super) fn begin_listing(&mut self) {
        self.listings += 1;
    }

    /// [`Known::find`], for what a listing saw, unless it was forgotten since.
    pub(super) fn learn_listed(&mut self, digest: &Digest, size: u64) {
        if !self.forgotten.contains(digest) {
            self.find(digest, size);
        }
    }

    pub(super) fn end_listing(&mut self) {
        self.listings -= 1;
        if self.listings == 0 {
            self.forgotten = HashSet::new();
        }
    }

    /// Those that are not in `listed`, which is sorted.
    pub(super) fn missing_in(&self, listed: &[(Digest, u64)]) -> Vec<Digest> {
        if listed.len() >= self.count() && listed.iter().all(|(digest, _)| self.size(digest).is_some()) {
            return Vec::new();
        }
        let digests = self.sha256.keys().map(|hash| Digest::Sha256(*hash));
        let digests = digests.chain(self.sha512.keys().map(|hash| Digest::Sha512(*hash)));
        digests.filter(|digest| listed.binary_search_by_key(digest, |(listed, _)| *listed).is_err()).collect()
    }

    pub(super) fn usage(&self) -> Usage {
        Usage { bytes: self.bytes, blobs: self.count() as u64, set_aside: self.set_aside }
    }

    pub(super) const fn rounding(&self) -> u64 {
        self.rounding
    }

    fn count(&self) -> usize {
        self.sha256.len() + self.sha512.len()
    }
}

fn rounding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

fn insert<K>(entry: Entry<'_, K, u64>, size: u64) -> bool {
    match entry {
        Entry::Vacant(entry) => {
            entry.insert(size);
            true
        }
        Entry::Occupied(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_while_it_was_listed_is_not_counted_again() {
        let mut known = Known::default();
        let [kept, deleted, back] = [1, 2, 3].map(|number| Digest::Sha256([number; 32]));
        known.begin_listing();
        known.learn(&deleted, 20);
        known.forget(&deleted);
        known.forget(&back);
        known.learn(&back, 300);
        for digest in [kept, deleted, back] {
            known.learn_listed(&digest, 1);
        }
        known.end_listing();
        assert_eq!(known.usage(), Usage { bytes: 301, blobs: 2, set_aside: 0 });
        known.begin_listing();
        known.learn_listed(&deleted, 20);
        known.end_listing();
        assert_eq!(known.usage(), Usage { bytes: 321, blobs: 3, set_aside: 0 }, "it came back since");
        assert_eq!(known.missing_in(&[(kept, 1), (deleted, 20)]), [back]);
    }

    #[test]
    fn what_blocks_take_beyond_small_blobs_is_counted_and_goes_with_them() {
        let mut known = Known::default();
        for (number, size) in [(1, 1), (2, 4096), (3, 4097), (4, 0)] {
            known.learn(&Digest::Sha256([number; 32]), size);
            known.learn(&Digest::Sha256([number; 32]), size);
        }
        assert_eq!(known.rounding(), 2 * 4095);
        (0..5).for_each(|number| known.forget(&Digest::Sha256([number; 32])));
        assert_eq!(known.rounding(), 0);
    }
}
