//! Other replicas, which ask for what this one fetches. They are no clients: no limit of those holds for them, and they
//! are counted apart.
//!
//! Whoever shows the header says that he is a replica, and gets nothing else than one gets, or 403; who is none is
//! counted as the client that he is.

use std::time::Duration;

use http::{Response, StatusCode};
use hyper::Request as HttpRequest;
use hyper::body::Incoming;

use super::meaning::understood;
use super::{asker, failed, range};
use crate::access::Rule;
use crate::clients::Asker;
use crate::mirror::{Found, ToReplica};
use crate::oci::header::PEER;
use crate::oci::{ErrorCode, Request};
use crate::server::Edge;
use crate::server::body::ResponseBody;
use crate::server::glance::Glance;
use crate::server::listener::Client;
use crate::server::record::Record;
use crate::server::response::{self, Answer};

/// When to ask again.
const SOON: Duration = Duration::from_secs(1);

/// Answers a replica, or somebody who says that he is one.
pub(super) async fn answer(
    edge: &Edge,
    client: &Client,
    http: &HttpRequest<Incoming>,
    glance: Glance,
) -> Response<ResponseBody> {
    let (client, stranger) = asker(edge, client.clone(), http);
    let mut record = Record::begin(edge, client.peer, http);
    let uri = http.uri();
    let answer = match understood(http, glance, || Request::parse(http.method(), uri.path(), uri.query())) {
        Ok(request) => respond(edge, &stranger, &mut record, http, &request).await,
        Err(refusal) => {
            record.refused_unread(edge, http);
            refusal.answer().closing()
        }
    };
    response::render(answer.private(true), false, record, &client.wire, None, None)
}

async fn respond(
    edge: &Edge,
    stranger: &Asker,
    record: &mut Record,
    http: &HttpRequest<Incoming>,
    request: &Request,
) -> Answer {
    let found = request.target().and_then(|target| edge.mirror.route_by(target, edge.default.as_ref()).ok());
    let Some(found) = found.filter(|found| is_proven(edge, found, http)) else {
        record.refused_unread(edge, http);
        record.of_replica("forbidden", None);
        if let Err(too_many) = stranger.request() {
            return failed(edge, &too_many.into(), None);
        }
        return Answer::refusal(ErrorCode::Denied, "this proves no replica of this mirror");
    };
    record.asked(request, Some(found.location()));
    record.allowed(&Rule::Replica);
    let Request::Blob { digest, .. } = request else {
        record.of_replica("absent", None);
        return Answer::refusal(ErrorCode::ManifestUnknown, "replicas give each other blobs alone");
    };
    let range = range(http.headers(), digest);
    match edge.mirror.give_to_replica(&found, *digest, range.as_ref()).await {
        ToReplica::Given(answer, turn) => {
            record.of_replica("given", Some(turn));
            Answer::blob(*answer)
        }
        ToReplica::NotYet => {
            record.of_replica("not_yet", None);
            Answer::refusal(ErrorCode::Unavailable, "upstream has not answered yet").later(SOON)
        }
        ToReplica::Absent => {
            record.of_replica("absent", None);
            Answer::refusal(ErrorCode::BlobUnknown, "it is not fetched here")
        }
        ToReplica::TooMany => {
            record.of_replica("too_many", None);
            let answer = Answer::refusal(ErrorCode::Unavailable, "as many replicas get something as may");
            answer.with_status(StatusCode::TOO_MANY_REQUESTS).later(SOON)
        }
    }
}

/// Whether the one header that is shown is right for this question.
fn is_proven(edge: &Edge, found: &Found, http: &HttpRequest<Incoming>) -> bool {
    let mut shown = http.headers().get_all(&PEER).into_iter();
    let (Some(one), None) = (shown.next(), shown.next()) else { return false };
    let path = http.uri().path_and_query().map_or("", |path| path.as_str());
    one.to_str().is_ok_and(|shown| edge.mirror.is_of_replica(found, http.method().as_str(), path, shown))
}
