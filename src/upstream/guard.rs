//! An upstream that is spared: not asked while it is known to be dead, nor while it wants rest.
//!
//! Wraps one address of an upstream. The decisions are those of [`Breaker`] and [`Limits`]; here
//! they are applied, counted, and logged once per change. A request that is not sent fails with the
//! class that the upstream's own answer would have had, so that nobody has to know the difference.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::around::Around;
use super::breaker::{Admission, Breaker, Ending, Standing, Ticket};
use super::health::{EndpointHealth, EndpointState, LastError};
use super::limit::{Lane, Limits};
use super::{Allowance, Upstream, UpstreamError, UpstreamErrorClass, UpstreamObserver};
use crate::clock::{Clock, Timestamp};
use crate::oci::RegistryName;

/// One address of an upstream, with a memory of how it fared.
pub struct Guarded {
    upstream: Arc<dyn Upstream>,
    name: RegistryName,
    /// Host and port, for logs and metrics.
    endpoint: String,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn UpstreamObserver>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    breaker: Breaker,
    limits: Limits,
    /// Why it counts as down.
    failure: String,
    /// What went wrong last.
    last_error: Option<LastError>,
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarded").field("name", &self.name).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Guarded {
    /// Guards `upstream`, the address `endpoint` (host and port) of the upstream `name`.
    pub fn new(
        upstream: Arc<dyn Upstream>,
        name: RegistryName,
        endpoint: String,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn UpstreamObserver>,
    ) -> Guarded {
        observer.availability(&name, &endpoint, true);
        Guarded { upstream, name, endpoint, clock, observer, health: Mutex::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, unless that is known to be in vain.
    async fn guarded<T>(
        &self,
        lane: Lane,
        ask: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let mut pending = self.admit(lane)?;
        let asked = Instant::now();
        let answer = ask.await;
        self.note(&answer);
        let Some(ticket) = pending.ticket.take() else { return answer };
        let ending = match &answer {
            Err(error) if error.class == UpstreamErrorClass::Unavailable => {
                Ending::of_outage(error.answered, asked.elapsed())
            }
            _ => Ending::Answered,
        };
        self.ended(ticket, ending, answer.as_ref().err());
        if let Err(UpstreamError { class: UpstreamErrorClass::RateLimited(wait), message, .. }) = answer {
            let wait = self.memory().limits.limited(lane, wait, self.clock.now());
            let seconds = wait.as_secs();
            tracing::warn!(upstream = %self.name, seconds, reason = message, "rate limited: {} is left alone", self.endpoint);
            return Err(UpstreamError::new(UpstreamErrorClass::RateLimited(Some(wait)), message));
        }
        answer
    }

    fn note<T>(&self, answer: &Result<T, UpstreamError>) {
        let Err(error) = answer else { return };
        if error.class != UpstreamErrorClass::NotFound {
            let class = error.class.as_str().to_owned();
            self.memory().last_error = Some(LastError { class, at: self.clock.now() });
        }
    }

    fn admit(&self, lane: Lane) -> Result<Pending<'_>, UpstreamError> {
        let now = self.clock.now();
        let mut health = self.memory();
        let Guarded { name, endpoint, .. } = self;
        if let Some(wait) = health.limits.wait(lane, now) {
            let message =
                format!("{name}: {endpoint} limits our rate and is not asked for {} s", wait.as_secs().max(1));
            return Err(UpstreamError::new(UpstreamErrorClass::RateLimited(Some(wait)), message));
        }
        match health.breaker.admit(now) {
            Admission::Ask(ticket) => Ok(Pending { guard: self, ticket: Some(ticket) }),
            Admission::Wait(_) => {
                let message =
                    format!("{name}: {endpoint} is not asked just now, it did not answer: {}", health.failure);
                Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message))
            }
        }
    }

    fn ended(&self, ticket: Ticket, ending: Ending, error: Option<&UpstreamError>) {
        let mut health = self.memory();
        let was_up = health.breaker.is_up();
        health.breaker.ended(ticket, ending, self.clock.now());
        let is_up = health.breaker.is_up();
        if let Some(error) = error.filter(|_| !is_up) {
            health.failure.clone_from(&error.message);
        }
        drop(health);
        if was_up == is_up {
            return;
        }
        self.observer.availability(&self.name, &self.endpoint, is_up);
        match error.filter(|_| !is_up) {
            Some(error) => tracing::warn!(
                upstream = %self.name, %error,
                "upstream down: {} does not answer; what is cached is served, and now and again one request asks",
                self.endpoint
            ),
            None => tracing::info!(upstream = %self.name, "upstream up: {} answers again", self.endpoint),
        }
    }
}

/// A request under way. Dropped with its ticket, it gives the ticket back unused.
struct Pending<'a> {
    guard: &'a Guarded,
    ticket: Option<Ticket>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.guard.ended(ticket, Ending::Unknown, None);
        }
    }
}

impl Around for Guarded {
    async fn put<'a, T, F>(
        &'a self,
        lane: Lane,
        question: impl Fn(&'a dyn Upstream) -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        self.guarded(lane, question(&*self.upstream)).await
    }

    fn allowance(&self, now: Timestamp) -> Allowance {
        self.upstream.allowance(now)
    }

    fn is_down(&self) -> bool {
        !self.memory().breaker.is_up()
    }

    fn is_asked(&self, now: Timestamp) -> bool {
        let health = self.memory();
        let answers = matches!(health.breaker.standing(now), Standing::Up | Standing::Down(Duration::ZERO));
        answers && health.limits.wait(Lane::Manifests, now).is_none()
    }

