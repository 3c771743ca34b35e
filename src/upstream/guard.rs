//! An upstream that is spared: not asked while it is known to be dead, nor while it wants rest.
//!
//! Wraps one address of an upstream. The decisions are those of [`Breaker`] and [`Limits`]; here
//! they are applied, counted, and logged once per change. A request that is not sent fails with the
//! class that the upstream's own answer would have had, so that nobody has to know the difference.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use super::breaker::{Admission, Breaker, Ending, Ticket};
use super::limit::{Lane, Limits};
use super::{
    Allowance, ReferrerList, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass, UpstreamObserver,
};
use crate::clock::{Clock, Timestamp};
use crate::oci::{AcceptSet, Cursor, Descriptor, Digest, Manifest, Page, Reference, RegistryName, Repository, Span};

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
    /// What went wrong last.
    failure: String,
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

    fn health(&self) -> MutexGuard<'_, Health> {
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
        let Some(ticket) = pending.ticket.take() else { return answer };
        let ending = match &answer {
            Err(error) if error.class == UpstreamErrorClass::Unavailable => {
                Ending::of_outage(error.answered, asked.elapsed())
            }
            _ => Ending::Answered,
        };
        self.ended(ticket, ending, answer.as_ref().err());
        if let Err(UpstreamError { class: UpstreamErrorClass::RateLimited(wait), message, .. }) = answer {
            let wait = self.health().limits.limited(lane, wait, self.clock.now());
            let seconds = wait.as_secs();
            tracing::warn!(upstream = %self.name, seconds, reason = message, "rate limited: {} is left alone", self.endpoint);
            return Err(UpstreamError::new(UpstreamErrorClass::RateLimited(Some(wait)), message));
        }
        answer
    }

    fn admit(&self, lane: Lane) -> Result<Pending<'_>, UpstreamError> {
        let now = self.clock.now();
        let mut health = self.health();
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
        let mut health = self.health();
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

#[async_trait]
impl Upstream for Guarded {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Descriptor, UpstreamError> {
        self.guarded(Lane::Manifests, self.upstream.resolve(repository, reference, accept)).await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        self.guarded(Lane::Manifests, self.upstream.manifest(repository, reference, accept)).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.guarded(Lane::Blobs, self.upstream.stat(repository, digest)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        self.guarded(Lane::Blobs, self.upstream.blob(repository, digest, span)).await
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        self.guarded(Lane::Manifests, self.upstream.tags(repository, page)).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        self.guarded(Lane::Manifests, self.upstream.referrers(repository, digest, artifact_type, cursor)).await
    }

    fn allowance(&self, now: Timestamp) -> Allowance {
        self.upstream.allowance(now)
    }
}
