//! What keeps the store within its bounds: making room, collecting garbage.

pub mod eviction;
pub mod garbage;
pub mod making_room;
