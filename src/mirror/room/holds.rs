//! What somebody works on for longer than a pull, and that therefore must stay: what goes into a
//! bundle, and what came out of one and has no name yet. Neither evicted nor collected meanwhile.
//!
//! Truth: whoever takes a hold while no room is being made, and then finds the blob, keeps it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::oci::Digest;

/// The blobs that are held, and how often. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds(Arc<Mutex<HashMap<Digest, u32>>>);

impl Holds {
    /// Whether the blob must stay.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.0.lock().contains_key(digest)
    }

    /// How many blobs must stay.
    pub(crate) fn len(&self) -> u64 {
        self.0.lock().len() as u64
    }

    /// Everything that must stay.
    pub(crate) fn all(&self) -> HashSet<Digest> {
        self.0.lock().keys().copied().collect()
    }

    /// A hold on nothing yet.
    pub(crate) fn begin(&self) -> Hold {
        Hold { holds: self.clone(), digests: Mutex::default() }
    }
}

/// Keeps blobs until dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    holds: Holds,
    digests: Mutex<HashSet<Digest>>,
}

impl Hold {
    pub(crate) fn add(&self, digest: Digest) {
        if self.digests.lock().insert(digest) {
            *self.holds.0.lock().entry(digest).or_default() += 1;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.0.lock();
        for digest in self.digests.get_mut().iter() {
            if let Some(count) = holds.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    holds.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_two_hold_stays_until_both_let_go() {
        let holds = Holds::default();
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        let (one, other) = (holds.begin(), holds.begin());
        one.add(digest);
        one.add(digest);
        other.add(digest);
        drop(one);
        assert!(holds.has(&digest));
        drop(other);
        assert!(holds.all().is_empty());
    }
}
