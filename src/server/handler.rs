//! One request: parsed, routed, put to the mirror, answered. No decisions of its own beyond HTTP's. The
//! file is long because all kinds of requests go one way, and what each is answered with stands beside it.

mod meaning;
mod replicas;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::header::{ACCEPT, HOST, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::Request as HttpRequest;
use hyper::body::Incoming;

use super::Edge;
use super::admission::{self, Guest, Rejected};
use super::body::ResponseBody;
use super::conditions::{Condition, condition, range};
use super::front;
use super::glance::Glance;
use super::listener::Client;
use super::record::{Peer, Record};
use super::redirect::may_go;
use super::response::{self, Answer};
use super::shortcut::Shortcut;
use crate::access::{self, Rule};
use crate::clients::{Asker, TooMany};
use crate::mirror::{Asked, Found, Framing, Location, ManifestHead, Mirror, MirrorError, Route, Subject};
use crate::oci::header;
use crate::oci::refusal::DOUBLED;
use crate::oci::{AcceptSet, Digest, ErrorCode, ImageName, Reference, Request, RequestError, Target};
use crate::outcome::Outcome;

use meaning::{Refusal, understood};

/// Whom a proxy asks for. No specification has it; all proxies do.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// When to ask again where it could not be found out who asks, or others waited for the connection.
const LATER: Duration = Duration::from_secs(5);

/// An answer that takes more than a look into memory.
type Anew = BoxFuture<'static, Response<ResponseBody>>;

/// Answers one request of the pull listener.
pub fn answer(
    edge: &Arc<Edge>,
    client: Client,
    http: HttpRequest<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + Send + use<> {
    let glance = Glance::at(http.headers());
    let is_admitted = edge.admission.lets_in(&client);
    if glance.names_a_replica && is_admitted {
        let edge = Arc::clone(edge);
        return Either::Right(Box::pin(async move { replicas::answer(&edge, &client, &http, glance).await }) as Anew);
    }
    let overheard = admission::is_overheard(&edge.clients, &client, http.headers());
    let (client, asker) = asker(edge, client, &http);
    let guest = edge.admission.guest(&client, asker, overheard, http.headers());
    if let Some(too_many) = client.turned_away.or_else(|| guest.asker.request().err()) {
        return Either::Left(ready(limited(edge, &client, &guest, &http, too_many)));
    }
    if !is_admitted {
        return Either::Left(ready(not_admitted(edge, &client, &guest, &http)));
    }
    match answered_again(edge, &client, &guest, &http, glance) {
        Some(response) => Either::Left(ready(response)),
        None => {
            let edge = Arc::clone(edge);
            // Boxed: it is large, and would be moved about for those that need nothing of it.
            Either::Right(Box::pin(async move { answered_anew(&edge, &client, guest, &http, glance).await }) as Anew)
        }
    }
}

/// Who asks: the other side of the connection, or whom a trusted proxy names.
fn asker(edge: &Edge, client: Client, http: &HttpRequest<Incoming>) -> (Client, Asker) {
    let Peer::Address(peer) = client.peer else { return (client, Asker::operator()) };
    if !edge.clients.are_behind_proxies() {
        return (client, Asker::new(peer.ip(), &edge.clients));
    }
    let lines = http.headers().get_all(FORWARDED_FOR).into_iter();
    let origin = edge.clients.origin(peer.ip(), lines.map(HeaderValue::as_bytes));
    let peer = if origin == peer.ip() { client.peer } else { Peer::Behind(origin) };
    (Client { peer, ..client }, Asker::new(origin, &edge.clients))
}

/// The answer to who would not be admitted if he connected now: he is told so, and connects anew.
fn not_admitted(edge: &Edge, client: &Client, guest: &Guest, http: &HttpRequest<Incoming>) -> Response<ResponseBody> {
    let mut record = Record::begin(edge, client.peer, http);
    record.refused_unread(edge, http);
    record.asked_by(guest.caller());
    record.refused_by(Rule::Certificate);
    let answer = turned_away(edge, Rejected::Refused(access::Refusal::Uncertified), None).closing();
    response::render(answer, http.method() == Method::HEAD, record, &client.wire, None, None)
}

/// The answer to who has had what he may have.
fn limited(
    edge: &Edge,
    client: &Client,
    guest: &Guest,
    http: &HttpRequest<Incoming>,
    too_many: TooMany,
) -> Response<ResponseBody> {
    let answer = failed(edge, &too_many.into(), None);
    let answer = if client.turned_away.is_some() { answer.closing() } else { answer };
    let mut record = Record::begin(edge, client.peer, http);
    record.refused_unread(edge, http);
    record.asked_by(guest.caller());
    let answer = answer.private(record.is_for_each_alone(edge));
    response::render(answer, http.method() == Method::HEAD, record, &client.wire, None, None)
}

/// The answer to a request that was answered from memory before, if it still is there. All that
/// refuses a request is looked at as ever; what the request means is known.
fn answered_again(
    edge: &Edge,
    client: &Client,
    guest: &Guest,
    http: &HttpRequest<Incoming>,
    glance: Glance,
) -> Option<Response<ResponseBody>> {
    let shortcut = edge.shortcuts.find(http).filter(|shortcut| shortcut.epoch == edge.epoch)?;
    let Shortcut { request, route, asked, kept, .. } = &*understood(http, glance, || Ok(shortcut)).ok()?;
    let kept = kept.upgrade().filter(|_| !glance.wants_other_than_the_whole)?;
    if !edge.mirror.still_holds(route, asked, &kept) {
        return None;
    }
    let mut record = Record::begin(edge, client.peer, http);
    record.asked(request, Some(&route.location));
    record.asked_by(guest.caller());
    record.allowed(route.permit().rule());
    let answer = Answer::kept(kept).echoing(route.namespace.clone()).private(route.permit().is_private());
    Some(response::render(answer, http.method() == Method::HEAD, record, &client.wire, guest.asker.pace(), None))
}

async fn answered_anew(
    edge: &Edge,
    client: &Client,
    mut guest: Guest,
    http: &HttpRequest<Incoming>,
    glance: Glance,
) -> Response<ResponseBody> {
    let mut record = Record::begin(edge, client.peer, http);
    let parsed = || Request::parse(http.method(), http.uri().path(), http.uri().query());
    let answer = match understood(http, glance, parsed) {
        Ok(request) => {
            let answered = respond(edge, client, &mut record, &mut guest, (http, glance), request);
            client.hold.makes_room().run_until_cancelled(answered).await.unwrap_or_else(|| {
                edge.metrics.error("connections");
                let message = "others wait for a connection to this mirror, and all are taken; ask again in a moment";
                Answer::refusal(ErrorCode::Unavailable, message).later(LATER).closing()
            })
        }
        Err(refusal) => {
            record.refused_unread(edge, http);
            refused(edge, client, &guest, (http, glance), &refusal)
        }
    };
    record.asked_by(guest.caller());
    let head_only = http.method() == Method::HEAD;
    let in_memory = answer.in_memory().filter(|_| !head_only);
    let given = match in_memory {
        Some(body) => edge.mirror.give(body, guest.asker.client(), &client.hold).await,
        None => Ok(None),
    };
    let (answer, share) = match given {
        Ok(share) => (answer, share),
        Err(_) => (Answer::too_much_in_hand(), None),
    };
    let answer = answer.private(record.is_for_each_alone(edge));
    response::render(answer, head_only, record, &client.wire, guest.asker.pace(), share)
}

/// The answer to what is none of a registry's requests here.
fn refused(
    edge: &Edge,
    client: &Client,
    guest: &Guest,
    (http, glance): (&HttpRequest<Incoming>, Glance),
    refusal: &Refusal,
) -> Answer {
    match refusal {
        // What follows a refused request on its connection is not trusted.
        _ if glance.announces_a_body || refusal.is_about_headers() => refusal.answer().closing(),
        Refusal::Grammar(RequestError::NotFound) if front::is_for(http) => {
            let default = edge.default.as_ref().unwrap_or_else(|| edge.mirror.default_upstream());
            let (encrypted, registries) = (is_encrypted(edge, client, guest), edge.mirror.registries());
            let logs_in = edge.admission.rules.asks_to_log_in(default);
            Answer::front(front::page(http, &front::Told { encrypted, default, logs_in, registries: &registries }))
        }
        _ => refusal.answer(),
    }
}

/// Whether nobody on the way has heard it, by TLS with us or with a trusted proxy.
fn is_encrypted(edge: &Edge, client: &Client, guest: &Guest) -> bool {
    client.encrypted || edge.clients.are_behind_proxies() && !guest.is_overheard()
}

async fn respond(
    edge: &Edge,
    client: &Client,
    record: &mut Record,
    guest: &mut Guest,
    (http, glance): (&HttpRequest<Incoming>, Glance),
    request: Request,
) -> Answer {
    let Some(target) = request.target() else {
        record.asked(&request, None);
        let named = Request::door(http.uri().path(), http.uri().query());
        let named = named.and_then(|name| edge.mirror.known_upstream(name)).or(edge.default.as_ref());
        let upstream = named.unwrap_or_else(|| edge.mirror.default_upstream());
        let Err(rejected) = edge.admission.greet(guest, &edge.mirror, upstream).await else {
            return Answer::ping().private(edge.admission.rules.greets_each_alone(upstream));
        };
        record.refused_by(edge.admission.mode(upstream));
        record.upstream_said(rejected.upstream_status());
        return turned_away(edge, rejected, None);
    };
    let found = match edge.mirror.route_by(target, edge.default.as_ref()) {
        Ok(found) => found,
        Err(error) => {
            record.refused_unread(edge, http);
            return failed(edge, &error.into(), None);
        }
    };
    record.asked(&request, Some(found.location()));
    if let Some(answer) = canary(edge, record, http, &found, &request) {
        return answer;
    }
    let permit = match edge.admission.admit(guest, &edge.mirror, &found, &request, accept(http)).await {
        Ok(permit) => permit,
        Err(rejected) => {
            record.refused_by(edge.admission.mode(&found.location().upstream));
            record.upstream_said(rejected.upstream_status());
            return turned_away(edge, rejected, Some((found.location(), &request)));
        }
    };
    record.allowed(permit.rule());
    let Some(route) = found.permitted(permit) else {
        return failed(edge, &MirrorError::Internal("the permit is one for something else".to_owned()), None);
    };
    let may_be_doubled = target.may_be_doubled();
    let (private, by_grace) = (route.permit().is_private(), *route.permit().rule() == Rule::Grace);
    // What is at hand is sent as it is, without a mark.
    let at_hand = if by_grace { None } else { at_hand(edge, (http, glance), &route, &request) };
    let at_hand = match at_hand {
        None => Box::pin(elsewhere(edge, client, guest, http, &route, &request)).await,
        at_hand => at_hand,
    };
    let answer = match at_hand {
        Some(answer) => answer,
        None => {
            let route = guest.way(route.clone()).asked_by(guest.asker.clone());
            match Box::pin(looked_up(&edge.mirror, http, &route, request.clone())).await {
                Ok(answer) => answer.warned(|found| edge.mirror.warnings(&route, &request, found)),
                Err(error) => {
                    record.upstream_said(error.upstream_status());
                    if error.is_denial() || !edge.admission.is_proven(guest, &route, &request) {
                        record.refused();
                    }
                    if is_his_own(&route, &error) {
                        let refusing = edge.admission.refused_by_upstream(guest, &edge.mirror, &route.location, error);
                        turned_away(edge, Box::pin(refusing).await, Some((&route.location, &request)))
                    } else if may_be_doubled && error.code().status() == StatusCode::NOT_FOUND {
                        failed(edge, &error, Some(DOUBLED))
                    } else {
                        failed(edge, &error, advice(edge, &route.location, &request, &error).as_deref())
                    }
                }
            }
        }
    };
    if let (Request::Manifest { reference: Reference::Tag(tag), .. }, Some(manifest)) = (&request, answer.digest()) {
        edge.admission.gave(guest, route.permit(), tag, manifest);
    }
    let answer = if by_grace { answer.by_grace() } else { answer };
    answer.echoing(route.namespace).private(private)
}

/// The answer that sends a client to the bucket for a blob, where that is wanted.
async fn elsewhere(
    edge: &Edge,
    client: &Client,
    guest: &Guest,
    http: &HttpRequest<Incoming>,
    route: &Route,
    request: &Request,
) -> Option<Answer> {
    let Request::Blob { digest, .. } = request else { return None };
    let redirects = &edge.redirects;
    let is_conditional = [IF_MATCH, IF_NONE_MATCH].iter().any(|name| http.headers().contains_key(name));
    if http.method() != Method::GET || is_conditional || !redirects.are_for(client.peer.address()) {
        return None;
    }
    let place = edge.mirror.in_bucket(route, digest, redirects.ttl).await?;
    let asked = http.headers().get(HOST).and_then(|host| host.to_str().ok())?;
    may_go(&place, asked, is_encrypted(edge, client, guest)).then(|| Answer::elsewhere(*digest, place.as_str()))
}

/// The answer about the mirror's own image, which everybody may have.
fn canary(
    edge: &Edge,
    record: &mut Record,
    http: &HttpRequest<Incoming>,
    found: &Found,
    request: &Request,
) -> Option<Answer> {
    let part = edge.mirror.canary(found, request, &accept(http))?;
    record.allowed(&Rule::Canary);
    let is_blob = matches!(request, Request::Blob { .. });
    let Some((descriptor, bytes)) = part else {
        let code = if is_blob { ErrorCode::BlobUnknown } else { ErrorCode::ManifestUnknown };
        return Some(Answer::refusal(code, "the canary of this mirror has its tag latest, and nothing else"));
    };
    if matches!(request, Request::Manifest { reference: Reference::Tag(_), .. }) {
        edge.mirror.canary_pulled(found, &record.peer());
    }
    Some(match condition(http.headers(), &descriptor.digest) {
        Condition::None => Answer::of_ours(&descriptor, bytes, is_blob),
        Condition::Has => Answer::not_modified(descriptor.digest, Outcome::Local, None),
        Condition::Other => Answer::of_other_content(descriptor.digest, Outcome::Local),
    })
}

/// Whether an upstream refuses it to the caller himself, for what he shows, or gives him no answer.
fn is_his_own(route: &Route, error: &MirrorError) -> bool {
    route.permit().rule().passes_through() && (error.is_denial() || error.is_outage())
}

/// The answer to whom it is not given that he `asked` for.
fn turned_away(edge: &Edge, rejected: Rejected, asked: Option<(&Location, &Request)>) -> Answer {
    match rejected {
        Rejected::Refused(refusal) => {
            edge.metrics.error(if refusal.code() == ErrorCode::Unauthorized { "unidentified" } else { "forbidden" });
            let missing = refusal.code().status() == StatusCode::NOT_FOUND;
            let target = asked.and_then(|(_, request)| request.target()).filter(|_| missing);
            let hint = target.is_some_and(Target::may_be_doubled).then_some(DOUBLED);
            Answer::refused(&refusal, hint).private(true)
        }
        Rejected::Unknown(error) => {
            let hint = asked.and_then(|(location, request)| advice(edge, location, request, &error));
            failed(edge, &error, hint.as_deref())
        }
        Rejected::TooMany(too_many) => failed(edge, &too_many.into(), None).private(true),
        Rejected::Unjudged(why) => {
            edge.metrics.error("unjudged");
            Answer::refusal(ErrorCode::Unavailable, why.to_string()).later(LATER).private(true)
        }
    }
}

/// The answer that is in memory.
fn at_hand(
    edge: &Edge,
    (http, glance): (&HttpRequest<Incoming>, Glance),
    route: &Route,
    request: &Request,
) -> Option<Answer> {
    let asked = Asked::of(request, accept(http)).filter(|_| !glance.wants_other_than_the_whole)?;
    let kept = edge.mirror.at_hand(route, &asked)?;
    let shortcut = Shortcut::new(http, route.clone(), request.clone(), asked, &kept, edge.epoch);
    edge.metrics.shortcuts(edge.shortcuts.remember(http, shortcut));
    Some(Answer::kept(kept))
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
    if http.method() == Method::HEAD {
        let head = mirror.stat_manifest(route, reference, accept(http)).await?;
        let ManifestHead { ref descriptor, outcome, stale_for } = head;
        return Ok(match condition(http.headers(), &descriptor.digest) {
            Condition::None => Answer::manifest_head(head),
            Condition::Has => Answer::not_modified(descriptor.digest, outcome, stale_for),
            Condition::Other => Answer::of_other_content(descriptor.digest, outcome),
        });
    }
    let answer = mirror.manifest(route, reference, accept(http)).await?;
    let digest = answer.manifest.descriptor.digest;
    match condition(http.headers(), &digest) {
        Condition::None => {}
        Condition::Has => return Ok(Answer::not_modified(digest, answer.outcome, answer.stale_for)),
        Condition::Other => return Ok(Answer::of_other_content(digest, answer.outcome)),
    }
    mirror.expect_pull(route, &answer.manifest);
    let stored = mirror.large(route, &answer.manifest.descriptor).await;
    Ok(Answer::manifest(answer, stored))
}

async fn blob(
    mirror: &Mirror,
    http: &HttpRequest<Incoming>,
    route: &Route,
    digest: Digest,
) -> Result<Answer, MirrorError> {
    let condition = condition(http.headers(), &digest);
    if condition != Condition::None || http.method() == Method::HEAD {
        let stat = mirror.stat_blob(route, digest).await?;
        return Ok(match condition {
            Condition::None => Answer::blob_head(digest, stat.size, stat.outcome),
            Condition::Has => Answer::not_modified(digest, stat.outcome, None),
            Condition::Other => Answer::of_other_content(digest, stat.outcome),
        });
    }
    let framing = if http.version() >= Version::HTTP_11 { Framing::Told } else { Framing::UntilClose };
    let range = range(http.headers(), &digest);
    Ok(Answer::blob(mirror.blob(route, digest, range.as_ref(), framing).await?))
}

/// What to do where upstream cannot give an image now.
fn advice(edge: &Edge, location: &Location, request: &Request, error: &MirrorError) -> Option<String> {
    let Request::Manifest { reference, .. } = request else { return None };
    let Location { upstream: registry, repository } = location.clone();
    let image = ImageName { registry, repository, reference: reference.clone() };
    let advice = edge.mirror.advice(&image.registry, error)?;
    Some(format!("nothing that is stored can be served for {image}; {advice}"))
}

fn failed(edge: &Edge, error: &MirrorError, hint: Option<&str>) -> Answer {
    edge.metrics.error(error.class());
    if let MirrorError::TooMany(TooMany { limit, .. }) = error {
        edge.metrics.limited(limit.as_str());
    }
    Answer::failure(error, code(error, edge.unavailable_blob), hint)
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

fn accept(http: &HttpRequest<Incoming>) -> AcceptSet {
    AcceptSet::from_headers(http.headers().get_all(ACCEPT).into_iter().map(header::text))
}
