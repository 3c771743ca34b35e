//! The ring: totals, 24 hours, and how fast each upstream was lately. Pure.
//!
//! Time saved is what upstreams would have taken for bytes that they did not send: what clients got of an
//! upstream less what came from it, at the rate at which that upstream sent that day, or on the last day on which
//! it sent anything.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::documents::{HourOfUse, Used};
use crate::metrics::Flow;
use crate::outcome::Outcome;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// How many hours are kept.
const HOURS: u64 = 24;
/// What is written.
const VERSION: u32 = 1;

/// What passed since the last look, by upstream.
pub(super) type Spared = Vec<Flow>;

/// Numbers by outcome, by its word, so that another version may know more or fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Those of all outcomes but `local`.
    pub(super) fn of(counts: &[(Outcome, u64)]) -> Counts {
        let counted = counts.iter().filter(|(outcome, count)| *outcome != Outcome::Local && *count > 0);
        Counts(counted.map(|(outcome, count)| (outcome.as_str().to_owned(), *count)).collect())
    }

    /// What is more than it was.
    pub(super) fn since(&self, then: &Counts) -> Counts {
        let more = self.0.iter().map(|(word, now)| (word, now.saturating_sub(then.0.get(word).copied().unwrap_or(0))));
        Counts(more.filter(|(_, more)| *more > 0).map(|(word, more)| (word.clone(), more)).collect())
    }

    fn add(&mut self, more: &Counts) {
        for (word, count) in &more.0 {
            let sum = self.0.entry(word.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// What was served from the cache, as a part of all.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn hit_ratio(&self) -> Option<f64> {
        let from_cache = Outcome::ALL.into_iter().filter(|outcome| outcome.is_from_cache());
        let hits: u64 = from_cache.filter_map(|outcome| self.0.get(outcome.as_str())).sum();
        let total = self.total();
        (total > 0).then(|| hits as f64 / total as f64)
    }

    /// With a zero for every outcome that did not come.
    fn document(&self) -> BTreeMap<String, u64> {
        let mut counts = self.0.clone();
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Local) {
            counts.entry(outcome.as_str().to_owned()).or_default();
        }
        counts
    }
}

/// What was counted in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) requests: Counts,
    pub(super) sent: Counts,
    pub(super) received: u64,
    /// Less than nothing while more is fetched than served.
    pub(super) saved_ms: i64,
}

impl Sum {
    pub(super) fn add(&mut self, more: &Sum) {
        self.requests.add(&more.requests);
        self.sent.add(&more.sent);
        self.received = self.received.saturating_add(more.received);
        self.saved_ms = self.saved_ms.saturating_add(more.saved_ms);
    }

    pub(super) fn document(&self) -> Used {
        Used {
            requests: self.requests.document(),
            bytes: self.sent.document(),
            fetched_bytes: self.received,
            saved_bytes: self.sent.total().saturating_sub(self.received),
            saved_seconds: u64::try_from(self.saved_ms / 1000).unwrap_or_default(),
            hit_ratio: self.requests.hit_ratio(),
            hit_ratio_of_bytes: self.sent.hit_ratio(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hour {
    begun: Timestamp,
    sum: Sum,
}

/// How fast an upstream was on a day.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Rate {
    day: u64,
    received: u64,
    /// In seconds.
    waited: f64,
}

/// Everything that is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ring {
    version: u32,
    pub(super) since: Timestamp,
    pub(super) total: Sum,
    hours: VecDeque<Hour>,
    rates: BTreeMap<String, Rate>,
}

impl Ring {
    /// Nothing counted yet.
    pub(super) fn new(now: Timestamp) -> Ring {
        Ring { version: VERSION, since: now, total: Sum::default(), hours: VecDeque::new(), rates: BTreeMap::new() }
    }

    /// Whether it is one that we would have written.
    pub(super) fn is_sound(&self) -> bool {
        let begun = || self.hours.iter().map(|hour| hour.begun);
        let whole = begun().is_sorted() && begun().all(|at| at.0 % HOUR == 0);
        self.version == VERSION && self.hours.len() as u64 <= HOURS && whole
    }

    /// Adds what was counted since the last time.
    pub(super) fn add(&mut self, now: Timestamp, new: &Sum) {
        self.total.add(new);
        let begun = Timestamp(now.0 - now.0 % HOUR);
        // What lies in the future says that the clock was set back.
        self.hours.retain(|hour| hour.begun <= begun && begun.0 - hour.begun.0 < HOURS * HOUR);
        match self.hours.back_mut().filter(|hour| hour.begun == begun) {
            Some(hour) => hour.sum.add(new),
            None => self.hours.push_back(Hour { begun, sum: new.clone() }),
        }
    }

    /// How long upstreams would have taken for what they did not send, in milliseconds. An upstream that has
    /// never sent anything says nothing.
    pub(super) fn spared(&mut self, now: Timestamp, flows: &Spared) -> i64 {
        flows.iter().map(|flow| self.spared_by(now, flow)).sum()
    }

    fn spared_by(&mut self, now: Timestamp, flow: &Flow) -> i64 {
        let day = now.0 / DAY;
        if flow.received > 0 {
            let rate = self.rates.entry(flow.upstream.clone()).or_default();
            if rate.day != day {
                *rate = Rate { day, ..Rate::default() };
            }
            rate.received += flow.received;
            rate.waited += flow.waited;
        }
        let Some(rate) = self.rates.get(&flow.upstream).filter(|rate| rate.received > 0) else { return 0 };
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a time for people")]
        let spared = ((flow.sent as f64 - flow.received as f64) * rate.waited / rate.received as f64 * 1e3) as i64;
        spared
    }

    /// The last 24 hours, those without anything, too, the present one at the end.
    pub(super) fn day(&self, now: Timestamp) -> Vec<HourOfUse> {
        let present = Timestamp(now.0 - now.0 % HOUR);
        let hours = (0..HOURS).rev().map(|back| present.minus(Duration::from_millis(back * HOUR)));
        let used =
            |begun: Timestamp| self.hours.iter().find(|hour| hour.begun == begun).map(|hour| hour.sum.document());
        hours
            .map(|begun| HourOfUse {
                begun_at: begun.into(),
                used: used(begun).unwrap_or_else(|| Sum::default().document()),
            })
            .collect()
    }
}
