//! Whether a fill goes on when its last reader has left.
//!
//! Bytes that nobody waits for are worth their download where somebody will come for them; how many of
//! them is a setting. They are worth no place that somebody else waits for. A fill that stops keeps what it
//! has and goes on from there when it is asked for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use crate::mirror::flight::places::Place;
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

/// Waits until somebody else wants the place of the fill, and nobody follows the fill: then the place is given
/// up, even if the fill moves. To who has none it is given up in any case, where its client has several.
pub(crate) async fn displaced(place: &Place, progress: &watch::Sender<Progress>) {
    let for_nobody = async {
        loop {
            place.turns().are_wanted().await;
            if nobody_follows(progress) && place.gives_way() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = for_nobody => {}
        () = place.called_back() => {}
    }
}

/// Waits until nobody follows the fill.
pub(crate) async fn left(progress: &watch::Sender<Progress>) {
    while !nobody_follows(progress) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the fill had readers and has none left.
fn nobody_reads(progress: &watch::Sender<Progress>) -> bool {
    nobody_follows(progress) && progress.borrow().seats.load(Ordering::Relaxed)
}

/// Whether nobody waits for the fill, reads it or looks at it.
pub(crate) fn nobody_follows(progress: &watch::Sender<Progress>) -> bool {
    followers(progress) == 0
}

/// How many do. The handle that the flight table has is none of them.
pub(crate) fn followers(progress: &watch::Sender<Progress>) -> usize {
    progress.receiver_count().saturating_sub(1)
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
