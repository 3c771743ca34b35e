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
use crate::oci::Digest;

/// How many bytes have to come in a second, looked at as often as a reader's patience is over: below that upstream is
/// asked for the rest. Most upstreams give more than this.
pub(super) const LEAST_A_SECOND: u64 = 1 << 20;
/// The same for who has nobody else: below that nobody gives it, and so long it is looked at. Clients have to take as much.
const LEAST_AT_ALL: u64 = 1 << 10;
const LOOKED_AT_FOR: Duration = Duration::from_secs(10);

pub(super) struct Flow {
    bucket: Bucket,
    digest: Digest,
    /// Whether it began to come late.
    is_late: bool,
    body: BoxStream<'static, Result<Bytes, Error>>,
    pace: Pace,
    /// How long it was waited for, and what came, since it was looked at last.
    lately: Came,
    /// The same since it was looked at whether it comes at all.
    for_long: Came,
    /// The same since the beginning.
    in_all: Came,
    /// Whether it came too slowly, and was waited for all the same.
    is_slow: bool,
}

#[derive(Clone, Copy, Default)]
struct Came {
    waited: Duration,
    bytes: u64,
}

impl Came {
    fn add(&mut self, waited: Duration, bytes: u64) {
        (self.waited, self.bytes) = (self.waited + waited, self.bytes + bytes);
    }

    /// How many bytes came in a second, where they are too few.
    fn too_few(self) -> Option<u64> {
        self.below(LEAST_A_SECOND)
    }

    fn below(self, least: u64) -> Option<u64> {
        let rate = (self.bytes as f64 / self.waited.as_secs_f64()) as u64;
        (rate < least).then_some(rate)
    }
}

/// Somebody waits for the next bytes. Who leaves after a part of his patience had no help.
struct Waits<'a> {
    bucket: &'a Bucket,
    digest: Digest,
    came: u64,
    began: Instant,
    is_over: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if !self.is_over && !self.bucket.is_quick(self.began) {
            self.bucket.broke_off(&self.digest, "it takes too long to go on", self.came);
        }
    }
}

impl Flow {
    pub(super) fn of(
        bucket: Bucket,
        (digest, is_late): (Digest, bool),
        body: BoxStream<'static, Result<Bytes, Error>>,
        pace: Pace,
    ) -> Flow {
        let [lately, for_long, in_all] = [Came::default(); 3];
        Flow { bucket, digest, is_late, body, pace, lately, for_long, in_all, is_slow: false }
    }

    /// The next bytes, and what comes after them.
    pub(super) async fn next(mut self) -> Option<(Result<Bytes, Trouble>, Option<Flow>)> {
        let (began, patience) = (Instant::now(), self.bucket.patience);
        let mut waits =
            Waits { bucket: &self.bucket, digest: self.digest, came: self.in_all.bytes, began, is_over: false };
        let next = tokio::time::timeout(patience, self.body.next()).await;
        waits.is_over = true;
        drop(waits);
        let bytes = match next {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(None) => {
                self.ended();
                return None;
            }
            Ok(Some(Err(error))) => return Some((Err(self.broke_off(self.bucket.named(&error))), None)),
            Err(_) => return Some((Err(self.broke_off(Trouble::Away("no more came in time".to_owned()))), None)),
        };
        let waited = began.elapsed();
        for came in [&mut self.lately, &mut self.for_long, &mut self.in_all] {
            came.add(waited, bytes.len() as u64);
        }
        if self.lately.waited >= patience
            && let Some(rate) = std::mem::take(&mut self.lately).too_few()
        {
            if !std::mem::replace(&mut self.is_slow, true) {
                self.bucket.broke_off(&self.digest, &slowly(rate), self.in_all.bytes);
            }
            if self.pace == Pace::Helps {
                return Some((Err(Trouble::Slow(rate)), None));
            }
        }
        if self.for_long.waited >= LOOKED_AT_FOR
            && let Some(rate) = std::mem::take(&mut self.for_long).below(LEAST_AT_ALL)
        {
            return Some((Err(Trouble::Trickles(rate)), None));
        }
        Some((Ok(bytes), Some(self)))
    }

    fn broke_off(&self, trouble: Trouble) -> Trouble {
        let (Trouble::Away(why) | Trouble::Refused(why)) = &trouble else { return trouble };
        self.bucket.broke_off(&self.digest, why, self.in_all.bytes);
        trouble
    }

    /// All of it came. It says that the bucket gives content where that was of help.
    fn ended(&self) {
        let Came { waited, bytes } = self.in_all;
        match self.in_all.too_few().filter(|_| waited > self.bucket.patience / 4) {
            None if !self.is_slow => self.bucket.gave(&self.digest, bytes, self.is_late),
            Some(rate) if !self.is_slow && !self.bucket.gives_content() => {
                self.bucket.broke_off(&self.digest, &slowly(rate), bytes);
            }
            _ => {}
        }
    }
}

fn slowly(rate: u64) -> String {
    format!("it gives {rate} bytes a second")
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::super::super::settings::Settings;
    use super::*;
    use crate::oci::Algorithm;

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
        let (mut flow, mut read) =
            (Some(Flow::of(bucket(), (Digest::of(Algorithm::Sha256, b"x"), false), body.boxed(), pace)), 0);
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
        let fifth = Duration::from_millis(200);
        assert_eq!(read(Pace::Any, 1000, 1, fifth, now).await, Err(Trouble::Trickles(5)), "that is as good as nothing");
        assert_eq!(read(Pace::Any, 1000, 1, now, long).await, Ok(1000), "the reader is slow");
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
