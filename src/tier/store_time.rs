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

    /// How this machine's clock, which says this, differs from it.
    pub(super) fn against(&self, ours: Timestamp) -> String {
        let Some(theirs) = self.now() else { return "the clock of this machine differs from the store's".to_owned() };
        let seconds = ours.0.abs_diff(theirs.0) / 1000;
        let how = if ours > theirs { "ahead of" } else { "behind" };
        let much = match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        };
        format!("the clock of this machine is {much} {how} the store's")
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
    async fn it_is_said_how_far_clocks_are_apart() {
        let (time, noon) = (StoreTime::default(), Timestamp(1_700_000_000_000));
        assert!(!time.against(noon).contains("None"));
        time.heard(noon);
        let told = [(90, "90 s"), (1200, "20 min"), (90_000, "25 h")].map(|(apart, much)| {
            let apart = Duration::from_secs(apart);
            time.against(noon.plus(apart)).contains(&format!("is {much} ahead of"))
                && time.against(noon.minus(apart)).contains(&format!("is {much} behind"))
        });
        assert_eq!(told, [true; 3]);
    }

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
