//! One request: parsed, routed, put to the mirror, answered. No decisions of its own beyond HTTP's.

use http::header::{ACCEPT, CONTENT_LENGTH, IF_NONE_MATCH, IF_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use hyper::Request as HttpRequest;
use hyper::body::Incoming;

use super::Edge;
use super::body::ResponseBody;
use super::exchange::Exchange;
use super::listener::Client;
use super::response::{self, Answer};
use super::shortcut::{Asked, Shortcut};
use crate::metrics::RequestKind;
use crate::mirror::{MirrorError, Route, Subject};
use crate::oci::{AcceptSet, Digest, ErrorCode, Page, RangeHeader, Reference, Request, RequestError, Target};

/// The most bytes of headers a request may have. Pull requests have a few hundred.
const MAX_HEADERS: usize = 32 << 10;

/// Answers one request of the pull listener.
pub async fn answer(edge: &Edge, client: &Client, request: HttpRequest<Incoming>) -> http::Response<ResponseBody> {
    let mut exchange = Exchange::begin(edge.metrics.clone(), client.peer, &request);
    let answer = match understood(&request) {
        Ok(understood) => respond(edge, &mut exchange, &request, understood).await,
        // What follows a refused request on its connection is not trusted.
        Err(refusal) if has_body(request.headers()) => refusal.answer().closing(),
        Err(refusal) => refusal.answer(),
    };
    let head_only = request.method() == Method::HEAD;
    response::render(answer, head_only, exchange, &client.wire)
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

/// Turns the request into data, or says why not. Touches nothing.
fn understood(request: &HttpRequest<Incoming>) -> Result<Request, Refusal> {
    let headers = request.headers();
    if size_of(headers) > MAX_HEADERS {
        return Err(Refusal::HeadersTooLarge);
    }
    let uri = request.uri();
    if uri.authority().is_some() && request.method() != Method::CONNECT {
        return Err(Refusal::Proxy);
    }
    let parsed = Request::parse(request.method(), uri.path(), uri.query()).map_err(Refusal::Grammar)?;
    if has_body(headers) {
        return Err(Refusal::Body);
    }
    Ok(parsed)
}

fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn has_body(headers: &HeaderMap) -> bool {
    let announced = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    announced || headers.contains_key(TRANSFER_ENCODING)
}

async fn respond(edge: &Edge, exchange: &mut Exchange, http: &HttpRequest<Incoming>, request: Request) -> Answer {
    let Some(target) = request.target() else {
        exchange.kind = RequestKind::Ping;
        return Answer::ping();
    };
    let route = match edge.mirror.route_by(target, edge.default.as_ref()) {
        Ok(route) => route,
        Err(error) => return failed(edge, exchange, error.into()),
    };
    exchange.located(&route.location);
    let namespace = route.namespace.clone();
    if let Some(mut answer) = at_hand(edge, exchange, http, &route, &request) {
        answer.namespace = namespace;
        return answer;
    }
    let answered = match request {
        Request::Ping => Ok(Answer::ping()),
        Request::Manifest { reference, .. } => manifest(edge, exchange, http, &route, &reference).await,
        Request::Blob { digest, .. } => blob(edge, exchange, http, &route, digest).await,
        Request::Tags { target, page } => tags(edge, exchange, &route, target, &page).await,
        Request::Referrers { target, digest, artifact_type, cursor } => {
            exchange.kind = RequestKind::Referrers;
            exchange.reference = Some(Reference::Digest(digest));
            let found = edge.mirror.referrers(&route, digest, artifact_type.as_deref(), cursor.as_ref()).await;
            found.map(|answer| {
                exchange.outcome = answer.outcome;
                let next = answer.next.clone();
                let next =
                    next.map(|cursor| Request::Referrers { target, digest, artifact_type, cursor: Some(cursor) });
                Answer::referrers(answer, next.as_ref())
            })
        }
    };
    let mut answer = answered.unwrap_or_else(|error| failed(edge, exchange, error));
    answer.namespace = namespace;
    answer
}

/// The answer that is in memory. Conditional requests and parts go the long way.
fn at_hand(
    edge: &Edge,
    exchange: &mut Exchange,
    http: &HttpRequest<Incoming>,
    route: &Route,
    request: &Request,
) -> Option<Answer> {
    if is_conditional(http.headers()) {
        return None;
    }
    let asked = match request {
        Request::Manifest { reference, .. } => {
            Asked::Manifest(reference.clone(), AcceptSet::from_headers(strings(http.headers(), ACCEPT)))
        }
        Request::Blob { digest, .. } => Asked::Blob(Reference::Digest(*digest)),
        _ => return None,
    };
    let kept = edge.mirror.at_hand(route, asked.wanted()?)?;
    exchange.found(&asked);
    edge.shortcuts.remember(http, Shortcut::new(http, route.clone(), asked, &kept));
    Some(Answer::kept(kept))
}

fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_NONE_MATCH) || headers.contains_key(RANGE)
}

