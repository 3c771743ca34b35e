//! registry-mirror: a pull-through caching mirror for container registries.
//!
//! Layers, from the bottom: [`oci`] is the vocabulary; [`clock`], [`metadata`], [`blob_store`] and
//! [`upstream`] are the four ports, each with its adapters beside it.

pub mod blob_store;
pub mod clock;
pub mod metadata;
pub mod oci;
pub mod outcome;
pub mod upstream;
