//! Sums for people, beside the series for machines.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outcome::Outcome;

/// What is counted, by outcome. [`super::Metrics`] writes series for machines; these sums are for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests for manifests and blobs that got them.
    pub requests: Vec<(Outcome, u64)>,
    /// Bytes of content sent to clients.
    pub sent: Vec<(Outcome, u64)>,
    /// Bytes of content from upstreams.
    pub received: u64,
    /// Bytes that the store may hold.
    pub store_budget: u64,
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
