//! What time it is by the store's own clock, as the dates of its answers tell: the one clock that all replicas read.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Timestamp;

/// For so long the date counts that came soonest after it was written. Beyond, clocks may have gone apart.
const COUNTS: Duration = Duration::from_secs(60);

/// The store's clock, read off its answers. A date has no parts of a second and comes late: of several the one tells
/// best that makes it latest.
#[derive(Debug, Default)]
pub(super) struct StoreTime(Mutex<Option<(Timestamp, Instant)>>);

impl StoreTime {
    /// An answer of this date has just come.
    pub(super) fn heard(&self, date: Timestamp) {
        let (mut known, now) = (self.0.lock(), Instant::now());
        if known.is_none_or(|(told, at)| date >= told.plus(now - at) || now - at > COUNTS) {
            *known = Some((date, now));
        }
    }

    /// The time now; `None` before the first answer.
    pub(super) fn now(&self) -> Option<Timestamp> {
        (*self.0.lock()).map(|(told, at)| told.plus(at.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_dates_that_come_late_the_one_counts_that_came_soonest() {
        let (time, second) = (StoreTime::default(), 1000);
        assert_eq!(time.now(), None);
        time.heard(Timestamp(10 * second));
        tokio::time::advance(Duration::from_millis(1500)).await;
        time.heard(Timestamp(11 * second));
        assert_eq!(time.now(), Some(Timestamp(11_500)), "half a second late");
        time.heard(Timestamp(12 * second));
        assert_eq!(time.now(), Some(Timestamp(12_000)));
        tokio::time::advance(COUNTS + Duration::from_secs(1)).await;
        time.heard(Timestamp(70 * second));
        assert_eq!(time.now(), Some(Timestamp(70_000)), "the store's clock was set back");
    }
}
