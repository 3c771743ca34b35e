//! The bucket itself: the only place that names `object_store`.
//!
//! Reading has a deadline, the reader's patience, for an answer and for each further bytes, and stops at a bucket
//! that did not answer lately; writing has longer ones. What is not there is `None`, everything else a [`Trouble`].
//! The file is long because all that is asked of the store is in one place, with who we are to it.

mod delays;
mod flow;
mod health;
mod listening;
mod listing;
mod looking;
mod samples;
mod uploads;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::Method;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
#[cfg(test)]
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    RetryConfig, StaticCredentialProvider, UpdateVersion,
};
use url::Url;

use self::flow::Flow;
use self::health::{Asked, Health};
use self::listening::{Certificate, Listening};
use self::listing::Oddity;
use super::doubted::Doubted;
use super::settings::{Credentials, Settings};
use super::store_time::StoreTime;
use crate::blob_store::{Content, key_of};
use crate::carrier::Carrier;
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::oci::{Descriptor, Digest, Span, Verifier};
use crate::setting_file;

/// The parts in which large blobs go up, in bytes: the same for all replicas, so that the same blob has the same
/// ETag.
const PART: usize = 16 << 20;
/// How long one question that is no reader's may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a part may take to go up at most, and how many bytes a second what is shorter.
const PART_DEADLINE: Duration = Duration::from_secs(90);
const UP_A_SECOND: u64 = 200_000;

/// What an object store can do, as far as we use it.
trait Objects: ObjectStore + MultipartStore {}
impl<S: ObjectStore + MultipartStore> Objects for S {}

/// Why the bucket did not do what it was asked. The message is for people and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It did not answer in time, said that it cannot, or is left alone because of that.
    #[error("the bucket does not answer: {0}")]
    Away(String),
    /// It is not asked for content, because it did not give any lately, or gave this wrongly: somebody else may.
    #[error("the bucket is left alone: {0}")]
    LeftAlone(String),
    /// It said no, or something that cannot be.
    #[error("the bucket refused: {0}")]
    Refused(String),
    /// Somebody else wrote the object meanwhile, or had written it before.
    #[error("somebody else wrote it")]
    Changed,
    /// It gives so few bytes a second that others are of more help.
    #[error("the bucket gives {0} bytes a second")]
    Slow(u64),
    /// What should go up is not what its digest says, or cannot be read.
    #[error("not sent up: {0}")]
    Unfit(String),
}

/// Why a bucket cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file that the configuration names.
    #[error("store.bucket.{key}: the file {path} {what}")]
    File {
        /// The key that names it.
        key: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The environment says nothing of who we are.
    #[error(
        "store.bucket.credentials: the environment has neither AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY nor a web identity"
    )]
    NoCredentials,
    /// Anything else.
    #[error("store.bucket: {0}")]
    Settings(String),
}

/// A small object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// All of it.
    pub bytes: Bytes,
    /// Which of all that were there under its key, where the store says so.
    pub version: Option<String>,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// An object as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key, behind the prefix.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// How fast an answer, and the bytes of a blob, have to come from the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// So fast that it is of help: somebody else would give them.
    Helps,
    /// It may be slow, as long as something comes: nobody else gives them.
    Any,
}

