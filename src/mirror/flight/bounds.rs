//! The bounds of fills: how many at once, and how much memory for all of them.
//!
//! Truth: a fill that a client waits for waits only for others of its kind. What runs ahead of
//! clients, or beside a fill to make it faster, takes places only while half of them are free.
//! All memory between the network and the disk is in buffers from here: what the HTTP client read is
//! copied, because a small piece of it would keep a large buffer of its own alive.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::oci::RegistryName;

/// How much a buffer holds, in bytes. What is written in such pieces, at multiples of their size, lies in
/// large folios of the page cache, which are sent with less work later.
pub(crate) const BUFFER: usize = 256 << 10;
/// How many buffers are kept for the next fill.
const SPARE_BUFFERS: usize = 32;

/// The bounds of fills. Permits are counted per upstream, so that one which stalls takes nothing
/// from the others; memory is for all of them together.
#[derive(Debug)]
pub struct Bounds {
    fills_per_upstream: usize,
    lanes: Mutex<HashMap<RegistryName, Arc<Semaphore>>>,
    memory: Arc<Semaphore>,
    memory_bytes: u32,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Bytes on their way to the disk, never more than [`BUFFER`]. Their memory is free for others when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    _share: Option<OwnedSemaphorePermit>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.spare.lock();
        if spare.len() < SPARE_BUFFERS {
            self.bytes.clear();
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Bounds {
    /// At most `fills_per_upstream` at a time, and at most `memory_bytes` bytes between the network
    /// and the disk.
    pub fn new(fills_per_upstream: usize, memory_bytes: u32) -> Bounds {
        let memory = Arc::new(Semaphore::new(memory_bytes as usize));
        Bounds { fills_per_upstream, lanes: Mutex::default(), memory, memory_bytes, spare: Arc::default() }
    }

    /// The permits of an upstream.
    fn lane(&self, upstream: &RegistryName) -> Arc<Semaphore> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(upstream.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.fills_per_upstream)));
        Arc::clone(lane)
    }

    /// Waits for one of the places of fills from `upstream`.
    pub(crate) async fn place(&self, upstream: &RegistryName) -> Option<OwnedSemaphorePermit> {
        self.lane(upstream).acquire_owned().await.ok()
    }

    /// A place that nobody will miss, for what no client waits for: at least half of them stay free.
    pub(crate) fn spare_place(&self, upstream: &RegistryName) -> Option<OwnedSemaphorePermit> {
        let lane = self.lane(upstream);
        let place = Arc::clone(&lane).try_acquire_owned().ok()?;
        (lane.available_permits() * 2 >= self.fills_per_upstream).then_some(place)
    }

    /// Waits until another buffer may be used. A bound below one buffer allows one.
    pub(crate) async fn buffer(&self) -> Buffer {
        let weight = u32::try_from(BUFFER).unwrap_or(u32::MAX).min(self.memory_bytes);
        let share = Arc::clone(&self.memory).acquire_many_owned(weight).await.ok();
        let spare = self.spare.lock().pop();
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(BUFFER));
        Buffer { bytes, spare: Arc::clone(&self.spare), _share: share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spare_place_leaves_half_of_them_free() {
        let upstream: RegistryName = "docker.io".parse().expect("a name");
        for (fills, spare) in [(1, 0), (2, 1), (3, 1), (4, 2), (64, 32)] {
            let bounds = Bounds::new(fills, 1);
            let taken: Vec<_> = std::iter::from_fn(|| bounds.spare_place(&upstream)).collect();
            assert_eq!(taken.len(), spare, "of {fills}");
            let rest = bounds.place(&upstream).await;
            assert!(rest.is_some() && bounds.spare_place(&upstream).is_none());
            drop((taken, rest));
            assert_eq!(bounds.spare_place(&upstream).is_some(), spare > 0, "again, of {fills}");
        }
    }
}
