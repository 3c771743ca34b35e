//! How an upstream is asked: at several addresses in order, each guarded, the last one again.
//!
//! The next address is asked when one cannot answer or wants rest, and only then: whoever says no is
//! taken at its word, unless the operator says that an address holds only a part. Each has its own guard, so that a dead first one costs one time-out and not
//! one for every request. Only the last is asked again at once: where there is another address, that
//! is the better second try.

use std::sync::Arc;

use async_trait::async_trait;

use super::guard::Guard;
use super::health::Health;
use super::limit::Lane;
use super::settings::OnMissing;
use super::{Allowance, ReferrerList, Resolved, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};
use super::{UpstreamObserver, retry};
use crate::clock::Clock;
use crate::oci::{AcceptSet, Cursor, Digest, Manifest, Page, Reference, RegistryName, Repository, Span};

/// An upstream with all its addresses.
pub struct Asking {
    /// In the order to try.
    addresses: Vec<Address>,
    streams: usize,
    on_missing: OnMissing,
    clock: Arc<dyn Clock>,
}

struct Address {
    upstream: Arc<dyn Upstream>,
    guard: Guard,
}

impl Asking {
    /// Asks the upstream `name` at `addresses`, in this order: for each its host and port, as logs and
    /// metrics name it, and who asks there.
    pub fn new(
        name: &RegistryName,
        addresses: impl IntoIterator<Item = (String, Arc<dyn Upstream>)>,
        clock: Arc<dyn Clock>,
        observer: &Arc<dyn UpstreamObserver>,
    ) -> Asking {
        let guarded = |(endpoint, upstream)| {
            let guard = Guard::new(name.clone(), endpoint, Arc::clone(&clock), Arc::clone(observer));
            Address { upstream, guard }
        };
        let addresses = addresses.into_iter().map(guarded).collect();
        Asking { addresses, streams: 1, on_missing: OnMissing::default(), clock }
    }

    /// Large blobs may be read through so many connections at once.
    #[must_use]
    pub fn with_streams(self, streams: usize) -> Asking {
        Asking { streams, ..self }
    }

    /// What it means that one address has not got something.
    #[must_use]
    pub fn with_on_missing(self, on_missing: OnMissing) -> Asking {
        Asking { on_missing, ..self }
    }

    /// Puts a question to one address after the other, until one answers.
    async fn put<'a, T, F>(&'a self, lane: Lane, question: impl Fn(&'a dyn Upstream) -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let Some((last, others)) = self.addresses.split_last() else {
            return Err(UpstreamError::new(UpstreamErrorClass::Unavailable, "no address to ask"));
        };
        let mut away = None;
        for address in others {
            match address.guard.ask(lane, question(&*address.upstream)).await {
                Err(error) if error.class.is_outage() => {
                    tracing::debug!(%error, "trying the next address");
                    away = Some(error);
                }
                Err(error) if error.class == UpstreamErrorClass::NotFound && self.on_missing == OnMissing::Next => {
                    tracing::debug!(%error, "not there, trying the next address");
                }
                answer => return answer,
            }
        }
        let answer = last.guard.ask(lane, retry::again(|| question(&*last.upstream))).await;
        match (answer, away) {
            // Where each holds a part, the one that is away may have it.
            (Err(missing), Some(away))
                if missing.class == UpstreamErrorClass::NotFound && self.on_missing == OnMissing::Next =>
            {
                Err(away)
            }
            (answer, _) => answer,
        }
    }
}

#[async_trait]
impl Upstream for Asking {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Resolved, UpstreamError> {
        self.put(Lane::Manifests, |upstream| upstream.resolve(repository, reference, accept)).await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        self.put(Lane::Manifests, |upstream| upstream.manifest(repository, reference, accept)).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.put(Lane::Blobs, |upstream| upstream.stat(repository, digest)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let lane = if span.start > 0 { Lane::Rest } else { Lane::Blobs };
        self.put(lane, |upstream| upstream.blob(repository, digest, span)).await
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        self.put(Lane::Manifests, |upstream| upstream.tags(repository, page)).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        self.put(Lane::Manifests, |upstream| upstream.referrers(repository, digest, artifact_type, cursor)).await
    }

    fn health(&self) -> Health {
        let now = self.clock.now();
        let known: Vec<_> = self.addresses.iter().map(|address| address.upstream.health()).collect();
        // Of the address that would be asked: the first, unless that is left alone.
        let asked = self.addresses.iter().position(|address| address.guard.is_asked(now));
        let allowance = known.get(asked.unwrap_or_default()).map_or(Allowance::Free, |health| health.allowance);
        let guards = self.addresses.iter().map(|address| &address.guard);
        let endpoints = known.into_iter().zip(guards).flat_map(|(health, guard)| guard.seen(health.endpoints, now));
        Health { endpoints: endpoints.collect(), allowance, streams: self.streams }
    }
}
