//! Settings of the configuration, as those who obey them want to have them.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::config::{self, Config};
use crate::mirror::Room;
use crate::mirror::flight::bounds::Bounds;
use crate::mirror::room::Allowed;
use crate::oci::{ErrorCode, RegistryName};
use crate::server::Redirects;

/// Hundredths of the inodes that stay free where `min_free` is in bytes.
const LEAST_INODES: u8 = 5;

/// How many bytes the store may hold, when nobody else fills the disk.
///
/// # Errors
/// When the file system cannot be asked for its size.
pub fn budget(store: &config::Store) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(&store.path)?;
    let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
    Ok(store.max_size.of(capacity).min(capacity.saturating_sub(store.min_free.of(capacity))))
}

/// Grants what the settings allow at the moment and the disk has free.
pub(super) fn room(store: Arc<RwLock<config::Store>>) -> Room {
    Room::new(move |taken| {
        let store = store.read();
        allowed(&store, taken)
    })
}

fn allowed(store: &config::Store, taken: u64) -> Allowed {
    match rustix::fs::statvfs(&store.path) {
        Ok(stat) => {
            let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let min_free = store.min_free.of(capacity);
            let by_disk = taken.saturating_add(free).saturating_sub(min_free);
            let inodes_short = least_inodes(store.min_free, stat.f_files).saturating_sub(stat.f_favail);
            Allowed { bytes: store.max_size.of(capacity).min(by_disk), inodes_short }
        }
        Err(error) => {
            tracing::warn!(%error, "the file system does not say how much is free");
            Allowed::from(match store.max_size {
                config::Limit::Bytes(bytes) => bytes,
                config::Limit::Percent(_) => taken,
            })
        }
    }
}

/// How many inodes stay free of `all`: as large a part of them as of the bytes, where that is said as a part. File
/// systems that make them as they need them say that there are none.
fn least_inodes(min_free: config::Limit, all: u64) -> u64 {
    match min_free {
        config::Limit::Bytes(0) => 0,
        config::Limit::Bytes(_) => config::Limit::Percent(LEAST_INODES).of(all),
        percent => percent.of(all),
    }
}

/// What may be under way to an upstream: in all, of that fills, and what is passed on without being one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) all: usize,
    pub(super) fills: usize,
    pub(super) relays: usize,
}

impl Shares {
    /// A quarter of what there is beside the fills, and at least one, is left for questions.
    pub(super) fn of(upstream: &config::Upstream, limits: &config::Limits) -> Shares {
        let all = upstream.connections.unwrap_or(limits.fills.saturating_add(config::BESIDE_FILLS));
        let bodies = (limits.fills + all.saturating_sub(limits.fills) * 3 / 4).min(all.saturating_sub(1)).max(1);
        let fills = limits.fills.min(bodies);
        Shares { all, fills, relays: bodies - fills }
    }
}

/// What all fills together may use.
pub(super) fn bounds(config: &Config) -> Bounds {
    let limits = &config.limits;
    let memory = u32::try_from(limits.fill_memory).unwrap_or(u32::MAX);
    Bounds::new(limits.fills, limits.fill_wait, memory).with_memory(config.cache.memory).with_lanes(lanes(config))
}

/// Whether that is the same for both, places apart.
pub(super) fn have_the_same_bounds(one: &Config, other: &Config) -> bool {
    let bounds = |config: &Config| {
        let config::Limits { fills, fill_memory, fill_wait, .. } = config.limits;
        (fills, fill_memory, fill_wait, config.cache.memory)
    };
    bounds(one) == bounds(other)
}

/// The places of each upstream: among the fills, and besides.
pub(super) fn lanes(config: &Config) -> impl Iterator<Item = (RegistryName, usize, usize)> {
    config.upstreams.iter().map(|upstream| {
        let Shares { fills, relays, .. } = Shares::of(upstream, &config.limits);
        (upstream.host.clone(), fills, relays)
    })
}

/// What is said of a blob that upstream cannot give now.
pub(super) fn unavailable_blob(config: &Config) -> ErrorCode {
    if config.server.unavailable_blob == 404 { ErrorCode::BlobUnknown } else { ErrorCode::Unavailable }
}

/// Who is sent to the bucket.
pub(super) fn redirects(config: &Config) -> Redirects {
    let of = |bucket: &config::Bucket| Redirects { networks: bucket.redirect.clone(), ttl: bucket.redirect_ttl };
    config.store.bucket.as_ref().map(of).unwrap_or_default()
}
