//! What an upstream said of its answers beside them, for each resource, at whichever of its addresses: as of
//! the latest answer, in memory, bounded.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use moka::sync::Cache;

use super::resource::Resource;
use crate::oci::Notice;

/// The latest notices.
pub struct Notices {
    /// Whether anything was ever said: most registries never do.
    any: AtomicBool,
    known: Cache<Resource, Notice>,
}

impl Default for Notices {
    fn default() -> Notices {
        let weigh = |_: &Resource, notice: &Notice| {
            let bytes: usize = notice.warnings.iter().map(http::HeaderValue::len).sum();
            u32::try_from(bytes + 512).unwrap_or(u32::MAX)
        };
        Notices { any: AtomicBool::new(false), known: Cache::builder().max_capacity(8 << 20).weigher(weigh).build() }
    }
}

impl Notices {
    /// The headers of an answer about `resource`.
    pub(super) fn note(&self, resource: Resource, headers: &HeaderMap) {
        let notice = Notice::of(headers);
        if !notice.is_empty() {
            self.any.store(true, Ordering::Relaxed);
            self.known.insert(resource, notice);
        } else if self.any.load(Ordering::Relaxed) {
            self.known.invalidate(&resource);
        }
    }

    /// What was said of the latest answer about a resource.
    pub fn of(&self, resource: impl FnOnce() -> Resource) -> Notice {
        if !self.any.load(Ordering::Relaxed) {
            return Notice::default();
        }
        self.known.get(&resource()).unwrap_or_default()
    }
}
