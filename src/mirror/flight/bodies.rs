//! The one budget of bodies in memory: manifests that somebody has in hand or at hand, and blobs that are
//! passed on. What is shared counts once, until the last who has it lets go.
//!
//! Truth: who finds no room waits for a moment, and is then told to come again; nobody gets half a body. Fills
//! have their own part of it, so that they wait for nobody who reads slowly (see `bounds`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What bodies that are in hand may take together, in bytes, besides those that are at hand.
pub(crate) const IN_HAND: u64 = 256 << 20;
/// What is counted at a time, in bytes.
const UNIT: usize = 1 << 10;

/// Room in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    free: Arc<Semaphore>,
    units: usize,
}

/// Bytes, and the room they take.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: u64) -> Bodies {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Bodies { free: Arc::new(Semaphore::new(units)), units }
    }

    /// The same bytes, which take room until nobody has them any more; `None` where there is none in time.
    pub(crate) async fn hold(&self, bytes: Bytes, patience: Duration) -> Option<Bytes> {
        let room = Arc::clone(&self.free).acquire_many_owned(self.units_of(bytes.len()));
        let _room = tokio::time::timeout(patience, room).await.ok()?.ok()?;
        Some(Bytes::from_owner(Held { bytes, _room }))
    }

    /// Room for so many bytes, if there is some just now.
    pub(crate) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    /// How many bytes are taken, and how many may be.
    pub(crate) fn used(&self) -> (u64, u64) {
        let bytes = |units: usize| (units * UNIT) as u64;
        (bytes(self.units - self.free.available_permits()), bytes(self.units))
    }

    /// What is larger than all there is takes all of it.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).min(self.units)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_takes_room_until_the_last_who_has_it_lets_go() {
        let bodies = Bodies::new(10 << 10);
        let hold = |length: usize| bodies.hold(Bytes::from(vec![7; length]), Duration::ZERO);
        let one = hold(6000).await.expect("there is room");
        let part = one.slice(10..20);
        assert_eq!((one.len(), bodies.used()), (6000, (6 << 10, 10 << 10)));
        assert!(hold(6000).await.is_none() && bodies.room(6000).is_none());
        drop(one);
        assert!(hold(6000).await.is_none(), "a part of it is in hand still");
        drop(part);
        let all = hold(1 << 20).await.expect("what is larger than all takes all");
        assert_eq!(bodies.used().0, 10 << 10);
        let waiting = bodies.hold(Bytes::from_static(b"x"), Duration::from_secs(60));
        let (waited, ()) = tokio::join!(waiting, async { drop(all) });
        assert!(waited.is_some());
    }
}
