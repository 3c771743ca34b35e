//! Adapter: a registry over HTTP.
//!
//! The only place that knows `reqwest`, and of it only connections, TLS, proxies and pooling:
//! redirects, authentication, time-outs and length checks are ours, in the files below. Every answer
//! becomes a value of the port or an error with a class. Messages name hosts and paths of the
//! registry API, never a query string, a header or a redirect target's path.
//! The file is long because the port has one method for each question.

mod answer;
mod body;
mod clients;
mod coding;
mod door;
mod egress;
mod endpoint;
mod examine;
mod exchange;
mod facade;
mod issuer;
mod lists;
mod proof;
mod redirect;
mod replica;
mod resolver;
mod settings;
mod status;
mod token_service;
mod trust;
pub mod whole;
mod wire;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, RANGE};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use url::Url;

use self::answer::{Answer, Question};
use self::body::Body;
use self::clients::Clients;
use self::coding::refuse_encoding;
use self::endpoint::Endpoint;
pub use self::endpoint::Wanted;
pub use self::examine::examine;
use self::facade::Abroad;
pub use self::replica::ReplicaClient;
pub use self::settings::{HttpSettings, HttpSettingsError};
use self::wire::{content_range, drain, header_value, number, text};
use super::credentials::Presented;
use super::health::{EndpointHealth, EndpointState, Health, Pulls};
use super::quota::{Quota, Reading};
use super::settings::place_of;
use super::token::Tokens;
use super::{
    Notices, ReferrerList, Resolved, Resource, TagList, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass,
};
use crate::clock::Timestamp;
use crate::oci::challenge::Challenge;
use crate::oci::manifest::{MAX_MANIFEST_SIZE, declared_type, is_first_schema};
use crate::oci::plausible::{Asked, Implausible, Told, check};
use crate::oci::{
    AcceptSet, Algorithm, ContentRange, Cursor, Descriptor, Digest, Manifest, Page, Place, Reference, Repository, Span,
};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A registry over HTTP. Clones share what they know of it.
#[derive(Clone)]
pub struct HttpUpstream {
    settings: Arc<HttpSettings>,
    endpoint: Arc<Endpoint>,
    clients: Clients,
    tokens: Arc<Tokens>,
    /// Registries that this one is a façade of.
    abroad: Abroad,
    /// The pulls that are left, once an answer has told them.
    quota: Arc<Mutex<Option<Quota>>>,
    /// Whether the log already says that a credential is refused.
    warned: Arc<AtomicBool>,
    /// The same of a token service that may see nothing of callers.
    warned_of_realm: Arc<AtomicBool>,
    readers: lists::Readers,
    manifests: lists::Readers,
    /// What is shown in place of the configured credential.
    presented: Option<Presented>,
}

impl std::fmt::Debug for HttpUpstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpUpstream").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

impl HttpUpstream {
    /// Sets up the clients; connects to nothing.
    ///
    /// # Errors
    /// When the settings contradict themselves or the file of certificates is not usable.
    pub fn new(settings: HttpSettings) -> Result<HttpUpstream, HttpSettingsError> {
        settings.check_url()?;
        let endpoint = Endpoint::new(settings.url.clone(), &settings.configured, settings.wanted.clone());
        let clients = Clients::new(&settings, &endpoint)?;
        Ok(HttpUpstream {
            settings: Arc::new(settings),
            endpoint: Arc::new(endpoint),
            clients,
            tokens: Arc::default(),
            abroad: facade::nowhere(),
            quota: Arc::default(),
            warned: Arc::default(),
            warned_of_realm: Arc::default(),
            readers: lists::Readers::default(),
            manifests: lists::Readers::default(),
            presented: None,
        })
    }

    fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    /// Takes note of the pulls that are left, where our own upstream tells them at `url`. Those of others are
    /// their own.
    fn read_quota(&self, url: &Url, headers: &HeaderMap) {
        if self.presented.is_some() || !redirect::same_origin(url, &self.endpoint.url) {
            return;
        }
        let Some(reading) = Reading::of(headers) else { return };
        let mut quota = self.quota.lock();
        let now = Quota::after(quota.as_ref(), reading, self.now());
        let tenths_before = quota.replace(now.clone()).map(|before| before.tenths());
        drop(quota);
        self.settings.observer.quota(&self.settings.name, self.settings.url.authority(), &now);
        if tenths_before != Some(now.tenths()) {
            let Reading { limit, left, window, source } = &now.reading;
            let (hours, source) = (window.as_secs() / 3600, source.as_deref().unwrap_or_default());
            tracing::info!(upstream = %self.settings.name, left, limit, hours, source, "pulls left in this window");
        }
    }

