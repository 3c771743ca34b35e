//! Real clients against the real daemon: dockerd, containerd, podman and skopeo pull the same two images
//! through `registry-mirror serve`, cold, warm, and with the upstream stopped and the daemon restarted.
//!
//! Needs root and Debian's docker.io, docker-registry, skopeo, podman, containerd and debootstrap. On a
//! machine without them each test says what is missing and passes; with `REGISTRY_MIRROR_REQUIRE_CLIENTS=1`
//! a missing program is a failure. Nothing but loopback addresses is spoken to, and every program that a
//! test starts is ended by its process id, also when the test fails.

#![allow(clippy::expect_used, reason = "a failed expectation is how a test fails")]

mod containerd;
mod docker;
mod podman;
mod skopeo;
mod support;
