//! Scenarios: a scripted registry on one side, a raw client on the other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod registry_selftest;
mod support;
