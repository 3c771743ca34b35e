//! What upstream told lately to who asked for the head of a manifest. Bounded, and in memory: how long it is
//! believed is decided as for tags.

use moka::sync::Cache;

use crate::clock::Timestamp;
use crate::metadata::{Location, TagKey};
use crate::oci::{AcceptSet, Descriptor, Reference};

/// A tag or digest, and the types that it was asked for with.
pub(crate) type HeadKey = (Location, Reference, AcceptSet);

/// Heads, and when they were told.
pub(crate) struct Heads(Cache<HeadKey, (Descriptor, Timestamp)>);

impl Default for Heads {
    fn default() -> Heads {
        Heads(Cache::new(Heads::MOST))
    }
}

impl Heads {
    const MOST: u64 = 10_000;

    pub(crate) fn get(&self, key: &HeadKey) -> Option<(Descriptor, Timestamp)> {
        self.0.get(key)
    }

    pub(crate) fn keep(&self, key: HeadKey, descriptor: Descriptor, told_at: Timestamp) {
        self.0.insert(key, (descriptor, told_at));
    }

    /// Upstream says that it is not there for these types.
    pub(crate) fn forget(&self, TagKey { location, tag, accept }: &TagKey) {
        self.0.invalidate(&(location.clone(), Reference::Tag(tag.clone()), accept.clone()));
    }
}
