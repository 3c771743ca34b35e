//! Adapter: a registry over HTTP.
//!
//! The only place that knows `reqwest`, and of it only connections, TLS, proxies and pooling:
//! redirects, authentication, time-outs and length checks are ours, in the files below. Every answer
//! becomes a value of the port or an error with a class. Messages name hosts and paths of the
//! registry API, never a query string, a header or a redirect target's path.

mod body;
mod exchange;
mod redirect;
mod resolver;
mod status;

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, RANGE,
};
use http::{Method, StatusCode};
use reqwest::{Client, Response};
use url::Url;

use self::body::Body;
use self::exchange::{Answer, Demand, Question};
use self::redirect::RedirectRules;
use self::resolver::GuardedResolver;
use super::credentials::{Credential, CredentialSource, Secret};
use super::token::{Token, Tokens, parse_token};
use super::{Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass, UpstreamObserver};
use crate::clock::{Clock, SystemClock};
use crate::oci::manifest::{MAX_MANIFEST_SIZE, declared_type};
use crate::oci::{
    AcceptSet, Algorithm, ContentRange, Descriptor, Digest, Manifest, Reference, RegistryName, Repository, Span,
};

/// The largest answer of a token service that is read, in bytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// How much of a body that nobody wants is read, to keep the connection.
const MAX_DRAINED: u64 = 64 << 10;
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From the request to the headers of the answer.
    pub first_byte: Duration,
    /// Between two chunks of a body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts { connect: seconds(10), first_byte: seconds(30), idle: seconds(30) }
    }
}

/// What there is to know about an upstream.
#[derive(Clone)]
pub struct HttpSettings {
    /// The name that images use.
    pub name: RegistryName,
    /// Where it is. Several are tried in order, the next one when one is unavailable.
    pub urls: Vec<Url>,
    /// Where credentials for it come from.
    pub credentials: Arc<dyn CredentialSource>,
    /// Hosts of token services that may get credentials although they are on another site.
    pub auth_realms: Vec<String>,
    /// Allows http in `urls`. On loopback addresses it is allowed anyway.
    pub insecure: bool,
    /// Certificates to trust besides those of the system, PEM.
    pub ca: Option<PathBuf>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Allows redirects and token services on private networks. They are allowed anyway where `urls`
    /// itself spells a private address.
    pub allow_private: bool,
    /// Counts requests and bytes.
    pub observer: Arc<dyn UpstreamObserver>,
}

/// Why settings do not make an upstream.
#[derive(Debug, thiserror::Error)]
pub enum HttpSettingsError {
    /// `urls` is empty.
    #[error("upstream {0} has no url")]
    NoUrl(RegistryName),
    /// Not http or https, without a host, or with a user name, a query or a fragment.
    #[error("upstream {0}: a url is https://HOST[:PORT][/PATH], without user name and query")]
    Url(RegistryName),
    /// Plain http without `insecure`.
    #[error("upstream {name}: {host} would be asked over plain http; use https, or set insecure = true")]
    PlainHttp {
        /// The upstream.
        name: RegistryName,
        /// The host of the url.
        host: String,
    },
    /// The file of certificates cannot be read or contains none.
    #[error("upstream {name}: cannot use the certificates in {path}: {reason}")]
    Ca {
        /// The upstream.
        name: RegistryName,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client cannot be set up, for instance because of the system's certificates.
    #[error("upstream {name}: cannot set up the HTTP client: {reason}")]
    Client {
        /// The upstream.
        name: RegistryName,
        /// What is wrong.
        reason: String,
    },
}

/// One of the addresses of an upstream.
struct Endpoint {
    url: Url,
    /// Host, and port where it is not the usual one.
    origin: String,
    rules: RedirectRules,
    /// What it wanted last time.
    demand: RwLock<Option<Demand>>,
}

impl Endpoint {
    fn new(url: Url, allow_private: bool) -> Endpoint {
        let host = url.host_str().unwrap_or_default();
        let origin = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let rules = RedirectRules {
            plain_http: url.scheme() == "http",
            private: allow_private || redirect::names_private(&url),
        };
        Endpoint { url, origin, rules, demand: RwLock::default() }
    }

