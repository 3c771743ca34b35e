//! How large blobs are by the manifests that lead to them, and of which blobs what came was wrong.
//!
//! Truth: who says two things is believed in neither. What an upstream says of a blob itself is not asked here: only what
//! leads to it, and what came of it, counts.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::metadata::Location;
use crate::mirror::flight::BlobKey;
use crate::mirror::flight::early::Early;
use crate::oci::{Digest, Manifest, RegistryName};

/// So many blobs are remembered.
const MOST: u64 = 10_000;
/// Of a longer manifest nothing is, in bytes: to read it takes too long beside answers.
pub(crate) const LONGEST: u64 = 256 << 10;
/// Of so many repositories it is remembered for so long that all they have of manifests was read.
const MOST_READ: u64 = 1000;
const READ_FOR: Duration = Duration::from_secs(600);

/// What is known of blobs that are not verified yet.
pub(crate) struct Sizes {
    known: Cache<BlobKey, Arc<Early>>,
    /// What an upstream sent something else as, for whichever repository.
    wrong: Cache<(RegistryName, Digest), ()>,
    read: Cache<Location, ()>,
}

impl Default for Sizes {
    fn default() -> Sizes {
        let read = Cache::builder().max_capacity(MOST_READ).time_to_live(READ_FOR).build();
        Sizes { known: Cache::new(MOST), wrong: Cache::new(MOST), read }
    }
}

impl Sizes {
    /// Takes note of what a manifest of this repository says.
    pub(crate) fn told(&self, location: &Location, manifest: &Manifest) {
        if manifest.bytes.len() as u64 > LONGEST {
            return;
        }
        for blob in manifest.children().blobs {
            self.is((location.clone(), blob.digest), blob.size);
        }
    }

    /// A blob has this size in bytes, as somebody says who is believed if nobody says another.
    pub(crate) fn is(&self, key: BlobKey, size: u64) -> Arc<Early> {
        if self.is_wrong(&key) {
            return Arc::new(Early::nothing());
        }
        let early = self.known.entry(key.clone()).or_insert_with(|| Arc::new(Early::of(size))).into_value();
        if early.size() == Some(size) {
            return early;
        }
        early.end();
        let nothing = Arc::new(Early::nothing());
        self.known.insert(key, Arc::clone(&nothing));
        nothing
    }

    /// Something else was sent as this blob.
    pub(crate) fn was_wrong(&self, key: BlobKey) {
        self.wrong.insert((key.0.upstream.clone(), key.1), ());
        self.known.entry(key).or_insert_with(|| Arc::new(Early::nothing())).into_value().end();
    }

    /// What may be handed out of a blob before it is verified. `None` where nobody told how large it is.
    pub(crate) fn of(&self, key: &BlobKey) -> Option<Arc<Early>> {
        if self.is_wrong(key) { Some(Arc::new(Early::nothing())) } else { self.known.get(key) }
    }

    fn is_wrong(&self, (location, digest): &BlobKey) -> bool {
        self.wrong.contains_key(&(location.upstream.clone(), *digest))
    }

    /// Whether what is stored of this repository was read a moment ago: what is not known then is not to be found there.
    pub(crate) fn were_read(&self, location: &Location) -> bool {
        self.read.contains_key(location)
    }

    /// It was read now.
    pub(crate) fn are_read(&self, location: &Location) {
        self.read.insert(location.clone(), ());
    }

    /// How many entries there are.
    pub(crate) fn tables(&self) -> [(&'static str, u64); 3] {
        let wrong = ("sizes_wrong", self.wrong.entry_count());
        [("sizes_of_blobs", self.known.entry_count()), wrong, ("sizes_read", self.read.entry_count())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn key(number: u64) -> BlobKey {
        let upstream = "docker.io".parse().expect("a name");
        let location = Location { upstream, repository: format!("a/b{number}").parse().expect("a name") };
        (location, Digest::of(Algorithm::Sha256, &number.to_le_bytes()))
    }

    #[test]
    fn made_up_manifests_do_not_fill_the_memory() {
        let sizes = Sizes::default();
        for number in 0..2 * MOST {
            sizes.is(key(number), 1);
            sizes.was_wrong(key(number));
            sizes.are_read(&key(number).0);
        }
        sizes.known.run_pending_tasks();
        sizes.wrong.run_pending_tasks();
        sizes.read.run_pending_tasks();
        assert_eq!(sizes.tables().map(|(_, entries)| entries), [MOST, MOST, MOST_READ]);
    }

    #[test]
    fn what_is_said_to_have_two_sizes_or_was_wrong_has_none() {
        let (sizes, size) = (Sizes::default(), 100 << 20);
        assert!(sizes.is(key(1), size).claim(1, size));
        sizes.is(key(1), size + 1);
        sizes.was_wrong(key(2));
        for (key, size) in [(key(1), size), (key(1), size + 1), (key(2), size)] {
            assert!(!sizes.is(key, size).claim(1, size), "{size}");
        }
        let (Location { upstream, .. }, digest) = key(2);
        let elsewhere = Location { upstream, repository: "another/one".parse().expect("a name") };
        assert!(!sizes.is((elsewhere.clone(), digest), size).claim(1, size), "whatever repository leads to it");
        assert!(sizes.of(&(elsewhere, digest)).is_some_and(|early| !early.claim(1, size)));
    }
}