/// A blob on its way from the bucket.
pub struct Reading {
    /// Of the whole blob, in bytes.
    pub size: u64,
    /// Of the first byte that comes.
    pub offset: u64,
    /// Whether it is only the part that was asked for.
    pub part: bool,
    /// The bytes, each waited for no longer than the reader's patience.
    pub body: BoxStream<'static, Result<Bytes, Trouble>>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("size", &self.size).field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// A bucket, or the part of one below a prefix.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn Objects>,
    signer: Option<Arc<dyn Signer>>,
    name: String,
    prefix: String,
    patience: Duration,
    /// How fast it has to answer who holds this one.
    pace: Pace,
    health: Arc<Health>,
    time: Arc<StoreTime>,
    lists: Arc<Oddity>,
    doubted: Arc<Doubted>,
    metrics: Option<Arc<Metrics>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("name", &self.name).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Bucket {
    /// A bucket as it is configured. Reads the files that the settings name, and what `env` says of credentials and
    /// the region; asks nobody. What it sends is read by `carrier`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        settings: &Settings,
        carrier: &Carrier,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Bucket, OpenError> {
        let mut trusted = Vec::new();
        if let Some(path) = &settings.ca {
            let wrong = |what: String| OpenError::File { key: "ca", path: path.display().to_string(), what };
            let pem = setting_file::bytes(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            trusted = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(format!("is no PEM: {error}")))?;
        }
        let region = settings.region.clone().or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"));
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(1), ..BackoffConfig::default() };
        let time = Arc::<StoreTime>::default();
        let connect = settings.patience.max(Duration::from_secs(1));
        let listening = Listening { time: Arc::clone(&time), carrier: carrier.clone(), connect, trusted };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.name)
            .with_http_connector(listening)
            .with_disable_bulk_delete(true)
            .with_region(region.unwrap_or_else(|| "us-east-1".to_owned()))
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(RetryConfig { backoff, max_retries: 3, retry_timeout: DEADLINE });
        match &settings.endpoint {
            Some(endpoint) => builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/')),
            None => builder = builder.with_virtual_hosted_style_request(!settings.name.contains('.')),
        }
        builder = as_somebody(builder, &settings.credentials, env)?;
        let store = builder.build().map_err(|error| OpenError::Settings(error.to_string()))?;
        let store = Arc::new(store);
        Ok(Bucket { signer: Some(Arc::clone(&store) as _), ..Bucket::of(store, settings, time) })
    }

    /// A bucket in memory, for tests.
    pub fn in_memory(settings: &Settings) -> Bucket {
        Bucket::of(Arc::new(InMemory::new()), settings, Arc::default())
    }

    /// The same, which takes a while for everything.
    #[cfg(test)]
    pub(crate) fn in_slow_memory(settings: &Settings) -> Bucket {
        let millis = Duration::from_millis;
        let waits = ThrottleConfig {
            wait_get_per_call: millis(7),
            wait_put_per_call: millis(11),
            wait_delete_per_call: millis(5),
            wait_list_per_call: millis(13),
            wait_list_per_entry: millis(3),
            ..ThrottleConfig::default()
        };
        Bucket::of(Arc::new(ThrottledStore::new(InMemory::new(), waits)), settings, Arc::default())
    }

    fn of(store: Arc<dyn Objects>, settings: &Settings, time: Arc<StoreTime>) -> Bucket {
        let Settings { name, prefix, patience, .. } = settings.clone();
        let (health, lists, doubted) = (Arc::default(), Arc::default(), Arc::default());
        let (signer, metrics) = (None, None);
        let pace = Pace::Helps;
        Bucket { store, signer, name, prefix, patience, pace, health, time, lists, doubted, metrics }
    }

    /// The same for who asks at this pace.
    #[must_use]
    pub(crate) fn at(&self, pace: Pace) -> Bucket {
        Bucket { pace, ..self.clone() }
    }

    /// The same, whose failures are counted there.
    #[must_use]
    pub fn counted(self, metrics: &Arc<Metrics>) -> Bucket {
        Bucket { metrics: Some(Arc::clone(metrics)), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which one it is, and which part of it.
    pub fn place(&self) -> String {
        format!("{}/{}", self.name, self.prefix)
    }

    /// Whether it answers, as far as is known. Asks nobody.
    pub fn is_well(&self) -> bool {
        self.health.of_names(self.pace).is_closed()
    }

    /// Whether it gives content, too, as far as is known. Asks nobody.
    pub fn gives_content(&self) -> bool {
        self.health.trouble_of_readers().is_none()
    }

    /// What is wrong with it, as far as is known. Asks nobody.
    pub fn trouble(&self) -> Option<String> {
        self.health.trouble()
    }

    /// Content that it gave wrongly.
    pub fn doubted(&self) -> &Doubted {
        &self.doubted
    }

    /// What time it is by its clock, once it has answered.
    pub fn time(&self) -> Option<Timestamp> {
        self.time.now()
    }

    /// How long whoever reads it waits.
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether it takes what is written, as far as is known. Asks nobody.
    pub fn takes_writes(&self) -> bool {
        self.health.of(Asked::Writes).is_closed()
    }

    /// Whether it takes leases, too. Asks nobody.
    pub fn takes_leases(&self) -> bool {
        self.takes_writes() && self.health.of(Asked::Leases).is_closed()
    }

    /// Whether anybody has looked how it is. Asks nobody.
    pub fn was_looked_at(&self) -> bool {
        self.health.was_seen()
    }

    /// How long to wait before it is of use to ask it.
    pub fn pause(&self) -> Duration {
        self.health.of_names(self.pace).waits()
    }

    /// A small object; `None` when there is none.
    ///
    /// # Errors
    /// [`Trouble`], also for one that is longer than `most` bytes.
    pub async fn read(&self, key: &str, most: u64) -> Result<Option<Object>, Trouble> {
        let path = self.path(key)?;
        self.may_be_asked(Asked::Names, self.pace)?;
        self.patiently(Asked::Names, self.object(&path, key, most)).await?.transpose()
    }

    /// The same for content that is small, which has to come as a blob has to.
    ///
    /// # Errors
    /// Those of [`Bucket::read`].
    pub async fn content(&self, of: &Descriptor, most: u64, pace: Pace) -> Result<Option<Object>, Trouble> {
        let (digest, key) = (&of.digest, key_of(&of.digest));
        let path = self.path(&key)?;
        self.may_give((digest, Some(of.size)), Asked::Content, pace)?;
        let found = self.patiently(Asked::Content, self.object(&path, &key, most)).await;
        let found = found.inspect_err(|_| self.health.did_not_come(digest))?.transpose()?;
        if let Some(object) = &found {
            self.gave(digest, object.bytes.len() as u64);
        }
        Ok(found)
    }

    /// An object, or that it is longer than `most` bytes.
    async fn object(&self, path: &Path, key: &str, most: u64) -> Result<Result<Object, Trouble>, Error> {
        let found = self.store.get_opts(path, GetOptions::default()).await?;
        if found.meta.size > most {
            let why = format!("{key} has {} bytes, at most {most} are read", found.meta.size);
            return Ok(Err(Trouble::Refused(why)));
        }
        let (version, modified) = (found.meta.e_tag.clone(), moment(&found.meta));
        Ok(Ok(Object { bytes: found.bytes().await?, version, modified }))
    }

    /// The size of a blob in bytes; `None` when it is not there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn stat(&self, digest: &Digest) -> Result<Option<u64>, Trouble> {
        Ok(self.sized(digest).await?.filter(|size| can_have(digest, *size)))
    }

    /// The same for somebody who can ask others, at this pace.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn offers(&self, digest: &Digest, pace: Pace) -> Result<Option<u64>, Trouble> {
        self.may_give((digest, None), Asked::Sizes, pace)?;
        self.at(pace).stat(digest).await
    }

    /// The size of a blob in bytes, also of one that cannot be it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn sized(&self, digest: &Digest) -> Result<Option<u64>, Trouble> {
        let path = self.path(&key_of(digest))?;
        self.may_be_asked(Asked::Sizes, self.pace)?;
        let asked = self.patiently(Asked::Sizes, async { self.store.head(&path).await });
        Ok(asked.await?.map(|meta| meta.size).inspect(|_| self.health.has(digest)))
    }

    /// An address that gives a blob to everybody, for so long; `None` where it cannot be made. Whether the blob is there
    /// is not asked.
    pub async fn signed(&self, digest: &Digest, ttl: Duration) -> Option<Url> {
        let (path, signer) = (self.path(&key_of(digest)).ok()?, self.signer.as_ref()?);
        let signed = signer.signed_url(Method::GET, &path, ttl);
        tokio::time::timeout(self.patience, signed).await.ok()?.ok()
    }

    /// A blob, or a part of it, which has to come at this pace; `None` when it is not there.
    ///
    /// # Errors
    /// [`Trouble`], also for a part that begins behind its end.
    pub async fn blob(&self, digest: &Digest, span: Span, pace: Pace) -> Result<Option<Reading>, Trouble> {
        self.blob_of((digest, None), span, pace).await
    }

    /// The same for one that may be known to have so many bytes.
    ///
    /// # Errors
    /// Those of [`Bucket::blob`].
    pub(crate) async fn blob_of(
        &self,
        (digest, size): (&Digest, Option<u64>),
        span: Span,
        pace: Pace,
    ) -> Result<Option<Reading>, Trouble> {
        self.may_give((digest, size), Asked::Content, pace)?;
        self.begun(digest, span, pace).await
    }

    /// The same, however it gave content lately.
    async fn begun(&self, digest: &Digest, span: Span, pace: Pace) -> Result<Option<Reading>, Trouble> {
        let path = self.path(&key_of(digest))?;
        let range = match span.end {
            Some(end) => Some(GetRange::Bounded(span.start..end)),
            None => (span.start > 0).then_some(GetRange::Offset(span.start)),
        };
        let part = range.is_some();
        let options = GetOptions { range, ..GetOptions::default() };
        self.health.has(digest);
        let asked = self.patiently(Asked::Content, async { self.store.get_opts(&path, options).await });
        let Some(found) = asked.await.inspect_err(|_| self.health.did_not_come(digest))? else { return Ok(None) };
        let (size, offset) = (found.meta.size, found.range.start);
        if !can_have(digest, size) {
            return Ok(None);
        }
        let body = stream::unfold(Some(Flow::of(self.clone(), *digest, found.into_stream(), pace)), async |flow| {
            flow?.next().await
        });
        Ok(Some(Reading { size, offset, part, body: body.boxed() }))
    }

    /// Writes a small object, whatever is there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn write(&self, key: &str, bytes: Bytes) -> Result<(), Trouble> {
        self.put(key, bytes, PutMode::Overwrite).await
    }

    /// Writes a small object where there is none.
    ///
    /// # Errors
    /// [`Trouble::Changed`] when there is one.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<(), Trouble> {
        self.put(key, bytes, PutMode::Create).await
    }

    /// The same for somebody who waits for it as for what he reads.
    ///
    /// # Errors
    /// Those of [`Bucket::create`].
    pub async fn claim(&self, key: &str, bytes: Bytes) -> Result<(), Trouble> {
        let path = self.path(key)?;
        self.may_be_asked(Asked::Leases, Pace::Helps)?;
        let asked = self.store.put_opts(&path, bytes.into(), PutMode::Create.into());
        self.patiently(Asked::Leases, asked).await.map(drop)
    }

    /// Writes a small object in place of `version`.
    ///
    /// # Errors
    /// [`Trouble::Changed`] when there is another.
    pub async fn replace(&self, key: &str, bytes: Bytes, version: &str) -> Result<(), Trouble> {
        let version = UpdateVersion { e_tag: Some(version.to_owned()), version: None };
        self.put(key, bytes, PutMode::Update(version)).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), Trouble> {
        let path = self.path(key)?;
        let size = bytes.len() as u64;
        self.written(size, DEADLINE, self.store.put_opts(&path, bytes.into(), mode.into())).await.map(drop)
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn remove(&self, key: &str) -> Result<(), Trouble> {
        let path = self.path(key)?;
        self.taken_away(self.store.delete(&path)).await
    }

    /// Sends a blob up. It is hashed on its way, and appears only when it is what its digest says. `begun` is told
    /// of an upload in parts, which has to be aborted where this fails or is dropped.
    ///
    /// # Errors
    /// [`Trouble`]; nothing appeared then, as far as is known.
    pub async fn send(&self, digest: &Digest, content: &Content, begun: impl Fn(&str)) -> Result<(), Trouble> {
        let path = self.path(&key_of(digest))?;
        if content.size <= PART as u64 {
            let (bytes, found) = piece(content.clone(), 0, Verifier::new(digest.algorithm())).await?;
            is_it(digest, found)?;
            let deadline = (DEADLINE + Duration::from_secs(content.size / UP_A_SECOND)).min(PART_DEADLINE);
            self.written(content.size, deadline, self.store.put(&path, bytes.into())).await?;
            self.health.has(digest);
            return Ok(());
        }
        let id = self.written(0, DEADLINE, self.store.create_multipart(&path)).await?;
        begun(&id);
        self.write_down(&path, &id).await?;
        let parts = async {
            let (mut parts, mut offset, mut verifier) = (Vec::new(), 0, Verifier::new(digest.algorithm()));
            while offset < content.size {
                let (bytes, seen) = piece(content.clone(), offset, verifier).await?;
                (verifier, offset) = (seen, offset + bytes.len() as u64);
                let (size, number) = (bytes.len() as u64, parts.len());
                let sent = self.store.put_part(&path, &id, number, bytes.into());
                parts.push(self.written(size, PART_DEADLINE, sent).await?);
            }
            is_it(digest, verifier).map(|()| parts)
        };
        let parts = parts.await?;
        // Some stores put the parts together before they answer.
        self.written(content.size, PART_DEADLINE, self.store.complete_multipart(&path, &id, parts)).await?;
        self.health.has(digest);
        // What stays is found to be over by the collector.
        let _ = self.remove(&uploads::note_of(&id)).await;
        Ok(())
    }

    /// Drops what came of an upload in parts.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn abort(&self, key: &str, id: &str) -> Result<(), Trouble> {
        let (path, id) = (self.path(key)?, id.to_owned());
        self.taken_away(self.store.abort_multipart(&path, &id)).await?;
        self.remove(&uploads::note_of(&id)).await
    }

    fn path(&self, key: &str) -> Result<Path, Trouble> {
        Path::parse(format!("{}{key}", self.prefix)).map_err(|error| Trouble::Refused(error.to_string()))
    }
}