    /// The address of `path` below `repository`.
    fn address(&self, repository: &Repository, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/v2/{repository}/{path}", self.url.path().trim_end_matches('/')));
        url
    }

    fn demand(&self) -> Option<Demand> {
        self.demand.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, demand: &Demand) {
        *self.demand.write().unwrap_or_else(PoisonError::into_inner) = Some(demand.clone());
    }
}

/// A registry over HTTP.
pub struct HttpUpstream {
    settings: HttpSettings,
    endpoints: Vec<Endpoint>,
    /// For manifests and tokens.
    api: Client,
    /// For blobs: one HTTP/1.1 connection each, so that one does not slow the others.
    blobs: Client,
    tokens: Tokens,
    /// Whether the log already says that a credential is refused.
    warned: AtomicBool,
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
        let name = || settings.name.clone();
        if settings.urls.is_empty() {
            return Err(HttpSettingsError::NoUrl(name()));
        }
        for url in &settings.urls {
            let bare = url.username().is_empty() && url.password().is_none();
            let web = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
            if !web || !bare || url.query().is_some() || url.fragment().is_some() {
                return Err(HttpSettingsError::Url(name()));
            }
            if url.scheme() == "http" && !settings.insecure && !redirect::is_loopback(url) {
                let host = url.host_str().unwrap_or_default().to_owned();
                return Err(HttpSettingsError::PlainHttp { name: name(), host });
            }
        }
        let endpoints: Vec<Endpoint> =
            settings.urls.iter().map(|url| Endpoint::new(url.clone(), settings.allow_private)).collect();
        let build = |http1: bool| client(&settings, &endpoints, http1);
        let (api, blobs) = (build(false)?, build(true)?);
        Ok(HttpUpstream { endpoints, api, blobs, tokens: Tokens::default(), warned: AtomicBool::new(false), settings })
    }

    fn client_for(&self, path: &str) -> &Client {
        if path.starts_with("blobs/") { &self.blobs } else { &self.api }
    }

    /// Asks one endpoint after the other until one can answer.
    async fn ask(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        let mut outage = None;
        for endpoint in &self.endpoints {
            let failure = match self.ask_at(endpoint, question).await {
                Ok(answer) => match status::class(answer.response.status(), &HeaderMap::new(), SystemClock.now()) {
                    UpstreamErrorClass::Unavailable => self.refusal(answer).await,
                    _ => return Ok(answer),
                },
                Err(error) => error,
            };
            if failure.class != UpstreamErrorClass::Unavailable {
                return Err(failure);
            }
            tracing::debug!(upstream = %self.settings.name, error = %failure, "endpoint unavailable");
            outage = Some(failure);
        }
        Err(outage.unwrap_or_else(|| UpstreamError::new(UpstreamErrorClass::Unavailable, "no endpoint")))
    }

    /// The error that an unwanted answer stands for.
    async fn refusal(&self, answer: Answer) -> UpstreamError {
        let status = answer.response.status();
        let class = status::class(status, answer.response.headers(), SystemClock.now());
        let hint = match class {
            UpstreamErrorClass::Denied if status == StatusCode::UNAUTHORIZED => "; check auth of this upstream",
            _ => "",
        };
        drain(answer.response).await;
        UpstreamError::new(class, format!("{}: {status}{hint}", answer.what))
    }

    /// Sends one request, no more.
    async fn send(
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
        let timeouts = &self.settings.timeouts;
        let sent = tokio::time::timeout(timeouts.connect + timeouts.first_byte, request.send()).await;
        let status = sent.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(|response| response.status().as_u16());
        self.settings.observer.requested(&self.settings.name, status);
        let unavailable = |reason: String| {
            let host = url.host_str().unwrap_or_default();
            UpstreamError::new(UpstreamErrorClass::Unavailable, format!("{what}: {host} {reason}"))
        };
        sent.map_err(|_| unavailable("did not answer in time".to_owned()))?
            .map_err(|error| unavailable(format!("could not be asked: {}", describe_failure(error))))
    }

