//! The page as a person sees it: a real browser on the real page of a real daemon with real pulls.
//!
//! Needs Debian's chromium and chromium-driver, and npm for axe-core. On a machine without them each test says
//! what is missing and passes; with `REGISTRY_MIRROR_REQUIRE_CLIENTS=1` that is a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop where it stands")]

mod accessible;
mod acts;
mod browser;
mod looks;
#[path = "../scenarios/support/mirror.rs"]
mod mirror;
mod pictures;
#[allow(dead_code, reason = "some of it is for programs that need root")]
#[path = "../clients/support/requirements.rs"]
mod requirements;
mod site;