/// The answer to a request that was answered from memory before, if it still is there. All that
/// refuses a request is looked at as ever; what the request means is known.
pub fn at_once(edge: &Edge, client: &Client, request: &HttpRequest<Incoming>) -> Option<http::Response<ResponseBody>> {
    let shortcut = edge.shortcuts.find(request)?;
    let headers = request.headers();
    let plain = (request.method() == Method::GET || request.method() == Method::HEAD)
        && request.uri().authority().is_none()
        && !is_conditional(headers)
        && !has_body(headers)
        && size_of(headers) <= MAX_HEADERS;
    let kept = shortcut.kept.upgrade().filter(|_| plain)?;
    if !edge.mirror.still_holds(&shortcut.route, shortcut.asked.wanted()?, &kept) {
        return None;
    }
    let mut exchange = Exchange::begin(edge.metrics.clone(), client.peer, request);
    exchange.located(&shortcut.route.location);
    exchange.found(&shortcut.asked);
    let mut answer = Answer::kept(kept);
    answer.namespace = shortcut.route.namespace.clone();
    Some(response::render(answer, request.method() == Method::HEAD, exchange, &client.wire))
}

async fn manifest(
    edge: &Edge,
    exchange: &mut Exchange,
    http: &HttpRequest<Incoming>,
    route: &Route,
    reference: &Reference,
) -> Result<Answer, MirrorError> {
    exchange.kind = RequestKind::Manifest;
    exchange.reference = Some(reference.clone());
    let accept = AcceptSet::from_headers(strings(http.headers(), ACCEPT));
    let answer = edge.mirror.manifest(route, reference, accept).await?;
    exchange.outcome = answer.outcome;
    let unchanged = matches_etag(http.headers(), &answer.manifest.descriptor.digest);
    if http.method() == Method::GET && !unchanged {
        edge.mirror.expect_pull(route, &answer.manifest);
    }
    Ok(if unchanged { Answer::not_modified(answer.manifest.descriptor.digest) } else { Answer::manifest(answer) })
}

async fn blob(
    edge: &Edge,
    exchange: &mut Exchange,
    http: &HttpRequest<Incoming>,
    route: &Route,
    digest: Digest,
) -> Result<Answer, MirrorError> {
    exchange.kind = RequestKind::Blob;
    exchange.reference = Some(Reference::Digest(digest));
    if http.method() == Method::HEAD || matches_etag(http.headers(), &digest) {
        let stat = edge.mirror.stat_blob(route, digest).await?;
        exchange.outcome = stat.outcome;
        let unchanged = http.method() != Method::HEAD;
        return Ok(if unchanged { Answer::not_modified(digest) } else { Answer::blob_head(digest, stat.size) });
    }
    let answer = edge.mirror.blob(route, digest, range(http.headers(), &digest).as_ref()).await?;
    exchange.outcome = answer.outcome;
    Ok(Answer::blob(answer))
}

async fn tags(
    edge: &Edge,
    exchange: &mut Exchange,
    route: &Route,
    target: Target,
    page: &Page,
) -> Result<Answer, MirrorError> {
    exchange.kind = RequestKind::Tags;
    let answer = edge.mirror.tags(route, page).await?;
    exchange.outcome = answer.outcome;
    let name = target.repository.to_string();
    let next = answer.next.clone().map(|page| Request::Tags { target, page });
    Ok(Answer::tags(&name, answer, next.as_ref()))
}

fn failed(edge: &Edge, exchange: &mut Exchange, error: MirrorError) -> Answer {
    edge.metrics.error(error.class());
    exchange.failed(&error);
    Answer::failure(&error, code(&error, edge.unavailable_blob))
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
