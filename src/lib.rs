//! registry-mirror: a pull-through caching mirror for container registries.
//!
//! Layers, from the bottom: [`oci`] is the vocabulary; [`clock`], [`metadata`], [`blob_store`] and
//! [`upstream`] are the four ports, each with its adapters beside it.

pub mod admin;
pub mod blob_store;
pub mod cli;
pub mod clock;
pub mod config;
pub mod metadata;
pub mod metrics;
pub mod oci;
pub mod outcome;
pub mod systemd;
pub mod telemetry;
pub mod upstream;
