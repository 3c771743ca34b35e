//! The traps that pull-through caches fall into, each a test named after its number in our notes on
//! the protocol, and after the rule that keeps us out of it. `trap_extra_` are the smaller ones.

mod fallback;
mod lists;
mod manifests;
mod ranges;
