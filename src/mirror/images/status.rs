//! How the mirror is doing, in numbers that one can explain.
//!
//! A request or a byte counts as hit when it cost no byte of content from upstream; one that was
//! answered from a running fill is joined, not hit. Saved is what clients got less what upstreams
//! sent. Counted since the daemon started.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mirror::Mirror;
use crate::mirror::flight::progress::Phase;
use crate::oci::{Digest, RegistryName};
use crate::outcome::Outcome;
use crate::upstream::health::EndpointHealth;

/// How the mirror is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// `online`, `prefer-cache` or `offline`.
    pub mode: String,
    /// What clients asked for.
    pub requests: Share,
    /// What clients got, in bytes.
    pub bytes: Share,
    /// What upstreams sent, in bytes of content.
    pub fetched_bytes: u64,
    /// What clients got and no upstream sent, in bytes.
    pub saved_bytes: u64,
    /// What is being fetched just now.
    pub fills: Vec<FillStatus>,
    /// The registries that we may ask.
    pub upstreams: Vec<UpstreamStatus>,
    /// What the store holds and may hold.
    pub store: StoreStatus,
}

/// A sum by where it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// All together.
    pub total: u64,
    /// From the store.
    pub hit: u64,
    /// From fills that others had started.
    pub joined: u64,
    /// Fetched for it.
    pub missed: u64,
    /// `hit` as a part of `total`, 0 to 1; nothing while there is nothing to count.
    pub hit_ratio: Option<f64>,
}

/// A blob on its way from upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillStatus {
    /// Upstream and repository.
    pub repository: String,
    /// The blob.
    pub digest: Digest,
    /// Bytes that are there.
    pub written: u64,
    /// Bytes that there will be, where upstream says so.
    pub total: Option<u64>,
    /// Clients that read along.
    pub readers: usize,
}

/// A registry that we may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// The name images use.
    pub host: String,
    /// Fills that get bytes from it.
    pub filling: usize,
    /// Fills that wait for their turn, or for its answer.
    pub waiting: usize,
    /// Its addresses in the order in which they are tried; none when nobody is ever asked.
    pub endpoints: Vec<EndpointHealth>,
}

/// What the store holds and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Bytes in blobs.
    pub used_bytes: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes it may hold; 0 until that is known.
    pub budget_bytes: u64,
}

impl Mirror {
    /// How it is doing now.
    pub fn status(&self) -> Status {
        let totals = self.0.metrics.totals();
        let bytes = share(&totals.sent);
        // The gauges lag behind.
        let used = self.0.blobs.usage();
        let mut upstreams: BTreeMap<String, UpstreamStatus> =
            self.0.routes.names().map(|name| self.upstream(name)).collect();
        let mut fills = Vec::new();
        for ((location, digest), following) in self.0.fills.all() {
            let progress = following.borrow();
            // The fill holds one itself.
            let readers = std::sync::Arc::strong_count(&progress.seats).saturating_sub(1);
            let waits = matches!(progress.phase, Phase::Starting);
            if let Some(upstream) = upstreams.get_mut(location.upstream.as_str()) {
                *(if waits { &mut upstream.waiting } else { &mut upstream.filling }) += 1;
            }
            let written = if waits { 0 } else { progress.written };
            fills.push(FillStatus {
                repository: location.to_string(),
                digest,
                written,
                total: progress.total,
                readers,
            });
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.0.started_at,
            mode: self.0.policy.mode.as_str().to_owned(),
            requests: share(&totals.requests),
            bytes,
            fetched_bytes: totals.received,
            saved_bytes: bytes.total.saturating_sub(totals.received),
            fills,
            upstreams: upstreams.into_values().collect(),
            store: StoreStatus { used_bytes: used.bytes, blobs: used.blobs, budget_bytes: totals.store_budget },
        }
    }
}

impl Mirror {
    fn upstream(&self, name: &RegistryName) -> (String, UpstreamStatus) {
        let upstream = self.0.routes.upstream(name);
        let endpoints = upstream.map(|upstream| upstream.health().endpoints).unwrap_or_default();
        let status = UpstreamStatus { host: name.to_string(), filling: 0, waiting: 0, endpoints };
        (name.to_string(), status)
    }
}

fn share(counts: &[(Outcome, u64)]) -> Share {
    let sum = |wanted: &[Outcome]| {
        counts.iter().filter(|(outcome, _)| wanted.contains(outcome)).map(|(_, count)| count).sum::<u64>()
    };
    let hit = sum(&[Outcome::Hit, Outcome::Revalidated, Outcome::Stale]);
    let joined = sum(&[Outcome::Join]);
    let missed = sum(&[Outcome::Fill, Outcome::Relayed]);
    let total = hit + joined + missed;
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let hit_ratio = (total > 0).then(|| hit as f64 / total as f64);
    Share { total, hit, joined, missed, hit_ratio }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_joined_is_not_hit_and_what_we_answered_alone_does_not_count() {
        let counts = [
            (Outcome::Hit, 5),
            (Outcome::Revalidated, 1),
            (Outcome::Stale, 2),
            (Outcome::Join, 4),
            (Outcome::Fill, 3),
            (Outcome::Relayed, 1),
            (Outcome::Local, 100),
        ];
        let Share { total, hit, joined, missed, hit_ratio } = share(&counts);
        assert_eq!((total, hit, joined, missed, hit_ratio), (16, 8, 4, 4, Some(0.5)));
        assert_eq!(share(&[(Outcome::Local, 1)]).hit_ratio, None);
    }
}
