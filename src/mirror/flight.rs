//! What is on its way: nouns that fills and answers share, and nothing that acts.
//!
//! Owns the table of who asks for what, what readers see of a fill, a transfer from upstream that
//! goes on where it broke off, and the bounds of all fills together.

pub mod bounds;
pub mod flights;
pub mod progress;
pub mod transfer;
pub mod unread;
