//! The bytes of a blob as they come from the bucket: each is waited for no longer than the readers' patience, and where
//! somebody else would give them, all of them have to come at some rate, as far as it is the bucket that is waited for.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::Error;
use tokio::time::Instant;

use super::super::Trouble;
use super::{Bucket, Pace};

/// How many bytes have to come in a second, looked at as often as a reader's patience is over: below that upstream is
/// asked for the rest. Most upstreams give more than this.
const LEAST_A_SECOND: u64 = 1 << 20;

pub(super) struct Flow {
    bucket: Bucket,
    body: BoxStream<'static, Result<Bytes, Error>>,
    pace: Pace,
    /// How long it was waited for, and what came, since it was looked at last.
    waited: Duration,
    came: u64,
}

impl Flow {
    pub(super) fn of(bucket: Bucket, body: BoxStream<'static, Result<Bytes, Error>>, pace: Pace) -> Flow {
        Flow { bucket, body, pace, waited: Duration::ZERO, came: 0 }
    }

    /// The next bytes, and what comes after them.
    pub(super) async fn next(mut self) -> Option<(Result<Bytes, Trouble>, Option<Flow>)> {
        let began = Instant::now();
        let bytes = match tokio::time::timeout(self.bucket.patience, self.body.next()).await {
            Ok(next) => match next? {
                Ok(bytes) => bytes,
                Err(error) => return Some((Err(self.bucket.trouble(&error, true)), None)),
            },
            Err(_) => return Some((Err(self.bucket.stalls()), None)),
        };
        self.waited += began.elapsed();
        self.came += bytes.len() as u64;
        if self.waited >= self.bucket.patience {
            let rate = (self.came as f64 / self.waited.as_secs_f64()) as u64;
            if self.pace == Pace::Helps && rate < LEAST_A_SECOND {
                return Some((Err(Trouble::Slow(rate)), None));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Some((Ok(bytes), Some(self)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::super::super::settings::Settings;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn bucket() -> Bucket {
        Bucket::in_slow_memory(&Settings { patience: PATIENCE, ..Settings::for_tests() })
    }

    /// What comes of so many pieces of this size, one after so long.
    async fn read(pace: Pace, pieces: usize, size: usize, pause: Duration, rest: Duration) -> Result<usize, Trouble> {
        let body = stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from(vec![0; size]))
        });
        let (mut flow, mut read) = (Some(Flow::of(bucket(), body.boxed(), pace)), 0);
        while let Some((bytes, next)) = match flow.take() {
            Some(flow) => flow.next().await,
            None => None,
        } {
            read += bytes?.len();
            flow = next;
            tokio::time::sleep(rest).await;
        }
        Ok(read)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_drops_is_given_up_and_a_slow_reader_is_not() {
        let (now, long) = (Duration::ZERO, Duration::from_secs(60));
        assert_eq!(read(Pace::Helps, 1000, 1000, PATIENCE / 4, now).await, Err(Trouble::Slow(2000)));
        assert_eq!(read(Pace::Helps, 1000, 25_000, PATIENCE / 4, now).await, Err(Trouble::Slow(50_000)));
        assert_eq!(read(Pace::Any, 1000, 1000, PATIENCE / 4, now).await, Ok(1_000_000));
        assert!(read(Pace::Helps, 3, 1000, PATIENCE * 2, now).await.is_err());
        assert!(read(Pace::Any, 3, 1000, PATIENCE * 2, now).await.is_err());
        assert_eq!(read(Pace::Helps, 100, 600_000, PATIENCE / 4, now).await, Ok(60_000_000));
        assert_eq!(read(Pace::Helps, 20, 1000, now, long).await, Ok(20_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_answers_too_slowly_to_be_of_help_is_left_alone() {
        let quick = Settings::for_tests();
        let patient = Bucket::in_slow_memory(&quick);
        let hasty = Bucket::in_slow_memory(&Settings { patience: Duration::from_millis(20), ..quick });
        for bucket in [&patient, &hasty] {
            for _ in 0..3 {
                assert_eq!(bucket.read("a", 1).await, Ok(None));
            }
            bucket.write("a", Bytes::from_static(b"x")).await.expect("written");
        }
        assert!(patient.is_well() && !hasty.is_well(), "a write that takes as long does not say that it is well");
    }
}
