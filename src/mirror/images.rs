//! Whole images: what they lead to, whether they are complete, and what is done with all their parts.

pub mod bundles;
pub mod catalog;
pub mod prefetch;
mod problems;
pub mod status;
