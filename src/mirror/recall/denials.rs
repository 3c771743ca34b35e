//! Repositories that an upstream no longer gives to anybody: what is stored of them is not served.
//!
//! A refusal proves that only as the answer of the registry itself to a GET of a manifest that is stored
//! here. Other refusals are a reason to ask that, now and again. What is stored stays stored, and is served
//! again after the first yes. In memory: after a restart it is asked anew with the first refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::metadata::Location;

/// How often it is asked whether a repository is denied, at most, in milliseconds.
const ASKED_ONCE: u64 = 30_000;

/// What is denied, and when it was asked.
pub(crate) struct Denials {
    denied: Cache<Location, ()>,
    asked: Cache<Location, Timestamp>,
    changes: AtomicU64,
    clock: Arc<dyn Clock>,
}

impl Denials {
    const MAX: u64 = 10_000;

    pub(crate) fn new(clock: Arc<dyn Clock>) -> Denials {
        let (denied, asked) = (Cache::new(Denials::MAX), Cache::new(Denials::MAX));
        Denials { denied, asked, changes: AtomicU64::new(0), clock }
    }

    /// Whether nothing of a repository is served.
    pub(crate) fn holds(&self, location: &Location) -> bool {
        self.denied.contains_key(location)
    }

    /// Whether it is time to ask for a manifest of a repository, after a refusal.
    pub(crate) fn is_due(&self, location: &Location) -> bool {
        let now = self.clock.now();
        let lately = |at: Timestamp| at.age(now).is_some_and(|age| age.as_millis() < u128::from(ASKED_ONCE));
        if self.asked.get(location).is_some_and(lately) {
            return false;
        }
        self.asked.insert(location.clone(), now);
        true
    }

    /// The registry refused a manifest that is stored here.
    pub(crate) fn deny(&self, location: &Location) {
        if !self.holds(location) {
            tracing::warn!(%location, "upstream denies it: nothing of it is served until upstream gives it again");
            self.denied.insert(location.clone(), ());
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// The registry gave something of it.
    pub(crate) fn lift(&self, location: &Location) {
        if self.holds(location) {
            tracing::info!(%location, "upstream gives it again");
            self.denied.invalidate(location);
            self.asked.invalidate(location);
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// How often something was denied or given again.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}
