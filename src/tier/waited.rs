//! How long one look-up has waited for the bucket: all its questions together have the time that a reader is patient.
//! Its leases have what is left of it, and take nothing of it: what is read never waits for what is written. Who has
//! nobody else to ask has that time for each of several questions in a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Bucket, Pace, Trouble};

/// So many questions are put one after the other for one name: for it, for what is about it, and for what it leads to.
pub(crate) const IN_A_ROW: u32 = 4;

/// What a look-up has waited so far; its copies are the same look-up.
#[derive(Clone, Debug, Default)]
pub struct Waited {
    questions: Arc<AtomicU64>,
    leases: Arc<AtomicU64>,
    has_nobody_else: Arc<AtomicBool>,
    is_for_leases: bool,
}

impl Waited {
    /// One that has not waited yet, of who has somebody else to ask or has not.
    pub(crate) fn of(has_nobody_else: bool) -> Waited {
        Waited { has_nobody_else: Arc::new(has_nobody_else.into()), ..Waited::default() }
    }

    /// How fast what it waits for has to come.
    pub(crate) fn pace(&self) -> Pace {
        if self.has_nobody_else.load(Ordering::Acquire) { Pace::Any } else { Pace::Helps }
    }

    /// Whoever else might have answered does not.
    pub(crate) fn has_nobody_else(&self) {
        self.has_nobody_else.store(true, Ordering::Release);
    }

    /// What it has waited for leases.
    pub(super) fn for_leases(&self) -> Waited {
        Waited { is_for_leases: true, ..self.clone() }
    }

    fn so_far(&self) -> Duration {
        let leases = if self.is_for_leases { self.leases.load(Ordering::Relaxed) } else { 0 };
        Duration::from_micros(self.questions.load(Ordering::Relaxed).saturating_add(leases))
    }

    fn for_longer(&self, time: Duration) {
        let waited = if self.is_for_leases { &self.leases } else { &self.questions };
        waited.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2), Ordering::Relaxed);
    }
}

impl Bucket {
    /// How long a look-up may still wait for it; `None` for no longer.
    pub(super) fn time_left(&self, waited: &Waited) -> Option<Duration> {
        if waited.pace() == Pace::Any && !waited.is_for_leases {
            return Some(self.patience() * IN_A_ROW);
        }
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

    /// What comes of a write for which whoever asked for it waits: twice as long as readers do, and no longer than those
    /// where it is known that nothing is taken.
    ///
    /// # Errors
    /// [`Trouble`], also where it does not come in that time.
    pub(crate) async fn soon<T>(&self, written: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let most = self.patience() * if self.takes_writes() { 2 } else { 1 };
        let late = || Trouble::Away("it does not take what is written in time".to_owned());
        tokio::time::timeout(most, written).await.unwrap_or_else(|_| Err(late()))
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
        assert!(
            bucket.within(&waited.for_leases(), async { panic!("nothing is left for its leases") }).await.is_none()
        );
        assert!(bucket.within(&other.for_leases(), asked(1.5)).await.is_some(), "of another");
        assert!(bucket.within(&other, asked(1.5)).await.is_some(), "what is read does not wait for leases");
        assert!(bucket.within(&other.for_leases(), asked(0.1)).await.is_none());
    }
}
