//! Asks again where asking again can help.
//!
//! Only an upstream that could not answer is asked again, twice at most and soon: a client is
//! waiting. Whoever said no, or asked us to wait, is taken at its word; waiting out a rate limit is
//! the business of whoever decides about freshness. The schedule is a pure function.

use std::sync::Arc;
use std::time::Duration;

use super::around::Around;
use super::health::EndpointHealth;
use super::limit::Lane;
use super::{Allowance, Upstream, UpstreamError, UpstreamErrorClass};
use crate::clock::Timestamp;

/// Pauses before the first and the second retry.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Whoever is waiting has waited long enough after this: a time-out is not asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before asking again after `attempt` failures (1 for the first) that took `spent`
/// together; `None` to give up. `jitter`, from 0 to 1, spreads the pause over half to one and a half of its length, so that
/// requests which failed together do not come back together.
pub fn pause(attempt: usize, class: UpstreamErrorClass, spent: Duration, jitter: f64) -> Option<Duration> {
    if class != UpstreamErrorClass::Unavailable || spent >= PATIENCE {
        return None;
    }
    let pause = PAUSES.get(attempt.checked_sub(1)?)?;
    Some(pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0)))
}

/// An upstream that is asked again by the schedule of [`pause`]. Blobs are retried up to the first
/// byte; resuming a broken body is up to the fill, which knows what it already has.
#[derive(Clone)]
pub struct Retrying {
    upstream: Arc<dyn Upstream>,
}

impl Retrying {
    /// Retries requests to `upstream`.
    pub fn new(upstream: Arc<dyn Upstream>) -> Retrying {
        Retrying { upstream }
    }
}

impl Around for Retrying {
    async fn put<'a, T, F>(
        &'a self,
        _: Lane,
        question: impl Fn(&'a dyn Upstream) -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        let (mut attempt, began) = (1, tokio::time::Instant::now());
        loop {
            let error = match question(&*self.upstream).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(pause) = pause(attempt, error.class, began.elapsed(), rand::random()) else { return Err(error) };
            tracing::debug!(attempt, ?pause, %error, "asking the upstream again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    fn allowance(&self, now: Timestamp) -> Allowance {
        self.upstream.allowance(now)
    }

    fn is_down(&self) -> bool {
        self.upstream.is_down()
    }

    fn is_asked(&self, now: Timestamp) -> bool {
        self.upstream.is_asked(now)
    }

    fn health(&self, now: Timestamp) -> Vec<EndpointHealth> {
        self.upstream.health(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::oci::{AcceptSet, Cursor, Digest, Manifest, Page, Reference, Repository, Span};
    use crate::upstream::{ReferrerList, Resolved, TagList, UpstreamBlob};

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

    /// Fails with these classes, one a call, and then answers.
    struct Failing(Mutex<Vec<UpstreamErrorClass>>);

    impl Failing {
        fn next(&self) -> Result<(), UpstreamError> {
            let class = self.0.lock().expect("lock").pop();
            class.map_or(Ok(()), |class| Err(UpstreamError::new(class, "scripted")))
        }
    }

    #[async_trait]
    impl Upstream for Failing {
        async fn resolve(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Resolved, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn manifest(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Manifest, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn stat(&self, _: &Repository, _: &Digest) -> Result<Option<u64>, UpstreamError> {
            self.next().map(|()| Some(7))
        }

        async fn blob(&self, _: &Repository, _: &Digest, _: Span) -> Result<UpstreamBlob, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn tags(&self, _: &Repository, _: &Page) -> Result<TagList, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn referrers(
            &self,
            _: &Repository,
            _: &Digest,
            _: Option<&str>,
            _: Option<&Cursor>,
        ) -> Result<ReferrerList, UpstreamError> {
            unreachable!("not asked for")
        }
    }

    /// What two, or more, failures lead to, and how many of them were left.
    async fn stat(failures: &[UpstreamErrorClass]) -> (Result<Option<u64>, UpstreamErrorClass>, usize) {
        let failing = Arc::new(Failing(Mutex::new(failures.to_vec())));
        let upstream = Retrying::new(Arc::clone(&failing) as Arc<dyn Upstream>);
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let answer = upstream.stat(&"a".parse().expect("repository"), &digest).await.map_err(|error| error.class);
        let left = failing.0.lock().expect("lock").len();
        (answer, left)
    }

    #[tokio::test(start_paused = true)]
    async fn two_outages_are_waited_out_and_a_third_is_reported() {
        use UpstreamErrorClass::{NotFound, Unavailable};
        assert_eq!(stat(&[Unavailable; 2]).await, (Ok(Some(7)), 0));
        assert_eq!(stat(&[Unavailable; 4]).await, (Err(Unavailable), 1));
        assert_eq!(stat(&[Unavailable, NotFound]).await, (Err(NotFound), 1));
    }
}
