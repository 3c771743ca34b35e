//! A blob that the bucket has: where a fill gets its bytes before it asks upstream.
//!
//! Truth: once the bucket has not given what it was asked for, this fill asks upstream for the rest, and the bucket no
//! more as long as upstream gives that. One that did not say that it has no such object, be it slow, left alone or
//! silent, is asked once more where upstream does not give it, and again whenever that brought something. An object that
//! was wrong twice stays until somebody who has the right bytes writes them in its place: it may be the way from there
//! that is wrong. Nobody waits for the second look.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::blob_store::key_of;
use crate::oci::{Digest, Span};
use crate::owed::Owed;
use crate::tier::{Bucket, Pace, Reading, Trouble, Waited};
use crate::upstream::{Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};

/// How long to read once more what came wrong: a blob of some gigabytes.
const SECOND_LOOK: Duration = Duration::from_secs(10 * 60);

/// What comes, and the first of it.
type Begun = (Reading, Option<Result<Bytes, Trouble>>);

/// How fast what a look-up wants has to come from the bucket, beside this upstream: where that is known to be away, or
/// turned out to be, nobody else gives any.
pub(crate) fn pace_beside(upstream: &dyn Upstream, waited: &Waited) -> Pace {
    if upstream.health().gives_nothing() { Pace::Any } else { waited.pace() }
}

/// Finds out, however slowly the bucket says so, whether the repository has a blob there; if so, its size in bytes, where
/// that was counted.
pub(crate) type LookUp = Box<dyn Fn() -> BoxFuture<'static, Option<Option<u64>>> + Send + Sync>;

/// One blob in the bucket.
pub struct InBucket {
    bucket: Bucket,
    owed: Arc<Owed>,
    digest: Digest,
    /// Its size in bytes, where that was seen here.
    size: OnceLock<u64>,
    /// Where the bucket had not said whether it is there for this repository.
    look_up: Option<LookUp>,
    /// Whether it has said that it is.
    known: AtomicBool,
    /// How long the look-up of it has waited.
    waited: Waited,
    gone: AtomicBool,
    /// Whether it gave too little, and others were asked for the rest.
    slow: AtomicBool,
    /// Whether it was not asked, or did not answer in time: it may well have it.
    passed_over: AtomicBool,
    /// How much it had given when it was asked the last time because nobody else gives it.
    after: Mutex<Option<u64>>,
    gave: AtomicU64,
}

impl fmt::Debug for InBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InBucket").field("digest", &self.digest).field("gives", &self.gives()).finish_non_exhaustive()
    }
}

impl InBucket {
    /// A blob of which nothing was asked yet.
    pub(crate) fn new(
        (bucket, owed): (Bucket, Arc<Owed>),
        digest: Digest,
        size: Option<u64>,
        waited: Waited,
    ) -> Arc<InBucket> {
        InBucket::with((bucket, owed), digest, (size, None), waited)
    }

    /// One of which the bucket has not said yet whether it is there for this repository.
    pub(crate) fn to_look_up(
        behind: (Bucket, Arc<Owed>),
        digest: Digest,
        look_up: LookUp,
        waited: Waited,
    ) -> Arc<InBucket> {
        InBucket::with(behind, digest, (None, Some(look_up)), waited)
    }

    fn with(
        (bucket, owed): (Bucket, Arc<Owed>),
        digest: Digest,
        (size, look_up): (Option<u64>, Option<LookUp>),
        waited: Waited,
    ) -> Arc<InBucket> {
        let is_known = look_up.is_none();
        let [known, gone, slow, passed_over] = [is_known, false, false, !is_known].map(AtomicBool::new);
        let size = size.map_or_else(OnceLock::new, OnceLock::from);
        let (after, gave) = (Mutex::default(), AtomicU64::default());
        Arc::new(InBucket { bucket, owed, digest, size, look_up, known, waited, gone, slow, passed_over, after, gave })
    }

    /// Whether it is what the bucket gives, as far as that was asked.
    pub(crate) fn gives(&self) -> bool {
        ![&self.gone, &self.slow, &self.passed_over].into_iter().any(|left| left.load(Ordering::Acquire))
    }

    /// Whether it gave too little.
    pub(super) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// Whether it may have it although it did not give it.
    pub(super) fn is_passed_over(&self) -> bool {
        self.passed_over.load(Ordering::Acquire) && !self.gone.load(Ordering::Acquire)
    }

    /// How long somebody who reads it waits.
    pub(super) const fn patience(&self) -> Duration {
        self.bucket.patience()
    }

    /// Whether the bucket gave any of it.
    pub(crate) fn gave_some(&self) -> bool {
        self.gave.load(Ordering::Acquire) > 0
    }

    /// Whether nobody else was asked.
    pub(crate) fn gave_all(&self) -> bool {
        self.gives() && self.gave_some()
    }

    /// A part of it, if the bucket gives that, and as long as it gives it at this pace; `told` is its size in bytes as
    /// others say who lead to it.
    pub(super) async fn blob(self: &Arc<Self>, span: Span, told: Option<u64>, pace: Pace) -> Option<UpstreamBlob> {
        if !self.gives() {
            return None;
        }
        let begun = Box::pin(self.begun(span, told, pace));
        let begun = self.bucket.within(&self.waited, begun).await;
        if begun.is_none() {
            self.passed_over.store(true, Ordering::Release);
        }
        self.checked(begun.flatten(), told)
    }

