//! One question to an upstream: authentication and redirects.
//!
//! The order of things: what the upstream demanded last time is met in advance; when it refuses all
//! the same, credentials are renewed once, and where it refuses even those, the question is put once
//! without any, because a stale password must not break a public image. Credentials stay with the
//! configured origin: a redirect that leaves it loses them, and coming back does not restore them.

use std::sync::atomic::Ordering;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use reqwest::Response;
use url::Url;

use super::HttpUpstream;
use super::endpoint::{Demand, Endpoint};
use super::redirect::{self, MAX_REDIRECTS, same_origin};
use super::wire::{basic, drain, sensitive};
use crate::oci::Repository;
use crate::oci::challenge::{self, Challenge};
use crate::upstream::credentials::{Credential, Secret};
use crate::upstream::realm::check_realm;
use crate::upstream::token::{TokenKey, pull_scope};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// A request, without what differs between hops.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// Below the repository: `manifests/7` or `blobs/sha256:…`.
    pub(super) path: String,
    /// Without the question mark; never in messages.
    pub(super) query: Option<String>,
    pub(super) repository: &'a Repository,
    /// `Accept` and `Range`.
    pub(super) headers: HeaderMap,
}

impl Question<'_> {
    /// For messages: `GET library/redis manifests/7 at registry-1.docker.io`.
    pub(super) fn describe(&self, endpoint: &Endpoint) -> String {
        format!("{} {} {} at {}", self.method, self.repository, self.path, endpoint.origin)
    }
}

/// What came back, of whatever status.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Whether a redirect led away from the configured origin.
    pub(super) abroad: bool,
    /// The question and where the answer came from, for messages.
    pub(super) what: String,
}

/// Proof of who we are, ready to be sent.
struct Authorization {
    header: HeaderValue,
    /// The token behind the header, unless it is a password.
    token: Option<(TokenKey, Secret)>,
    /// Whether it was made for this very question.
    fresh: bool,
}

