//! How a token is asked for: with a password or without by GET, with a refresh token by POST; and
//! with a password by POST where GET is not known.

use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, StatusCode};
use url::Url;

use super::exchange::Answer;
use super::redirect::same_origin;
use super::wire::{basic, drain};
use super::{HttpUpstream, status};
use crate::upstream::credentials::Credential;
use crate::upstream::token::{Token, parse_token};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// The largest answer of a token service that is read, in bytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;

impl HttpUpstream {
    /// Fetches a token. Redirects are not followed: credentials go to the checked realm only.
    pub(super) async fn fetch_token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scope: &str,
        credential: &Credential,
    ) -> Result<Token, UpstreamError> {
        let what = format!("token for {scope} from {}", realm.host_str().unwrap_or_default());
        let client = self.clients.for_api(same_origin(realm, &self.endpoint.url));
        let fields: Vec<_> =
            service.map(|service| ("service", service)).into_iter().chain([("scope", scope)]).collect();
        let response = match credential {
            Credential::IdentityToken(refresh) => {
                let form = form("refresh_token", &fields, &[("refresh_token", refresh.expose())]);
                self.send(client, Method::POST, realm, HeaderMap::new(), Some(form), &what).await?
            }
            _ => {
                let (mut url, mut headers) = (realm.clone(), HeaderMap::new());
                url.query_pairs_mut().extend_pairs(&fields);
                if let Credential::Basic { user, password } = credential {
                    headers.insert(AUTHORIZATION, basic(user, password)?);
                }
                self.send(client, Method::GET, &url, headers, None, &what).await?
            }
        };
        let response = match credential {
            Credential::Basic { user, password }
                if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) =>
            {
                drain(response).await;
                let form = form("password", &fields, &[("username", user), ("password", password.expose())]);
                self.send(client, Method::POST, realm, HeaderMap::new(), Some(form), &what).await?
            }
            _ => response,
        };
        let status = response.status();
        if !status.is_success() {
            let class = match status::class(status, response.headers(), self.now()) {
                // The answer to a refresh token, or a user, that is not valid any more.
                UpstreamErrorClass::Protocol if status == StatusCode::BAD_REQUEST => UpstreamErrorClass::Denied,
                // That a token service is gone says nothing about what it guards.
                UpstreamErrorClass::NotFound => UpstreamErrorClass::Protocol,
                class => class,
            };
            return Err(UpstreamError::new(class, format!("{what}: {status}")).answered());
        }
        let answer = Answer { response, abroad: false, what };
        let what = answer.what.clone();
        let body = self.body(answer, None)?.collect(MAX_TOKEN_ANSWER).await?;
        parse_token(&body, self.now())
            .ok_or_else(|| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: no token in the answer")))
    }
}

/// A form as OAuth2 wants it.
fn form(grant: &str, fields: &[(&str, &str)], secrets: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("grant_type", grant), ("client_id", env!("CARGO_PKG_NAME"))])
        .extend_pairs(fields)
        .extend_pairs(secrets)
        .finish()
}
