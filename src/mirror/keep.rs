//! What keeps the store within its bounds, and the bucket: making room, collecting garbage.

pub mod collector;
pub mod eviction;
pub mod garbage;
pub mod making_room;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::blob_store::ingest::IngestDir;
use crate::clock::Clock;
use crate::graph::Graph;
use crate::metrics::Metrics;
use crate::mirror::room::Room;
use crate::mirror::room::holds::Holds;
use crate::mirror::room::stored::Stored;

/// Whoever grants room in the store, and makes more of it.
pub(crate) struct RoomKeeper {
    pub(super) room: Room,
    pub(super) holds: Holds,
    pub(super) graph: Graph,
    pub(super) stored: Arc<Stored>,
    pub(super) ingests: Arc<IngestDir>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
}
