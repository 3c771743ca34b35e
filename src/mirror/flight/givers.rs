//! Who gave some of a blob: what is wrong with it is held against each of them, and what it proves is from there.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::oci::Together;
use crate::upstream::Giver;

/// Those of several addresses that gave some of a blob. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Givers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    givers: Vec<Giver>,
    /// Whether somebody gave some of whom it is not told which address he had it from.
    untold: bool,
}

impl Givers {
    /// This one gave some, if it is one of several.
    pub(super) fn note(&self, giver: Option<&Giver>) {
        let givers = &mut self.0.lock().givers;
        givers.extend(giver.filter(|giver| !givers.iter().any(|known| known.is(giver))).cloned());
    }

    /// Some of it was given, and it is not told by which address: by another replica, or earlier.
    pub(crate) fn note_untold(&self) {
        self.0.lock().untold = true;
    }

    /// How many gave some.
    pub(super) fn count(&self) -> usize {
        self.0.lock().givers.len()
    }

    /// Those who came after the first ones gave none of what is kept.
    pub(super) fn keep_first(&self, count: usize) {
        self.0.lock().givers.truncate(count);
    }

    /// What came is not the blob: that is held against each of them, and what comes from here on is given anew.
    /// Whether there is another address.
    pub(super) fn fell_short(&self) -> bool {
        let Known { givers, .. } = std::mem::take(&mut *self.0.lock());
        givers.iter().fold(false, |_, giver| giver.fell_short())
    }

    /// Where it came from, of an upstream with `all` these addresses: from all together where that is not told.
    pub(crate) fn places(&self, all: Together) -> Together {
        let Known { givers, untold } = &*self.0.lock();
        let told: Option<Vec<_>> = givers.iter().map(|giver| giver.place().cloned()).collect();
        let told = told.filter(|told| !untold && !told.is_empty());
        told.map_or(all, |told| told.into_iter().collect())
    }
}
