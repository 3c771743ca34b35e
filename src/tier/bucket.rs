//! The bucket itself: the only place that names `object_store`.
//!
//! Reading has a deadline, the reader's patience, for an answer and for each further bytes, and stops at a bucket
//! that did not answer lately; writing has longer ones. What is not there is `None`, everything else a [`Trouble`].

mod delays;
mod flow;
mod health;
mod listening;
mod listing;
mod looking;
mod opening;
mod samples;
mod sending;
mod trouble;
mod uploads;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::Method;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
#[cfg(test)]
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, UpdateVersion};
use tokio::time::Instant;
use url::Url;

use self::flow::Flow;
use self::health::{Asked, Health};
use self::listing::Oddity;
pub use self::opening::OpenError;
pub use self::trouble::Trouble;
use super::doubted::Doubted;
use super::settings::Settings;
use super::store_time::StoreTime;
use crate::blob_store::key_of;
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::oci::{Descriptor, Digest, Span};

/// How long one question that is no reader's may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// What an object store can do, as far as we use it.
trait Objects: ObjectStore + MultipartStore {}
impl<S: ObjectStore + MultipartStore> Objects for S {}

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
    /// The same, which sends everything once.
    once: Arc<dyn Objects>,
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
        let (pace, once) = (Pace::Helps, Arc::clone(&store));
        Bucket { store, once, signer, name, prefix, patience, pace, health, time, lists, doubted, metrics }
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
        let began = Instant::now();
        let found = self.patiently(Asked::Content, self.object(&path, &key, most)).await;
        let is_late = self.is_late(began);
        let found = found.inspect_err(|_| self.health.did_not_come(digest))?.transpose()?;
        if let Some(object) = &found {
            self.gave(digest, object.bytes.len() as u64, is_late);
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
        let began = Instant::now();
        let asked = self.patiently(Asked::Content, async { self.store.get_opts(&path, options).await });
        let Some(found) = asked.await.inspect_err(|_| self.health.did_not_come(digest))? else { return Ok(None) };
        let (size, offset) = (found.meta.size, found.range.start);
        if !can_have(digest, size) {
            return Ok(None);
        }
        let is_late = self.is_late(began);
        let body =
            stream::unfold(Some(Flow::of(self.clone(), (*digest, is_late), found.into_stream(), pace)), async |flow| {
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

    /// The same, sent once: where this is answered, nothing of it is under way any more.
    ///
    /// # Errors
    /// [`Trouble`]; it may still come to pass.
    pub async fn remove_for_certain(&self, key: &str) -> Result<(), Trouble> {
        let path = self.path(key)?;
        self.taken_away(self.once.delete(&path)).await
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