    /// Takes note of what stands beside a good answer.
    fn notice(&self, resource: Resource, answer: &Answer) {
        if self.presented.is_none() {
            self.settings.notices.note(resource, answer.response.headers());
        }
    }

    /// The error that an unwanted answer stands for.
    async fn refusal(&self, answer: Answer) -> UpstreamError {
        let status = answer.response.status();
        let class = status::class(status, answer.response.headers(), self.now());
        let hint = match class {
            UpstreamErrorClass::Denied if self.presented.is_some() => "",
            UpstreamErrorClass::Denied if self.settings.for_callers => {
                "; what is not for everybody is fetched for who asks, with his own login (pass-through), and not ahead: \
                 pull it through this mirror with a client that is logged in, and it is stored"
            }
            UpstreamErrorClass::Denied if status == StatusCode::UNAUTHORIZED => "; check auth of this upstream",
            _ => "",
        };
        drain(answer.response).await;
        let error = UpstreamError::new(class, format!("{}: {status}{hint}", answer.what)).answered();
        error.with_status(status.as_u16()).elsewhere(answer.abroad)
    }

    /// The body of an answer; `announced` where something else than `Content-Length` announces it.
    fn body(&self, answer: Answer, announced: Option<u64>) -> Result<Body, UpstreamError> {
        refuse_encoding(&answer)?;
        Ok(self.coming(answer, announced))
    }

    /// The body of an answer that is read whole, whatever it comes in.
    fn whole(&self, answer: Answer) -> Result<Body, UpstreamError> {
        let decoder = coding::decoder(&answer)?;
        Ok(Body { decoder, ..self.coming(answer, None) })
    }

    fn coming(&self, answer: Answer, announced: Option<u64>) -> Body {
        Body {
            decoder: None,
            left: announced.or_else(|| number(&answer.response, CONTENT_LENGTH)),
            whole: self.settings.whole.clone(),
            set: Arc::clone(self.clients_for(&answer.url)),
            response: answer.response,
            idle: self.settings.configured.timeouts.idle,
            what: answer.what,
            abroad: answer.abroad,
            observer: Arc::clone(&self.settings.observer),
            upstream: self.settings.name.clone(),
        }
    }

    /// The answer to a blob request. The target of a redirect may have expired on the way; then the
    /// registry is asked for a new one, once.
    async fn ask_for_blob(&self, question: &Question) -> Result<Answer, UpstreamError> {
        let answer = self.ask(question).await?;
        let expired = matches!(answer.response.status(), StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
        if answer.abroad && expired { self.ask(question).await } else { Ok(answer) }
    }

    fn manifest_question(
        &self,
        method: Method,
        repository: &Repository,
        reference: &Reference,
        accept: &AcceptSet,
    ) -> Result<Question, UpstreamError> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept.header_value() {
            headers.insert(ACCEPT, header_value(accept)?);
        }
        self.question(method, repository, format!("manifests/{reference}"), headers)
    }

    fn blob_question(
        &self,
        method: Method,
        repository: &Repository,
        digest: &Digest,
        range: Option<&str>,
    ) -> Result<Question, UpstreamError> {
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            headers.insert(RANGE, header_value(range.to_owned())?);
        }
        self.question(method, repository, format!("blobs/{digest}"), headers)
    }
}

