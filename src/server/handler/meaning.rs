//! What a request means, or why it is refused before anything is looked up for it.

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderName, Method, StatusCode, Version};
use hyper::Request as HttpRequest;
use hyper::body::Incoming;

use crate::oci::{ErrorCode, RequestError};
use crate::server::glance::Glance;
use crate::server::response::Answer;

/// The most bytes of headers a request may have. Pull requests have a few hundred.
const MAX_HEADERS: usize = 32 << 10;

/// Why a request is refused before it is looked at any further.
pub(super) enum Refusal {
    HeadersTooLarge,
    /// HTTP/1.1 without `Host` (RFC 9112, 3.2).
    NoHost,
    /// A header stands more than once of which somebody in front may believe another one: `Host` (RFC 9112, 3.2),
    /// `Authorization`.
    Twice(HeaderName),
    /// An absolute address that is none of a registry: the client takes us for a forward proxy.
    Proxy,
    Grammar(RequestError),
    Body,
}

impl Refusal {
    /// Whether somebody in front may read the request otherwise.
    pub(super) const fn is_about_headers(&self) -> bool {
        matches!(self, Refusal::NoHost | Refusal::Twice(_))
    }

    pub(super) fn answer(&self) -> Answer {
        match self {
            Refusal::HeadersTooLarge => Answer::refusal(ErrorCode::Unsupported, "the headers are too large")
                .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Refusal::NoHost => Answer::refusal(ErrorCode::Unsupported, "the request has no Host header")
                .with_status(StatusCode::BAD_REQUEST),
            Refusal::Twice(name) => {
                let message = format!("the request has more than one {name} header");
                Answer::refusal(ErrorCode::Unsupported, message).with_status(StatusCode::BAD_REQUEST)
            }
            Refusal::Proxy => Answer::refusal(ErrorCode::NameInvalid, "this is not a proxy: ask for a path below /v2/"),
            Refusal::Grammar(error) => Answer::refusal(error.code(), error.to_string()),
            Refusal::Body => Answer::refusal(ErrorCode::Unsupported, "a GET or HEAD has no body here"),
        }
    }
}

/// What the request means, or why it is refused. Touches nothing.
pub(super) fn understood<T>(
    http: &HttpRequest<Incoming>,
    glance: Glance,
    meaning: impl FnOnce() -> Result<T, RequestError>,
) -> Result<T, Refusal> {
    if glance.size > MAX_HEADERS {
        return Err(Refusal::HeadersTooLarge);
    }
    if http.version() == Version::HTTP_11 && glance.hosts == 0 {
        return Err(Refusal::NoHost);
    }
    if glance.hosts > 1 {
        return Err(Refusal::Twice(HOST));
    }
    if glance.logins > 1 {
        return Err(Refusal::Twice(AUTHORIZATION));
    }
    // The absolute form says what Host says (RFC 9112, 3.2.2). Which names lead to us we do not know;
    // nobody is dialled for it in any case.
    let is_absolute = http.uri().authority().is_some() && http.method() != Method::CONNECT;
    let meaning = meaning().map_err(|error| match error {
        RequestError::NotFound if is_absolute => Refusal::Proxy,
        error => Refusal::Grammar(error),
    })?;
    if glance.announces_a_body {
        return Err(Refusal::Body);
    }
    Ok(meaning)
}
