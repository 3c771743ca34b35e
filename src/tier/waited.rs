//! How long one look-up has waited for the bucket: all its questions together have the time that a reader is patient.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Bucket;

/// What a look-up has waited so far; its copies are the same look-up.
#[derive(Clone, Debug, Default)]
pub struct Waited(Arc<AtomicU64>);

impl Waited {
    fn so_far(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn for_longer(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2), Ordering::Relaxed);
    }
}

impl Bucket {
    /// How long a look-up may still wait for it; `None` for no longer.
    pub(super) fn time_left(&self, waited: &Waited) -> Option<Duration> {
        Some(self.patience().saturating_sub(waited.so_far())).filter(|left| !left.is_zero())
    }

    /// What comes of questions to it, if that comes while the look-up has time for them; they count as one, and none is
    /// put when there is no time left.
    pub async fn within<T>(&self, waited: &Waited, asked: impl Future<Output = T>) -> Option<T> {
        let left = self.time_left(waited)?;
        let began = Instant::now();
        let answer = tokio::time::timeout(left, asked).await.ok();
        waited.for_longer(began.elapsed());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_questions_of_a_look_up_have_the_time_of_one() {
        let patience = Duration::from_secs(2);
        let bucket = Bucket::in_memory(&Settings { patience, ..Settings::for_tests() });
        let (began, waited, other) = (Instant::now(), Waited::default(), Waited::default());
        let asked = |seconds: f32| tokio::time::sleep(Duration::from_secs_f32(seconds));
        assert!(bucket.within(&waited, asked(1.5)).await.is_some());
        assert!(bucket.within(&waited.clone(), asked(1.5)).await.is_none(), "of one look-up");
        assert_eq!(began.elapsed(), patience);
        let unasked = async { panic!("there is no time left") };
        assert!(bucket.within(&waited, unasked).await.is_none());
        assert!(bucket.within(&other, asked(1.5)).await.is_some(), "of another");
    }
}
