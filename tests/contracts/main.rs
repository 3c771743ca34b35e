//! The contract suites of the ports: every adapter passes every case.
//!
//! A case is a function that takes any adapter and is named after the rule it proves. What only
//! one adapter promises (damage on disk, coming back after a crash) stands below the suite.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may stop where it stands")]

mod blob_store;
mod clock;
mod metadata;
#[path = "../scenarios/support/registry.rs"]
mod registry;
mod upstream;
