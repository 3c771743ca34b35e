//! How long readers have waited lately for one thing after the other, all of them together: each for a moment that is no
//! trouble by itself, and a pull for as many as it has layers.

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
    /// For what they have waited.
    waited_for: u8,
}

impl Delays {
    /// Somebody has waited for one of these since then. Where as much was lost lately as is too much, what that was waited
    /// for, and it begins anew.
    pub(super) fn add(&self, waited_for: u8, began: Instant, now: Instant, too_much: Duration) -> Option<u8> {
        let mut seen = self.0.lock();
        let mut lately = seen.filter(|seen| now.saturating_duration_since(seen.since) <= LATELY).unwrap_or(Seen {
            since: began,
            until: began,
            lost: Duration::ZERO,
            waited_for: 0,
        });
        lately.lost += now.saturating_duration_since(lately.until.max(began));
        lately.until = lately.until.max(now);
        lately.waited_for |= waited_for;
        let is_too_much = lately.lost >= too_much;
        *seen = (!is_too_much).then_some(lately);
        is_too_much.then_some(lately.waited_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_lose_at_once_counts_once_and_nothing_for_ever() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let (delays, too_much) = (Delays::default(), millis(1500));
        let waits =
            |what: u8, from: u64, until: u64| delays.add(what, start + millis(from), start + millis(until), too_much);
        assert!((0..50).all(|n| waits(1, n, 450 + n).is_none()));
        assert!(waits(1, 1000, 1450).is_none() && waits(2, 2000, 2450).is_none());
        assert_eq!(waits(2, 3000, 3450), Some(3));
        assert!(waits(4, 4000, 5000).is_none() && waits(1, 40_000, 41_000).is_none());
        assert_eq!(waits(1, 41_000, 41_500), Some(1));
    }
}
