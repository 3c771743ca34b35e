//! An upstream that is never asked: offline mode.
//!
//! Everything is answered with [`UpstreamErrorClass::Unavailable`], so that the mirror serves what
//! it has by the same rules that hold when a real upstream is away.

use async_trait::async_trait;

use super::{ReferrerList, Resolved, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};
use crate::oci::{AcceptSet, Cursor, Digest, Manifest, Page, Reference, RegistryName, Repository, Span};

/// Stands in for the upstream of this name.
#[derive(Clone, Debug)]
pub struct Offline {
    name: RegistryName,
}

impl Offline {
    /// An upstream that is never asked.
    pub fn new(name: RegistryName) -> Offline {
        Offline { name }
    }

    fn refusal(&self, what: impl std::fmt::Display) -> UpstreamError {
        UpstreamError::new(
            UpstreamErrorClass::Unavailable,
            format!("offline mode is on: {} was not asked for {what}", self.name),
        )
    }
}

#[async_trait]
impl Upstream for Offline {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        _: AcceptSet,
    ) -> Result<Resolved, UpstreamError> {
        Err(self.refusal(format_args!("{repository} {reference}")))
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        _: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        Err(self.refusal(format_args!("{repository} {reference}")))
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        Err(self.refusal(format_args!("{repository} {digest}")))
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, _: Span) -> Result<UpstreamBlob, UpstreamError> {
        Err(self.refusal(format_args!("{repository} {digest}")))
    }

    async fn tags(&self, repository: &Repository, _: &Page) -> Result<TagList, UpstreamError> {
        Err(self.refusal(format_args!("the tags of {repository}")))
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        _: Option<&str>,
        _: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        Err(self.refusal(format_args!("the referrers of {repository} {digest}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn offline_is_an_outage_and_says_so() {
        let upstream = Offline::new("docker.io".parse().expect("name"));
        let repository = "library/redis".parse().expect("repository");
        let reference = Reference::Tag("7".parse().expect("tag"));
        let error = upstream.resolve(&repository, &reference, AcceptSet::everything()).await.expect_err("offline");
        assert!(error.class.is_outage());
        assert_eq!(error.to_string(), "offline mode is on: docker.io was not asked for library/redis 7");
    }
}
