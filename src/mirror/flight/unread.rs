//! Whether a fill goes on when its last reader has left.
//!
//! Bytes that nobody waits for are worth their download where somebody will come for them; how many of
//! them is a setting. A fill that stops keeps what it has and goes on from there when it is asked for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::mirror::flight::progress::Progress;

/// How often a fill looks whether somebody reads it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How much may be missing of a blob for its fill to go on without readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinishUnread {
    /// Whatever is missing.
    #[default]
    Always,
    /// At most so many bytes; of a blob of unknown size, anything but with zero.
    Bytes(u64),
    /// At most so many hundredths of the blob; likewise.
    Percent(u8),
}

impl FinishUnread {
    /// Whether a fill goes on that has `written` bytes of `total`.
    fn goes_on(self, written: u64, total: Option<u64>) -> bool {
        let missing = total.map(|total| total.saturating_sub(written));
        match (self, missing.zip(total)) {
            (FinishUnread::Always, _) => true,
            (FinishUnread::Bytes(most), Some((missing, _))) => missing <= most,
            (FinishUnread::Percent(most), Some((missing, total))) => {
                u128::from(missing) * 100 <= u128::from(total) * u128::from(most)
            }
            (FinishUnread::Bytes(most), None) => most > 0,
            (FinishUnread::Percent(most), None) => most > 0,
        }
    }
}

/// Waits until nobody reads the fill any more and too much of it is missing to go on for nobody.
pub(crate) async fn deserted(policy: FinishUnread, progress: &watch::Sender<Progress>) {
    if policy == FinishUnread::Always {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let goes_on = {
            let now = progress.borrow();
            policy.goes_on(now.written, now.total)
        };
        if !goes_on && nobody_reads(progress) {
            return;
        }
    }
}

/// Whether the fill had readers and has none left. The handle that the flight table has is no reader.
pub(crate) fn nobody_reads(progress: &watch::Sender<Progress>) -> bool {
    progress.receiver_count() <= 1 && progress.borrow().seats.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_goes_on_for_what_is_missing_within_the_setting() {
        use FinishUnread::{Always, Bytes, Percent};
        for (policy, written, total, expected) in [
            (Always, 0, None, true),
            (Always, 0, Some(100), true),
            (Percent(0), 99, Some(100), false),
            (Percent(0), 100, Some(100), true),
            (Percent(50), 50, Some(100), true),
            (Percent(50), 49, Some(100), false),
            (Percent(100), 0, Some(u64::MAX), true),
            (Percent(1), 0, None, true),
            (Percent(0), 7, None, false),
            (Bytes(10), 90, Some(100), true),
            (Bytes(10), 89, Some(100), false),
            (Bytes(10), 0, None, true),
            (Bytes(0), 0, None, false),
        ] {
            assert_eq!(policy.goes_on(written, total), expected, "{policy:?} {written} {total:?}");
        }
    }
}
