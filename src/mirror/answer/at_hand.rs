//! Answers at hand: requests that find theirs in memory, looked at again by what they depend on.

use std::sync::Arc;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::mirror::recall::freshness::Policy;
use crate::mirror::recall::memory::{Asked, Kept, Memory};
use crate::mirror::room::stored::Stored;
use crate::mirror::routes::Route;
use crate::oci::{Digest, Reference, Repository};
use crate::upstream::Resource;

/// What an answer in memory depends on.
pub(super) struct AtHand {
    pub(super) memory: Arc<Memory>,
    pub(super) stored: Arc<Stored>,
    pub(super) policy: Policy,
    /// Whether manifests take the long way: what they lead to has to be looked at, to refuse half an
    /// image, or to fetch it ahead.
    pub(super) manifests_lead_on: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

impl Mirror {
    /// The answer, if it is in memory and needs no look at anything else. It counts as a use.
    pub fn at_hand(&self, route: &Route, asked: &Asked) -> Option<Arc<Kept>> {
        let kept = self.0.answers.at_hand.memory.get(&route.location, asked)?;
        self.still_holds(route, asked, &kept).then_some(kept)
    }

    /// Whether an answer that was at hand for this before still is one. It counts as a use.
    pub fn still_holds(&self, route: &Route, asked: &Asked, kept: &Kept) -> bool {
        let AtHand { memory, stored, policy, manifests_lead_on, clock, metrics } = &self.0.answers.at_hand;
        if !kept.is_of(stored.stamp()) || *manifests_lead_on && !matches!(asked, Asked::Blob(_)) {
            return false;
        }
        if !stored.is_told_of_denial(&route.location) || is_spoken_of(route, asked, kept.descriptor.digest) {
            return false;
        }
        let now = clock.now();
        if kept.checked_at().is_some_and(|checked_at| !policy.serves(checked_at, now)) {
            return false;
        }
        if kept.note(now) {
            stored.note(&kept.descriptor.digest);
            // Whoever kept a hold of it did not look it up: it is in use all the same.
            drop(memory.get(&route.location, asked));
        }
        metrics.at_hand();
        true
    }

    /// How many bytes the answers in memory take.
    pub fn memory_used(&self) -> u64 {
        self.0.answers.at_hand.memory.used()
    }
}

/// Whether upstream said something beside an answer that found this digest: that is told on.
fn is_spoken_of(route: &Route, asked: &Asked, digest: Digest) -> bool {
    let by_tag = |of: &Repository| match asked {
        Asked::Tag(tag, _) => Resource::manifest(of, &Reference::Tag(tag.clone())),
        Asked::Manifest(_) | Asked::Blob(_) => Resource::blob(of, &digest),
    };
    let by_digest = |of: &Repository| Resource::manifest(of, &Reference::Digest(digest));
    !route.notice(by_tag).is_empty() || !route.notice(by_digest).is_empty()
}
