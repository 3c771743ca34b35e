//! How often something may be done by each client. It runs on the time of the runtime.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::ClientId;

/// After so many times, who has not been there lately is forgotten. That bounds what is remembered: no more
/// clients than asked in the last period, and that many.
const SWEEP: u32 = 4096;

#[derive(Debug)]
pub(super) struct Rate {
    count: NonZeroU32,
    limiter: RateLimiter<ClientId, HashMapStateStore<ClientId>, Since, NoOpMiddleware<Duration>>,
    taken: AtomicU32,
}

impl Rate {
    /// `count` times in each `period`, all of them at once if need be.
    pub(super) fn new(count: NonZeroU32, period: Duration) -> Rate {
        let one = (period / count.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(one).unwrap_or(Quota::per_second(count)).allow_burst(count);
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), Since(Instant::now()));
        Rate { count, limiter, taken: AtomicU32::new(0) }
    }

    /// How many clients are remembered.
    pub(super) fn clients(&self) -> u64 {
        self.limiter.len() as u64
    }

    pub(super) const fn count(&self) -> u32 {
        self.count.get()
    }

    /// Once.
    ///
    /// # Errors
    /// How long the client has to wait.
    pub(super) fn take(&self, client: ClientId) -> Result<(), Duration> {
        self.take_many(client, NonZeroU32::MIN)
    }

    /// So many times; never more than may be done at once.
    ///
    /// # Errors
    /// How long the client has to wait.
    pub(super) fn take_many(&self, client: ClientId, times: NonZeroU32) -> Result<(), Duration> {
        if self.taken.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let taken = self.limiter.check_key_n(&client, times.min(self.count));
        let Ok(taken) = taken else { return Ok(()) };
        taken.map_err(|not_yet| not_yet.wait_time_from(self.limiter.clock().now()).max(Duration::from_millis(1)))
    }
}

/// The time of the runtime, since the limits hold.
#[derive(Clone, Debug)]
struct Since(Instant);

impl Clock for Since {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_not_been_there_lately_is_forgotten() {
        let rate = Rate::new(NonZeroU32::MIN, Duration::from_secs(1));
        for n in 0..SWEEP - 1 {
            rate.take(ClientId::V6(n.into())).expect("his first");
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        rate.take(ClientId::Operator).expect("his first");
        assert!(rate.limiter.len() <= 1, "{}", rate.limiter.len());
    }
}
