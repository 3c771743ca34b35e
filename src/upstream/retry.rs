//! Asks again where asking again can help.
//!
//! Only an upstream that could not answer is asked again, twice at most and soon: a client is
//! waiting. Whoever said no, or asked us to wait, is taken at its word; waiting out a rate limit is
//! the business of whoever decides about freshness. The schedule is a pure function.

use std::time::Duration;

use tokio::time::Instant;

use super::{UpstreamError, UpstreamErrorClass};

/// Pauses before the first and the second retry.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Whoever is waiting has waited long enough after this: a time-out is not asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before asking again after `attempt` failures (1 for the first) that took `spent`
/// together; `None` to give up. `jitter`, from 0 to 1, spreads the pause over half to one and a half of its length, so that
/// requests which failed together do not come back together.
fn pause(attempt: usize, class: UpstreamErrorClass, spent: Duration, jitter: f64) -> Option<Duration> {
    if class != UpstreamErrorClass::Unavailable || spent >= PATIENCE {
        return None;
    }
    let pause = PAUSES.get(attempt.checked_sub(1)?)?;
    Some(pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0)))
}

/// Asks, and asks again by the schedule of [`pause`]. Blobs are retried up to the first byte; resuming
/// a broken body is up to the fill, which knows what it already has.
/// `may` says whether asking again is of use after this attempt and its error, which took so long; `ask` is told
/// the attempt.
pub(super) async fn again<T, F>(
    may: impl Fn(usize, &UpstreamError, Duration) -> bool,
    ask: impl Fn(usize) -> F,
) -> Result<T, UpstreamError>
where
    F: Future<Output = Result<T, UpstreamError>>,
{
    let (mut attempt, began) = (1, Instant::now());
    loop {
        let asked = Instant::now();
        let error = match ask(attempt).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = pause(attempt, error.class, began.elapsed(), rand::random())
            .filter(|_| may(attempt, &error, asked.elapsed()));
        let Some(pause) = pause else { return Err(error) };
        tracing::debug!(attempt, ?pause, %error, "asking the upstream again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn only_an_upstream_that_could_not_answer_is_asked_again() {
        use UpstreamErrorClass::{Denied, NotFound, Protocol, RateLimited, Unavailable};
        for (attempt, class, jitter, expected) in [
            (1, Unavailable, 0.5, Some(200)),
            (2, Unavailable, 0.5, Some(1000)),
            (1, Unavailable, 0.0, Some(100)),
            (2, Unavailable, 1.0, Some(1500)),
            (2, Unavailable, 7.0, Some(1500)),
            (3, Unavailable, 0.5, None),
            (0, Unavailable, 0.5, None),
            (1, NotFound, 0.5, None),
            (1, Denied, 0.5, None),
            (1, Protocol, 0.5, None),
            (1, RateLimited(Some(Duration::from_millis(1))), 0.5, None),
        ] {
            let found = pause(attempt, class, Duration::from_secs(4), jitter);
            assert_eq!(found, expected.map(Duration::from_millis), "{attempt} {class:?}");
        }
    }

    #[test]
    fn after_a_time_out_nobody_is_kept_waiting_for_another() {
        assert_eq!(pause(1, UpstreamErrorClass::Unavailable, PATIENCE, 0.5), None);
    }

    /// What comes of an upstream that fails like this, last class first, and then answers, and how many
    /// of its failures were left.
    async fn asked(failures: &[UpstreamErrorClass]) -> (Result<(), UpstreamErrorClass>, usize) {
        let left = RefCell::new(failures.to_vec());
        let ask = |_| async {
            let class = left.borrow_mut().pop();
            class.map_or(Ok(()), |class| Err(UpstreamError::new(class, "scripted")))
        };
        let answer = again(|_, _, _| true, ask).await.map_err(|error| error.class);
        (answer, left.into_inner().len())
    }

    #[tokio::test(start_paused = true)]
    async fn two_outages_are_waited_out_and_a_third_is_reported() {
        use UpstreamErrorClass::{NotFound, Unavailable};
        assert_eq!(asked(&[Unavailable; 2]).await, (Ok(()), 0));
        assert_eq!(asked(&[Unavailable; 4]).await, (Err(Unavailable), 1));
        assert_eq!(asked(&[Unavailable, NotFound]).await, (Err(NotFound), 1));
    }
}