#[async_trait]
impl Upstream for HttpUpstream {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Resolved, UpstreamError> {
        let answer = match self.ask(&self.manifest_question(Method::HEAD, repository, reference, &accept)?).await {
            // What answers HEAD may lead astray, or say what cannot be.
            Err(error) if error.class == UpstreamErrorClass::Protocol => {
                return self.manifest(repository, reference, accept).await.map(Resolved::Fetched);
            }
            answer => answer?,
        };
        match answer.response.status() {
            status if status::is_whole(status) => {}
            // Some know no HEAD, or refuse it, or have it answered by somebody who knows less: a no to HEAD is
            // no answer to who wants the manifest, nor is what says nothing of it.
            status if status.is_server_error() && !status::is_not_implemented(status) => {
                return Err(self.refusal(answer).await);
            }
            StatusCode::TOO_MANY_REQUESTS => return Err(self.refusal(answer).await),
            _ => {
                drain(answer.response).await;
                return self.manifest(repository, reference, accept).await.map(Resolved::Fetched);
            }
        }
        if refuse_encoding(&answer).is_err() {
            // Its length is that of something else.
            return self.manifest(repository, reference, accept).await.map(Resolved::Fetched);
        }
        self.notice(Resource::manifest(repository, reference), &answer);
        if is_first_schema(text(&answer.response, CONTENT_TYPE).as_deref(), None) {
            return Err(first_schema(&answer.what));
        }
        let head = Head::of(&answer);
        let told = Told { size: head.size.filter(|size| *size > 0), ..head.told() };
        let media_type = declared_type(told.content_type);
        match (told.digest, told.size, media_type) {
            (Some(digest), Some(size), Some(media_type)) if check(manifest(reference), &told, None).is_ok() => {
                Ok(Resolved::Told(Descriptor { digest, size, media_type }))
            }
            // Of a head that tells too little, or what cannot be, the bytes decide.
            _ => self.manifest(repository, reference, accept).await.map(Resolved::Fetched),
        }
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        let answer = self.ask(&self.manifest_question(Method::GET, repository, reference, &accept)?).await?;
        if !status::is_whole(answer.response.status()) {
            return Err(self.refusal(answer).await);
        }
        self.notice(Resource::manifest(repository, reference), &answer);
        let (what, head, reference) = (answer.what.clone(), Head::of(&answer), reference.clone());
        let expected = match &reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => head.digest,
        };
        let bytes = self.whole(answer)?.collect(MAX_MANIFEST_SIZE, expected).await?;
        let read = move |what: &str, bytes: Bytes| read_manifest(what, bytes, &head, &reference, expected);
        self.manifests.read(&what, bytes, read).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let answer = self.ask(&self.blob_question(Method::HEAD, repository, digest, None)?).await?;
        match answer.response.status() {
            status if status::is_whole(status) => {
                refuse_encoding(&answer)?;
                self.notice(Resource::blob(repository, digest), &answer);
                let head = Head::of(&answer);
                match check(Asked::Blob(digest), &head.told(), None) {
                    Ok(()) => Ok(head.size),
                    // Some say so of every HEAD.
                    Err(Implausible::Empty) => self.stat_by_get(repository, digest).await,
                    Err(odd) => Err(protocol(&answer.what, odd)),
                }
            }
            // Addresses of a storage host are often signed for GET alone.
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if answer.abroad => {
                self.stat_by_get(repository, digest).await
            }
            status if status::is_not_implemented(status) => self.stat_by_get(repository, digest).await,
            _ => Err(self.refusal(answer).await),
        }
    }

    async fn stat_by_get(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let question = self.blob_question(Method::GET, repository, digest, Some("bytes=0-0"))?;
        let answer = self.ask_for_blob(&question).await?;
        let head = Head::of(&answer);
        let whole = match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => content_range(&answer.response).and_then(|range| range.total),
            status if status::is_whole(status) => head.size,
            // The only blob without a first byte.
            StatusCode::RANGE_NOT_SATISFIABLE
                if text(&answer.response, CONTENT_RANGE).as_deref() == Some("bytes */0") =>
            {
                return Ok(Some(0));
            }
            _ => return Err(self.refusal(answer).await),
        };
        refuse_encoding(&answer)?;
        let told = Told { size: whole, ..head.told() };
        check(Asked::Blob(digest), &told, None).map_err(|odd| protocol(&answer.what, odd))?;
        Ok(whole)
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let question = self.blob_question(Method::GET, repository, digest, span.header_value().as_deref())?;
        let answer = self.ask_for_blob(&question).await?;
        if answer.response.status().is_success() {
            self.notice(Resource::blob(repository, digest), &answer);
        }
        match answer.response.status() {
            status if status::is_whole(status) => {
                let head = Head::of(&answer);
                let page = check(Asked::Blob(digest), &head.told(), None) == Err(Implausible::Page);
                let body = self.body(answer, None)?;
                let (until_close, body) = (body.ends_with_its_connection(), body.into_stream());
                Ok(UpstreamBlob { until_close, page, ..UpstreamBlob::new(head.size, 0, false, body) })
            }
            StatusCode::PARTIAL_CONTENT if !span.is_whole() => {
                let range = content_range(&answer.response).filter(|range| answers(*range, span));
                let length = range.map(|range| range.last - range.first + 1);
                let told = number(&answer.response, CONTENT_LENGTH);
                let (Some(range), true) = (range, told.is_none_or(|told| Some(told) == length)) else {
                    return Err(protocol(&answer.what, "sends another range than the one asked for"));
                };
                let body = self.body(answer, length)?.into_stream();
                Ok(UpstreamBlob::new(range.total, range.first, true, body))
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        self.list_tags(repository, page).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        self.list_referrers(repository, digest, artifact_type, cursor).await
    }

    fn notices(&self) -> Option<&Notices> {
        // What is said to others is theirs.
        self.presented.is_none().then_some(&*self.settings.notices)
    }

    async fn enter(&self) -> Result<(), UpstreamError> {
        self.ask_to_be_let_in().await
    }

    async fn challenge(&self, repository: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
        self.challenge_of(repository).await
    }

    fn last_challenge(&self, repository: Option<&Repository>) -> Option<Challenge> {
        self.last_challenge_of(repository)
    }

    fn presenting(&self, presented: &Presented) -> Option<Arc<dyn Upstream>> {
        let clients = if self.settings.configured.certificate.is_none() {
            self.clients.clone()
        } else {
            self.clients.without_our_own()
        };
        Some(Arc::new(HttpUpstream { clients, presented: Some(presented.clone()), ..self.clone() }))
    }

    fn place(&self) -> Option<Place> {
        Some(place_of(&self.settings.url))
    }

    fn tables(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("tokens", self.tokens.entries()),
            ("registries_abroad", self.abroad.entry_count()),
            ("notices", self.settings.notices.entries()),
            ("scopes_beyond", self.endpoint.beyond.entry_count()),
        ]
    }

    fn health(&self) -> Health {
        let quota = self.quota.lock();
        let now = self.now();
        // Of a window that is over nothing is known.
        let pulls = quota.as_ref().filter(|quota| now < quota.resets_at).map(Pulls::from);
        let url = self.settings.url.to_string();
        let endpoint = EndpointHealth {
            url,
            state: EndpointState::Up,
            asked_again_at: None,
            last_error: None,
            answered_at: None,
            latency: None,
            pulls,
        };
        let allowance = quota.as_ref().map(|quota| quota.allowance(self.settings.configured.budget_floor, now));
        let no_credential = self.settings.credentials.broken().map(|error| error.to_string());
        let allowance = allowance.unwrap_or_default();
        Health { endpoints: vec![endpoint], allowance, no_credential, ..Health::default() }
    }
}

