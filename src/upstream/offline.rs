//! An upstream that is never asked: offline mode.
//!
//! Everything is answered with [`UpstreamErrorClass::Unavailable`], so that the mirror serves what
//! it has by the same rules that hold when a real upstream is away. Whoever reads the error is told what is not
//! stored, and the command that fetches it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{ReferrerList, Resolved, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};
use crate::oci::challenge::Challenge;
use crate::oci::{AcceptSet, Cursor, Digest, ImageName, Manifest, Page, Reference, RegistryName, Repository, Span};

/// Stands in for the upstream of this name.
#[derive(Clone)]
pub struct Offline {
    name: RegistryName,
    /// What was asked before.
    asked: Option<Arc<dyn Upstream>>,
}

impl fmt::Debug for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offline").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Offline {
    /// An upstream that is never asked.
    pub fn new(name: RegistryName) -> Offline {
        Offline { name, asked: None }
    }

    /// The same, with what this one wanted to see when it was last asked.
    #[must_use]
    pub fn in_place_of(self, asked: Arc<dyn Upstream>) -> Offline {
        Offline { asked: Some(asked), ..self }
    }

    fn refusal(&self, what: impl std::fmt::Display, fetch: impl std::fmt::Display) -> UpstreamError {
        UpstreamError::new(
            UpstreamErrorClass::Unavailable,
            format!(
                "{what} is not stored, and offline mode is on, so {} is not asked; fetch it without offline mode, with: \
                 registry-mirror pull {fetch}",
                self.name
            ),
        )
    }

    fn not_asked(&self) -> UpstreamError {
        let message = format!("offline mode is on, so {} is not asked", self.name);
        UpstreamError::new(UpstreamErrorClass::Unavailable, message)
    }

    fn unknown(&self, repository: &Repository, reference: &Reference) -> UpstreamError {
        let (name, repository, reference) = (self.name.clone(), repository.clone(), reference.clone());
        let image = ImageName { registry: name, repository, reference };
        self.refusal(&image, &image)
    }

    /// A part of some image of the repository.
    fn unknown_part(&self, what: &str, repository: &Repository, digest: &Digest) -> UpstreamError {
        let repository = format!("{}/{repository}", self.name);
        self.refusal(format_args!("{what} {digest} of {repository}"), format_args!("{repository}:TAG"))
    }
}

#[async_trait]
impl Upstream for Offline {
    async fn enter(&self) -> Result<(), UpstreamError> {
        Err(self.not_asked())
    }

    async fn challenge(&self, _: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
        Err(self.not_asked())
    }

    fn last_challenge(&self, repository: Option<&Repository>) -> Option<Challenge> {
        self.asked.as_ref()?.last_challenge(repository)
    }

    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        _: AcceptSet,
    ) -> Result<Resolved, UpstreamError> {
        Err(self.unknown(repository, reference))
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        _: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        Err(self.unknown(repository, reference))
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        Err(self.unknown_part("the blob", repository, digest))
    }

    async fn stat_by_get(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        self.stat(repository, digest).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, _: Span) -> Result<UpstreamBlob, UpstreamError> {
        Err(self.unknown_part("the blob", repository, digest))
    }

    async fn tags(&self, repository: &Repository, _: &Page) -> Result<TagList, UpstreamError> {
        let repository = format!("{}/{repository}", self.name);
        Err(self.refusal(format_args!("the list of tags of {repository}"), format_args!("{repository}:TAG")))
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        _: Option<&str>,
        _: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        Err(self.unknown_part("the list of referrers to", repository, digest))
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
        assert_eq!(
            error.to_string(),
            "docker.io/library/redis:7 is not stored, and offline mode is on, so docker.io is not asked; \
             fetch it without offline mode, with: registry-mirror pull docker.io/library/redis:7"
        );
    }
}
