//! Answers for clients: blobs, manifests and lists, from memory, the store, a fill or upstream.

mod at_hand;
pub mod blob;
pub mod blobs;
pub mod body;
mod lazy;
pub mod lists;
pub mod manifests;
pub mod relay;
pub mod tag_moves;
mod witness;
