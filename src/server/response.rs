//! Answers become responses here: status, headers, body. Nothing is decided.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LINK,
    RETRY_AFTER, WARNING,
};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::wire::Wire;
use crate::mirror::{BlobAnswer, BlobBody, Kept, ManifestAnswer, MirrorError, ReferrersAnswer, TagsAnswer};
use crate::oci::{ContentRange, Descriptor, Digest, ErrorCode, MediaType, RegistryName, Request};
use crate::outcome::Outcome;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// The type of blobs.
const OCTET_STREAM: &str = "application/octet-stream";

/// What to tell the client.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The `ns` that was routed by, to be echoed.
    pub namespace: Option<RegistryName>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: AnswerBody,
    /// The error code, for the log line.
    pub code: Option<ErrorCode>,
}

#[derive(Debug)]
enum AnswerBody {
    Bytes(Bytes),
    /// Nothing is sent, and this is its length where it is known.
    Absent(Option<u64>),
    Blob(BlobBody, Option<u64>),
    Kept(Arc<Kept>),
}

impl AnswerBody {
    fn length(&self) -> Option<u64> {
        match self {
            AnswerBody::Bytes(bytes) => Some(bytes.len() as u64),
            AnswerBody::Absent(length) | AnswerBody::Blob(_, length) => *length,
            AnswerBody::Kept(kept) => Some(kept.descriptor.size),
        }
    }
}

impl Answer {
    fn new(status: StatusCode, body: AnswerBody) -> Answer {
        Answer { status, namespace: None, headers: Vec::new(), body, code: None }
    }

    fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Answer {
        // Values are made of validated names, digests and numbers; one that is none is left out.
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// The answer to `/v2/`: yes, this is a registry, and it asks for no credentials.
    pub fn ping() -> Answer {
        Answer::new(StatusCode::OK, AnswerBody::Bytes(Bytes::from_static(b"{}")))
            .header(CONTENT_TYPE, "application/json")
    }

    /// A manifest.
    pub fn manifest(answer: ManifestAnswer) -> Answer {
        let ManifestAnswer { manifest, stale_for, .. } = answer;
        let descriptor = &manifest.descriptor;
        let answer = Answer::new(StatusCode::OK, AnswerBody::Bytes(manifest.bytes.clone()))
            .header(CONTENT_TYPE, descriptor.media_type.as_ref())
            .identified(&descriptor.digest);
        answer.stale(stale_for)
    }

    /// What is in memory.
    pub fn kept(kept: Arc<Kept>) -> Answer {
        Answer::new(StatusCode::OK, AnswerBody::Kept(kept))
    }

    /// Tags of the repository that the client calls `name`; `next` asks for the rest of them.
    pub fn tags(name: &str, answer: TagsAnswer, next: Option<&Request>) -> Answer {
        #[derive(Serialize)]
        struct Body<'a> {
            name: &'a str,
            tags: Vec<String>,
        }
        let body = serde_json::to_vec(&Body { name, tags: answer.tags }).unwrap_or_default();
        Answer::new(StatusCode::OK, AnswerBody::Bytes(body.into()))
            .header(CONTENT_TYPE, "application/json")
            .stale(answer.stale_for)
            .continued(next)
    }

    /// Referrers of a manifest; `next` asks for the rest of them.
    pub fn referrers(answer: ReferrersAnswer, next: Option<&Request>) -> Answer {
        let ReferrersAnswer { index, filtered, stale_for, .. } = answer;
        let answer = Answer::new(StatusCode::OK, AnswerBody::Bytes(index))
            .header(CONTENT_TYPE, MediaType::ImageIndex.as_ref())
            .stale(stale_for)
            .continued(next);
        if filtered { answer.header(FILTERS_APPLIED, "artifactType") } else { answer }
    }

    /// A blob, or a part of it.
    pub fn blob(answer: BlobAnswer) -> Answer {
        let BlobAnswer { digest, size, part, body, .. } = answer;
        let length = part.as_ref().map(|part| part.end - part.start).or(size);
        let status = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let answer = Answer::new(status, AnswerBody::Blob(body, length)).described_blob(&digest);
        match part {
            Some(part) => {
                let range = ContentRange { first: part.start, last: part.end - 1, total: size };
                answer.header(CONTENT_RANGE, range.to_string())
            }
            None => answer,
        }
    }

    /// The headers of a blob.
    pub fn blob_head(digest: Digest, size: Option<u64>) -> Answer {
        Answer::new(StatusCode::OK, AnswerBody::Absent(size)).described_blob(&digest)
    }

