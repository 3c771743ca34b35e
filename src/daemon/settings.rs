//! Settings of the configuration, as those who obey them want to have them.

use std::io;

use crate::config;
use crate::mirror::Room;
use crate::mirror::flight::bounds::Bounds;
use crate::mirror::room::Allowed;

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

/// Grants what the settings allow and the disk has free at the moment.
pub(super) fn room(store: &config::Store) -> Room {
    let store = store.clone();
    Room::new(move |taken| match rustix::fs::statvfs(&store.path) {
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
    })
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
pub(super) fn bounds(config: &config::Config) -> Bounds {
    let limits = &config.limits;
    let memory = u32::try_from(limits.fill_memory).unwrap_or(u32::MAX);
    let lanes = config.upstreams.iter().map(|upstream| {
        let Shares { fills, relays, .. } = Shares::of(upstream, limits);
        (upstream.host.clone(), fills, relays)
    });
    Bounds::new(limits.fills, limits.fill_wait, memory).with_memory(config.cache.memory).with_lanes(lanes)
}
