//! What is remembered in memory, and when that may be served: nouns, and decisions that take `now`.

pub mod freshness;
mod keeper;
mod known;
pub(in crate::mirror) mod lists;
pub mod memory;
pub(in crate::mirror) mod negatives;
