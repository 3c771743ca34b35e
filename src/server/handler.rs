//! One request: parsed, routed, put to the mirror, answered. No decisions of its own beyond HTTP's.

use std::future::ready;

use futures_util::future::Either;
use http::header::{ACCEPT, CONTENT_LENGTH, IF_NONE_MATCH, IF_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::Request as HttpRequest;
use hyper::body::Incoming;

use super::Edge;
use super::body::ResponseBody;
use super::listener::Client;
use super::record::Record;
use super::response::{self, Answer};
use super::shortcut::Shortcut;
use crate::mirror::{Asked, Mirror, MirrorError, Route, Subject};
use crate::oci::{AcceptSet, Digest, ErrorCode, RangeHeader, Reference, Request, RequestError};

/// The most bytes of headers a request may have. Pull requests have a few hundred.
const MAX_HEADERS: usize = 32 << 10;

/// Answers one request of the pull listener.
pub fn answer(
    edge: &Edge,
    client: Client,
    http: HttpRequest<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + Send + use<> {
    match answered_again(edge, &client, &http) {
        Some(response) => Either::Left(ready(response)),
        None => {
            let edge = edge.clone();
            // Boxed: it is large, and would be moved about for those that need nothing of it.
            Either::Right(Box::pin(async move { answered_anew(&edge, &client, &http).await }))
        }
    }
}

/// The answer to a request that was answered from memory before, if it still is there. All that
/// refuses a request is looked at as ever; what the request means is known.
fn answered_again(edge: &Edge, client: &Client, http: &HttpRequest<Incoming>) -> Option<Response<ResponseBody>> {
    let shortcut = edge.shortcuts.find(http)?;
    let Shortcut { request, route, asked, kept, .. } = &*understood(http, || Ok(shortcut)).ok()?;
    let kept = kept.upgrade().filter(|_| !is_conditional(http.headers()))?;
    if !edge.mirror.still_holds(route, asked, &kept) {
        return None;
    }
    let mut record = Record::begin(edge.metrics.clone(), client.peer, http);
    record.asked(request, Some(&route.location));
    let answer = Answer::kept(kept).echoing(route.namespace.clone());
    Some(response::render(answer, http.method() == Method::HEAD, record, &client.wire))
}

async fn answered_anew(edge: &Edge, client: &Client, http: &HttpRequest<Incoming>) -> Response<ResponseBody> {
    let mut record = Record::begin(edge.metrics.clone(), client.peer, http);
    let uri = http.uri();
    let answer = match understood(http, || Request::parse(http.method(), uri.path(), uri.query())) {
        Ok(request) => respond(edge, &mut record, http, request).await,
        // What follows a refused request on its connection is not trusted.
        Err(refusal) if has_body(http.headers()) => refusal.answer().closing(),
        Err(refusal) => refusal.answer(),
    };
    response::render(answer, http.method() == Method::HEAD, record, &client.wire)
}

/// Why a request is refused before it is looked at any further.
enum Refusal {
    HeadersTooLarge,
    /// An absolute address: the client takes us for a forward proxy.
    Proxy,
    Grammar(RequestError),
    Body,
}

impl Refusal {
    fn answer(&self) -> Answer {
        match self {
            Refusal::HeadersTooLarge => Answer::refusal(ErrorCode::Unsupported, "the headers are too large")
                .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Refusal::Proxy => Answer::refusal(ErrorCode::NameInvalid, "this is not a proxy: ask for a path below /v2/"),
            Refusal::Grammar(error) => Answer::refusal(error.code(), error.to_string()),
            Refusal::Body => Answer::refusal(ErrorCode::Unsupported, "a GET or HEAD has no body here"),
        }
    }
}

/// What the request means, or why it is refused. Touches nothing.
fn understood<T>(
    http: &HttpRequest<Incoming>,
    meaning: impl FnOnce() -> Result<T, RequestError>,
) -> Result<T, Refusal> {
    if size_of(http.headers()) > MAX_HEADERS {
        return Err(Refusal::HeadersTooLarge);
    }
    if http.uri().authority().is_some() && http.method() != Method::CONNECT {
        return Err(Refusal::Proxy);
    }
    let meaning = meaning().map_err(Refusal::Grammar)?;
    if has_body(http.headers()) {
        return Err(Refusal::Body);
    }
    Ok(meaning)
}

fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn has_body(headers: &HeaderMap) -> bool {
    let announced = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    announced || headers.contains_key(TRANSFER_ENCODING)
}

async fn respond(edge: &Edge, record: &mut Record, http: &HttpRequest<Incoming>, request: Request) -> Answer {
    let Some(target) = request.target() else {
        record.asked(&request, None);
        return Answer::ping();
    };
    let route = match edge.mirror.route_by(target, edge.default.as_ref()) {
        Ok(route) => route,
        Err(error) => return failed(edge, &error.into()),
    };
    record.asked(&request, Some(&route.location));
    let answer = match at_hand(edge, http, &route, &request) {
        Some(answer) => answer,
        None => looked_up(&edge.mirror, http, &route, request).await.unwrap_or_else(|error| failed(edge, &error)),
    };
    answer.echoing(route.namespace)
}

/// The answer that is in memory. Conditional requests and parts go the long way.
fn at_hand(edge: &Edge, http: &HttpRequest<Incoming>, route: &Route, request: &Request) -> Option<Answer> {
    let asked = Asked::of(request, accept(http)).filter(|_| !is_conditional(http.headers()))?;
    let kept = edge.mirror.at_hand(route, &asked)?;
    edge.shortcuts.remember(http, Shortcut::new(http, route.clone(), request.clone(), asked, &kept));
    Some(Answer::kept(kept))
}

fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_NONE_MATCH) || headers.contains_key(RANGE)
}

