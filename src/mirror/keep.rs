//! What keeps the store sound and within its bounds: making room, collecting garbage, hashing again,
//! and writing down what is known.

pub mod eviction;
pub mod garbage;
pub mod making_room;
pub(in crate::mirror) mod records;
pub mod scrub;
pub mod verify;
