//! Callers who show an upstream something of their own: whether it gives them what they ask for, and what it
//! wants to see.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use crate::access;
use crate::mirror::Location;
use crate::mirror::answer::tags::Tags;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::flight::flights::Landing;
use crate::mirror::recall::freshness::overdue;
use crate::mirror::{Found, Mirror, Route};
use crate::oci::challenge::Challenge;
use crate::oci::{AcceptSet, RegistryName, Repository, Request};
use crate::upstream::credentials::{Credential, Fingerprint, Presented, Secret};
use crate::upstream::heard::listening;
use crate::upstream::{Outlook, Resource, Upstream, UpstreamError, UpstreamErrorClass};

fn shown(presented: &access::Presented, since: Option<Instant>) -> Presented {
    let credential = match &presented.credential {
        None => return Presented { since, ..Presented::NOBODY },
        Some(access::Credential::Password { user, password }) => {
            Credential::Basic { user: user.clone(), password: Secret::new(password.to_string()) }
        }
        Some(access::Credential::Token(token)) => Credential::RegistryToken(Secret::new(token.to_string())),
    };
    Presented { credential, fingerprint: Some(Fingerprint(presented.fingerprint)), since }
}

fn nobody_asked(upstream: &RegistryName) -> MirrorError {
    let message = format!("{upstream}: nobody is asked now, so it is not known who may read what it has");
    MirrorError::upstream(Subject::Manifest, UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}

/// Whose rights a question is about, by a keyed hash of what he shows, and to what; without a repository, to be let in.
pub(super) type OwnQuestion = ([u8; 32], RegistryName, Option<Repository>);

fn landed(landing: Landing<Result<(), MirrorError>>) -> Result<(), MirrorError> {
    match landing {
        Landing::Arrived(said, _) => said,
        Landing::Overdue => Err(overdue(Subject::Manifest)),
        Landing::Lost => Err(MirrorError::Internal("the question ended without a result".to_owned())),
    }
}

impl Route {
    /// The same, where upstream is shown this and nothing of ours, and no token for it that was asked for before `since`.
    pub fn presenting(mut self, presented: &access::Presented, since: Option<Instant>) -> Route {
        if let Some(upstream) = self.upstream.presenting(&shown(presented, since)) {
            self.upstream = upstream;
        }
        self
    }
}

impl Mirror {
    /// Whether upstream now gives what `request` is for to who shows this. Unless he `has_time`, he waits no longer than
    /// where something stored can be served; the question goes on behind. `hear` is told what upstream says.
    ///
    /// # Errors
    /// What upstream says in place of a yes.
    pub async fn ask_with(
        &self,
        found: &Found,
        presented: &access::Presented,
        (request, accept): (&Request, AcceptSet),
        has_time: bool,
        hear: impl FnOnce(&Result<(), MirrorError>) + Send + 'static,
    ) -> Result<(), MirrorError> {
        let Location { upstream: name, repository } = found.location().clone();
        let Some(upstream) = found.upstream().presenting(&shown(presented, Some(Instant::now()))) else {
            return Err(nobody_asked(&name));
        };
        let resource = match request {
            Request::Manifest { reference, .. } => Resource::manifest(&repository, reference),
            Request::Blob { digest, .. } => Resource::blob(&repository, digest),
            Request::Ping | Request::Tags { .. } | Request::Referrers { .. } => return Ok(()),
        };
        let ask = || {
            let (mirror, upstream) = (self.clone(), Arc::clone(&upstream));
            let (found, request, accept) = (found.clone(), request.clone(), accept.clone());
            async move { mirror.gives(&found, &upstream, &request, accept).await }
        };
        let work = || {
            let asked = ask();
            async move {
                let said = asked.await;
                hear(&said);
                said
            }
        };
        if has_time {
            return work().await;
        }
        let key = (presented.fingerprint, name, Some(repository));
        match self.patiently(upstream.outlook(&resource), key, work).await? {
            // That was another question.
            Landing::Arrived(Err(error), true) if !error.is_outage() => {
                let patience = self.0.answers.tags.policy.patience;
                timeout(patience, ask()).await.unwrap_or_else(|_| Err(overdue(Subject::Manifest)))
            }
            landing => landed(landing),
        }
    }

    /// What comes of a question about somebody's own rights, within the patience of who can be served without it.
    /// It goes on behind, and who asks again while it does joins it.
    async fn patiently<F>(
        &self,
        outlook: Outlook,
        key: OwnQuestion,
        work: impl FnOnce() -> F,
    ) -> Result<Landing<Result<(), MirrorError>>, MirrorError>
    where
        F: Future<Output = Result<(), MirrorError>> + Send + 'static,
    {
        let Tags { policy, tasks, .. } = &*self.0.answers.tags;
        let patience = policy.patience_for(outlook, Subject::Manifest)?;
        Ok(self.0.answers.own_questions.share(tasks, key, Some(patience), work).await)
    }

    async fn gives(
        &self,
        found: &Found,
        upstream: &Arc<dyn Upstream>,
        request: &Request,
        accept: AcceptSet,
    ) -> Result<(), MirrorError> {
        let location = found.location();
        match request {
            Request::Manifest { reference, .. } => {
                let (tags, asked_at) = (&self.0.answers.tags, self.0.answers.tags.clock.now());
                let (upstream, heard) = listening(upstream);
                let resolved = upstream.resolve(&location.repository, reference, accept.clone()).await;
                let resolved = resolved.map_err(|error| MirrorError::upstream(Subject::Manifest, error))?;
                let at = tags.manifests.stored.places_heard(location, &heard);
                tags.observed(location, reference, (accept, asked_at), (resolved.descriptor(), at)).await;
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

    /// Whether an upstream lets in who shows this: within the patience of clients, since silence turns nobody away.
    /// It is asked each time, also by who shows nothing and what it wants from him is known: whoever is sent to log in
    /// while it or its token service is away gets nothing of what is stored.
    ///
    /// # Errors
    /// What it says in place of a yes.
    pub async fn enter(&self, upstream: &RegistryName, presented: &access::Presented) -> Result<(), MirrorError> {
        let asked = self.asked(upstream, presented)?;
        let (outlook, key) = (asked.outlook(&Resource::door()), (presented.fingerprint, upstream.clone(), None));
        let work =
            || async move { asked.enter().await.map_err(|error| MirrorError::upstream(Subject::Manifest, error)) };
        landed(self.patiently(outlook, key, work).await?)
    }

    fn asked(&self, upstream: &RegistryName, presented: &access::Presented) -> Result<Arc<dyn Upstream>, MirrorError> {
        let known = self.0.routes.upstream(upstream);
        known
            .and_then(|known| known.presenting(&shown(presented, Some(Instant::now()))))
            .ok_or_else(|| nobody_asked(upstream))
    }
}