    /// The client has it already.
    pub fn not_modified(digest: Digest) -> Answer {
        Answer::new(StatusCode::NOT_MODIFIED, AnswerBody::Absent(None)).identified(&digest)
    }

    /// A request that is refused as it stands.
    pub fn refusal(code: ErrorCode, message: impl AsRef<str>) -> Answer {
        let answer = Answer::new(code.status(), AnswerBody::Bytes(code.body(message.as_ref())))
            .header(CONTENT_TYPE, "application/json");
        let answer = if code == ErrorCode::Unsupported { answer.header(ALLOW, "GET, HEAD") } else { answer };
        Answer { code: Some(code), ..answer }
    }

    /// A request that the mirror could not answer.
    pub fn failure(error: &MirrorError, code: ErrorCode) -> Answer {
        let answer = Answer::refusal(code, error.to_string());
        let answer = match error {
            MirrorError::Range { size } => answer.header(CONTENT_RANGE, format!("bytes */{size}")),
            _ => answer,
        };
        match error.retry_after() {
            Some(wait) => answer.header(RETRY_AFTER, wait.as_secs().max(1)),
            None => answer,
        }
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Answer {
        Answer { status, ..self }
    }

    /// The same, and the connection is not used again: what follows on it is not trusted.
    #[must_use]
    pub fn closing(self) -> Answer {
        self.header(CONNECTION, "close")
    }

    fn stale(self, since: Option<Duration>) -> Answer {
        match since {
            Some(age) => self.header(WARNING, stale_warning(age)),
            None => self,
        }
    }

    /// Says where the list goes on: at this mirror, by the names that the client used.
    fn continued(self, next: Option<&Request>) -> Answer {
        match next {
            Some(next) => self.header(LINK, format!("<{}>; rel=\"next\"", next.path_and_query())),
            None => self,
        }
    }

    fn identified(self, digest: &Digest) -> Answer {
        self.header(CONTENT_DIGEST, digest.to_string()).header(ETAG, format!("\"{digest}\""))
    }

    fn described_blob(self, digest: &Digest) -> Answer {
        self.header(CONTENT_TYPE, OCTET_STREAM).header(ACCEPT_RANGES, "bytes").identified(digest)
    }
}

fn stale_warning(age: Duration) -> String {
    format!("299 - \"stale: upstream cannot be asked, last checked {} s ago\"", age.as_secs())
}

/// Makes the response. The exchange goes with the body, to be closed when that ends.
pub fn render(answer: Answer, head_only: bool, mut exchange: Exchange, wire: &Wire) -> Response<ResponseBody> {
    exchange.answered(answer.status, answer.code);
    let mut headers = match &answer.body {
        AnswerBody::Kept(kept) => kept.head(head_of_kept).clone(),
        body => head(answer.headers, body.length(), exchange.outcome),
    };
    if let Some(Ok(namespace)) = answer.namespace.map(|namespace| HeaderValue::from_str(namespace.as_str())) {
        headers.insert(NAMESPACE, namespace);
    }
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers;
    let body = match answer.body {
        _ if head_only => ResponseBody::empty(exchange),
        AnswerBody::Absent(_) => ResponseBody::empty(exchange),
        AnswerBody::Bytes(bytes) => ResponseBody::bytes(bytes, exchange),
        AnswerBody::Kept(kept) => ResponseBody::bytes(kept.bytes.clone(), exchange),
        AnswerBody::Blob(body, length) => ResponseBody::blob(body, length, exchange, wire.clone()),
    };
    response.map(|()| body)
}

fn head(own: Vec<(HeaderName, HeaderValue)>, length: Option<u64>, outcome: Outcome) -> HeaderMap {
    let mut headers = HeaderMap::from_iter(own);
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(CACHE_STATUS, HeaderValue::from_static(outcome.cache_status()));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    headers
}

/// What is in memory is a hit; it is answered with the headers it would have from the store.
fn head_of_kept(kept: &Kept) -> HeaderMap {
    let Descriptor { digest, size, media_type } = &kept.descriptor;
    let answer = Answer::new(StatusCode::OK, AnswerBody::Absent(None));
    let answer = if media_type.as_ref() == OCTET_STREAM {
        answer.described_blob(digest)
    } else {
        answer.header(CONTENT_TYPE, media_type.as_ref()).identified(digest)
    };
    head(answer.headers, Some(*size), Outcome::Hit)
}
