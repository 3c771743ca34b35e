//! Repositories that an upstream no longer gives to anybody: what is stored of them is not served.
//!
//! A refusal proves that only as the answer of the registry itself to a GET of a manifest that is stored
//! here; where none is, to that of a blob and of a manifest besides. Other refusals are a reason to ask that, now and again. What is stored stays stored, and is served
//! again after the first yes. It is noted of the repository, so that a restart opens nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::clock::{Clock, Timestamp};
use crate::metadata::{Location, MetadataError, MetadataStore, Note, Noted};

/// How often it is asked whether a repository is denied, at most, in milliseconds.
const ASKED_ONCE: u64 = 30_000;

/// What is denied, and when it was asked.
pub(crate) struct Denials {
    known: Cache<Location, bool>,
    asked: Cache<Location, Timestamp>,
    changes: AtomicU64,
    /// Held while something changes, until it is noted.
    turn: Arc<Mutex<()>>,
    metadata: Arc<dyn MetadataStore>,
    clock: Arc<dyn Clock>,
}

impl Denials {
    const MAX: u64 = 10_000;

    pub(crate) fn new(metadata: Arc<dyn MetadataStore>, clock: Arc<dyn Clock>) -> Denials {
        let (known, asked) = (Cache::new(Denials::MAX), Cache::new(Denials::MAX));
        Denials { known, asked, changes: AtomicU64::new(0), turn: Arc::default(), metadata, clock }
    }

    /// How many entries there are.
    pub(crate) fn tables(&self) -> [(&'static str, u64); 2] {
        [("denials", self.known.entry_count()), ("denials_asked", self.asked.entry_count())]
    }

    /// Whether nothing of a repository is served.
    pub(crate) fn holds(&self, location: &Location) -> bool {
        if let Some(denied) = self.known.get(location) {
            return denied;
        }
        let noted = self.metadata.noted(location, Note::Denied).unwrap_or_else(|error| {
            tracing::warn!(%location, %error, "not known whether upstream denied it, taken for given");
            None
        });
        // Who learned more meanwhile is believed.
        self.known.entry_by_ref(location).or_insert(noted.is_some()).into_value()
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
    pub(crate) async fn deny(&self, location: &Location) {
        if !self.holds(location) {
            let turn = self.turn().await;
            tracing::warn!(%location, "upstream denies it: nothing of it is served until upstream gives it again");
            self.change(location, true, turn).await;
        }
    }

    /// The registry gave something of it.
    pub(crate) async fn lift(&self, location: &Location) {
        if self.holds(location) {
            let turn = self.turn().await;
            tracing::info!(%location, "upstream gives it again");
            self.asked.invalidate(location);
            self.change(location, false, turn).await;
        }
    }

    /// What the registry said to somebody else, who was asked after `before`; whether that is how it is now. What was
    /// learned here meanwhile stays. `held` is kept until it is noted.
    pub(crate) async fn adopt<H: Send + 'static>(
        &self,
        location: &Location,
        denied: bool,
        before: u64,
        held: impl FnOnce() -> H,
    ) -> bool {
        let turn = self.turn().await;
        if self.changes() != before {
            return false;
        }
        if self.holds(location) != denied {
            tracing::warn!(%location, denied, "another replica was told otherwise by upstream: what it was told holds");
            self.change(location, denied, (turn, held())).await;
        }
        true
    }

    /// How often something was denied or given again, once all of that is noted.
    pub(crate) async fn settled(&self) -> u64 {
        let _turn = self.turn().await;
        self.changes()
    }

    async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    async fn change(&self, location: &Location, denied: bool, held: impl Send + 'static) {
        self.known.insert(location.clone(), denied);
        self.changes.fetch_add(1, Ordering::Release);
        let noted = denied.then(|| Noted::from(self.clock.now()));
        let (metadata, location) = (Arc::clone(&self.metadata), location.clone());
        // It is noted also where nobody waits for it any more.
        let noting = move || {
            let _held = held;
            metadata.note(&location, Note::Denied, noted.as_ref())
        };
        let noting = tokio::task::spawn_blocking(noting).await;
        if let Err(error) = noting.unwrap_or_else(|error| Err(MetadataError::new("a task", error))) {
            tracing::warn!(%error, "what upstream denies would be forgotten at a restart");
        }
    }

    /// How often something was denied or given again.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::metadata::memory::MemoryMetadata;

    #[tokio::test]
    async fn made_up_repositories_do_not_fill_the_memory_and_push_no_denial_out() {
        let denials = Denials::new(Arc::new(MemoryMetadata::new()), Arc::new(ManualClock::at(Timestamp(1))));
        let upstream: crate::oci::RegistryName = "docker.io".parse().expect("a name");
        let location = |name: &str| Location { upstream: upstream.clone(), repository: name.parse().expect("a name") };
        denials.deny(&location("denied")).await;
        for n in 0..2 * Denials::MAX {
            let made_up = location(&format!("r{n}"));
            assert!(!denials.holds(&made_up) && denials.is_due(&made_up) && !denials.is_due(&made_up));
        }
        denials.known.run_pending_tasks();
        denials.asked.run_pending_tasks();
        assert!(denials.tables().iter().all(|(_, entries)| *entries <= Denials::MAX));
        assert!(denials.holds(&location("denied")));
        denials.lift(&location("denied")).await;
        assert!(!denials.holds(&location("denied")));
    }
    #[tokio::test]
    async fn what_others_were_told_before_something_was_learned_here_undoes_nothing() {
        let metadata = Arc::new(MemoryMetadata::new());
        let denials = Denials::new(Arc::clone(&metadata) as _, Arc::new(ManualClock::at(Timestamp(1))));
        let location = Location {
            upstream: "docker.io".parse().expect("a name"),
            repository: "library/app".parse().expect("a name"),
        };
        let before = denials.settled().await;
        denials.deny(&location).await;
        assert!(!denials.adopt(&location, false, before, || ()).await && denials.holds(&location));
        let before = denials.settled().await;
        denials.lift(&location).await;
        assert!(!denials.adopt(&location, true, before, || ()).await && !denials.holds(&location));
        for denied in [true, false] {
            let before = denials.settled().await;
            assert!(denials.adopt(&location, denied, before, || ()).await);
            assert_eq!(denials.holds(&location), denied);
            assert_eq!(metadata.noted(&location, Note::Denied).expect("known").is_some(), denied, "also later");
        }
    }
}