/// Whether a blob may have this size in bytes: only one of all blobs is empty. Any other that is has been cut.
fn can_have(digest: &Digest, size: u64) -> bool {
    size > 0 || *digest == Digest::of(digest.algorithm(), b"")
}

fn moment(meta: &ObjectMeta) -> Timestamp {
    Timestamp(u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or_default())
}

/// A sentence without the document that the store sent.
fn plainly(error: &Error) -> String {
    let mut why = error.to_string();
    if let Some(document) = why.find(['<', '\n']) {
        why.truncate(document);
    }
    why.trim_end_matches([' ', ':']).to_owned()
}

/// Whether it is the bucket itself that is not there. (S3, "Error responses"; other stores say the same.)
fn is_no_bucket(error: &Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// Whether who lists is refused: of that there is no kind of error.
fn is_forbidden(error: &Error) -> bool {
    let is_named = matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. });
    let text = error.to_string();
    !is_named && ["status code: 401", "status code: 403"].iter().any(|status| text.contains(status))
}

/// The next piece of what goes up, and what was seen with it.
async fn piece(content: Content, offset: u64, mut verifier: Verifier) -> Result<(Bytes, Verifier), Trouble> {
    let read = tokio::task::spawn_blocking(move || {
        let bytes = content.read_at(offset, PART)?;
        verifier.update(&bytes);
        Ok((bytes, verifier))
    });
    let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    read.map_err(|error| Trouble::Unfit(format!("it cannot be read: {error}")))
}