    /// Fetches a token. Redirects are not followed: credentials go to the checked realm only.
    async fn fetch_token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scope: &str,
        credential: &Credential,
    ) -> Result<Token, UpstreamError> {
        let what = format!("token for {scope} from {}", realm.host_str().unwrap_or_default());
        let mut url = realm.clone();
        let mut headers = HeaderMap::new();
        let fields = service.map(|service| ("service", service)).into_iter().chain([("scope", scope)]);
        let response = if let Credential::IdentityToken(refresh) = credential {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs([("grant_type", "refresh_token"), ("client_id", env!("CARGO_PKG_NAME"))])
                .extend_pairs(fields)
                .append_pair("refresh_token", refresh.expose())
                .finish();
            self.send(&self.api, Method::POST, &url, headers, Some(form), &what).await?
        } else {
            url.query_pairs_mut().extend_pairs(fields);
            if let Credential::Basic { user, password } = credential {
                headers.insert(AUTHORIZATION, basic(user, password)?);
            }
            self.send(&self.api, Method::GET, &url, headers, None, &what).await?
        };
        let status = response.status();
        if !status.is_success() {
            let class = match status::class(status, response.headers(), SystemClock.now()) {
                // The answer to a refresh token, or a user, that is not valid any more.
                UpstreamErrorClass::Protocol if status == StatusCode::BAD_REQUEST => UpstreamErrorClass::Denied,
                // That a token service is gone says nothing about what it guards.
                UpstreamErrorClass::NotFound => UpstreamErrorClass::Protocol,
                class => class,
            };
            return Err(UpstreamError::new(class, format!("{what}: {status}")));
        }
        let answer = Answer { response, abroad: false, what };
        let what = answer.what.clone();
        let body = self.body(answer, None)?.collect(MAX_TOKEN_ANSWER).await?;
        parse_token(&body, SystemClock.now())
            .ok_or_else(|| UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: no token in the answer")))
    }

    /// The body of an answer; `announced` where something else than `Content-Length` announces it.
    fn body(&self, answer: Answer, announced: Option<u64>) -> Result<Body, UpstreamError> {
        refuse_encoding(&answer)?;
        Ok(Body {
            left: announced.or_else(|| number(&answer.response, CONTENT_LENGTH)),
            response: answer.response,
            idle: self.settings.timeouts.idle,
            what: answer.what,
            observer: Arc::clone(&self.settings.observer),
            upstream: self.settings.name.clone(),
        })
    }

    /// The answer to a blob request. The target of a redirect may have expired on the way; then the
    /// registry is asked for a new one, once.
    async fn ask_for_blob(&self, question: &Question<'_>) -> Result<Answer, UpstreamError> {
        let answer = self.ask(question).await?;
        let expired = matches!(answer.response.status(), StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN);
        if answer.abroad && expired { self.ask(question).await } else { Ok(answer) }
    }

    /// The size of a blob, from its first byte.
    async fn stat_by_range(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let question = blob_question(Method::GET, repository, digest, Some("bytes=0-0"))?;
        let answer = self.ask_for_blob(&question).await?;
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => Ok(content_range(&answer.response).and_then(|range| range.total)),
            StatusCode::OK => {
                refuse_encoding(&answer)?;
                Ok(number(&answer.response, CONTENT_LENGTH))
            }
            // The only blob without a first byte.
            StatusCode::RANGE_NOT_SATISFIABLE if text(&answer.response, CONTENT_RANGE) == Some("bytes */0") => {
                Ok(Some(0))
            }
            _ => Err(self.refusal(answer).await),
        }
    }
}

