//! Faults of the machine, injected into the binary: what a pull needs goes on.
//!
//! Rows of the fault matrix and where they are proven. Here: kill -9 ([`crash`]); ENOSPC, EIO, EDQUOT
//! and slow syncs at every call of the write path, a bad sector under a hit, EFBIG, EMFILE, a disk that
//! is full, turns or is mounted read-only, the order of write, sync, rename and sync of the folder, and
//! a blob that has its name and not its bytes after a power cut ([`disk`]). In `scenarios/damage.rs`: bit flips, cut files, unreadable manifests, a newer format. In
//! `scenarios/trouble.rs` and `contracts/`: garbled, missing and swapped index, links, fifos, folders
//! and permissions in place of files, two daemons. In `scenarios/budget.rs`: eviction against readers
//! and writers, resumed fills and what a power cut takes from them, clock jumps.
//!
//! Not here, and why: a power cut that loses unsynced data needs a file system that forgets, which
//! this machine has not got; what stands in for it is the order of the system calls and the sweep that
//! fails each of them. An index that answers slowly is memory of this process: it waits for the disk
//! only where a blob would wait, too. Memory ceilings need a control group of our own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, unreachable_pub)]

#[path = "../scenarios/support/client.rs"]
mod client;
mod crash;
mod daemon;
mod disk;
#[path = "../scenarios/support/registry.rs"]
mod registry;

use std::net::SocketAddr;

use registry::Image;
use registry_mirror::oci::Digest;

/// Pulls an image: whether every byte came and was right.
async fn pull(address: SocketAddr, image: &Image) -> bool {
    let mut paths = vec![(format!("/v2/{}/manifests/{}", image.repository, image.tag), image.manifest.digest)];
    paths.extend(image.blobs().map(|blob| (format!("/v2/{}/blobs/{}", image.repository, blob.digest), blob.digest)));
    for (path, digest) in paths {
        let Some(stream) = client::Stream::request(address, "GET", &path, &[]).await else { return false };
        let response = stream.finish().await;
        if response.status != 200 || !response.complete || Digest::of(digest.algorithm(), &response.body) != digest {
            return false;
        }
    }
    true
}
