//! Answers become responses here: status, headers, body. Nothing is decided.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, LINK, LOCATION, RETRY_AFTER, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};

use super::body::{ResponseBody, Section, Way, Wire};
use super::front;
use super::record::Record;
use super::tags::TagsJson;
use crate::access::Refusal;
use crate::clients::Pace;
use crate::mirror::{
    BlobAnswer, BlobBody, InMemory, Kept, ManifestAnswer, ManifestHead, MirrorError, ReferrersAnswer, Selected, Share,
    TagsAnswer,
};
use crate::oci::descriptor::OCTET_STREAM;
use crate::oci::notice::stale_warning;
use crate::oci::{ContentRange, Descriptor, Digest, ErrorCode, Manifest, MediaType, RegistryName, Request};
use crate::outcome::Outcome;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What to tell the client.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    /// The `ns` that was routed by, to be echoed.
    namespace: Option<RegistryName>,
    outcome: Outcome,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: AnswerBody,
    code: Option<ErrorCode>,
    /// Why it is a failure, for the log line.
    problem: Option<String>,
    /// What was found.
    digest: Option<Digest>,
    /// Whether it depends on who asks, so that nobody in front may keep it.
    private: bool,
}

/// RFC 9111 has no use for codes any more; it is the one of [`stale_warning`].
const GRACE: &str = "299 - \"stale: upstream cannot be asked, it gave you this within the last day\"";

#[derive(Debug)]
enum AnswerBody {
    Bytes(Bytes),
    /// Nothing is sent, and this is its length where it is known.
    Absent(Option<u64>),
    Blob(BlobBody, Option<u64>),
    /// Parts of a blob, and what comes behind the last one.
    Sections(Vec<Section>, Bytes),
    Kept(Arc<Kept>),
    Manifest(Arc<Manifest>),
    Tags(TagsJson),
}

impl AnswerBody {
    fn length(&self) -> Option<u64> {
        match self {
            AnswerBody::Bytes(bytes) => Some(bytes.len() as u64),
            AnswerBody::Absent(length) | AnswerBody::Blob(_, length) => *length,
            AnswerBody::Sections(sections, end) => {
                Some(sections.iter().map(Section::bytes).sum::<u64>() + end.len() as u64)
            }
            AnswerBody::Kept(kept) => Some(kept.descriptor.size),
            AnswerBody::Manifest(manifest) => Some(manifest.bytes.len() as u64),
            AnswerBody::Tags(list) => Some(list.bytes()),
        }
    }
}

impl Answer {
    fn new(status: StatusCode, body: AnswerBody) -> Answer {
        Answer {
            status,
            namespace: None,
            outcome: Outcome::Local,
            headers: Vec::new(),
            body,
            code: None,
            problem: None,
            digest: None,
            private: false,
        }
    }

    fn of(outcome: Outcome, body: AnswerBody) -> Answer {
        Answer { outcome, ..Answer::new(StatusCode::OK, body) }
    }

    fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Answer {
        // Values are made of validated names, digests and numbers; one that is none is left out.
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// The answer to `/v2/`: yes, this is a registry, and whoever asks is welcome.
    pub fn ping() -> Answer {
        Answer::new(StatusCode::OK, AnswerBody::Bytes(Bytes::from_static(b"{}")))
            .header(CONTENT_TYPE, "application/json")
    }

    /// The page for browsers.
    pub fn front(page: String) -> Answer {
        let answer = Answer::new(StatusCode::OK, AnswerBody::Bytes(page.into()))
            .header(CONTENT_TYPE, "text/html; charset=utf-8")
            .header(CACHE_CONTROL, "no-store");
        let fixed = front::HEADERS.into_iter();
        fixed.fold(answer, |answer, (name, value)| answer.header(HeaderName::from_static(name), value))
    }

    /// A manifest, from its file where it is `stored` and large.
    pub fn manifest(answer: ManifestAnswer, stored: Option<BlobBody>) -> Answer {
        let ManifestAnswer { manifest, outcome, stale_for } = answer;
        let descriptor = &manifest.descriptor;
        let body = match stored {
            Some(stored) => AnswerBody::Blob(stored, Some(descriptor.size)),
            None => AnswerBody::Manifest(Arc::clone(&manifest)),
        };
        Answer::of(outcome, body)
            .header(CONTENT_TYPE, descriptor.media_type.as_ref())
            .identified(&descriptor.digest)
            .stale(stale_for)
    }

    /// What is the mirror's own: a manifest, or a blob.
    pub fn of_ours(descriptor: &Descriptor, bytes: Bytes, is_blob: bool) -> Answer {
        let media_type = if is_blob { OCTET_STREAM } else { descriptor.media_type.as_ref() };
        Answer::of(Outcome::Local, AnswerBody::Bytes(bytes))
            .header(CONTENT_TYPE, media_type)
            .identified(&descriptor.digest)
    }

    /// The headers of a manifest.
    pub fn manifest_head(head: ManifestHead) -> Answer {
        let ManifestHead { descriptor: Descriptor { digest, size, media_type }, outcome, stale_for } = head;
        Answer::of(outcome, AnswerBody::Absent(Some(size)))
            .header(CONTENT_TYPE, media_type.as_ref())
            .identified(&digest)
            .stale(stale_for)
    }

    /// What is in memory.
    pub fn kept(kept: Arc<Kept>) -> Answer {
        let digest = Some(kept.descriptor.digest);
        Answer { digest, ..Answer::of(Outcome::Hit, AnswerBody::Kept(kept)) }
    }

    /// Tags of the repository that the client calls `name`; `next` asks for the rest of them.
    pub fn tags(name: &str, answer: TagsAnswer, next: Option<&Request>) -> Answer {
        let list = TagsJson::new(name, answer.tags);
        Answer::of(answer.outcome, AnswerBody::Tags(list))
            .header(CONTENT_TYPE, "application/json")
            .stale(answer.stale_for)
            .continued(next)
    }

    /// Referrers of a manifest; `next` asks for the rest of them.
    pub fn referrers(answer: ReferrersAnswer, next: Option<&Request>) -> Answer {
        let ReferrersAnswer { index, filtered, stale_for, outcome, .. } = answer;
        let answer = Answer::of(outcome, AnswerBody::Bytes(index))
            .header(CONTENT_TYPE, MediaType::ImageIndex.as_ref())
            .stale(stale_for)
            .continued(next);
        if filtered { answer.header(FILTERS_APPLIED, "artifactType") } else { answer }
    }

    /// A blob, or parts of it.
    pub fn blob(answer: BlobAnswer) -> Answer {
        let BlobAnswer { digest, size, selected, outcome } = answer;
        let range = |part: &Range<u64>| {
            ContentRange { first: part.start, last: part.end.saturating_sub(1), total: size }.to_string()
        };
        match selected {
            Selected::Whole(body) => Answer::of(outcome, AnswerBody::Blob(body, size)).described_blob(&digest),
            Selected::Part(part, body) => Answer::of(outcome, AnswerBody::Blob(body, Some(part.end - part.start)))
                .with_status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_RANGE, range(&part))
                .described_blob(&digest),
            Selected::Parts(parts) => {
                let boundary = boundary(&digest);
                let parts = parts.into_iter().map(|(part, body)| {
                    let head = format!(
                        "\r\n--{boundary}\r\nContent-Type: {OCTET_STREAM}\r\nContent-Range: {}\r\n\r\n",
                        range(&part)
                    );
                    Section { head: head.into(), length: part.end - part.start, body }
                });
                let end = format!("\r\n--{boundary}--\r\n").into();
                Answer::of(outcome, AnswerBody::Sections(parts.collect(), end))
                    .with_status(StatusCode::PARTIAL_CONTENT)
                    .header(CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"))
                    .header(ACCEPT_RANGES, "bytes")
                    .identified(&digest)
            }
        }
    }

    /// The headers of a blob.
    pub fn blob_head(digest: Digest, size: Option<u64>, outcome: Outcome) -> Answer {
        Answer::of(outcome, AnswerBody::Absent(size)).described_blob(&digest)
    }

    /// The client has it already; how stale it is, is told all the same.
    pub fn not_modified(digest: Digest, outcome: Outcome, stale_for: Option<Duration>) -> Answer {
        let answer = Answer::of(outcome, AnswerBody::Absent(None)).with_status(StatusCode::NOT_MODIFIED);
        answer.identified(&digest).stale(stale_for)
    }

    /// The client wants other content than this (RFC 9110, 13.1.1).
    pub fn of_other_content(digest: Digest, outcome: Outcome) -> Answer {
        let answer = Answer::of(outcome, AnswerBody::Absent(Some(0))).with_status(StatusCode::PRECONDITION_FAILED);
        answer.identified(&digest)
    }

    /// It is somewhere else, for a while and for who asked.
    pub fn elsewhere(digest: Digest, place: &str) -> Answer {
        Answer::of(Outcome::Tier, AnswerBody::Bytes(Bytes::new()))
            .with_status(StatusCode::TEMPORARY_REDIRECT)
            .header(LOCATION, place)
            .identified(&digest)
            .private(true)
    }

    /// A request that is refused as it stands.
    pub fn refusal(code: ErrorCode, message: impl Into<String>) -> Answer {
        let problem = message.into();
        let answer =
            Answer::new(code.status(), AnswerBody::Bytes(code.body(&problem))).header(CONTENT_TYPE, "application/json");
        let answer = if code == ErrorCode::Unsupported { answer.header(ALLOW, "GET, HEAD") } else { answer };
        Answer { code: Some(code), problem: Some(problem), ..answer }
    }

    /// Who asks may not have it, and what to do.
    pub fn refused(refusal: &Refusal, hint: Option<&str>) -> Answer {
        let problem = hint.map_or_else(|| refusal.to_string(), |hint| format!("{refusal}; {hint}"));
        let answer = Answer::refusal(refusal.code(), problem);
        match refusal.challenge() {
            Some(challenge) => answer.header(WWW_AUTHENTICATE, challenge),
            None => answer,
        }
    }

    /// A request that the mirror could not answer, and what to do.
    pub fn failure(error: &MirrorError, code: ErrorCode, hint: Option<&str>) -> Answer {
        let problem = hint.map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}"));
        let answer = Answer::refusal(code, problem);
        let answer = match error {
            MirrorError::Range { size } => answer.header(CONTENT_RANGE, format!("bytes */{size}")),
            _ => answer,
        };
        match error.retry_after() {
            Some(wait) => answer.later(wait),
            None => answer,
        }
    }

