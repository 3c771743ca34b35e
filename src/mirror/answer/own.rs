//! Callers who show an upstream something of their own: whether it gives them what they ask for, and what it
//! wants to see.

use std::sync::Arc;

use crate::access;
use crate::metadata::TagKey;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::{Found, Mirror, Route};
use crate::oci::challenge::Challenge;
use crate::oci::{AcceptSet, Reference, RegistryName, Repository, Request};
use crate::upstream::credentials::{Credential, Fingerprint, Presented, Secret};
use crate::upstream::{Resolved, Upstream, UpstreamError, UpstreamErrorClass};

fn shown(presented: &access::Presented) -> Presented {
    let credential = match &presented.credential {
        None => return Presented::NOBODY,
        Some(access::Credential::Password { user, password }) => {
            Credential::Basic { user: user.clone(), password: Secret::new(password.to_string()) }
        }
        Some(access::Credential::Token(token)) => Credential::RegistryToken(Secret::new(token.to_string())),
    };
    Presented { credential, fingerprint: Some(Fingerprint(presented.fingerprint)) }
}

fn nobody_asked(upstream: &RegistryName) -> MirrorError {
    let message = format!("{upstream}: nobody is asked now, so it is not known who may read what it has");
    MirrorError::upstream(Subject::Manifest, UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}

impl Route {
    /// The same, where upstream is shown this and nothing of ours. `None` where nobody is asked.
    pub fn presenting(mut self, presented: &access::Presented) -> Route {
        if let Some(upstream) = self.upstream.presenting(&shown(presented)) {
            self.upstream = upstream;
        }
        self
    }
}

impl Mirror {
    /// Whether upstream gives what `request` is for to who shows this.
    ///
    /// # Errors
    /// What upstream says in place of a yes.
    pub async fn ask_with(
        &self,
        found: &Found,
        presented: &access::Presented,
        request: &Request,
        accept: AcceptSet,
    ) -> Result<(), MirrorError> {
        let location = found.location();
        let Some(upstream) = found.upstream().presenting(&shown(presented)) else {
            return Err(nobody_asked(&location.upstream));
        };
        match request {
            Request::Manifest { reference, .. } => {
                let resolved = upstream.resolve(&location.repository, reference, accept.clone()).await;
                let resolved = resolved.map_err(|error| MirrorError::upstream(Subject::Manifest, error))?;
                self.confirm_tag(found, reference, accept, &resolved).await;
                Ok(())
            }
            Request::Blob { digest, .. } => {
                let said = match upstream.stat(&location.repository, digest).await {
                    // A no to HEAD is no answer to who wants GET.
                    Err(error) if error.class == UpstreamErrorClass::NotFound => {
                        upstream.stat_by_get(&location.repository, digest).await
                    }
                    said => said,
                };
                said.map(drop).map_err(|error| MirrorError::upstream(Subject::Blob, error))
            }
            Request::Ping | Request::Tags { .. } | Request::Referrers { .. } => Ok(()),
        }
    }

    /// What upstream has just said that a tag points at need not be asked for again, where that is stored.
    async fn confirm_tag(&self, found: &Found, reference: &Reference, accept: AcceptSet, resolved: &Resolved) {
        let (Reference::Tag(tag), location) = (reference, found.location()) else { return };
        let tags = &self.0.answers.tags;
        let descriptor = resolved.descriptor();
        if tags.manifests.stored.has(location, &descriptor.digest).await {
            let key = TagKey { location: location.clone(), tag: tag.clone(), accept };
            let before = tags.metadata.tag(&key).ok().flatten();
            tags.point(key, before, descriptor.clone(), None).await;
        }
    }

    /// What has to be shown at an upstream, before a repository of it is to be had or at all. `None` where that is
    /// nothing, or nothing that clients should be told.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn challenge(
        &self,
        upstream: &RegistryName,
        repository: Option<&Repository>,
    ) -> Result<Option<Challenge>, MirrorError> {
        let asked = self.asked(upstream, &access::Presented::default())?;
        asked.challenge(repository).await.map_err(|error| MirrorError::upstream(Subject::Manifest, error))
    }

    /// What it was when it was last asked for. Asks nobody.
    pub fn last_challenge(&self, upstream: &RegistryName, repository: Option<&Repository>) -> Option<Challenge> {
        self.0.routes.upstream(upstream)?.last_challenge(repository)
    }

    /// Whether an upstream lets in who shows this.
    ///
    /// # Errors
    /// What it says in place of a yes.
    pub async fn enter(&self, upstream: &RegistryName, presented: &access::Presented) -> Result<(), MirrorError> {
        let asked = self.asked(upstream, presented)?;
        asked.enter().await.map_err(|error| MirrorError::upstream(Subject::Manifest, error))
    }

    fn asked(&self, upstream: &RegistryName, presented: &access::Presented) -> Result<Arc<dyn Upstream>, MirrorError> {
        let known = self.0.routes.upstream(upstream);
        known.and_then(|known| known.presenting(&shown(presented))).ok_or_else(|| nobody_asked(upstream))
    }
}
