//! Whole images: what they lead to, whether they are complete, and what is done with all their parts.

mod behind;
mod bring_down;
pub mod bundles;
pub mod catalog;
pub(crate) mod listing;
pub mod not_carried;
pub mod prefetch;
mod problems;
pub mod status;
