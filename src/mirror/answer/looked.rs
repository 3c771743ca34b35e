//! What was seen when a long manifest was followed: it takes long, and many may ask for it.
//!
//! Few look at a time (see `graph`), and what one saw serves those who waited for their turn. What is seen of a short
//! manifest is not kept: the disk tells it each time.

use std::hash::Hash;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::OwnedSemaphorePermit;

use crate::graph::{Lane, Place};
use crate::mirror::Mirror;
use crate::mirror::error::MirrorError;
use crate::mirror::recall::memory::Stamp;
use crate::mirror::recall::sizes::LONGEST;
use crate::oci::Descriptor;

/// How long a client waits for its turn.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of so many it is kept, and for so long, if nothing changes that we know of.
const MOST: u64 = 1000;
const KEPT: Duration = Duration::from_secs(30);
/// What a look at a long manifest takes in memory, in parts of its size.
const TAKES: u64 = 3;

/// What was seen, by what was looked for.
pub(super) struct Looked<K, V>(Cache<K, (Stamp, V)>);

/// What becomes of who wants to look.
pub(super) enum Turn<K, V> {
    /// Somebody has looked.
    Seen(V),
    /// It is his turn.
    Look(Look<K>),
}

/// A turn: what is found is dropped before it is over.
pub(super) struct Look<K> {
    pub(super) place: Place,
    _room: Option<OwnedSemaphorePermit>,
    /// Under what it is kept, and from when it is.
    kept: Option<(K, Stamp)>,
}

impl<K: Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static> Looked<K, V> {
    pub(super) fn new() -> Looked<K, V> {
        Looked(Cache::builder().max_capacity(MOST).time_to_live(KEPT).build())
    }

    /// Waits for a turn to look at what this manifest leads to.
    ///
    /// # Errors
    /// [`MirrorError::Crowded`] where there is none in time.
    pub(super) async fn turn(&self, mirror: &Mirror, manifest: &Descriptor, key: K) -> Result<Turn<K, V>, MirrorError> {
        let is_long = manifest.size > LONGEST;
        let seen = || {
            let (stamp, seen) = if is_long { self.0.get(&key)? } else { return None };
            (stamp == mirror.0.fills.stored.stamp()).then_some(seen)
        };
        if let Some(seen) = seen() {
            return Ok(Turn::Seen(seen));
        }
        let lane = if is_long { Lane::Long } else { Lane::Short };
        let place = tokio::time::timeout(PATIENCE, mirror.0.graph.place(lane)).await;
        let place = place.map_err(|_| MirrorError::Crowded)?;
        if let Some(seen) = seen() {
            return Ok(Turn::Seen(seen));
        }
        let room = || {
            let bytes = usize::try_from(manifest.size.saturating_mul(TAKES)).unwrap_or(usize::MAX);
            mirror.0.fills.bounds.bodies.room(bytes).ok_or(MirrorError::Crowded)
        };
        let _room = if is_long { Some(room()?) } else { None };
        let kept = is_long.then(|| (key, mirror.0.fills.stored.stamp()));
        Ok(Turn::Look(Look { place, _room, kept }))
    }

    /// Takes note of what was seen.
    pub(super) fn saw(&self, look: Look<K>, seen: V) {
        if let Some((key, stamp)) = look.kept {
            self.0.insert(key, (stamp, seen));
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.entry_count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blob_store::memory::MemoryBlobStore;
    use crate::graph::Graph;
    use crate::metadata::memory::MemoryMetadata;

    #[tokio::test]
    async fn of_what_was_seen_of_images_so_much_is_kept() {
        let graph = Graph::new(Arc::new(MemoryBlobStore::new()), Arc::new(MemoryMetadata::new()));
        let (looked, place) = (Looked::<u64, bool>::new(), graph.place(Lane::Long).await);
        for number in 0..2 * MOST {
            let kept = Some((number, Stamp { changes: 0, removals: 0 }));
            looked.saw(Look { place: place.clone(), _room: None, kept }, true);
        }
        looked.0.run_pending_tasks();
        assert!((1..=MOST).contains(&looked.len()), "{}", looked.len());
    }
}
