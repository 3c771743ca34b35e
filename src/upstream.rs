//! Port: a registry we fetch from.
//!
//! Errors come by class, because freshness and retries decide by class: only an upstream that
//! *cannot* answer may be covered for with old content; one that says no is taken at its word.

pub mod asking;
pub mod breaker;
pub mod credentials;
pub mod examined;
pub mod gate;
mod guard;
pub mod health;
pub mod heard;
pub mod http;
pub mod limit;
pub mod notices;
pub mod offline;
pub mod ours;
pub mod quota;
pub mod realm;
pub mod resource;
mod retry;
pub mod settings;
mod shortfalls;
pub mod token;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use self::credentials::Presented;
use self::health::Health;
use self::heard::Heard;
pub use self::notices::Notices;
pub use self::quota::Allowance;
use self::quota::Quota;
pub use self::resource::Resource;
use self::settings::Timeouts;
pub use self::shortfalls::Giver;
use crate::clients::ClientId;
use crate::oci::challenge::Challenge;
use crate::oci::{
    AcceptSet, Cursor, Descriptor, Digest, Manifest, Page, Place, Reference, RegistryName, Repository, Span, TagNames,
};

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamErrorClass {
    /// 404: it does not exist there.
    NotFound,
    /// 401 or 403 after a fresh token: not for us.
    Denied,
    /// Another refusal, 4xx: asking again the same way does not help, and nothing is said about what
    /// is there.
    Refused,
    /// 429, or 503 that says how long to wait; with how long, where the upstream said so.
    RateLimited(Option<Duration>),
    /// No connection, no answer in time, 5xx, or the connection broke.
    Unavailable,
    /// An answer that breaks the protocol: wrong digest, wrong range, unexpected status.
    Protocol,
}

impl UpstreamErrorClass {
    /// Whether the upstream could not answer, rather than answered no.
    pub const fn is_outage(self) -> bool {
        matches!(self, UpstreamErrorClass::RateLimited(_) | UpstreamErrorClass::Unavailable)
    }

    /// Whether nothing came that could be an answer, be it yes or no: an outage, or what cannot be what was
    /// asked for. What is stored stands in for either, and another address may know better.
    pub const fn is_no_answer(self) -> bool {
        self.is_outage() || matches!(self, UpstreamErrorClass::Protocol)
    }

    /// A short name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            UpstreamErrorClass::NotFound => "not_found",
            UpstreamErrorClass::Denied => "denied",
            UpstreamErrorClass::Refused => "refused",
            UpstreamErrorClass::RateLimited(_) => "rate_limited",
            UpstreamErrorClass::Unavailable => "unavailable",
            UpstreamErrorClass::Protocol => "protocol",
        }
    }
}

/// How far a failed request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// No connection could be made: refused, or not in time.
    Unreachable,
    /// There was a connection, and no answer came in time.
    Silent,
    /// There was a connection, and it ended before an answer.
    Closed,
    /// Something answered, if only with an error.
    Answered,
}

/// A failed request to an upstream. The message is for people and holds no secret: no query
/// strings, no headers.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct UpstreamError {
    /// What decisions are made by.
    pub class: UpstreamErrorClass,
    /// What was asked, and what came back.
    pub message: String,
    /// How far it got.
    pub contact: Contact,
    /// Whether it was not the registry that failed, but somebody whom it sent us to: a storage host, a
    /// token service. That says nothing of the registry.
    pub elsewhere: bool,
    /// The status of a refusal, for who asked with a credential of his own.
    pub status: Option<u16>,
    /// Why nothing came of it, without a word of what was asked: this may be told to others.
    pub reason: Option<String>,
}

impl UpstreamError {
    /// An error of `class`, of the registry itself. Only an outage leaves it open whether anybody
    /// answered; then nobody could be reached.
    pub fn new(class: UpstreamErrorClass, message: impl Into<String>) -> UpstreamError {
        let contact = if class == UpstreamErrorClass::Unavailable { Contact::Unreachable } else { Contact::Answered };
        UpstreamError { class, message: message.into(), contact, elsewhere: false, status: None, reason: None }
    }

