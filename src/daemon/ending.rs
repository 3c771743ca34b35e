//! The last of a stop: what is owed to the bucket goes up while there is time, since the disk may go with the process.

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tier::Raising;

/// Lets what is owed go up until then, as long as nobody is in a `hurry`. `housekeeping` carries it up, and ends when nothing
/// more can go up.
pub(super) async fn carry_up(
    raising: Option<&Raising>,
    mut housekeeping: JoinHandle<()>,
    until: Instant,
    hurry: &CancellationToken,
) {
    if let Some(raising) = raising {
        let owed = raising.standing().backlog;
        if owed > 0 {
            tracing::info!(
                owed,
                "what is owed to the bucket goes up until [server] drain is over; a second signal ends that"
            );
            raising.end();
            tokio::select! {
                _ = tokio::time::timeout_at(until, &mut housekeeping) => {}
                () = hurry.cancelled() => {}
            }
            say(owed, raising.standing().backlog, raising.bucket().name());
        }
    }
    housekeeping.abort();
}

fn say(owed: u64, left: u64, bucket: &str) {
    if left == 0 {
        tracing::info!(bucket, owed, "all that was owed to the bucket is in it");
    } else {
        tracing::warn!(
            bucket,
            left,
            "not all that is owed to the bucket is in it: the rest goes up when this store is served again, and is lost where it is not kept"
        );
    }
}
