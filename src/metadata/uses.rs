//! When blobs were last served, collected in memory.
//!
//! Noting a use must cost a request nothing, so it goes to a table here; a task of the mirror
//! drains the table every few seconds into [`MetadataStore::touch`](super::MetadataStore::touch).
//! What a crash loses is a few seconds of eviction order.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// Uses that were not written yet.
#[derive(Debug, Default)]
pub struct Uses(Mutex<HashMap<Digest, Timestamp>>);

impl Uses {
    /// An empty table.
    pub fn new() -> Uses {
        Uses::default()
    }

    /// Notes that a blob was served. The latest moment stands.
    pub fn note(&self, digest: &Digest, now: Timestamp) {
        let mut uses = self.0.lock();
        let last = uses.entry(*digest).or_insert(now);
        *last = now.max(*last);
    }

    /// Takes what was noted since the last call, in no particular order.
    pub fn drain(&self) -> Vec<(Digest, Timestamp)> {
        let uses = std::mem::take(&mut *self.0.lock());
        uses.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_latest_use_of_a_blob_is_drained_once() {
        let uses = Uses::new();
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        for moment in [5, 9, 7] {
            uses.note(&digest, Timestamp(moment));
        }
        assert_eq!(uses.drain(), [(digest, Timestamp(9))]);
        assert!(uses.drain().is_empty());
    }
}
