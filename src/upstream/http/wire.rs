//! Single requests, and what is read off single headers.
//!
//! A connection that was kept may be closed just as the next request comes on it (RFC 9112, 9.3.1). Where
//! nothing of an answer came, or only that it took too long to ask, the request goes out again at once, on a new
//! connection: all that we send may be sent twice.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::{Method, StatusCode};
use reqwest::{Client, Response};
use url::{Host, Url};

use super::HttpUpstream;
use super::clients::{Set, Traffic};
use super::redirect::same_origin;
use super::resolver::look_up;
use crate::carrier::Carrier;
use crate::oci::ContentRange;
use crate::oci::header;
use crate::upstream::credentials::{Secret, encoded_pair};
use crate::upstream::{Contact, UpstreamError, UpstreamErrorClass};

/// How much of a body that nobody wants is read, to keep the connection, in bytes.
const MAX_DRAINED: u64 = 64 << 10;

/// One request: a question with an address, ready to be sent.
pub(super) struct Sending<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) form: Option<String>,
    pub(super) traffic: Traffic,
    /// For messages.
    pub(super) what: &'a str,
}

impl Sending<'_> {
    async fn by(&self, client: &Client, carrier: &Carrier) -> Result<Response, reqwest::Error> {
        let mut request = client.request(self.method.clone(), self.url.clone()).headers(self.headers.clone());
        request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(form) = &self.form {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
        }
        carrier.run(request.send()).await
    }
}

impl HttpUpstream {
    /// The clients for what goes to `url`.
    pub(super) fn clients_for(&self, url: &Url) -> &Arc<Set> {
        self.clients.set(same_origin(url, &self.endpoint.url))
    }

    /// Sends one request; a second time where it was lost with the connection.
    pub(super) async fn send(&self, sending: Sending<'_>) -> Result<Response, UpstreamError> {
        self.refuse_ourselves(&sending).await?;
        let set = self.clients_for(sending.url);
        let timeouts = &self.settings.configured.timeouts;
        let sent = tokio::time::timeout(timeouts.connect + timeouts.first_byte, self.send_by(set, &sending)).await;
        let host = sending.url.host_str().unwrap_or_default();
        let failed = |class, contact, reason: String| {
            // Most often it is said already where it was asked.
            let whom = if sending.what.contains(host) { String::new() } else { format!("{host} ") };
            let error = UpstreamError::new(class, format!("{}: {whom}{reason}", sending.what)).because(reason);
            error.after(contact).elsewhere(self.is_elsewhere(sending.url))
        };
        let sent = sent.map_err(|_| {
            self.settings.observer.requested(&self.settings.name, None);
            failed(UpstreamErrorClass::Unavailable, Contact::Silent, "did not answer in time".to_owned())
        })?;
        let response = sent.map_err(|error| {
            let (class, contact) = (class_of(&error), contact_of(&error));
            failed(class, contact, format!("could not be asked: {}", describe_failure(error)))
        })?;
        self.read_quota(sending.url, response.headers());
        Ok(response)
    }

    /// Whether whoever is at `url` is not the registry itself.
    pub(super) fn is_elsewhere(&self, url: &Url) -> bool {
        !same_origin(url, &self.endpoint.url)
    }

    /// Nothing is asked of our own listeners, by whatever name.
    async fn refuse_ourselves(&self, sending: &Sending<'_>) -> Result<(), UpstreamError> {
        let ours = &self.settings.ours;
        let Some(port) = sending.url.port_or_known_default().filter(|port| ours.has_port(*port)) else { return Ok(()) };
        let is_ours = match sending.url.host() {
            Some(Host::Ipv4(address)) => ours.contains((address, port).into()),
            Some(Host::Ipv6(address)) => ours.contains((address, port).into()),
            Some(Host::Domain(name)) => {
                let connect = self.settings.configured.timeouts.connect;
                let found = tokio::time::timeout(connect, look_up(name)).await;
                let ours = |address: &IpAddr| ours.contains((*address, port).into());
                found.is_ok_and(|found| found.is_ok_and(|found| found.iter().any(ours)))
            }
            None => false,
        };
        if !is_ours {
            return Ok(());
        }
        let host = sending.url.host_str().unwrap_or_default();
        let message = format!("{}: {host}:{port} is where this mirror itself listens; it is never asked", sending.what);
        Err(UpstreamError::new(UpstreamErrorClass::Protocol, message))
    }

