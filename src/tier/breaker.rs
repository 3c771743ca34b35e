//! When the bucket is left alone, and in what: one breaker for each of what is asked of it. Decisions only: who asks says
//! what came of it.
//!
//! After a few failures in a row nobody asks for a second, then for twice as long each time, up to thirty seconds;
//! then one may look whether it is over, while the others go on without. A body that comes says nothing of longer ones:
//! it ends the trouble when it is longer than what came before others broke off.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What is owed begins to go up within a minute after the bucket is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the pause is doubled.
const DOUBLINGS: u32 = 5;
/// A body of so many bytes says that all of them come.
const LONG: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Breaker {
    /// After how many failures in a row it is left alone.
    failures: u32,
    /// For how long the first time.
    first: Duration,
    /// For how long at most.
    longest: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Until when nobody asks; who asks after that moves it on before.
    closed_until: Option<Instant>,
    /// What was wrong at last.
    why: String,
    /// So many bytes have to come for it to be well: more than came before it failed, at most [`LONG`].
    wants: u64,
}

impl Breaker {
    pub(super) fn after(failures: u32) -> Breaker {
        Breaker { failures, first: FIRST_PAUSE, longest: LONGEST_PAUSE, state: Mutex::default() }
    }

    /// The same, which is left alone for no longer than this.
    pub(super) fn resting(self, longest: Duration) -> Breaker {
        Breaker { longest, ..self }
    }

    /// The same, which is left alone for so long the first time.
    pub(super) fn at_first(self, first: Duration) -> Breaker {
        Breaker { first, ..self }
    }

    /// Whether it may be asked. Of those who come after a pause the first may.
    pub(super) fn admits(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        match state.closed_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.closed_until = Some(now + self.pause(state.failures));
                true
            }
            None => true,
        }
    }

    /// Whether there is no trouble, as far as is known. Asks for no turn.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed_until.is_none()
    }

    /// What is wrong, where it is left alone because of that.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        state.closed_until.map(|_| state.why.clone())
    }

    /// How long to wait before it is of use to ask it.
    pub(super) fn waits(&self) -> Duration {
        let until = self.state.lock().closed_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// How many bytes have to come for it to be well.
    pub(super) fn wants(&self) -> u64 {
        self.state.lock().wants
    }

    /// It answered. Whether it did not before.
    pub(super) fn well(&self) -> bool {
        std::mem::take(&mut *self.state.lock()).closed_until.is_some()
    }

    /// Whether it is well where so many bytes came of it, and were all.
    pub(super) fn is_enough(&self, bytes: u64) -> bool {
        bytes >= self.wants()
    }

    /// It did not answer, or said that it cannot. Whether it is left alone from now on and was not before.
    pub(super) fn ill(&self, why: &str) -> bool {
        self.broke_off(why, 0)
    }

    /// The same where it is left alone at once, however often that happened before.
    pub(super) fn ill_enough(&self, why: &str) -> bool {
        {
            let mut state = self.state.lock();
            state.failures = state.failures.max(self.failures.saturating_sub(1));
        }
        self.ill(why)
    }

    /// It is left alone for as long as it may be, however it was before, and then asked as seldom. Whether it was not yet.
    pub(super) fn is_to_rest(&self, why: &str) -> bool {
        let mut state = self.state.lock();
        state.failures = state.failures.max(self.failures.saturating_add(DOUBLINGS));
        why.clone_into(&mut state.why);
        state.closed_until.replace(Instant::now() + self.longest).is_none()
    }

    /// The same after so many bytes.
    pub(super) fn broke_off(&self, why: &str, came: u64) -> bool {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        why.clone_into(&mut state.why);
        state.wants = state.wants.max(came.saturating_add(1).min(LONG));
        let opens = state.failures >= self.failures && state.closed_until.is_none();
        if state.failures >= self.failures {
            state.closed_until = Some(Instant::now() + self.pause(state.failures));
        }
        opens
    }

    fn pause(&self, failures: u32) -> Duration {
        let doubled = failures.saturating_sub(self.failures).min(DOUBLINGS);
        (self.first * (1 << doubled)).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_few_failures_one_at_a_time_looks_whether_it_is_over() {
        let breaker = Breaker::after(3);
        assert!(!breaker.ill("a") && !breaker.ill("b") && breaker.admits() && breaker.trouble().is_none());
        assert!(breaker.ill("c") && !breaker.is_closed() && !breaker.admits());
        assert_eq!(breaker.trouble().as_deref(), Some("c"));
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(breaker.admits() && !breaker.admits(), "the first who comes, and nobody beside him");
        assert!(!breaker.ill("d"));
        for _ in 0..20 {
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(breaker.admits());
            breaker.ill("e");
        }
        assert!(breaker.waits() <= LONGEST_PAUSE);
        assert!(breaker.well() && breaker.is_closed() && breaker.admits() && breaker.waits().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_body_does_not_end_the_trouble_with_long_ones() {
        let breaker = Breaker::after(2);
        let gave = |bytes| breaker.is_enough(bytes) && breaker.well();
        assert!(!breaker.broke_off("it stalls", 100_000) && !gave(100_000));
        assert!(breaker.broke_off("it stalls", 0), "what came between does not count");
        assert!(!gave(100_000) && !breaker.is_closed());
        assert!(gave(100_001) && breaker.is_closed());
        breaker.broke_off("it stalls", 10 * LONG);
        assert!(!gave(LONG) && !breaker.ill("once"), "they are no two in a row");
    }
}
