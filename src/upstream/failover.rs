//! Several addresses of one upstream, tried in order.
//!
//! The next one is asked when one cannot answer or wants rest, and only then: whoever says no is
//! taken at its word. Each address has its own [`super::guard::Guarded`] around it, so that a dead
//! first one costs one time-out and not one for every request.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Allowance, ReferrerList, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};
use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Cursor, Descriptor, Digest, Manifest, Page, Reference, Repository, Span};

/// Addresses in the order to try.
#[derive(Clone)]
pub struct Failover {
    endpoints: Vec<Arc<dyn Upstream>>,
    streams: usize,
}

impl Failover {
    /// Tries `endpoints` in this order.
    pub fn new(endpoints: Vec<Arc<dyn Upstream>>) -> Failover {
        Failover { endpoints, streams: 1 }
    }

    /// Large blobs may be read through so many connections at once.
    #[must_use]
    pub fn with_streams(self, streams: usize) -> Failover {
        Failover { streams, ..self }
    }

    async fn first<'a, T, F>(&'a self, ask: impl Fn(&'a dyn Upstream) -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let mut outage = None;
        for endpoint in &self.endpoints {
            match ask(endpoint.as_ref()).await {
                Err(error) if error.class.is_outage() => {
                    tracing::debug!(%error, "trying the next address");
                    outage = Some(error);
                }
                answer => return answer,
            }
        }
        Err(outage.unwrap_or_else(|| UpstreamError::new(UpstreamErrorClass::Unavailable, "no address to ask")))
    }
}

#[async_trait]
impl Upstream for Failover {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Descriptor, UpstreamError> {
        self.first(|endpoint| endpoint.resolve(repository, reference, accept)).await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        self.first(|endpoint| endpoint.manifest(repository, reference, accept)).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.first(|endpoint| endpoint.stat(repository, digest)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        self.first(|endpoint| endpoint.blob(repository, digest, span)).await
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        self.first(|endpoint| endpoint.tags(repository, page)).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        self.first(|endpoint| endpoint.referrers(repository, digest, artifact_type, cursor)).await
    }

    fn streams(&self) -> usize {
        self.streams
    }

    /// Of the address that is tried first.
    fn allowance(&self, now: Timestamp) -> Allowance {
        self.endpoints.first().map_or(Allowance::Free, |endpoint| endpoint.allowance(now))
    }
}
