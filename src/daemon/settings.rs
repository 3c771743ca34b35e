//! Settings of the configuration, as those who obey them want to have them.

use std::io;

use crate::config;
use crate::mirror::Room;

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
            store.max_size.of(capacity).min(by_disk)
        }
        Err(error) => {
            tracing::warn!(%error, "the file system does not say how much is free");
            match store.max_size {
                config::Limit::Bytes(bytes) => bytes,
                config::Limit::Percent(_) => taken,
            }
        }
    })
}
