//! The traps that pull-through caches fall into, each a test named after its number in our notes on
//! the protocol, and after the rule that keeps us out of it. `trap_extra_` are the smaller ones.
//!
//! Traps 18 and 19 are with the limits and the budget of upstreams.

mod answers;
mod blobs;
mod extra;
mod fallback;
mod lists;
mod manifests;
mod ranges;
mod upstream;
