//! What stands around upstreams: a guard, retries, several addresses in a row.
//!
//! Each of them treats all questions alike, so it says once how a question is put, and becomes an
//! [`Upstream`] by that.

use async_trait::async_trait;

use super::health::EndpointHealth;
use super::limit::Lane;
use super::{Allowance, ReferrerList, Resolved, TagList, Upstream, UpstreamBlob, UpstreamError};
use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Cursor, Digest, Manifest, Page, Reference, Repository, Span};

/// Puts questions to the upstreams inside it, in a way of its own.
pub trait Around: Send + Sync + 'static {
    /// Puts a question to one upstream or to several, once or again, or to none.
    fn put<'a, T, F>(
        &'a self,
        lane: Lane,
        question: impl Fn(&'a dyn Upstream) -> F + Send + Sync,
    ) -> impl Future<Output = Result<T, UpstreamError>> + Send
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send;

    /// As of [`Upstream::allowance`].
    fn allowance(&self, now: Timestamp) -> Allowance;

    /// As of [`Upstream::is_down`].
    fn is_down(&self) -> bool;

    /// As of [`Upstream::is_asked`].
    fn is_asked(&self, now: Timestamp) -> bool;

    /// As of [`Upstream::health`].
    fn health(&self, now: Timestamp) -> Vec<EndpointHealth>;

    /// As of [`Upstream::streams`].
    fn streams(&self) -> usize {
        1
    }
}

#[async_trait]
impl<W: Around> Upstream for W {
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
        self.put(Lane::Blobs, |upstream| upstream.blob(repository, digest, span)).await
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

    fn allowance(&self, now: Timestamp) -> Allowance {
        Around::allowance(self, now)
    }

    fn is_down(&self) -> bool {
        Around::is_down(self)
    }

    fn is_asked(&self, now: Timestamp) -> bool {
        Around::is_asked(self, now)
    }

    fn health(&self, now: Timestamp) -> Vec<EndpointHealth> {
        Around::health(self, now)
    }

    fn streams(&self) -> usize {
        Around::streams(self)
    }
}
