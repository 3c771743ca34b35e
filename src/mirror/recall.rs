//! What is remembered in memory, and when that may be served: nouns, and decisions that take `now`.

pub(crate) mod denials;
pub mod freshness;
pub(crate) mod heads;
pub(crate) mod keeper;
mod known;
pub(crate) mod lists;
pub mod memory;
pub(crate) mod negatives;
pub(crate) mod sizes;
