//! How large blobs are by the manifests that lead to them, and of which blobs what came was wrong.
//!
//! Truth: it only takes away. Where upstream says another size than a manifest did, or sent something else before, nothing
//! of the blob is handed out until all of it is verified.

use moka::sync::Cache;

use crate::mirror::flight::BlobKey;
use crate::oci::Manifest;

/// So many blobs are remembered.
const MOST: u64 = 10_000;
/// Of a longer manifest nothing is, in bytes: to read it takes too long beside answers.
const LONGEST: usize = 256 << 10;

/// What is known of blobs that are not verified yet.
pub(crate) struct Sizes {
    /// In bytes; `None` where something else was sent as the blob.
    known: Cache<BlobKey, Option<u64>>,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { known: Cache::new(MOST) }
    }
}

impl Sizes {
    /// Takes note of what a manifest says. What was wrong before stays so.
    pub(crate) fn told(&self, (location, _): &BlobKey, manifest: &Manifest) {
        if manifest.bytes.len() > LONGEST {
            return;
        }
        for blob in manifest.children().blobs {
            self.known.entry((location.clone(), blob.digest)).or_insert_with(|| Some(blob.size));
        }
    }

    /// Something else was sent as this blob.
    pub(crate) fn was_wrong(&self, key: BlobKey) {
        self.known.insert(key, None);
    }

    /// What a blob may not be said to be where it is handed out before it is verified: of any other size.
    pub(crate) fn of(&self, key: &BlobKey) -> Option<Option<u64>> {
        self.known.get(key)
    }

    /// How many blobs are remembered.
    pub(crate) fn len(&self) -> u64 {
        self.known.entry_count()
    }
}