#[async_trait]
impl Upstream for HttpUpstream {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Descriptor, UpstreamError> {
        let answer = self.ask(&manifest_question(Method::HEAD, repository, reference, accept)?).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                return Ok(self.manifest(repository, reference, accept).await?.descriptor);
            }
            _ => return Err(self.refusal(answer).await),
        }
        refuse_encoding(&answer)?;
        let digest = text(&answer.response, DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let size = number(&answer.response, CONTENT_LENGTH).filter(|size| *size > 0);
        let media_type = declared_type(text(&answer.response, CONTENT_TYPE));
        let (Some(digest), Some(size), Some(media_type)) = (digest, size, media_type) else {
            return Ok(self.manifest(repository, reference, accept).await?.descriptor);
        };
        if let Reference::Digest(asked) = reference
            && *asked != digest
        {
            return Err(protocol(&answer.what, format_args!("is {digest}")));
        }
        Ok(Descriptor { digest, size, media_type })
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        let answer = self.ask(&manifest_question(Method::GET, repository, reference, accept)?).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let what = answer.what.clone();
        let content_type = text(&answer.response, CONTENT_TYPE).map(str::to_owned);
        let told = text(&answer.response, DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let expected = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => told,
        };
        let bytes = self.body(answer, None)?.collect(MAX_MANIFEST_SIZE).await?;
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let manifest = Manifest::from_wire(bytes, content_type.as_deref(), algorithm);
        match expected {
            Some(expected) if expected != manifest.descriptor.digest => {
                let found = manifest.descriptor.digest;
                Err(protocol(&what, format_args!("has the digest {found} instead of {expected}")))
            }
            _ => Ok(manifest),
        }
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let answer = self.ask(&blob_question(Method::HEAD, repository, digest, None)?).await?;
        match answer.response.status() {
            StatusCode::OK => {
                refuse_encoding(&answer)?;
                Ok(number(&answer.response, CONTENT_LENGTH))
            }
            // Addresses of a storage host are often signed for GET alone.
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if answer.abroad => {
                self.stat_by_range(repository, digest).await
            }
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                self.stat_by_range(repository, digest).await
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let question = blob_question(Method::GET, repository, digest, span.header_value().as_deref())?;
        let answer = self.ask_for_blob(&question).await?;
        match answer.response.status() {
            StatusCode::OK => {
                let size = number(&answer.response, CONTENT_LENGTH);
                Ok(UpstreamBlob { size, offset: 0, body: self.body(answer, None)?.into_stream() })
            }
            StatusCode::PARTIAL_CONTENT if !span.is_whole() => {
                let range = content_range(&answer.response).filter(|range| answers(*range, span));
                let length = range.map(|range| range.last - range.first + 1);
                let told = number(&answer.response, CONTENT_LENGTH);
                let (Some(range), true) = (range, told.is_none_or(|told| Some(told) == length)) else {
                    return Err(protocol(&answer.what, "sends another range than the one asked for"));
                };
                let body = self.body(answer, length)?.into_stream();
                Ok(UpstreamBlob { size: range.total, offset: range.first, body })
            }
            _ => Err(self.refusal(answer).await),
        }
    }
}

/// Whether a range that was sent is one that `span` asks for: same start, no further end.
fn answers(range: ContentRange, span: Span) -> bool {
    range.first == span.start && span.end.is_none_or(|end| range.last < end)
}