    /// The same error, with why nothing came of it.
    #[must_use]
    pub fn because(self, reason: String) -> UpstreamError {
        UpstreamError { reason: Some(reason), ..self }
    }

    /// The same error of a request that got so far.
    #[must_use]
    pub fn after(self, contact: Contact) -> UpstreamError {
        UpstreamError { contact, ..self }
    }

    /// The same error, of somebody who did answer.
    #[must_use]
    pub fn answered(self) -> UpstreamError {
        self.after(Contact::Answered)
    }

    /// The same error, which came with this status.
    #[must_use]
    pub fn with_status(self, status: u16) -> UpstreamError {
        UpstreamError { status: Some(status), ..self }
    }

    /// Whether it is a word on the rights of who asks: not where he is given no token for another reason.
    pub fn is_verdict(&self) -> bool {
        self.class == UpstreamErrorClass::Denied && self.status.is_none_or(|status| matches!(status, 401 | 403))
    }

    /// Whether the registry answered that something is wrong, and not that we should wait.
    pub fn is_trouble_told(&self) -> bool {
        self.class == UpstreamErrorClass::Unavailable && self.status.is_some()
    }

    /// The same error, if `elsewhere` of somebody whom the registry sent us to.
    #[must_use]
    pub fn elsewhere(self, elsewhere: bool) -> UpstreamError {
        UpstreamError { elsewhere, ..self }
    }
}

/// Whether asking is of use where something stored can be the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Nothing is known against it.
    Well,
    /// There was trouble lately; whoever has this outlook finds out whether it is over.
    Doubtful,
    /// There is trouble, and it is not yet time to look again, or somebody else does. Says what trouble.
    Spared(String),
}

/// What a tag or digest stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The upstream told, without sending it.
    Told(Descriptor),
    /// The upstream did not tell, so the manifest was fetched and looked at.
    Fetched(Manifest),
}

impl Resolved {
    /// What it is.
    pub const fn descriptor(&self) -> &Descriptor {
        match self {
            Resolved::Told(descriptor) => descriptor,
            Resolved::Fetched(manifest) => &manifest.descriptor,
        }
    }
}

/// A blob that an upstream is sending.
pub struct UpstreamBlob {
    /// Size of the whole blob in bytes, if the upstream said it.
    pub size: Option<u64>,
    /// Offset of the first byte of `body`: the start that was asked for, or 0 when the upstream
    /// does not do ranges.
    pub offset: u64,
    /// Whether only the part that was asked for comes, rather than everything.
    pub part: bool,
    /// The bytes. Ends without an error only where the answer ended as announced.
    pub body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    /// Which of several addresses gives it, to be told when it falls short.
    pub giver: Option<Giver>,
    /// Whether the end of the connection is the end of the body: then it may be a part.
    pub until_close: bool,
    /// Whether it is called a page for people, by somebody who does not name its digest.
    pub page: bool,
}

impl UpstreamBlob {
    /// What comes from `offset` on of a blob of this size, if it is told: a part, or everything. Of a single address,
    /// which says how long it is.
    pub fn new(
        size: Option<u64>,
        offset: u64,
        part: bool,
        body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    ) -> UpstreamBlob {
        UpstreamBlob { size, offset, part, body, giver: None, until_close: false, page: false }
    }
}

impl std::fmt::Debug for UpstreamBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamBlob").field("size", &self.size).field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// A part of the tags of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagList {
    /// In the order of the upstream.
    pub tags: TagNames,
    /// Where the list goes on, if it does.
    pub next: Option<Page>,
}

/// A part of the referrers of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrerList {
    /// An image index, as the upstream sent it.
    pub index: Bytes,
    /// Whether the upstream says that it applied the filter.
    pub filtered: bool,
    /// Where the list goes on, if it does.
    pub next: Option<Cursor>,
}

