//! How a token is asked for: with a password or without by GET, with a refresh token by POST; and
//! with a password by POST where GET is not known.
//!
//! Redirects are followed within the origin of the token service; away from it only by who has no secret.
//! A realm that an https upstream names over plain http is asked over https; where nobody answers there, plain
//! http is asked where it leads, without a secret.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, LOCATION};
use http::{Method, StatusCode};
use reqwest::Response;
use serde_json::Value;
use url::Url;

use super::answer::Answer;
use super::clients::Traffic;
use super::redirect::{self, is_redirect, same_origin};
use super::wire::{Sending, basic, drain};
use super::{HttpUpstream, status};
use crate::oci::header;
use crate::upstream::credentials::{Credential, Secret};
use crate::upstream::realm::{Realm, check_realm};
use crate::upstream::token::{Token, parse_token};
use crate::upstream::{Contact, UpstreamError, UpstreamErrorClass};

/// The largest answer of a token service that is read, in bytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// Redirects of a token service, at most.
const MAX_REDIRECTS: usize = 5;

/// What a token is for.
pub(super) struct Wanted<'a> {
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
}

/// One way to ask.
enum Asking<'a> {
    Get(Option<(&'a str, &'a Secret)>),
    Post(String),
}

impl Asking<'_> {
    /// Whether it tells a secret.
    fn tells(&self) -> bool {
        !matches!(self, Asking::Get(None))
    }
}

impl HttpUpstream {
    /// Fetches a token from a service that may see the credential.
    pub(super) async fn fetch_token(
        &self,
        realm: &Realm,
        wanted: Wanted<'_>,
        credential: &Credential,
    ) -> Result<Token, UpstreamError> {
        match self.fetch_token_at(&realm.url, &wanted, credential).await {
            // Nobody there who speaks TLS.
            Err(error) if realm.upgraded && error.contact != Contact::Answered => {
                match self.where_http_leads(realm).await {
                    Some(url) => self.fetch_token_at(&url, &wanted, credential).await,
                    None => Err(error),
                }
            }
            fetched => fetched,
        }
    }

