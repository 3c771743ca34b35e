//! The parts without a daemon: the contract suites of the ports, which every adapter passes; what the
//! adapters do on the wire; and what holds for all input, by properties, a model and mutation.
//!
//! A case of a contract is a function that takes any adapter and is named after the rule it proves.
//! What only one adapter promises (damage on disk, coming back after a crash) stands below the suite.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may stop where it stands")]

mod answering;
mod blob_store;
mod bucket;
mod bundle;
mod clock;
mod fuzz;
mod metadata;
mod model;
mod properties;
mod upstream;
mod upstream_credentials;
mod upstream_http;
mod upstream_presented;
mod upstream_tls;
mod upstream_tls_wire;
