//! How long readers have waited for leases lately, all of them together: each for a moment that is no trouble by itself,
//! and a pull for as many as it has layers.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What was waited longer ago does not count.
const LATELY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Delays(Mutex<Option<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    /// Those who wait at the same time lose it once.
    until: Instant,
    lost: Duration,
}

impl Delays {
    /// Somebody has waited since then. Whether as much was lost lately as is too much, which begins anew then.
    pub(super) fn add(&self, began: Instant, now: Instant, too_much: Duration) -> bool {
        let mut seen = self.0.lock();
        let Seen { since, until, lost } = seen
            .filter(|seen| now.saturating_duration_since(seen.since) <= LATELY)
            .unwrap_or(Seen { since: began, until: began, lost: Duration::ZERO });
        let lost = lost + now.saturating_duration_since(until.max(began));
        let is_too_much = lost >= too_much;
        *seen = (!is_too_much).then_some(Seen { since, until: until.max(now), lost });
        is_too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_lose_at_once_counts_once_and_nothing_for_ever() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let (delays, too_much) = (Delays::default(), millis(1500));
        let waits = |from: u64, until: u64| delays.add(start + millis(from), start + millis(until), too_much);
        assert!((0..50).all(|n| !waits(n, 450 + n)));
        assert!(!waits(1000, 1450) && !waits(2000, 2450) && waits(3000, 3450));
        assert!(!waits(4000, 5000) && !waits(40_000, 41_000) && waits(41_000, 41_500));
    }
}
