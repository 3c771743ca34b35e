//! What an upstream said of its answers beside them, for each resource, at whichever of its addresses: as of
//! the latest answer, in memory, bounded.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use moka::sync::Cache;

use super::resource::Resource;
use crate::oci::Notice;

/// All of them together, in bytes.
const MOST_BYTES: u64 = 8 << 20;

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
        Notices { any: AtomicBool::new(false), known: Cache::builder().max_capacity(MOST_BYTES).weigher(weigh).build() }
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

    /// Of how many resources something was said.
    pub(super) fn entries(&self) -> u64 {
        self.known.entry_count()
    }

    /// What was said of the latest answer about a resource.
    pub fn of(&self, resource: impl FnOnce() -> Resource) -> Notice {
        if !self.any.load(Ordering::Relaxed) {
            return Notice::default();
        }
        self.known.get(&resource()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Reference;

    #[test]
    fn made_up_resources_do_not_fill_the_memory() {
        let notices = Notices::default();
        let mut headers = HeaderMap::new();
        headers.insert(http::header::WARNING, http::HeaderValue::from_static("299 - \"soon\""));
        let repository = "a/b".parse().expect("a name");
        for n in 0..30_000 {
            let reference = Reference::Tag(format!("t{n}").parse().expect("a tag"));
            notices.note(Resource::manifest(&repository, &reference), &headers);
        }
        notices.known.run_pending_tasks();
        assert!(notices.known.weighted_size() <= MOST_BYTES);
        assert!(notices.known.entry_count() > 1000, "it keeps some");
    }
}
