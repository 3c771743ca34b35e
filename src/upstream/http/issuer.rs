//! The keys of an issuer of tokens: its own description names where they are, and redirects are not followed.
//!
//! Where they are is chosen by the issuer, so it is judged like a redirect of an upstream.

use bytes::Bytes;
use http::Method;
use http::header::HeaderMap;
use serde::Deserialize;
use url::Url;

use super::answer::Answer;
use super::clients::Traffic;
use super::wire::Sending;
use super::{HttpUpstream, redirect};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// The largest document that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// What of OpenID Connect Discovery 1.0, 4.2, is of use.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

impl HttpUpstream {
    /// The keys (RFC 7517) of the issuer that is at the address of this upstream, and that calls itself `issuer`.
    ///
    /// # Errors
    /// Any class of [`UpstreamError`].
    pub async fn issuer_keys(&self, issuer: &str) -> Result<Bytes, UpstreamError> {
        let protocol =
            |problem: String| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{issuer}: {problem}"));
        let description = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let description = Url::parse(&description).map_err(|error| protocol(error.to_string()))?;
        let found = self.document(&description, issuer).await?;
        let found: Description = serde_json::from_slice(&found).map_err(|error| protocol(error.to_string()))?;
        if found.issuer != issuer {
            return Err(protocol("calls itself otherwise in its description".to_owned()));
        }
        let rules = self.endpoint.rules.about(false);
        let keys = redirect::next(&description, &found.jwks_uri, rules);
        self.document(&keys.map_err(|error| protocol(error.to_string()))?, issuer).await
    }

    async fn document(&self, url: &Url, issuer: &str) -> Result<Bytes, UpstreamError> {
        let what = format!("keys of {issuer}");
        let sending = Sending {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            form: None,
            traffic: Traffic::Api,
            what: &what,
        };
        let response = self.send(sending).await?;
        let abroad = self.is_elsewhere(url);
        let answer = Answer { response, url: url.clone(), abroad, sent: None, what };
        if !answer.response.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        self.body(answer, None)?.collect(LARGEST, None).await
    }
}