impl HttpUpstream {
    /// Asks, with what the upstream wants to see.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        let endpoint = &self.endpoint;
        let standing = endpoint.demand();
        let first = match &standing {
            Some(demand) => self.authorize(endpoint, demand, question.repository).await?,
            None => None,
        };
        let answer = self.follow(endpoint, question, first.as_ref()).await?;
        let Some(demand) = self.demanded(endpoint, &answer, first.as_ref(), standing.as_ref())? else {
            return Ok(answer);
        };
        endpoint.learn(&demand);
        if let Some(refused) = &first {
            if refused.fresh && standing.as_ref() == Some(&demand) {
                return self.without_credentials(endpoint, question, &demand, answer).await;
            }
            self.forget(endpoint, question.repository, refused).await;
        }
        let second = self.authorize(endpoint, &demand, question.repository).await?;
        let same = |a: &Authorization, b: &Authorization| a.header == b.header;
        let nothing_new = second.is_none() || matches!((&first, &second), (Some(a), Some(b)) if same(a, b));
        let answer = if nothing_new {
            answer
        } else {
            drain(answer.response).await;
            self.follow(endpoint, question, second.as_ref()).await?
        };
        if matches!(demand, Demand::Bearer { .. }) && challenges(&answer) == [Challenge::Basic] {
            // Not a stale token after all: this registry has gone over to passwords.
            endpoint.unlearn();
        }
        if second.is_none() {
            return Ok(answer);
        }
        self.without_credentials(endpoint, question, &demand, answer).await
    }

    /// Last resort: where `refused` is a refusal of credentials, asks as nobody. Keeps the refusal
    /// where that does not help either.
    async fn without_credentials(
        &self,
        endpoint: &Endpoint,
        question: &Question<'_>,
        demand: &Demand,
        refused: Answer,
    ) -> Result<Answer, UpstreamError> {
        let denied = matches!(refused.response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let Demand::Bearer { realm, service } = demand else { return Ok(refused) };
        if !denied || refused.abroad || self.credential(endpoint, question.repository).await? == Credential::Anonymous {
            return Ok(refused);
        }
        let Ok(nobody) =
            self.bearer(endpoint, realm, service.as_deref(), question.repository, Credential::Anonymous).await
        else {
            return Ok(refused);
        };
        let answer = self.follow(endpoint, question, Some(&nobody)).await?;
        if !answer.response.status().is_success() {
            return Ok(refused);
        }
        self.warn_refused(endpoint);
        Ok(answer)
    }

    /// What has to be met before asking again; `None` where asking again would not help.
    fn demanded(
        &self,
        endpoint: &Endpoint,
        answer: &Answer,
        sent: Option<&Authorization>,
        standing: Option<&Demand>,
    ) -> Result<Option<Demand>, UpstreamError> {
        let status = answer.response.status();
        if answer.abroad {
            return Ok(None);
        }
        // Some registries refuse an expired proof with 403 or 400 and no challenge.
        let expired = matches!(status, StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)
            && sent.is_some_and(|authorization| !authorization.fresh);
        if status != StatusCode::UNAUTHORIZED {
            return Ok(if expired { standing.cloned() } else { None });
        }
        let challenges = challenges(answer);
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, .. } => Some((realm, service)),
            Challenge::Basic => None,
        });
        if let Some((realm, service)) = bearer {
            let realm = check_realm(&endpoint.url, realm, &self.settings.configured.auth_realms)
                .map_err(|error| UpstreamError::new(UpstreamErrorClass::Denied, format!("{}: {error}", answer.what)))?;
            return Ok(Some(Demand::Bearer { realm, service: service.clone() }));
        }
        // Harbor answers a stale token with a challenge for a password, others with none at all.
        if let Some(Demand::Bearer { .. }) = standing.filter(|_| sent.is_some()) {
            return Ok(standing.cloned());
        }
        Ok(if challenges.contains(&Challenge::Basic) { Some(Demand::Basic) } else { standing.cloned() })
    }

    async fn credential(&self, endpoint: &Endpoint, repository: &Repository) -> Result<Credential, UpstreamError> {
        self.settings.credentials.credential(&endpoint.origin, repository).await.map_err(|error| {
            let message = format!("{} wants credentials, and they cannot be looked up: {error}", endpoint.origin);
            // Our own trouble: it says nothing about the upstream.
            UpstreamError::new(UpstreamErrorClass::Unavailable, message).answered()
        })
    }

    /// Meets a demand. `None` where we have nothing to meet it with.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        demand: &Demand,
        repository: &Repository,
    ) -> Result<Option<Authorization>, UpstreamError> {
        let credential = self.credential(endpoint, repository).await?;
        match demand {
            Demand::Bearer { realm, service } => {
                if let Credential::RegistryToken(token) = &credential {
                    let header = sensitive(format!("Bearer {}", token.expose()))?;
                    return Ok(Some(Authorization { header, token: None, fresh: false }));
                }
                self.bearer(endpoint, realm, service.as_deref(), repository, credential).await.map(Some)
            }
            Demand::Basic => {
                let Credential::Basic { user, password } = &credential else { return Ok(None) };
                let header = basic(user, password)?;
                Ok(Some(Authorization { header, token: None, fresh: false }))
            }
        }
    }

    async fn bearer(
        &self,
        endpoint: &Endpoint,
        realm: &Url,
        service: Option<&str>,
        repository: &Repository,
        credential: Credential,
    ) -> Result<Authorization, UpstreamError> {
        let key = TokenKey {
            realm: realm.to_string(),
            service: service.map(str::to_owned),
            scope: pull_scope(repository),
            identity: credential.identity(),
        };
        let fetch = || async {
            let fetched = self.fetch_token(realm, service, &key.scope, &credential).await;
            match fetched {
                Err(refusal) if refusal.class == UpstreamErrorClass::Denied && key.identity.is_some() => {
                    let public = self.fetch_token(realm, service, &key.scope, &Credential::Anonymous).await;
                    public.inspect(|_| self.warn_refused(endpoint)).map_err(|_| refusal)
                }
                fetched => fetched,
            }
        };
        let (secret, fresh) = self.tokens.get(&key, fetch).await?;
        let header = sensitive(format!("Bearer {}", secret.expose()))?;
        Ok(Authorization { header, token: Some((key, secret)), fresh })
    }

    async fn forget(&self, endpoint: &Endpoint, repository: &Repository, refused: &Authorization) {
        match &refused.token {
            Some((key, secret)) => self.tokens.forget(key, secret).await,
            None => self.settings.credentials.refused(&endpoint.origin, repository).await,
        }
    }

    fn warn_refused(&self, endpoint: &Endpoint) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                upstream = %self.settings.name,
                "{} refuses our credential; public images are pulled without one, private ones are not: renew it",
                endpoint.origin
            );
        }
    }

    /// Sends the question and follows redirects.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        question: &Question<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Answer, UpstreamError> {
        let mut authorization = authorization.map(|authorization| authorization.header.clone());
        let mut what = question.describe(endpoint);
        let mut url = endpoint.address(question.repository, &question.path);
        url.set_query(question.query.as_deref());
        let mut abroad = false;
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = question.headers.clone();
            if let Some(header) = &authorization {
                headers.insert(AUTHORIZATION, header.clone());
            }
            let client = self.clients.for_path(&question.path, same_origin(&url, &endpoint.url));
            let response = self.send(client, question.method.clone(), &url, headers, None, &what).await?;
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location.filter(|_| is_redirect(response.status())) else {
                return Ok(Answer { response, abroad, what });
            };
            let next = redirect::next(&url, location, endpoint.rules)
                .map_err(|error| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: {error}")))?;
            if !same_origin(&url, &next) {
                authorization = None;
                abroad = true;
                what =
                    format!("{}, redirected to {}", question.describe(endpoint), next.host_str().unwrap_or_default());
            }
            url = next;
            drain(response).await;
        }
        let message = format!("{what}: more than {MAX_REDIRECTS} redirects");
        Err(UpstreamError::new(UpstreamErrorClass::Protocol, message))
    }
}

fn challenges(answer: &Answer) -> Vec<Challenge> {
    let lines = answer.response.headers().get_all(WWW_AUTHENTICATE);
    challenge::parse(lines.iter().filter_map(|value| value.to_str().ok()))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
