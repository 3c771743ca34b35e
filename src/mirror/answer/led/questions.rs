//! How often a tag is asked for, for who may read it and nothing else of a repository, and names a digest.
//!
//! Truths: what was in vain is remembered for who asked and for what he asked, and keeps nobody else from asking. How
//! often he can have us ask has a bound, whatever he asks for; who has asked as often goes by what was said lately.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Mutex;

use super::Told;
use crate::clients::ClientId;
use crate::clock::Timestamp;
use crate::metadata::Location;
use crate::mirror::error::MirrorError;
use crate::oci::{Digest, Tag};

/// Who asks for which tag.
pub(super) type Of = (ClientId, Location, Tag);

/// What was said when a tag was last asked for.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) asked_at: Timestamp,
    pub(super) told: Result<Option<Told>, MirrorError>,
}

/// One asks at a time: whoever waits for him may take over what he was told.
pub(super) type Latest = Arc<Mutex<Option<Said>>>;

/// What was asked.
pub(in crate::mirror::answer) struct Questions {
    in_vain: Cache<(Of, Digest), Timestamp>,
    /// By when each will have had his turns, at one in [`Questions::LATELY`].
    taken: Cache<Of, Timestamp>,
    latest: Cache<(Location, Tag), Latest>,
}

impl Questions {
    const MOST: u64 = 10_000;
    /// For so long what was in vain is not asked for again, and what a tag leads to counts as known, however short the
    /// time is for which tags are fresh.
    pub(super) const LATELY: Duration = Duration::from_secs(5);
    /// So often somebody may have a tag asked for at once, and then once in that time.
    const AT_ONCE: u64 = 4;

    pub(in crate::mirror::answer) fn new() -> Questions {
        // Who comes last has a place: without one nothing of him would be bounded.
        let lru = EvictionPolicy::lru;
        Questions {
            in_vain: Cache::builder().max_capacity(Questions::MOST).eviction_policy(lru()).build(),
            taken: Cache::builder().max_capacity(Questions::MOST).eviction_policy(lru()).build(),
            latest: Cache::builder().max_capacity(Questions::MOST).eviction_policy(lru()).build(),
        }
    }

    pub(in crate::mirror::answer) fn tables(&self) -> [(&'static str, u64); 3] {
        [
            ("led_in_vain", self.in_vain.entry_count()),
            ("led_askers", self.taken.entry_count()),
            ("led_asked", self.latest.entry_count()),
        ]
    }

    pub(super) fn was_in_vain(&self, of: &Of, digest: Digest, now: Timestamp) -> bool {
        self.in_vain.get(&(of.clone(), digest)).is_some_and(|at| is_lately(at, now))
    }

    pub(super) fn is_in_vain(&self, of: Of, digest: Digest, now: Timestamp) {
        self.in_vain.insert((of, digest), now);
    }

    /// Whether the tag may be asked for once more for him; counts it.
    pub(super) fn may_ask(&self, of: &Of, now: Timestamp) -> bool {
        let mut may = false;
        self.taken.entry(of.clone()).and_upsert_with(|known| {
            let each = millis(Questions::LATELY);
            let last = now.0 + each * Questions::AT_ONCE;
            // The clock may have been set back meanwhile.
            let until = known.map_or(now.0, |known| known.into_value().0.clamp(now.0, last));
            may = until + each <= last;
            Timestamp(if may { until + each } else { until })
        });
        may
    }

    /// He was not answered: that was no question.
    pub(super) fn was_no_question(&self, of: &Of) {
        self.taken.entry(of.clone()).and_upsert_with(|known| {
            Timestamp(known.map_or(0, |known| known.into_value().0.saturating_sub(millis(Questions::LATELY))))
        });
    }

    pub(super) fn latest(&self, location: &Location, tag: &Tag) -> Latest {
        self.latest.entry((location.clone(), tag.clone())).or_default().into_value()
    }
}

impl Said {
    pub(super) fn is_lately(&self, now: Timestamp) -> bool {
        is_lately(self.asked_at, now)
    }
}

fn is_lately(at: Timestamp, now: Timestamp) -> bool {
    at.age(now).is_some_and(|age| age < Questions::LATELY)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn of(client: u64, tag: u64) -> Of {
        let location =
            Location { upstream: "a.example".parse().expect("valid"), repository: "app".parse().expect("valid") };
        (ClientId::Caller(client), location, format!("t{tag}").parse().expect("a tag"))
    }

    fn digest(n: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    const START: Timestamp = Timestamp(1_000_000);

    fn later(millis: u64) -> Timestamp {
        Timestamp(START.0 + millis)
    }

    #[test]
    fn what_was_in_vain_is_so_for_who_asked_and_for_what_and_for_a_while() {
        let questions = Questions::new();
        questions.is_in_vain(of(1, 1), digest(1), START);
        let was = |of: &Of, number, at| questions.was_in_vain(of, digest(number), at);
        assert!(was(&of(1, 1), 1, later(4_999)) && !was(&of(1, 1), 1, later(5_000)));
        assert!(!was(&of(2, 1), 1, START) && !was(&of(1, 2), 1, START) && !was(&of(1, 1), 2, START));
    }

    #[test]
    fn who_asks_has_a_few_questions_at_once_and_then_one_from_time_to_time_and_others_have_theirs() {
        let questions = Questions::new();
        let may = |client, tag, at| questions.may_ask(&of(client, tag), at);
        assert_eq!([0; 5].map(|_| may(1, 1, START)), [true, true, true, true, false]);
        assert!(may(2, 1, START) && may(1, 2, START));
        assert!(!may(1, 1, later(4_999)) && may(1, 1, later(5_000)) && !may(1, 1, later(5_000)));
        questions.was_no_question(&of(1, 1));
        assert!(may(1, 1, later(5_000)));
        assert_eq!([0; 5].map(|_| may(1, 1, later(100_000))), [true, true, true, true, false], "no more for waiting");
        // Set back.
        assert!(!may(1, 1, START) && may(1, 1, later(5_000)));
    }

    #[test]
    fn so_many_questions_are_remembered_and_who_comes_last_is_among_them() {
        let questions = Questions::new();
        for n in 0..2 * Questions::MOST {
            assert!(questions.may_ask(&of(n, 1), START));
            questions.is_in_vain(of(1, 1), digest(n), START);
            questions.latest(&of(1, n).1, &of(1, n).2);
        }
        questions.in_vain.run_pending_tasks();
        questions.taken.run_pending_tasks();
        questions.latest.run_pending_tasks();
        assert_eq!(questions.tables().map(|(_, entries)| entries), [Questions::MOST; 3]);
        assert!(questions.was_in_vain(&of(1, 1), digest(2 * Questions::MOST - 1), START));
    }
}