fn is_it(digest: &Digest, seen: Verifier) -> Result<(), Trouble> {
    let found = seen.finish();
    if found == *digest { Ok(()) } else { Err(Trouble::Unfit(format!("its bytes have the digest {found}"))) }
}

fn as_somebody(
    builder: AmazonS3Builder,
    credentials: &Credentials,
    env: impl Fn(&str) -> Option<String>,
) -> Result<AmazonS3Builder, OpenError> {
    match credentials {
        Credentials::Instance => Ok(builder),
        Credentials::File(path) => {
            let wrong = |what: String| OpenError::File { key: "credentials", path: path.display().to_string(), what };
            let text = setting_file::text(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            let parts = text
                .trim_end()
                .split_once(':')
                .filter(|(key, secret)| !key.is_empty() && !secret.is_empty() && !secret.contains(char::is_whitespace));
            let (key, secret) = parts.ok_or_else(|| wrong("must hold KEY:SECRET on one line".to_owned()))?;
            let credential = AwsCredential { key_id: key.to_owned(), secret_key: secret.to_owned(), token: None };
            Ok(builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential))))
        }
        Credentials::Environment => {
            const KEYS: [(&str, AmazonS3ConfigKey); 10] = [
                ("AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
                ("AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
                ("AWS_SESSION_TOKEN", AmazonS3ConfigKey::Token),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
                ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
                ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
                ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
                ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
            ];
            let is_set = |name: &str| env(name).is_some_and(|value| !value.is_empty());
            let ways: [&[&str]; 4] = [
                &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
                &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"],
                &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"],
                &["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
            ];
            if !ways.iter().any(|way| way.iter().all(|name| is_set(name))) {
                return Err(OpenError::NoCredentials);
            }
            let set =
                KEYS.into_iter().filter_map(|(name, key)| Some((key, env(name).filter(|value| !value.is_empty())?)));
            Ok(set.fold(builder, |builder, (key, value)| builder.with_config(key, value)))
        }
    }
}