    async fn fetch_token_at(
        &self,
        realm: &Url,
        wanted: &Wanted<'_>,
        credential: &Credential,
    ) -> Result<Token, UpstreamError> {
        let what = format!("token for {} from {}", wanted.scope, realm.host_str().unwrap_or_default());
        // Without a scope it is a token for the door alone.
        let scope = Some(wanted.scope).filter(|scope| !scope.is_empty());
        let fields: Vec<_> = [("service", wanted.service), ("scope", scope)]
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect();
        let with_query = with_query(realm, wanted);
        let response = match credential {
            Credential::IdentityToken(refresh) => {
                let form = form("refresh_token", &fields, &[("refresh_token", refresh.expose())]);
                self.ask_service(realm, &Asking::Post(form), &what).await?
            }
            Credential::Basic { user, password } => {
                let asking = Asking::Get(Some((user, password)));
                let response = self.ask_service(&with_query, &asking, &what).await?;
                if !matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                    response
                } else {
                    drain(response).await;
                    let form = form("password", &fields, &[("username", user), ("password", password.expose())]);
                    self.ask_service(realm, &Asking::Post(form), &what).await?
                }
            }
            Credential::Anonymous | Credential::RegistryToken(_) => {
                self.ask_service(&with_query, &Asking::Get(None), &what).await?
            }
        };
        self.read_token(response, realm, what).await
    }

    /// Asks, and follows redirects.
    async fn ask_service(&self, url: &Url, asking: &Asking<'_>, what: &str) -> Result<Response, UpstreamError> {
        let elsewhere = self.is_elsewhere(url);
        let protocol = |problem: String| {
            UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: {problem}")).elsewhere(elsewhere)
        };
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = HeaderMap::new();
            let (method, form) = match asking {
                Asking::Get(None) => (Method::GET, None),
                Asking::Get(Some((user, password))) => {
                    headers.insert(AUTHORIZATION, basic(user, password)?);
                    (Method::GET, None)
                }
                Asking::Post(form) => (Method::POST, Some(form.clone())),
            };
            let sending = Sending { method, url: &url, headers, form, traffic: Traffic::Api, what };
            let response = self.send(sending).await?;
            let location = response.headers().get(LOCATION).map(header::addresses);
            let Some(location) = location.filter(|_| is_redirect(response.status())) else { return Ok(response) };
            let rules = self.endpoint.rules.about(false);
            let next = redirect::next(&url, &location, rules).map_err(|error| protocol(error.to_string()))?;
            if asking.tells() && !is_same_service(&url, &next) {
                let host = next.host_str().unwrap_or_default();
                return Err(protocol(format!("redirects to {host}, where credentials are not sent")));
            }
            drain(response).await;
            url = next;
        }
        Err(protocol(format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn read_token(&self, response: Response, realm: &Url, what: String) -> Result<Token, UpstreamError> {
        let (status, elsewhere) = (response.status(), self.is_elsewhere(realm));
        if !status.is_success() {
            let class = status::class(status, response.headers(), self.now());
            let may_be_his = status == StatusCode::BAD_REQUEST && self.shows_something();
            let answer = Answer { response, url: realm.clone(), abroad: elsewhere, sent: None, what: what.clone() };
            let is_his = may_be_his && is_about_who_asks(&self.said(answer).await);
            let (class, told) = self.without_token(status, class, is_his);
            let error = UpstreamError::new(class, format!("{what}: {status}")).answered().elsewhere(elsewhere);
            return Err(UpstreamError { status: told.map(|status| status.as_u16()), ..error });
        }
        let answer = Answer { response, url: realm.clone(), abroad: elsewhere, sent: None, what };
        let what = answer.what.clone();
        let body = self.whole(answer)?.collect(MAX_TOKEN_ANSWER, None).await?;
        parse_token(&body, self.now())
            .ok_or_else(|| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: no token in the answer")))
    }

    /// What an answer says, as far as it can be read.
    async fn said(&self, answer: Answer) -> Bytes {
        match self.whole(answer) {
            Ok(body) => body.collect(MAX_TOKEN_ANSWER, None).await.unwrap_or_default(),
            Err(_) => Bytes::new(),
        }
    }

    /// What an answer without a token stands for, and its status where that matters.
    fn without_token(
        &self,
        status: StatusCode,
        class: UpstreamErrorClass,
        is_his: bool,
    ) -> (UpstreamErrorClass, Option<StatusCode>) {
        let is_bad = status == StatusCode::BAD_REQUEST;
        match class {
            UpstreamErrorClass::Refused if is_his => (UpstreamErrorClass::Denied, None),
            // Where the one who asks is sent to log in he learns it himself. It is no word on his rights.
            UpstreamErrorClass::NotFound | UpstreamErrorClass::Refused if self.presented.is_some() => {
                (UpstreamErrorClass::Denied, Some(status))
            }
            // That a token service is gone, or does not like how it is asked, says nothing about what it guards.
            UpstreamErrorClass::NotFound | UpstreamErrorClass::Refused => {
                (UpstreamErrorClass::Protocol, is_bad.then_some(status))
            }
            class => (class, None),
        }
    }

    /// Where the plain http address of a realm redirects to, if that is one that may see credentials.
    /// Nothing is said there but the address itself.
    async fn where_http_leads(&self, realm: &Realm) -> Option<Url> {
        let mut url = realm.url.clone();
        url.set_scheme("http").ok()?;
        let (headers, what) = (HeaderMap::new(), "plain http address of a token service");
        let sending = Sending { method: Method::GET, url: &url, headers, form: None, traffic: Traffic::Api, what };
        let response = self.send(sending).await.ok()?;
        let location = response.headers().get(LOCATION).map(header::addresses);
        let location = location.filter(|_| is_redirect(response.status()))?;
        drain(response).await;
        let next = redirect::next(&url, &location, self.endpoint.rules.about(false)).ok()?;
        let leads = check_realm(&self.endpoint.url, next.as_str(), &self.settings.configured.auth_realms).ok()?;
        let same_host = next.host() == realm.url.host();
        (same_host && leads.trusted == realm.trusted && !leads.upgraded).then_some(next)
    }
}

/// Whether a 400 says that the user, the password or the refresh token is not valid (RFC 6749, 5.2), or says so as
/// registries do. Any other says that a token service does not like how it is asked.
fn is_about_who_asks(answer: &[u8]) -> bool {
    const WORDS: [&str; 5] = ["invalid_grant", "invalid_client", "access_denied", "unauthorized", "denied"];
    let Ok(said) = serde_json::from_slice::<Value>(answer) else { return false };
    let codes = said["errors"].as_array().into_iter().flatten().map(|error| &error["code"]);
    let mut words = codes.chain([&said["error"], &said["code"]]).filter_map(Value::as_str);
    words.any(|word| WORDS.iter().any(|known| known.eq_ignore_ascii_case(word)))
}

/// Whether a redirect stays with the token service: its origin, or its host by https where it was http.
fn is_same_service(from: &Url, to: &Url) -> bool {
    let upgraded = from.scheme() == "http" && to.scheme() == "https" && from.port().is_none() && to.port().is_none();
    same_origin(from, to) || (upgraded && from.host() == to.host())
}

/// In a form several scopes stand in one field, in a query each has its own.
fn with_query(realm: &Url, wanted: &Wanted<'_>) -> Url {
    let mut url = realm.clone();
    let scopes = wanted.scope.split_whitespace().map(|scope| ("scope", scope));
    url.query_pairs_mut().extend_pairs(wanted.service.map(|service| ("service", service))).extend_pairs(scopes);
    url
}

/// A form as OAuth2 wants it.
fn form(grant: &str, fields: &[(&str, &str)], secrets: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("grant_type", grant), ("client_id", env!("CARGO_PKG_NAME"))])
        .extend_pairs(fields)
        .extend_pairs(secrets)
        .finish()
}
