//! Real clients against the real daemon: dockerd, containerd, podman, buildah, skopeo, crane, oras and regctl
//! pull the same images of two registries through `registry-mirror serve`, cold, warm, and with the upstreams
//! stopped and the daemon restarted. Some load them from a bundle, with nothing running at all. Some log in, and pull
//! what is private. Some pull from three replicas behind HAProxy.
//!
//! Needs root and Debian's docker.io, docker-registry, skopeo, podman, buildah, containerd, nginx, haproxy and
//! debootstrap; crane, crictl, oras and regctl are built with Go, an issuer of tokens comes from npm, and `VERSITYGW` names
//! the program of an object store. On a machine without them each test says what is missing and passes; with
//! `REGISTRY_MIRROR_REQUIRE_CLIENTS=1` a missing program is a failure. Nothing but loopback addresses is spoken
//! to, and every program that a test starts is ended by its process id, also when the test fails.

#![allow(clippy::expect_used, reason = "a failed expectation is how a test fails")]

mod buildah;
mod bundle;
mod certificates;
mod containerd;
mod cri;
mod docker;
mod identities;
mod layout_copiers;
mod podman;
mod private;
mod replicas;
mod set_ups;
mod setup;
mod skopeo;
mod support;
mod witnesses;