/// Asks a registry. Every method that asks may fail with any class of [`UpstreamError`].
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// What a tag or digest stands for, without its bytes (HEAD). Where the upstream leaves out the
    /// digest or the length, the adapter asks for the manifest instead, and hands it over.
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Resolved, UpstreamError>;

    /// A manifest. By digest, the bytes are verified to have it.
    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError>;

    /// The size of a blob in bytes, without its bytes; `None` inside when the upstream has the blob
    /// and does not tell.
    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError>;

    /// The same from the beginning of an answer to GET, which some give where they have none for HEAD.
    async fn stat_by_get(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError>;

    /// A blob, or a part of it. An upstream that does not do ranges sends everything, see
    /// [`UpstreamBlob::offset`].
    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError>;

    /// A part of the tags. It may be shorter or longer than the page asks for.
    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError>;

    /// Manifests that refer to `digest`, at best only those of `artifact_type`.
    /// [`UpstreamErrorClass::NotFound`] says that the upstream has no such list at all, which is not
    /// the same as an empty one.
    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError>;

    /// Whether `/v2/` lets us in.
    async fn enter(&self) -> Result<(), UpstreamError>;

    /// What has to be shown before `repository`, or anything, is to be had; `None` where that is nothing. A token
    /// service that may see no credential is never named: to who presents something, or nothing, of his own that is
    /// [`UpstreamErrorClass::Denied`], with the reason.
    async fn challenge(&self, repository: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError>;

    /// What it was when it was last asked for. Asks nobody.
    fn last_challenge(&self, _repository: Option<&Repository>) -> Option<Challenge> {
        None
    }

    /// What is known of it, as of its latest answers. Asks nobody.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Whether it is of use to ask for `resource` where something stored can be the answer. Of those who
    /// come while there is trouble one has [`Outlook::Doubtful`] now and again, and is to ask.
    fn outlook(&self, _resource: &Resource) -> Outlook {
        Outlook::Well
    }

    /// Whether something came of it lately, be it an error. Asks nobody.
    fn is_heard(&self) -> bool {
        true
    }

    /// How long a question takes at most, with everything that belongs to it, at all addresses together.
    fn longest(&self) -> Duration {
        Timeouts::default().longest()
    }

    /// What it said of its answers beside them.
    fn notices(&self) -> Option<&Notices> {
        None
    }

    /// How many entries there are in what it remembers, by table.
    fn tables(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// The same, as this client asks it; `None` where all are alike.
    fn for_client(&self, _client: ClientId) -> Option<Arc<dyn Upstream>> {
        None
    }

    /// The same registry, to which nothing is shown but what is `presented`: neither a credential that is configured
    /// nor a certificate of ours. It goes to that registry, and to a token service that may see it, and is not kept.
    /// `None` where nobody is asked.
    fn presenting(&self, _presented: &Presented) -> Option<Arc<dyn Upstream>> {
        None
    }

    /// Where it is, of one with a single address.
    fn place(&self) -> Option<Place> {
        None
    }

    /// The same registry, which writes down here which of its addresses answered last. `None` where it has no more than
    /// one.
    fn noting(&self, _heard: &Heard) -> Option<Arc<dyn Upstream>> {
        None
    }
}

/// Is told what goes over the wire to upstreams, for metrics.
pub trait UpstreamObserver: Send + Sync + 'static {
    /// One HTTP request was answered with `status`, or not at all. Redirect targets and token
    /// services count for the upstream that sent us there.
    fn requested(&self, upstream: &RegistryName, status: Option<u16>);

    /// `bytes` bytes of a body arrived, after somebody had waited so long for them.
    fn received(&self, upstream: &RegistryName, bytes: u64, waited: Duration);

    /// One of the addresses of an upstream answers again, or has stopped to.
    fn availability(&self, _upstream: &RegistryName, _endpoint: &str, _up: bool) {}

    /// One of the addresses of an upstream said how many pulls it still grants.
    fn quota(&self, _upstream: &RegistryName, _endpoint: &str, _quota: &Quota) {}
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl UpstreamObserver for Unobserved {
    fn requested(&self, _: &RegistryName, _: Option<u16>) {}
    fn received(&self, _: &RegistryName, _: u64, _: Duration) {}
}
