//! Who we are to an upstream: what it demands, and the proof that meets it.

use std::sync::atomic::Ordering;

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use tokio::time::Instant;

use super::HttpUpstream;
use super::answer::Answer;
use super::endpoint::{Demand, Endpoint};
use super::redirect;
use super::token_service::Wanted;
use super::wire::{basic, sensitive};
use crate::oci::challenge::{self, Challenge};
use crate::oci::{Repository, header};
use crate::upstream::credentials::{Credential, Secret};
use crate::upstream::realm::{Realm, check_realm};
use crate::upstream::token::{Identity, TokenKey, scope_beyond, wider_scope};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// Proof of who we are, ready to be sent.
pub(super) struct Proof {
    pub(super) header: HeaderValue,
    /// The token behind the header, unless it is a password.
    token: Option<(TokenKey, Secret)>,
    /// Whether it was made for this very question.
    pub(super) fresh: bool,
}

impl Proof {
    /// An access token, as it is.
    pub(super) fn of_token(token: &Secret) -> Result<Proof, UpstreamError> {
        let header = sensitive(format!("Bearer {}", token.expose()))?;
        Ok(Proof { header, token: None, fresh: false })
    }

    /// Whether it may have died since it was made: nothing but a token does that unnoticed.
    pub(super) fn may_be_dead(&self, answer: &Answer, endpoint: &Endpoint) -> bool {
        let may_die_unnoticed = self.token.is_some() && !endpoint.is_alive(&self.header);
        !self.fresh && !answer.abroad && answer.may_be_unproven() && (!answer.is_missing() || may_die_unnoticed)
    }
}

pub(super) fn challenges(answer: &Answer) -> Vec<Challenge> {
    challenge::parse(answer.response.headers().get_all(WWW_AUTHENTICATE).iter().map(header::text))
}

impl HttpUpstream {
    /// What has to be met before asking again, of `repository` if it is about one; `None` where nothing is said of it.
    pub(super) fn demanded(
        &self,
        answer: &Answer,
        repository: Option<&Repository>,
    ) -> Result<Option<Demand>, UpstreamError> {
        if answer.abroad || answer.response.status() != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let (mut bearer, mut basic) = (None, None);
        for challenge in challenges(answer) {
            match challenge {
                Challenge::Bearer { realm, service, scope, .. } => drop(bearer.get_or_insert((realm, service, scope))),
                Challenge::Basic { realm } => drop(basic.get_or_insert(Demand::Basic { realm })),
            }
        }
        let Some((realm, service, scope)) = bearer else { return Ok(basic) };
        let unmet = |why: String| self.unmet(&answer.what, why);
        let realm = check_realm(&self.endpoint.url, &realm, &self.settings.configured.auth_realms)
            .map_err(|error| unmet(error.to_string()))?;
        if !realm.trusted {
            redirect::next(&self.endpoint.url, realm.url.as_str(), self.endpoint.rules.about(false))
                .map_err(|error| unmet(format!("the token service of the upstream {error}")))?;
        }
        let beyond = repository.zip(scope).and_then(|(repository, scope)| scope_beyond(repository, &scope));
        Ok(Some(Demand::Bearer { realm, service, beyond }))
    }

    /// It demands what is shown nowhere, and `why`. That says nothing of what it has; who shows something of his own,
    /// or nothing, is told that it has not let him in.
    fn unmet(&self, what: &str, why: String) -> UpstreamError {
        let message = format!("{what}: {why}");
        if self.presented.is_none() {
            return UpstreamError::new(UpstreamErrorClass::Protocol, message);
        }
        if !self.warned_of_realm.swap(true, Ordering::Relaxed) {
            tracing::warn!(upstream = %self.settings.name, "callers of this mirror get nothing there that takes a token: {why}");
        }
        let denied = UpstreamError::new(UpstreamErrorClass::Denied, message).because(why);
        denied.with_status(StatusCode::UNAUTHORIZED.as_u16())
    }

    /// What a registry gives to nobody is for each caller to see only where the registry itself, or we, vouch for who
    /// says so: for him no token service is asked that may see no credential. Else such a one is asked for nobody.
    pub(super) fn refuse_foreign(&self, realm: &Realm, credential: &Credential) -> Result<(), UpstreamError> {
        if realm.trusted || (*credential == Credential::Anonymous && self.presented.is_none()) {
            return Ok(());
        }
        let host = realm.authority();
        let why = format!(
            "the upstream names a token service at {host}, which is another site and gets no credential; if it is the \
             right one, add \"{host}\" to auth_realms of this upstream"
        );
        Err(self.unmet(&self.endpoint.origin, why))
    }

