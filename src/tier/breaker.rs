//! When the bucket is left alone. Decisions only: who asks says what came of it.
//!
//! After three failures in a row nobody asks for a second, then for twice as long each time, up to thirty seconds;
//! then one may look whether it is over, while the others go on without.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const FAILURES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What is owed begins to go up within a minute after the bucket is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Until when nobody asks; who asks after that moves it on before.
    closed_until: Option<Instant>,
}

impl Breaker {
    /// Whether it may be asked. Of those who come after a pause the first may.
    pub(super) fn admits(&self) -> bool {
        let mut state = self.0.lock();
        let now = Instant::now();
        match state.closed_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.closed_until = Some(now + pause(state.failures));
                true
            }
            None => true,
        }
    }

    /// Whether there is no trouble, as far as is known. Asks for no turn.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed_until.is_none()
    }

    /// How long to wait before it is of use to ask.
    pub(super) fn waits(&self) -> Duration {
        let until = self.0.lock().closed_until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// It answered. Whether it did not before.
    pub(super) fn well(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).closed_until.is_some()
    }

    /// It did not answer, or said that it cannot. Whether it is left alone from now on and was not before.
    pub(super) fn ill(&self) -> bool {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        let opens = state.failures >= FAILURES && state.closed_until.is_none();
        if state.failures >= FAILURES {
            state.closed_until = Some(Instant::now() + pause(state.failures));
        }
        opens
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = failures.saturating_sub(FAILURES).min(5);
    (FIRST_PAUSE * (1 << doubled)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_few_failures_one_at_a_time_looks_whether_it_is_over() {
        let breaker = Breaker::default();
        assert!(!breaker.ill() && !breaker.ill() && breaker.admits());
        assert!(breaker.ill() && !breaker.is_closed() && !breaker.admits());
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(breaker.admits() && !breaker.admits(), "the first who comes, and nobody beside him");
        assert!(!breaker.ill());
        for _ in 0..20 {
            tokio::time::advance(LONGEST_PAUSE).await;
            assert!(breaker.admits());
            breaker.ill();
        }
        assert!(breaker.waits() <= LONGEST_PAUSE);
        assert!(breaker.well() && breaker.is_closed() && breaker.admits() && breaker.waits().is_zero());
    }
}