fn client(settings: &HttpSettings, endpoints: &[Endpoint], http1: bool) -> Result<Client, HttpSettingsError> {
    let failed = |error: reqwest::Error| HttpSettingsError::Client {
        name: settings.name.clone(),
        reason: describe_failure(error),
    };
    let mut builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(settings.timeouts.connect)
        .pool_idle_timeout(Duration::from_secs(90))
        .tcp_keepalive(Duration::from_secs(30))
        .tcp_nodelay(true);
    if http1 {
        builder = builder.http1_only();
    }
    if endpoints.iter().all(|endpoint| redirect::is_loopback(&endpoint.url)) {
        builder = builder.no_proxy();
    }
    if !endpoints.iter().all(|endpoint| endpoint.rules.private) {
        let own = settings.urls.iter().filter_map(|url| url.host_str()).map(str::to_owned);
        builder = builder.dns_resolver(GuardedResolver::new(own.chain(settings.auth_realms.iter().cloned())));
    }
    if let Some(path) = &settings.ca {
        builder = builder.tls_certs_merge(certificates(&settings.name, path)?);
    }
    builder.build().map_err(failed)
}

fn certificates(name: &RegistryName, path: &PathBuf) -> Result<Vec<reqwest::Certificate>, HttpSettingsError> {
    let failed = |reason: String| HttpSettingsError::Ca { name: name.clone(), path: path.clone(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| failed("not PEM".to_owned()))?;
    if found.is_empty() { Err(failed("there are none in it".to_owned())) } else { Ok(found) }
}

fn manifest_question<'a>(
    method: Method,
    repository: &'a Repository,
    reference: &Reference,
    accept: AcceptSet,
) -> Result<Question<'a>, UpstreamError> {
    let mut headers = HeaderMap::new();
    if let Some(accept) = accept.header_value() {
        headers.insert(ACCEPT, header(accept)?);
    }
    Ok(Question { method, path: format!("manifests/{reference}"), repository, headers })
}

fn blob_question<'a>(
    method: Method,
    repository: &'a Repository,
    digest: &Digest,
    range: Option<&str>,
) -> Result<Question<'a>, UpstreamError> {
    let mut headers = HeaderMap::new();
    if let Some(range) = range {
        headers.insert(RANGE, header(range.to_owned())?);
    }
    Ok(Question { method, path: format!("blobs/{digest}"), repository, headers })
}

fn header(value: String) -> Result<HeaderValue, UpstreamError> {
    // The value stays out of the message: it may be a credential.
    HeaderValue::try_from(value).map_err(|_| {
        UpstreamError::new(UpstreamErrorClass::Protocol, "a request header would contain characters it must not")
    })
}

fn sensitive(value: String) -> Result<HeaderValue, UpstreamError> {
    let mut header = header(value)?;
    header.set_sensitive(true);
    Ok(header)
}

/// The value of `Authorization` for a user and a password.
fn basic(user: &str, password: &Secret) -> Result<HeaderValue, UpstreamError> {
    let pair = zeroize::Zeroizing::new(format!("{user}:{}", password.expose()));
    sensitive(format!("Basic {}", super::credentials::encode_base64(pair.as_bytes())))
}

fn text(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok().map(str::trim)
}

fn number(response: &Response, name: HeaderName) -> Option<u64> {
    text(response, name)?.parse().ok()
}

fn content_range(response: &Response) -> Option<ContentRange> {
    ContentRange::parse(text(response, CONTENT_RANGE)?)
}

fn protocol(what: &str, problem: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::new(UpstreamErrorClass::Protocol, format!("{what}: {problem}"))
}

/// Bytes in a coding that nobody asked for are not the bytes that the digest names.
fn refuse_encoding(answer: &Answer) -> Result<(), UpstreamError> {
    let mut codings = answer.response.headers().get_all(CONTENT_ENCODING).iter();
    let plain = |value: &HeaderValue| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity");
    if codings.all(plain) {
        return Ok(());
    }
    Err(protocol(&answer.what, "comes with a Content-Encoding although none was asked for"))
}

/// Reads what is left of a short answer, so that the connection can be used again.
async fn drain(mut response: Response) {
    if number(&response, CONTENT_LENGTH).is_none_or(|length| length > MAX_DRAINED) {
        return;
    }
    let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
    let _slow = tokio::time::timeout(Duration::from_secs(1), rest).await;
}

/// A failure of the client in words, with its causes and without its address.
fn describe_failure(error: reqwest::Error) -> String {
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