/// What an answer tells before its body.
struct Head {
    content_type: Option<String>,
    digest: Option<Digest>,
    size: Option<u64>,
}

impl Head {
    fn of(answer: &Answer) -> Head {
        Head {
            content_type: text(&answer.response, CONTENT_TYPE).map(Cow::into_owned),
            digest: text(&answer.response, DIGEST).and_then(|digest| digest.parse().ok()),
            size: number(&answer.response, CONTENT_LENGTH),
        }
    }

    fn told(&self) -> Told<'_> {
        Told { content_type: self.content_type.as_deref(), digest: self.digest, size: self.size }
    }
}

/// The manifest in an answer.
fn read_manifest(
    what: &str,
    bytes: Bytes,
    head: &Head,
    reference: &Reference,
    expected: Option<Digest>,
) -> Result<Manifest, UpstreamError> {
    let told = head.told();
    check(manifest(reference), &told, Some(&bytes)).map_err(|odd| protocol(what, odd))?;
    if is_first_schema(told.content_type, Some(&bytes)) {
        return Err(first_schema(what));
    }
    let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let manifest = Manifest::from_wire(bytes, told.content_type, algorithm);
    match expected {
        Some(expected) if expected != manifest.descriptor.digest => {
            let found = manifest.descriptor.digest;
            Err(protocol(what, format_args!("has the digest {found} instead of {expected}")))
        }
        _ => Ok(manifest),
    }
}

fn manifest(reference: &Reference) -> Asked<'_> {
    match reference {
        Reference::Digest(digest) => Asked::Manifest(Some(digest)),
        Reference::Tag(_) => Asked::Manifest(None),
    }
}

/// Whether a range that was sent is one that `span` asks for: same start, no further end.
fn answers(range: ContentRange, span: Span) -> bool {
    range.first == span.start && span.end.is_none_or(|end| range.last < end)
}

fn protocol(what: &str, problem: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: {problem}"))
}

/// A refusal, which clients are told as "not found": those that can still read such a manifest ask elsewhere
/// for it. It proves that the tag is there.
fn first_schema(what: &str) -> UpstreamError {
    let reason = "is a signed schema 1 manifest, which cannot be verified by its digest and is not mirrored; \
                  pull it from the registry itself, or push the image again";
    UpstreamError::new(UpstreamErrorClass::Refused, format!("{what}: {reason}"))
}
