//! Single requests, and what is read off single headers.

use std::error::Error as _;
use std::time::Duration;

use http::Method;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use url::Url;

use super::HttpUpstream;
use crate::oci::ContentRange;
use crate::upstream::credentials::{Secret, encoded_pair};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// How much of a body that nobody wants is read, to keep the connection, in bytes.
const MAX_DRAINED: u64 = 64 << 10;

impl HttpUpstream {
    /// Sends one request, no more.
    pub(super) async fn send(
        &self,
        client: &Client,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        form: Option<String>,
        what: &str,
    ) -> Result<Response, UpstreamError> {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut request = client.request(method, url.clone()).headers(headers);
        if let Some(form) = form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        let timeouts = &self.settings.configured.timeouts;
        let sent = tokio::time::timeout(timeouts.connect + timeouts.first_byte, request.send()).await;
        let status = sent.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(|response| response.status().as_u16());
        self.settings.observer.requested(&self.settings.name, status);
        let host = url.host_str().unwrap_or_default();
        let failed = |class, reason: String| UpstreamError::new(class, format!("{what}: {host} {reason}"));
        let response = sent
            .map_err(|_| failed(UpstreamErrorClass::Unavailable, "did not answer in time".to_owned()))?
            .map_err(|error| failed(class_of(&error), format!("could not be asked: {}", describe_failure(error))))?;
        self.read_quota(url, response.headers());
        Ok(response)
    }
}

/// The class of a request that got no answer. Whoever shows a certificate that is not good, or
/// wants another one of ours, is there; it may be somebody else, so nothing old stands in for it.
fn class_of(error: &reqwest::Error) -> UpstreamErrorClass {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => return UpstreamErrorClass::Protocol,
            Some(rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
                return UpstreamErrorClass::Protocol;
            }
            _ => {}
        }
        // What an I/O error wraps is not among its sources, only the sources of that.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = wrapped.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    UpstreamErrorClass::Unavailable
}

fn is_about_certificates(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    [
        Alert::BadCertificate,
        Alert::UnsupportedCertificate,
        Alert::CertificateRevoked,
        Alert::CertificateExpired,
        Alert::CertificateUnknown,
        Alert::CertificateRequired,
        Alert::UnknownCA,
        Alert::AccessDenied,
    ]
    .contains(&alert)
}

pub(super) fn header(value: String) -> Result<HeaderValue, UpstreamError> {
    // The value stays out of the message: it may be a credential.
    HeaderValue::try_from(value).map_err(|_| {
        UpstreamError::new(UpstreamErrorClass::Protocol, "a request header would contain characters it must not")
    })
}

pub(super) fn sensitive(value: String) -> Result<HeaderValue, UpstreamError> {
    let mut header = header(value)?;
    header.set_sensitive(true);
    Ok(header)
}

/// The value of `Authorization` for a user and a password.
pub(super) fn basic(user: &str, password: &Secret) -> Result<HeaderValue, UpstreamError> {
    sensitive(format!("Basic {}", encoded_pair(user, password).expose()))
}

pub(super) fn text(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok().map(str::trim)
}

pub(super) fn number(response: &Response, name: HeaderName) -> Option<u64> {
    text(response, name)?.parse().ok()
}

pub(super) fn content_range(response: &Response) -> Option<ContentRange> {
    ContentRange::parse(text(response, CONTENT_RANGE)?)
}

/// Reads what is left of a short answer, so that the connection can be used again.
pub(super) async fn drain(mut response: Response) {
    if number(&response, CONTENT_LENGTH).is_none_or(|length| length > MAX_DRAINED) {
        return;
    }
    let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
    let _slow = tokio::time::timeout(Duration::from_millis(250), rest).await;
}

/// A failure of the client in words, with its causes and without its address.
pub(super) fn describe_failure(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}
