//! What scenarios are made of: a scripted registry to fetch from, and a raw client to pull with.

pub mod client;
pub mod mirror;
pub mod registry;
pub mod schema;
pub mod stalling;
