//! A registry behind a façade: the configured one redirects everything to it, and it wants a token.
//!
//! Such a token is for nobody: no credential of ours leaves the configured origin, so no realm has to be
//! trusted with one. Where it leads is judged as every redirect is. For callers only a realm of that registry's own
//! site is asked, or one that the operator allows.

use http::StatusCode;
use http::header::HeaderValue;
use url::Url;

use super::HttpUpstream;
use super::answer::{Answer, Question};
use super::proof::challenges;
use super::redirect;
use super::token_service::Wanted;
use super::wire::sensitive;
use crate::oci::Repository;
use crate::oci::challenge::Challenge;
use crate::upstream::credentials::{Credential, Secret};
use crate::upstream::realm::{Realm, check_realm};
use crate::upstream::token::{Identity, TokenKey, scope_beyond, wider_scope};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// So many registries abroad are remembered.
const MAX_KNOWN: u64 = 64;

/// What registries abroad want, by their origin.
pub(super) type Abroad = moka::sync::Cache<String, (Realm, Option<String>)>;

/// The same of one answer, with what it wants beyond the usual.
type Wants = (Realm, Option<String>, Option<String>);

/// Remembers nothing yet.
pub(super) fn nowhere() -> Abroad {
    Abroad::new(MAX_KNOWN)
}

impl HttpUpstream {
    /// The token for where an answer came from, where that is another registry that wants one.
    pub(super) async fn token_abroad(
        &self,
        question: &Question,
        answer: &Answer,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        if !answer.abroad || !answer.may_be_unproven() {
            return Ok(None);
        }
        let known = match answer.response.status() {
            StatusCode::UNAUTHORIZED => self.demanded_abroad(question, answer)?,
            // A token that has died.
            StatusCode::NOT_FOUND if answer.sent.as_ref().is_none_or(|sent| self.endpoint.is_alive(sent)) => None,
            // A token may have died.
            _ => {
                let known = answer.sent.as_ref().and_then(|_| self.abroad.get(&origin(&answer.url)));
                known.map(|(realm, service)| (realm, service, None))
            }
        };
        let Some((realm, service, beyond)) = known else { return Ok(None) };
        let known = (realm, service);
        // Another request may have fetched one since; only the one that was refused is dropped.
        let key = key(question, &answer.url, &known, beyond.as_deref());
        if let Some(kept) = self.tokens.kept(&key)
            && answer.sent.as_ref() == Some(&bearer_header(&kept)?)
        {
            self.tokens.forget(&key, &kept);
        }
        let token = self.fetch_abroad(&known, key).await?;
        self.abroad.insert(origin(&answer.url), known);
        Ok(Some(token))
    }

    /// The token service that a registry abroad names, what it calls itself there, and what it wants beyond the usual.
    fn demanded_abroad(&self, question: &Question, answer: &Answer) -> Result<Option<Wants>, UpstreamError> {
        let bearer = challenges(answer).into_iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope, .. } => Some((realm, service, scope)),
            Challenge::Basic { .. } => None,
        });
        let Some((realm, service, scope)) = bearer else { return Ok(None) };
        let denied =
            |error: String| UpstreamError::new(UpstreamErrorClass::Denied, format!("{}: {error}", answer.what));
        let allowed = &self.settings.configured.auth_realms;
        let realm = check_realm(&answer.url, &realm, allowed).map_err(|error| denied(error.to_string()))?;
        redirect::next(&answer.url, realm.url.as_str(), self.endpoint.rules.about(false))
            .map_err(|error| denied(format!("its token service {error}")))?;
        let beyond = scope.and_then(|scope| scope_beyond(&name_abroad(question, &answer.url), &scope));
        Ok(Some((realm, service, beyond)))
    }

    /// The token for a registry abroad that wanted one before.
    pub(super) async fn kept_token_abroad(&self, question: &Question, url: &Url) -> Option<HeaderValue> {
        let known = self.abroad.get(&origin(url))?;
        self.fetch_abroad(&known, key(question, url, &known, None)).await.ok()
    }

    async fn fetch_abroad(&self, known: &(Realm, Option<String>), key: TokenKey) -> Result<HeaderValue, UpstreamError> {
        let (realm, service) = known;
        self.refuse_foreign(realm, &Credential::Anonymous)?;
        let fetch = || async {
            let wanted = Wanted { service: service.as_deref(), scope: &key.scope };
            self.fetch_token(realm, wanted, &Credential::Anonymous).await
        };
        let (token, _) = self.tokens.get(&key, self.since(), fetch).await?;
        bearer_header(&token)
    }
}

fn bearer_header(token: &Secret) -> Result<HeaderValue, UpstreamError> {
    sensitive(format!("Bearer {}", token.expose()))
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What the repository is called there.
fn name_abroad(question: &Question, url: &Url) -> Repository {
    let there = repository_in(url.path()).and_then(|name| name.parse().ok());
    there.unwrap_or_else(|| question.repository.clone())
}

fn key(question: &Question, url: &Url, (realm, service): &(Realm, Option<String>), beyond: Option<&str>) -> TokenKey {
    TokenKey {
        realm: realm.url.to_string(),
        service: service.clone(),
        scope: wider_scope(&name_abroad(question, url), beyond),
        identity: Identity::Nobody,
    }
}

/// The repository that a path of the registry interface is about: it may have another name abroad.
fn repository_in(path: &str) -> Option<&str> {
    let (_, below) = path.split_once("/v2/")?;
    ["/manifests/", "/blobs/", "/tags/", "/referrers/"].iter().find_map(|keyword| Some(below.rsplit_once(keyword)?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_the_name_that_it_has_where_the_redirect_leads() {
        assert_eq!(repository_in("/v2/library/redis/manifests/7"), Some("library/redis"));
        assert_eq!(repository_in("/base/v2/a/blobs/blobs/sha256:00"), Some("a/blobs"));
        assert_eq!(repository_in("/bucket/x"), None);
    }

    #[test]
    fn made_up_registries_abroad_do_not_fill_the_memory() {
        let abroad = nowhere();
        let answered = Url::parse("https://registry.example/v2/").expect("an address");
        let realm = check_realm(&answered, "https://registry.example/token", &[]).expect("a realm");
        for number in 0..10 * MAX_KNOWN {
            abroad.insert(format!("https://{number}.example"), (realm.clone(), None));
        }
        abroad.run_pending_tasks();
        assert!((1..=MAX_KNOWN).contains(&abroad.entry_count()), "{}", abroad.entry_count());
    }
}
