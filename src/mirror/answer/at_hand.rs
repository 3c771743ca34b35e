//! Answers at hand: requests that find theirs in memory, looked at again by what they depend on.

use std::sync::Arc;

use bytes::Bytes;

use crate::blob_store::{Content, Source};
use crate::clock::Timestamp;
use crate::mirror::recall::freshness;
use crate::mirror::recall::freshness::{Mode, Plan};
use crate::mirror::recall::memory::{Asked, Kept, LONGEST, Stamp};
use crate::mirror::{Location, Mirror, OCTET_STREAM, Route, Shared};
use crate::oci::{Descriptor, Digest, Manifest, MediaType};
use crate::upstream::Allowance;

impl Mirror {
    /// The answer, if it is in memory and needs no look at anything else. It counts as a use.
    pub fn at_hand(&self, route: &Route, asked: &Asked) -> Option<Arc<Kept>> {
        let kept = self.0.memory.get(&route.location, asked)?;
        self.still_holds(route, asked, &kept).then_some(kept)
    }

    /// Whether an answer that was at hand for this before still is one. It counts as a use.
    pub fn still_holds(&self, route: &Route, asked: &Asked, kept: &Kept) -> bool {
        let shared = &self.0;
        if !kept.is_of(shared.stamp()) {
            return false;
        }
        let now = shared.clock.now();
        // Whether the rest is there has to be looked at: to refuse half an image, or to fetch it ahead.
        let leads_on = shared.prefetch > 0 || (shared.complete_only && shared.policy.mode == Mode::Offline);
        if leads_on && !matches!(asked, Asked::Blob(_)) {
            return false;
        }
        if let Some(checked_at) = kept.checked_at() {
            // What upstream still grants matters only where it would be asked.
            if freshness::plan(Some(checked_at), now, &shared.policy, Allowance::Free) != Plan::Serve {
                return false;
            }
        }
        if kept.note(now) {
            shared.uses.note(&kept.descriptor.digest, now);
            // Whoever kept a hold of it did not look it up: it is in use all the same.
            drop(shared.memory.get(&route.location, asked));
        }
        shared.metrics.at_hand();
        true
    }

    /// How many bytes the answers in memory take.
    pub fn memory_used(&self) -> u64 {
        self.0.memory.used()
    }
}

impl Shared {
    /// How far changes are counted now. What is looked up after this call holds as long as this
    /// stays the same.
    pub(in crate::mirror) fn stamp(&self) -> Stamp {
        Stamp { changes: self.metadata.changes(), removals: self.blobs.removals() }
    }

    /// The bytes of a manifest, if they are in memory; whether they may be served is not said.
    pub(in crate::mirror) fn bytes_at_hand(&self, location: &Location, descriptor: &Descriptor) -> Option<Bytes> {
        let kept = self.memory.get(location, &Asked::Manifest(descriptor.digest))?;
        Some(kept.bytes.clone())
    }

    /// Keeps a manifest that was found in the store after `stamp` was read.
    pub(in crate::mirror) fn keep_at_hand(
        &self,
        location: &Location,
        asked: Asked,
        manifest: &Manifest,
        checked_at: Option<Timestamp>,
        stamp: Stamp,
    ) {
        self.memory.keep(location, asked, &manifest.descriptor, &manifest.bytes, checked_at, stamp);
    }

    /// A blob that was found in the store after `stamp` was read: in memory, where it is small.
    /// `None` when it turns out to be damaged; it was then taken out of sight.
    pub(in crate::mirror) async fn blob_in_memory(
        &self,
        location: &Location,
        digest: &Digest,
        content: Content,
        stamp: Stamp,
    ) -> Option<Content> {
        if !self.memory.takes(content.size) || matches!(content.source, Source::Memory(_)) {
            return Some(content);
        }
        let asked = Asked::Blob(*digest);
        let bytes = match self.memory.get(location, &asked).filter(|kept| kept.descriptor.size == content.size) {
            Some(kept) => kept.bytes.clone(),
            None => match load(digest, &content).await {
                Loaded::Verified(bytes) => bytes,
                Loaded::Unread => return Some(content),
                // Read and hashed once more, and set aside if that is how it is.
                Loaded::Damaged => return self.check(digest, &content).await.then_some(content),
            },
        };
        let descriptor = Descriptor { digest: *digest, size: content.size, media_type: MediaType::from(OCTET_STREAM) };
        self.memory.keep(location, asked, &descriptor, &bytes, None, stamp);
        Some(Content { source: Source::Memory(bytes), ..content })
    }
}

enum Loaded {
    Verified(Bytes),
    Damaged,
    Unread,
}

/// Reads a small file and looks whether it is what it should be.
async fn load(digest: &Digest, content: &Content) -> Loaded {
    let (digest, content) = (*digest, content.clone());
    let read = tokio::task::spawn_blocking(move || {
        let bytes = content.read_at(0, LONGEST)?;
        let verified = Digest::of(digest.algorithm(), &bytes) == digest;
        std::io::Result::Ok(if verified { Loaded::Verified(bytes) } else { Loaded::Damaged })
    });
    read.await.ok().and_then(Result::ok).unwrap_or(Loaded::Unread)
}
