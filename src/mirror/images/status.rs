//! How the mirror is doing, in numbers that one can explain.
//!
//! A request or a byte counts as hit when it cost no byte of content from upstream; one that was
//! answered from a running fill is joined, not hit; both are served from the cache. Saved is what
//! clients got less what upstreams sent. Counted since the daemon started.

use std::collections::BTreeMap;

use crate::documents::{self, Endpoint, FillStatus, LastError, Pulls, Share, Status, StoreStatus, UpstreamStatus};
use crate::mirror::Mirror;
use crate::mirror::flight::progress::Phase;
use crate::mirror::images::problems::{Lately, problems};
use crate::oci::RegistryName;
use crate::outcome::Outcome;
use crate::upstream::health::{EndpointHealth, EndpointState};

impl Mirror {
    /// Has the metrics say what the store holds now.
    pub fn measure(&self) {
        let used = self.0.fills.stored.blobs.usage();
        self.0.fills.metrics.store(used.bytes, used.blobs);
    }

    /// How it is doing now.
    pub fn status(&self) -> Status {
        let filling = &self.0.fills;
        let totals = filling.metrics.totals();
        let bytes = share(&totals.sent);
        let used = filling.stored.blobs.usage();
        let mut upstreams: BTreeMap<String, UpstreamStatus> =
            self.0.routes.names().map(|name| self.upstream(name)).collect();
        let mut fills = Vec::new();
        for (upstream, waits, fill) in self.fills_now() {
            if let Some(upstream) = upstreams.get_mut(upstream.as_str()) {
                *(if waits { &mut upstream.waiting } else { &mut upstream.filling }) += 1;
            }
            fills.push(fill);
        }
        let upstreams: Vec<_> = upstreams.into_values().collect();
        let lately = Lately {
            set_aside: used.set_aside,
            unkept: self.0.room.unkept(),
            wrong: filling.wrong.lately(self.0.room.clock.now()),
        };
        let store = StoreStatus { used_bytes: used.bytes, blobs: used.blobs, budget_bytes: totals.store_budget };
        Status {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.0.started_at.into(),
            mode: self.0.mode,
            // The listeners know.
            listening: Vec::new(),
            requests: share(&totals.requests),
            bytes,
            fetched_bytes: totals.received,
            saved_bytes: bytes.total.saturating_sub(totals.received),
            fills,
            problems: problems(&upstreams, &store, &lately),
            upstreams,
            store,
            // What carries up into it knows.
            bucket: None,
        }
    }
}

impl Mirror {
    /// What is being fetched just now, by upstream, and whether it waits for its turn or an answer.
    fn fills_now(&self) -> impl Iterator<Item = (RegistryName, bool, FillStatus)> {
        self.all_fills().flat_map(|fills| fills.flights.all()).map(|((location, digest), following)| {
            let progress = following.borrow();
            // The fill holds one itself.
            let readers = std::sync::Arc::strong_count(&progress.seats).saturating_sub(1);
            let waits = matches!(progress.phase, Phase::Starting);
            let written_bytes = if waits { 0 } else { progress.written };
            let repository = location.to_string();
            let fill = FillStatus { repository, digest, written_bytes, size_bytes: progress.total, readers };
            (location.upstream, waits, fill)
        })
    }

    /// What is being fetched just now.
    pub fn running_fills(&self) -> Vec<FillStatus> {
        self.fills_now().map(|(_, _, fill)| fill).collect()
    }

    fn upstream(&self, name: &RegistryName) -> (String, UpstreamStatus) {
        let upstream = self.0.routes.upstream(name);
        let endpoints = upstream.map(|upstream| upstream.health().endpoints).unwrap_or_default();
        let endpoints = endpoints.into_iter().map(endpoint).collect();
        let status = UpstreamStatus { host: name.to_string(), filling: 0, waiting: 0, endpoints };
        (name.to_string(), status)
    }
}

fn endpoint(health: EndpointHealth) -> Endpoint {
    Endpoint {
        url: health.url,
        state: match health.state {
            EndpointState::Up => documents::EndpointState::Up,
            EndpointState::Down => documents::EndpointState::Down,
            EndpointState::Probing => documents::EndpointState::Probing,
            EndpointState::Limited => documents::EndpointState::Limited,
        },
        asked_again_at: health.asked_again_at.map(Into::into),
        last_error: health
            .last_error
            .map(|error| LastError { class: error.class.as_str().to_owned(), failed_at: error.at.into() }),
        answered_at: health.answered_at.map(Into::into),
        latency_seconds: health.latency.map(|latency| latency.as_secs_f64()),
        pulls: health.pulls.map(|pulls| {
            let resets_at = pulls.resets_at.into();
            Pulls { limit: pulls.limit, left: pulls.left, resets_at }
        }),
    }
}

fn share(counts: &[(Outcome, u64)]) -> Share {
    let sum = |wanted: &[Outcome]| {
        counts.iter().filter(|(outcome, _)| wanted.contains(outcome)).map(|(_, count)| count).sum::<u64>()
    };
    let hit = sum(&[Outcome::Hit, Outcome::Revalidated, Outcome::Stale, Outcome::Tier]);
    let joined = sum(&[Outcome::Join]);
    let missed = sum(&[Outcome::Fill, Outcome::Relayed]);
    let total = hit + joined + missed;
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let hit_ratio = (total > 0).then(|| (hit + joined) as f64 / total as f64);
    Share { total, hit, joined, missed, hit_ratio }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_joined_is_not_hit_but_from_the_cache_and_what_we_answered_alone_does_not_count() {
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
        assert_eq!((total, hit, joined, missed, hit_ratio), (16, 8, 4, 4, Some(0.75)));
        assert_eq!(share(&[(Outcome::Local, 1)]).hit_ratio, None);
    }
}