    async fn send_by(&self, set: &Set, sending: &Sending<'_>) -> Result<Response, reqwest::Error> {
        let requested = |sent: &Result<Response, _>| {
            let status = sent.as_ref().ok().map(|response| response.status().as_u16());
            self.settings.observer.requested(&self.settings.name, status);
        };
        let carrier = &self.settings.carrier;
        let mut sent = sending.by(set.usual(sending.traffic), carrier).await;
        requested(&sent);
        let by_http2 = sent.as_ref().is_err_and(is_of_http2);
        let is_lost = match &sent {
            Ok(response) => is_of_an_end(response),
            Err(error) => is_lost(error),
        };
        if by_http2 || (set.may_reuse() && is_lost) {
            tracing::debug!(what = sending.what, "no answer on that connection, asking again on a new one");
            sent = sending.by(set.fresh(), carrier).await;
            requested(&sent);
            if by_http2 && sent.is_ok() {
                set.goes_back();
            }
        }
        if sent.is_ok() {
            set.answered();
        }
        sent
    }
}

/// How far a request got that got no answer.
pub(super) fn contact_of(error: &reqwest::Error) -> Contact {
    if error.is_connect() {
        Contact::Unreachable
    } else if error.is_timeout() {
        Contact::Silent
    } else {
        Contact::Closed
    }
}

/// An error and what caused it, in turn.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // What an I/O error wraps is not among its sources, only the sources of that.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
}

/// Whether the connection ended before anything of an answer had come.
fn is_lost(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let ended = |cause: &(dyn Error + 'static)| {
        let http = cause.downcast_ref::<hyper::Error>();
        let connection = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        http.is_some_and(|error| error.is_incomplete_message() || error.is_closed() || error.is_canceled())
            || connection.is_some_and(|kind| {
                matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
            })
    };
    !error.is_connect() && !error.is_timeout() && causes(error).any(ended)
}

/// Whether it is said of a connection that it rested for too long (RFC 9110, 15.5.9), and not of the question.
fn is_of_an_end(response: &Response) -> bool {
    let is_close = |value| header::text(value).split(',').any(|word| word.trim().eq_ignore_ascii_case("close"));
    response.status() == StatusCode::REQUEST_TIMEOUT && response.headers().get_all(CONNECTION).iter().any(is_close)
}

/// Whether it is HTTP/2 that failed, so that HTTP/1.1 may do.
pub(super) fn is_of_http2(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.is::<h2::Error>())
}

/// Whether the connection ended where TLS would have said so first.
pub(super) fn is_unannounced_end(error: &reqwest::Error) -> bool {
    let end = |cause: &(dyn Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    };
    causes(error).any(end)
}

/// The class of a request that got no answer. Whoever shows a certificate that is not good, or
/// wants another one of ours, is there; it may be somebody else, so nothing old stands in for it.
pub(super) fn class_of(error: &reqwest::Error) -> UpstreamErrorClass {
    let about_certificates = |cause: &(dyn Error + 'static)| match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => true,
        Some(rustls::Error::AlertReceived(alert)) => is_about_certificates(*alert),
        _ => false,
    };
    if causes(error).any(about_certificates) { UpstreamErrorClass::Protocol } else { UpstreamErrorClass::Unavailable }
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

pub(super) fn header_value(value: String) -> Result<HeaderValue, UpstreamError> {
    // The value stays out of the message: it may be a credential.
    HeaderValue::try_from(value).map_err(|_| {
        UpstreamError::new(UpstreamErrorClass::Protocol, "a request header would contain characters it must not")
    })
}

pub(super) fn sensitive(value: String) -> Result<HeaderValue, UpstreamError> {
    let mut header = header_value(value)?;
    header.set_sensitive(true);
    Ok(header)
}

/// The value of `Authorization` for a user and a password.
pub(super) fn basic(user: &str, password: &Secret) -> Result<HeaderValue, UpstreamError> {
    sensitive(format!("Basic {}", encoded_pair(user, password).expose()))
}

pub(super) fn text(response: &Response, name: HeaderName) -> Option<Cow<'_, str>> {
    response.headers().get(name).map(header::text)
}

pub(super) fn number(response: &Response, name: HeaderName) -> Option<u64> {
    text(response, name)?.parse().ok()
}

pub(super) fn content_range(response: &Response) -> Option<ContentRange> {
    ContentRange::parse(&text(response, CONTENT_RANGE)?)
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
