//! The keys of an issuer of tokens: its own description names where they are, and redirects are not followed.
//!
//! Where they are is chosen by the issuer, so it is judged like a redirect of an upstream: by http it leads nowhere,
//! unless the issuer itself is on loopback.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CACHE_CONTROL, HeaderMap};
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
    /// The keys (RFC 7517) of the issuer that is at the address of this upstream, and that calls itself `issuer`; and how
    /// long it says that they are good for.
    ///
    /// # Errors
    /// Any class of [`UpstreamError`].
    pub async fn issuer_keys(&self, issuer: &str) -> Result<(Bytes, Option<Duration>), UpstreamError> {
        let protocol =
            |problem: String| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{issuer}: {problem}"));
        let description = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let description = Url::parse(&description).map_err(|error| protocol(error.to_string()))?;
        let (found, _) = self.document(&description, issuer).await?;
        let found: Description = serde_json::from_slice(&found).map_err(|error| protocol(error.to_string()))?;
        if found.issuer != issuer {
            return Err(protocol("calls itself otherwise in its description".to_owned()));
        }
        let rules = self.endpoint.rules.about(false);
        let keys = redirect::next(&description, &found.jwks_uri, rules);
        let keys = keys.map_err(|error| protocol(error.to_string()))?;
        self.document(&keys, issuer).await
    }

    /// A document, and how long it says that it may be used without being asked for again.
    async fn document(&self, url: &Url, issuer: &str) -> Result<(Bytes, Option<Duration>), UpstreamError> {
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
        let good_for = good_for(answer.response.headers());
        Ok((self.body(answer, None)?.collect(LARGEST, None).await?, good_for))
    }
}

/// How long an answer may be used without being asked for again (RFC 9111, 5.2.2), where it says so.
fn good_for(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    let each = lines.flat_map(|line| line.split(',')).filter_map(|directive| {
        let (name, value) = directive.split_once('=').map_or((directive, None), |(name, value)| (name, Some(value)));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => Some(Duration::ZERO),
            // One that cannot be read says no time that may be relied on.
            "max-age" => Some(Duration::from_secs(value?.trim().trim_matches('"').parse().unwrap_or_default())),
            _ => None,
        }
    });
    each.min()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn keys_are_good_for_as_long_as_their_issuer_says() {
        for (lines, seconds) in [
            (&["max-age=600"][..], Some(600)),
            (&["public, Max-Age=600, must-revalidate"], Some(600)),
            (&["max-age=\"600\""], Some(600)),
            (&["max-age=600", "max-age=60"], Some(60)),
            (&["max-age=600, no-store"], Some(0)),
            (&["no-cache"], Some(0)),
            (&["max-age=soon"], Some(0)),
            (&["s-maxage=5, public"], None),
            (&["max-age"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
            }
            assert_eq!(good_for(&headers), seconds.map(Duration::from_secs), "{lines:?}");
        }
    }
}