    /// Whether somebody who has something to show asks with it.
    pub(super) fn shows_something(&self) -> bool {
        self.presented.as_ref().is_some_and(|presented| presented.credential != Credential::Anonymous)
    }

    /// The credential for `repository`.
    pub(super) async fn credential(&self, repository: &Repository) -> Result<Credential, UpstreamError> {
        if let Some(presented) = &self.presented {
            return Ok(presented.credential.clone());
        }
        let origin = &self.endpoint.origin;
        self.settings.credentials.credential(origin, repository).await.map_err(|error| {
            let message = format!("{origin} wants credentials, and they cannot be looked up: {error}");
            UpstreamError::new(UpstreamErrorClass::Unavailable, message).answered().elsewhere(true)
        })
    }

    /// The credential for `repository`; nobody's, where it cannot be looked up: what is public is to be had
    /// all the same.
    pub(super) async fn credential_or_nobody(&self, repository: &Repository) -> Credential {
        self.credential(repository).await.unwrap_or(Credential::Anonymous)
    }

    /// Meets a demand. `None` where we have nothing to meet it with.
    pub(super) async fn prove(&self, demand: &Demand, repository: &Repository) -> Result<Option<Proof>, UpstreamError> {
        let credential = self.credential_or_nobody(repository).await;
        match (demand, credential) {
            (Demand::Bearer { .. }, Credential::RegistryToken(token)) => Proof::of_token(&token).map(Some),
            (Demand::Bearer { realm, service, beyond }, credential) => {
                let scope = wider_scope(repository, beyond.as_deref());
                self.bearer(realm, service.as_deref(), scope, credential).await.map(Some)
            }
            (Demand::Basic { .. }, Credential::Basic { user, password }) => {
                Ok(Some(Proof { header: basic(&user, &password)?, token: None, fresh: false }))
            }
            (Demand::Basic { .. }, _) => Ok(None),
        }
    }

    pub(super) async fn bearer(
        &self,
        realm: &Realm,
        service: Option<&str>,
        scope: String,
        credential: Credential,
    ) -> Result<Proof, UpstreamError> {
        self.refuse_foreign(realm, &credential)?;
        let key = TokenKey {
            realm: realm.url.to_string(),
            service: service.map(str::to_owned),
            scope,
            identity: self.identity(&credential),
        };
        let wanted = || Wanted { service, scope: &key.scope };
        let bad = Some(StatusCode::BAD_REQUEST.as_u16());
        let is_refusal = |error: &UpstreamError| error.class == UpstreamErrorClass::Denied || error.status == bad;
        let fetch = || async {
            let fetched = self.fetch_token(realm, wanted(), &credential).await;
            match fetched {
                // A refresh token that is not valid any more is a bad request.
                Err(refusal) if is_refusal(&refusal) && matches!(key.identity, Identity::Ours(_)) => {
                    let public = self.fetch_token(realm, wanted(), &Credential::Anonymous).await;
                    public.inspect(|_| self.warn_refused()).map_err(|_| refusal)
                }
                fetched => fetched,
            }
        };
        let (secret, fresh) = self.tokens.get(&key, self.since(), fetch).await?;
        let header = sensitive(format!("Bearer {}", secret.expose()))?;
        Ok(Proof { header, token: Some((key, secret)), fresh })
    }

    /// When a token must have been asked for.
    pub(super) fn since(&self) -> Option<Instant> {
        self.presented.as_ref().and_then(|presented| presented.since)
    }

    /// Whose a token for this credential is.
    fn identity(&self, credential: &Credential) -> Identity {
        let presented = self.presented.as_ref().filter(|_| *credential != Credential::Anonymous);
        match (presented.and_then(|presented| presented.fingerprint), credential.identity()) {
            (Some(fingerprint), _) => Identity::Of(fingerprint),
            (None, Some(name)) => Identity::Ours(name),
            (None, None) => Identity::Nobody,
        }
    }

    /// The upstream refused this.
    pub(super) async fn forget(&self, repository: &Repository, refused: &Proof) {
        match &refused.token {
            Some((key, secret)) => self.tokens.forget(key, secret),
            None if self.presented.is_some() => {}
            None => self.settings.credentials.refused(&self.endpoint.origin, repository).await,
        }
    }

    pub(super) fn warn_refused(&self) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                upstream = %self.settings.name,
                "{} refuses our credential; public images are pulled without one, private ones are not: renew it",
                self.endpoint.origin
            );
        }
    }
}