    fn health(&self, now: Timestamp) -> Vec<EndpointHealth> {
        let mut endpoints = self.upstream.health(now);
        let health = self.memory();
        let (state, left) = match (health.breaker.standing(now), health.limits.wait(Lane::Manifests, now)) {
            (Standing::Down(left), _) => (EndpointState::Down, Some(left)),
            (Standing::Probing, _) => (EndpointState::Probing, None),
            (Standing::Up, Some(left)) => (EndpointState::Limited, Some(left)),
            (Standing::Up, None) => (EndpointState::Up, None),
        };
        for endpoint in &mut endpoints {
            endpoint.state = state;
            endpoint.asked_again_at = left.map(|left| now.plus(left));
            endpoint.last_error.clone_from(&health.last_error);
        }
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::clock::ManualClock;
    use crate::oci::{AcceptSet, Algorithm, Cursor, Digest, Manifest, Page, Reference, Repository, Span};
    use crate::upstream::{ReferrerList, Resolved, TagList, UpstreamBlob};

    /// Answers sizes of blobs as told; hangs when nothing is left to tell.
    #[derive(Default)]
    struct Told(Mutex<Vec<Result<Option<u64>, UpstreamError>>>);

    #[async_trait]
    impl Upstream for Told {
        async fn resolve(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Resolved, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn manifest(&self, _: &Repository, _: &Reference, _: AcceptSet) -> Result<Manifest, UpstreamError> {
            unreachable!("not asked for")
        }

        async fn stat(&self, _: &Repository, _: &Digest) -> Result<Option<u64>, UpstreamError> {
            let next = self.0.lock().expect("lock").pop();
            match next {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
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

    #[derive(Default)]
    struct Changes(Mutex<Vec<bool>>);

    impl UpstreamObserver for Changes {
        fn requested(&self, _: &RegistryName, _: Option<u16>) {}
        fn received(&self, _: &RegistryName, _: u64) {}
        fn availability(&self, _: &RegistryName, _: &str, up: bool) {
            self.0.lock().expect("lock").push(up);
        }
    }

    struct Scene {
        told: Arc<Told>,
        changes: Arc<Changes>,
        clock: Arc<ManualClock>,
        guarded: Guarded,
    }

    impl Scene {
        fn new() -> Scene {
            let (told, changes) = (Arc::new(Told::default()), Arc::new(Changes::default()));
            let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
            let name = "registry.example".parse().expect("name");
            let guarded =
                Guarded::new(told.clone(), name, "registry.example".to_owned(), clock.clone(), changes.clone());
            Scene { told, changes, clock, guarded }
        }

        /// What comes of a request that the upstream would answer like this.
        async fn ask(
            &self,
            answer: Result<Option<u64>, UpstreamErrorClass>,
        ) -> Result<Option<u64>, UpstreamErrorClass> {
            *self.told.0.lock().expect("lock") = vec![answer.map_err(|class| UpstreamError::new(class, "told"))];
            let digest = Digest::of(Algorithm::Sha256, b"");
            self.guarded.stat(&"a".parse().expect("name"), &digest).await.map_err(|error| error.class)
        }

        fn changes(&self) -> Vec<bool> {
            self.changes.0.lock().expect("lock").clone()
        }
    }

    #[tokio::test]
    async fn every_change_is_told_once() {
        use UpstreamErrorClass::{NotFound, Unavailable};
        let scene = Scene::new();
        assert_eq!(scene.ask(Err(NotFound)).await, Err(NotFound));
        assert_eq!(scene.ask(Err(Unavailable)).await, Err(Unavailable));
        assert_eq!(scene.ask(Ok(Some(1))).await, Err(Unavailable), "not asked");
        scene.clock.advance(Duration::from_secs(1));
        assert_eq!(scene.ask(Err(Unavailable)).await, Err(Unavailable));
        assert_eq!(scene.changes(), [true, false]);
        scene.clock.advance(Duration::from_secs(2));
        assert_eq!(scene.ask(Err(NotFound)).await, Err(NotFound), "no is an answer");
        assert_eq!(scene.ask(Ok(Some(1))).await, Ok(Some(1)));
        assert_eq!(scene.changes(), [true, false, true]);
    }

    #[tokio::test]
    async fn a_probe_whose_client_leaves_is_taken_over_by_the_next() {
        let scene = Scene::new();
        assert!(scene.ask(Err(UpstreamErrorClass::Unavailable)).await.is_err());
        scene.clock.advance(Duration::from_secs(1));
        let digest = Digest::of(Algorithm::Sha256, b"");
        let repository = "a".parse().expect("name");
        {
            let mut probe = scene.guarded.stat(&repository, &digest);
            assert!(futures_util::poll!(&mut probe).is_pending());
            assert_eq!(scene.ask(Ok(Some(1))).await, Err(UpstreamErrorClass::Unavailable), "one at a time");
        }
        assert_eq!(scene.ask(Ok(Some(1))).await, Ok(Some(1)));
    }

    #[tokio::test]
    async fn a_limit_is_told_to_everybody_with_what_is_left_of_it() {
        use UpstreamErrorClass::RateLimited;
        let scene = Scene::new();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(scene.ask(Err(RateLimited(None))).await, Err(RateLimited(seconds(60))));
        scene.clock.advance(Duration::from_secs(20));
        assert_eq!(scene.ask(Ok(Some(1))).await, Err(RateLimited(seconds(40))));
        scene.clock.advance(Duration::from_secs(40));
        assert_eq!(scene.ask(Ok(Some(1))).await, Ok(Some(1)));
        assert_eq!(scene.changes(), [true], "who limits is there");
    }
}
