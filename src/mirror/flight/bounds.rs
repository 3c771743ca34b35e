//! The bounds of fills: how many at once, and how much memory for all of them.
//!
//! Truth: a fill that a client waits for waits only for others of its kind, and not for ever. What runs ahead
//! of clients, or beside a fill to make it faster, takes places only while half of them are free.
//! All memory between the network and the disk is in buffers from here: what the HTTP client read is
//! copied, because a small piece of it would keep a large buffer of its own alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::mirror::flight::bodies::{Bodies, IN_HAND};
use crate::mirror::flight::places::Lane;
use crate::mirror::flight::window::{WINDOW, Window};
use crate::oci::RegistryName;

/// How much a buffer holds, in bytes. What is written in such pieces, at multiples of their size, lies in
/// large folios of the page cache, which are sent with less work later.
pub(crate) const BUFFER: usize = 256 << 10;
/// How many blobs are passed on from memory at a time; the readers of others go on alone.
const WINDOWS: usize = 8;
/// How many buffers are kept for the next fill.
const SPARE_BUFFERS: usize = 32;

/// The bounds of fills. Places are counted per upstream, so that one which stalls takes nothing
/// from the others; memory is for all of them together.
#[derive(Debug)]
pub struct Bounds {
    fills_per_upstream: usize,
    /// How long a fill waits for a place.
    pub(crate) fill_wait: Duration,
    lanes: Mutex<HashMap<RegistryName, Arc<Lane>>>,
    memory: Arc<Semaphore>,
    memory_bytes: u32,
    windows: Arc<Semaphore>,
    pub(crate) bodies: Bodies,
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
    /// At most `fills_per_upstream` at a time, where [`Bounds::with_lanes`] says nothing else, each of which waits no longer than `fill_wait` for its place, and
    /// at most `memory_bytes` bytes between the network and the disk.
    pub fn new(fills_per_upstream: usize, fill_wait: Duration, memory_bytes: u32) -> Bounds {
        Bounds {
            fills_per_upstream,
            fill_wait,
            lanes: Mutex::default(),
            memory: Arc::new(Semaphore::new(memory_bytes as usize)),
            memory_bytes,
            windows: Arc::new(Semaphore::new(WINDOWS)),
            bodies: Bodies::new(IN_HAND),
            spare: Arc::default(),
        }
    }

    /// With so many fills, and so much that is passed on besides, for each of these upstreams.
    #[must_use]
    pub fn with_lanes(self, lanes: impl IntoIterator<Item = (RegistryName, usize, usize)>) -> Bounds {
        let lanes = lanes.into_iter().map(|(upstream, fills, relays)| (upstream, Arc::new(Lane::new(fills, relays))));
        self.lanes.lock().extend(lanes);
        self
    }

    /// With these for the upstreams that there are now: who has a place keeps it, and where nothing changes, so do
    /// those who wait.
    pub fn change_lanes(&self, lanes: impl IntoIterator<Item = (RegistryName, usize, usize)>) {
        let mut known = self.lanes.lock();
        let lanes = lanes.into_iter().map(|(upstream, fills, relays)| {
            let lane = known.get(&upstream).filter(|lane| lane.has(fills, relays)).cloned();
            (upstream, lane.unwrap_or_else(|| Arc::new(Lane::new(fills, relays))))
        });
        *known = lanes.collect();
    }

    /// With so many bytes for bodies that are in hand, at hand or passed on, all together.
    #[must_use]
    pub fn with_bodies(self, bytes: u64) -> Bounds {
        Bounds { bodies: Bodies::new(bytes), ..self }
    }

    /// With so many bytes for what is at hand besides.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Bounds {
        self.with_bodies(IN_HAND.saturating_add(bytes))
    }

    /// How many upstreams have places.
    pub(crate) fn lanes(&self) -> u64 {
        self.lanes.lock().len() as u64
    }

    /// How many bytes are on their way to the disk, and how many may be.
    pub(crate) fn to_disk(&self) -> (u64, u64) {
        let most = u64::from(self.memory_bytes);
        (most.saturating_sub(self.memory.available_permits() as u64), most)
    }

    /// The places of fills from `upstream`.
    pub(crate) fn lane(&self, upstream: &RegistryName) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(upstream.clone()).or_insert_with(|| Arc::new(Lane::new(self.fills_per_upstream, 0)));
        Arc::clone(lane)
    }

    /// Memory for a blob that is passed on and not kept, from `origin` on, if there is some left.
    pub(crate) fn window(&self, origin: u64) -> Option<Arc<Window>> {
        let share = (Arc::clone(&self.windows).try_acquire_owned().ok()?, self.bodies.room(WINDOW)?);
        Some(Arc::new(Window::new(origin, share)))
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
