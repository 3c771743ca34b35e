//! Sums for people, beside the series for machines.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Metrics, OfUpstream};
use crate::outcome::Outcome;

/// What is counted, by outcome. [`super::Metrics`] writes series for machines; these sums are for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests, whatever they were for.
    pub requests: Vec<(Outcome, u64)>,
    /// Bytes of content sent to clients.
    pub sent: Vec<(Outcome, u64)>,
    /// Bytes of content from upstreams.
    pub received: u64,
    /// Bytes that the store may hold.
    pub store_budget: u64,
}

/// What passed between clients and one upstream, or all that are not configured, since the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// The upstream.
    pub upstream: String,
    /// Bytes of its content that went to clients.
    pub sent: u64,
    /// Bytes of content that came from it.
    pub received: u64,
    /// How long these were waited for, in seconds.
    pub waited: f64,
}

impl Metrics {
    /// What passed between clients and upstreams, by upstream.
    pub fn flows(&self) -> Vec<Flow> {
        let of_upstreams = self.held.iter().take(self.upstreams.len() + 1).enumerate();
        let flow = |(place, held): (usize, &super::Held)| {
            let outcomes = Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Local);
            let sent = outcomes.filter_map(|outcome| held.sent[outcome as usize].get()).map(|sent| sent.get());
            let of = OfUpstream { upstream: self.label(place) };
            let series = &self.series;
            Flow {
                upstream: self.upstreams.get(place).map_or("other", |name| name.as_str()).to_owned(),
                sent: sent.sum(),
                received: series.upstream_received.get(&of).map(|received| received.get()).unwrap_or_default(),
                waited: series.upstream_transfer.get(&of).map(|waited| waited.get()).unwrap_or_default(),
            }
        };
        of_upstreams.map(flow).collect()
    }
}

/// The counters behind [`Totals`]: outcomes in the order of [`Outcome::ALL`].
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: [AtomicU64; Outcome::ALL.len()],
    pub(super) sent: [AtomicU64; Outcome::ALL.len()],
    pub(super) received: AtomicU64,
}

impl Tally {
    pub(super) fn count(counters: &[AtomicU64], outcome: Outcome, by: u64) {
        if let Some(counter) = counters.get(outcome as usize) {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    pub(super) fn read(counters: &[AtomicU64]) -> Vec<(Outcome, u64)> {
        let counts = counters.iter().map(|counter| counter.load(Ordering::Relaxed));
        Outcome::ALL.into_iter().zip(counts).collect()
    }
}