async fn looked_up(
    mirror: &Mirror,
    http: &HttpRequest<Incoming>,
    route: &Route,
    request: Request,
) -> Result<Answer, MirrorError> {
    match request {
        Request::Ping => Ok(Answer::ping()),
        Request::Manifest { reference, .. } => manifest(mirror, http, route, &reference).await,
        Request::Blob { digest, .. } => blob(mirror, http, route, digest).await,
        Request::Tags { target, page } => {
            let answer = mirror.tags(route, &page).await?;
            let name = target.repository.to_string();
            let next = answer.next.clone().map(|page| Request::Tags { target, page });
            Ok(Answer::tags(&name, answer, next.as_ref()))
        }
        Request::Referrers { target, digest, artifact_type, cursor } => {
            let answer = mirror.referrers(route, digest, artifact_type.as_deref(), cursor.as_ref()).await?;
            let next = |cursor| Request::Referrers { target, digest, artifact_type, cursor: Some(cursor) };
            let next = answer.next.clone().map(next);
            Ok(Answer::referrers(answer, next.as_ref()))
        }
    }
}

async fn manifest(
    mirror: &Mirror,
    http: &HttpRequest<Incoming>,
    route: &Route,
    reference: &Reference,
) -> Result<Answer, MirrorError> {
    let answer = mirror.manifest(route, reference, accept(http)).await?;
    let digest = answer.manifest.descriptor.digest;
    if matches_etag(http.headers(), &digest) {
        return Ok(Answer::not_modified(digest, answer.outcome));
    }
    if http.method() == Method::GET {
        mirror.expect_pull(route, &answer.manifest);
    }
    Ok(Answer::manifest(answer))
}

async fn blob(
    mirror: &Mirror,
    http: &HttpRequest<Incoming>,
    route: &Route,
    digest: Digest,
) -> Result<Answer, MirrorError> {
    if http.method() == Method::HEAD {
        let stat = mirror.stat_blob(route, digest).await?;
        return Ok(Answer::blob_head(digest, stat.size, stat.outcome));
    }
    if matches_etag(http.headers(), &digest) {
        return Ok(Answer::not_modified(digest, mirror.stat_blob(route, digest).await?.outcome));
    }
    Ok(Answer::blob(mirror.blob(route, digest, range(http.headers(), &digest).as_ref()).await?))
}

fn failed(edge: &Edge, error: &MirrorError) -> Answer {
    edge.metrics.error(error.class());
    Answer::failure(error, code(error, edge.unavailable_blob))
}

/// The code for an error. For a blob that upstream cannot give now it is a setting, because clients
/// differ in what they do about it.
pub fn code(error: &MirrorError, unavailable_blob: ErrorCode) -> ErrorCode {
    match (error.subject(), error.code()) {
        (Some(Subject::Blob), ErrorCode::Unavailable | ErrorCode::Unknown)
            if unavailable_blob == ErrorCode::BlobUnknown =>
        {
            ErrorCode::BlobUnknown
        }
        (_, code) => code,
    }
}

/// The range asked for, unless `If-Range` names other content (RFC 9110, 13.1.5).
fn range(headers: &HeaderMap, digest: &Digest) -> Option<RangeHeader> {
    let same = strings(headers, IF_RANGE).all(|tag| names(tag, digest));
    let header = headers.get(RANGE).filter(|_| same)?;
    RangeHeader::parse(header.to_str().ok()?)
}

/// Whether the client has this content already: `If-None-Match`, with weak tags and lists.
fn matches_etag(headers: &HeaderMap, digest: &Digest) -> bool {
    strings(headers, IF_NONE_MATCH).flat_map(|value| value.split(',')).any(|tag| names(tag, digest))
}

fn names(tag: &str, digest: &Digest) -> bool {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).is_some_and(|tag| tag == digest.to_string())
}

fn accept(http: &HttpRequest<Incoming>) -> AcceptSet {
    AcceptSet::from_headers(strings(http.headers(), ACCEPT))
}

fn strings(headers: &HeaderMap, name: http::HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header value"))])
    }

    #[test]
    fn a_client_that_has_the_content_is_recognised() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for (value, expected) in [
            (format!("\"{digest}\""), true),
            (format!("W/\"{digest}\""), true),
            (format!("\"other\" , \"{digest}\""), true),
            (digest.to_string(), false),
            ("\"other\"".to_owned(), false),
        ] {
            assert_eq!(matches_etag(&headers(IF_NONE_MATCH, &value), &digest), expected, "{value}");
        }
    }

    #[test]
    fn a_body_is_one_that_is_announced() {
        assert!(has_body(&headers(CONTENT_LENGTH, "9")));
        assert!(has_body(&headers(TRANSFER_ENCODING, "chunked")));
        assert!(!has_body(&headers(CONTENT_LENGTH, "0")));
    }
}