    /// The same, with the `ns` that took part in the routing.
    #[must_use]
    pub fn echoing(self, namespace: Option<RegistryName>) -> Answer {
        Answer { namespace, ..self }
    }

    /// The same, which depends on who asks if it is `private`, or did so before.
    #[must_use]
    pub fn private(self, private: bool) -> Answer {
        Answer { private: self.private || private, ..self }
    }

    /// The same, given to who may have it as long as his upstream is away: where it is stored, it is stale.
    #[must_use]
    pub fn by_grace(self) -> Answer {
        if self.outcome != Outcome::Hit {
            return self;
        }
        Answer { outcome: Outcome::Stale, ..self }.header(WARNING, GRACE)
    }

    /// The same, to be asked for again after a few seconds.
    #[must_use]
    pub fn later(self, wait: Duration) -> Answer {
        self.header(RETRY_AFTER, wait.as_secs().max(1))
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

    /// The same, with what upstream says to people about what was found.
    #[must_use]
    pub fn warned(self, warnings: impl FnOnce(Option<Digest>) -> Vec<HeaderValue>) -> Answer {
        let warnings = warnings(self.digest);
        warnings.into_iter().fold(self, |answer, warning| answer.header(WARNING, warning))
    }

    /// What was found.
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What of it is in memory until the client has taken it. Manifests have their room already.
    pub fn in_memory(&self) -> Option<InMemory> {
        let (at, bytes, has_room) = match &self.body {
            AnswerBody::Bytes(bytes) => (bytes.as_ptr().addr(), bytes.len() as u64, false),
            AnswerBody::Manifest(manifest) => (Arc::as_ptr(manifest).addr(), manifest.bytes.len() as u64, true),
            AnswerBody::Tags(list) => (list.place(), list.weight(), false),
            AnswerBody::Absent(_) | AnswerBody::Blob(..) | AnswerBody::Sections(..) | AnswerBody::Kept(_) => {
                return None;
            }
        };
        Some(InMemory { at, bytes, has_room })
    }

    /// There is no memory for an answer now.
    pub fn too_much_in_hand() -> Answer {
        let message =
            "as many lists and manifests are in memory as may be, for clients that do not take them; try again";
        Answer::refusal(ErrorCode::Unavailable, message).header(RETRY_AFTER, 5_u64)
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
        let answer = self.header(CONTENT_DIGEST, digest.to_string()).header(ETAG, format!("\"{digest}\""));
        Answer { digest: Some(*digest), ..answer }
    }

    fn described_blob(self, digest: &Digest) -> Answer {
        self.header(CONTENT_TYPE, OCTET_STREAM).header(ACCEPT_RANGES, "bytes").identified(digest)
    }
}

/// Bytes that are being sent, with their share of what is in memory for clients.
struct InUse {
    bytes: Bytes,
    _share: Option<Share>,
    /// As long as a manifest is being sent, whoever else asks for it gets the same bytes.
    _manifest: Option<Arc<Manifest>>,
}

impl AsRef<[u8]> for InUse {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What parts of a blob are separated by. No blob has its own digest in it, so none has this.
fn boundary(digest: &Digest) -> String {
    let mut boundary = digest.hex();
    // RFC 2046, 5.1.1: at most 70.
    boundary.truncate(64);
    boundary
}

/// Makes the response. The record goes with the body, to be closed when that ends; the body goes at the
/// `pace` of its client, where he has one, and gives up its `share` of memory when it is sent.
pub fn render(
    answer: Answer,
    head_only: bool,
    mut record: Box<Record>,
    wire: &Wire,
    pace: Option<Pace>,
    share: Option<Share>,
) -> Response<ResponseBody> {
    record.answered(answer.status, answer.outcome, answer.code, answer.problem);
    record.found(answer.digest);
    let mut headers = match &answer.body {
        AnswerBody::Kept(kept) => kept.head(head_of_kept).clone(),
        body => head(answer.headers, body.length(), answer.outcome),
    };
    if let Some(Ok(namespace)) = answer.namespace.map(|namespace| HeaderValue::from_str(namespace.as_str())) {
        headers.insert(NAMESPACE, namespace);
    }
    if answer.private {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    }
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers;
    let body = match answer.body {
        _ if head_only => ResponseBody::empty(record),
        AnswerBody::Absent(_) => ResponseBody::empty(record),
        AnswerBody::Bytes(bytes) if share.is_some() => {
            ResponseBody::bytes(Bytes::from_owner(InUse { bytes, _share: share, _manifest: None }), record, pace)
        }
        AnswerBody::Bytes(bytes) => ResponseBody::bytes(bytes, record, pace),
        AnswerBody::Kept(kept) => ResponseBody::bytes(kept.bytes.clone(), record, pace),
        AnswerBody::Manifest(manifest) => {
            let bytes = InUse { bytes: manifest.bytes.clone(), _share: share, _manifest: Some(manifest) };
            ResponseBody::bytes(Bytes::from_owner(bytes), record, pace)
        }
        AnswerBody::Tags(list) => {
            record.holds(share);
            ResponseBody::list(list, record, pace)
        }
        AnswerBody::Blob(body, length) => ResponseBody::blob(body, length, record, Way { wire: wire.clone(), pace }),
        AnswerBody::Sections(sections, end) => {
            ResponseBody::sections(sections, end, record, Way { wire: wire.clone(), pace })
        }
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
    let answer = if kept.descriptor.is_of_blob() {
        answer.described_blob(digest)
    } else {
        answer.header(CONTENT_TYPE, media_type.as_ref()).identified(digest)
    };
    head(answer.headers, Some(*size), Outcome::Hit)
}
