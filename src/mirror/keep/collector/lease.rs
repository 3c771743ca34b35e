//! Whose turn it is to go round: `collector/lease/<epoch>`, created if absent and never renewed. The next epoch may be
//! taken when the last is old enough, so that a lease says as well when the last round was.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::tier::{Bucket, Trouble};

const FOLDER: &str = "collector/lease";
/// None is longer, in bytes.
const LONGEST: u64 = 1024;
/// Each who takes one removes those before it.
const MOST: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Lease {
    taken_at: Timestamp,
}

/// Takes the lease if the last one is older than `every`; its epoch where it is ours.
pub(super) async fn take(bucket: &Bucket, now: Timestamp, every: Duration) -> Result<Option<u64>, Trouble> {
    let (mut epochs, mut listed) = (Vec::<u64>::new(), bucket.list(FOLDER));
    while let Some(found) = listed.next().await.transpose()? {
        epochs.extend(found.key.rsplit('/').next().and_then(|epoch| epoch.parse::<u64>().ok()));
        if epochs.len() > MOST {
            return Err(Trouble::Refused(format!("it lists more than {MOST} leases of the collector")));
        }
    }
    let last = epochs.iter().copied().max().unwrap_or_default();
    if let Some(found) = bucket.read(&key_of(last), LONGEST).await? {
        let taken_at = serde_json::from_slice::<Lease>(&found.bytes).map_or(Timestamp(0), |lease| lease.taken_at);
        // One of a clock that was far ahead holds nobody up for ever.
        if Duration::from_millis(now.0.abs_diff(taken_at.0)) < every {
            return Ok(None);
        }
    }
    let lease = serde_json::to_vec(&Lease { taken_at: now }).unwrap_or_default();
    match bucket.create(&key_of(last + 1), lease.into()).await {
        Err(Trouble::Changed) => return Ok(None),
        created => created?,
    }
    for epoch in epochs {
        bucket.remove(&key_of(epoch)).await?;
    }
    Ok(Some(last + 1))
}

fn key_of(epoch: u64) -> String {
    format!("{FOLDER}/{epoch}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::settings::Settings;

    #[tokio::test(start_paused = true)]
    async fn one_of_many_takes_it_and_nobody_before_the_next_is_due() {
        let bucket = Bucket::in_slow_memory(&Settings::for_tests());
        let (now, hour) = (Timestamp(1_700_000_000_000), Duration::from_secs(3600));
        for then in [now, now.plus(hour), now.plus(3 * hour)] {
            let all = (0..8).map(|_| take(&bucket, then, hour));
            let taken = futures_util::future::join_all(all).await;
            assert_eq!(taken.into_iter().filter(|taken| matches!(taken, Ok(Some(_)))).count(), 1);
            assert_eq!(take(&bucket, then.plus(hour / 2), hour).await, Ok(None));
        }
        assert_eq!(bucket.list(FOLDER).count().await, 1, "those before it are gone");
    }
}