    /// The same where it was passed over, and nobody else gives it. What is not known of it yet is looked up first.
    pub(super) async fn after_all(self: &Arc<Self>, span: Span, told: Option<u64>) -> Option<UpstreamBlob> {
        // It is of use where it has given something since that was done the last time.
        let gave = self.gave.load(Ordering::Acquire);
        let is_of_use = self.is_passed_over() && self.after.lock().is_none_or(|before| before < gave);
        if !is_of_use || !self.is_known_after_all().await {
            return None;
        }
        let begun = Box::pin(self.begun(span, told, Pace::Any)).await;
        *self.after.lock() = Some(gave);
        let blob = self.checked(begun, told);
        if blob.is_some() {
            // The rest need not come fast either.
            self.waited.has_nobody_else();
        }
        blob
    }

    /// Whether it is there for this repository, as far as the bucket says so now.
    async fn is_known_after_all(&self) -> bool {
        let look_up = self.look_up.as_ref().filter(|_| !self.known.load(Ordering::Acquire));
        let Some(look_up) = look_up else { return true };
        match look_up().await {
            Some(size) => {
                let _ = size.map(|size| self.size.set(size));
                self.known.store(true, Ordering::Release);
                true
            }
            None => {
                self.gone.store(true, Ordering::Release);
                false
            }
        }
    }

    /// The same once it was left because it is slow, and nobody else gives the rest.
    pub(super) async fn however_slow(self: &Arc<Self>, span: Span, told: Option<u64>) -> Option<UpstreamBlob> {
        if self.gone.load(Ordering::Acquire) || !self.is_slow() {
            return None;
        }
        let begun = Box::pin(self.begun(span, told, Pace::Any)).await;
        self.checked(begun, told)
    }

    fn checked(self: &Arc<Self>, begun: Option<Begun>, told: Option<u64>) -> Option<UpstreamBlob> {
        let Some((Reading { size, offset, part, body }, first)) = begun else {
            tracing::debug!(digest = %self.digest, "not from the bucket");
            self.gone.store(self.gives(), Ordering::Release);
            return None;
        };
        if self.size.get().is_some_and(|known| *known != size) {
            self.distrust();
            return None;
        }
        // Who leads to it may be wrong: it stays where it is.
        if told.is_some_and(|told| told != size) {
            tracing::info!(digest = %self.digest, size, told, "what is in the bucket has another size than it should");
            self.gone.store(true, Ordering::Release);
            return None;
        }
        let shared = Arc::clone(self);
        let body = stream::iter(first).chain(body).map(move |bytes| match bytes {
            Ok(bytes) => {
                shared.gave.fetch_add(bytes.len() as u64, Ordering::AcqRel);
                Ok(bytes)
            }
            Err(trouble) => {
                tracing::info!(digest = %shared.digest, %trouble, "the rest comes from upstream");
                shared.left_because_of(&trouble).store(true, Ordering::Release);
                Err(UpstreamError::new(UpstreamErrorClass::Unavailable, trouble.to_string()))
            }
        });
        Some(UpstreamBlob::new(Some(size), offset, part, body.boxed()))
    }

    /// A part of it as soon as its first bytes are there, with these.
    async fn begun(&self, span: Span, told: Option<u64>, pace: Pace) -> Option<Begun> {
        let size = self.size.get().copied().or(told);
        let reading = self.bucket.blob_of((&self.digest, size), span, pace).await;
        self.passed_over.store(reading.is_err(), Ordering::Release);
        let mut reading = reading.ok()??;
        let first = reading.body.next().await;
        if let Some(Err(trouble)) = &first {
            self.left_because_of(trouble).store(true, Ordering::Release);
        }
        (!matches!(first, Some(Err(_)))).then_some((reading, first))
    }

    /// How it is left where it breaks off.
    const fn left_because_of(&self, trouble: &Trouble) -> &AtomicBool {
        match trouble {
            Trouble::Slow(_) => &self.slow,
            // That would only begin anew.
            Trouble::Trickles(_) => &self.gone,
            _ => &self.passed_over,
        }
    }

    /// What it gave is not the blob: others are asked from now on. It is read once more behind whoever waits: what was
    /// damaged once on its way to this replica need not be written anew.
    pub(crate) fn distrust(self: &Arc<Self>) {
        self.gone.store(true, Ordering::Release);
        self.bucket.doubted().add(&self.digest);
        // Before the right content comes here: it goes up over what is there, also after a stop.
        self.owed.found_wrong(&key_of(&self.digest));
        let doubted = Arc::clone(self);
        // A stop does not wait for it: what is known then counts.
        tokio::spawn(async move {
            let look = doubted.bucket.is_right(&doubted.digest, doubted.size.get().copied());
            let is_right = tokio::time::timeout(SECOND_LOOK, look).await.ok().and_then(Result::ok).flatten();
            doubted.judged(is_right);
        });
    }

    /// Nothing of what it gave is used.
    pub(crate) fn is_of_no_use(&self) {
        self.gave.store(0, Ordering::Release);
    }

    fn judged(&self, is_right: Option<bool>) {
        let (digest, key) = (self.digest, key_of(&self.digest));
        if is_right != Some(true) {
            // What is here goes up now, what is not here yet when it comes.
            self.owed.up(&key);
        }
        match is_right {
            Some(false) => tracing::error!(
                %digest,
                "an object in the bucket is not what its name says; it stays until the right one goes up in its place"
            ),
            Some(true) => {
                self.bucket.doubted().remove(&digest);
                self.owed.put_right(&key);
                tracing::error!(
                    %digest,
                    "what came from the bucket was not what its name says, and the object is: it was damaged on its way here"
                );
            }
            None => tracing::error!(
                %digest,
                "what came from the bucket was not what its name says, and it cannot be read again; it stays until the right one goes up in its place"
            ),
        }
    }
}
