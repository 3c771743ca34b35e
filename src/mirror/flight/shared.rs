//! A blob that the bucket has: where a fill gets its bytes before it asks upstream.
//!
//! Truth: once the bucket has not given what it was asked for, this fill asks upstream for the rest, and the bucket no
//! more. One that only gives too little, or is left alone because of others, is asked where upstream does not give the
//! rest: slow is better than not. An object that was wrong twice stays until somebody who has the right bytes writes them
//! in its place: it may be the way from there that is wrong. Nobody waits for the second look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::blob_store::key_of;
use crate::oci::{Digest, Span};
use crate::owed::Owed;
use crate::tier::{Bucket, Pace, Reading, Trouble, Waited};
use crate::upstream::{Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};

/// How long to read once more what came wrong: a blob of some gigabytes.
const SECOND_LOOK: Duration = Duration::from_secs(10 * 60);

/// What comes, and the first of it.
type Begun = (Reading, Option<Result<Bytes, Trouble>>);

/// How fast content has to come from the bucket, beside this upstream: where that is known to be away, nobody else
/// gives any.
pub(crate) fn pace_beside(upstream: &dyn Upstream) -> Pace {
    if upstream.health().gives_nothing() { Pace::Any } else { Pace::Helps }
}

/// One blob in the bucket.
#[derive(Debug)]
pub struct InBucket {
    bucket: Bucket,
    owed: Arc<Owed>,
    digest: Digest,
    /// Its size in bytes, where that was seen here.
    size: Option<u64>,
    /// How long the look-up of it has waited.
    waited: Waited,
    gone: AtomicBool,
    /// Whether it gave too little, and others were asked for the rest.
    slow: AtomicBool,
    /// Whether it was not asked, because the bucket is left alone.
    unasked: AtomicBool,
    gave: AtomicU64,
}

impl InBucket {
    /// A blob of which nothing was asked yet.
    pub(crate) fn new(
        (bucket, owed): (Bucket, Arc<Owed>),
        digest: Digest,
        size: Option<u64>,
        waited: Waited,
    ) -> Arc<InBucket> {
        let [gone, slow, unasked] = [(); 3].map(|()| AtomicBool::default());
        Arc::new(InBucket { bucket, owed, digest, size, waited, gone, slow, unasked, gave: AtomicU64::default() })
    }

    /// Whether it is what the bucket gives, as far as that was asked.
    pub(crate) fn gives(&self) -> bool {
        ![&self.gone, &self.slow, &self.unasked].into_iter().any(|left| left.load(Ordering::Acquire))
    }

    /// Whether it gave too little.
    pub(super) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
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
        let begun = self.bucket.within(&self.waited, begun).await.flatten();
        self.checked(begun, told)
    }

    /// The same where it was not asked because the bucket is left alone, and nobody else gives it.
    pub(super) async fn after_all(self: &Arc<Self>, span: Span, told: Option<u64>) -> Option<UpstreamBlob> {
        if !self.unasked.swap(false, Ordering::AcqRel) {
            return None;
        }
        let begun = Box::pin(self.begun(span, told, Pace::Any)).await;
        self.checked(begun, told)
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
        if self.size.is_some_and(|known| known != size) {
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
                let is_slow = matches!(trouble, Trouble::Slow(_));
                if is_slow { &shared.slow } else { &shared.gone }.store(true, Ordering::Release);
                Err(UpstreamError::new(UpstreamErrorClass::Unavailable, trouble.to_string()))
            }
        });
        Some(UpstreamBlob::new(Some(size), offset, part, body.boxed()))
    }

    /// A part of it as soon as its first bytes are there, with these.
    async fn begun(&self, span: Span, told: Option<u64>, pace: Pace) -> Option<Begun> {
        let reading = self.bucket.blob_of((&self.digest, self.size.or(told)), span, pace).await;
        self.unasked.store(matches!(reading, Err(Trouble::LeftAlone(_))), Ordering::Release);
        let mut reading = reading.ok()??;
        let first = reading.body.next().await;
        if let Some(Err(Trouble::Slow(_))) = first {
            self.slow.store(true, Ordering::Release);
        }
        (!matches!(first, Some(Err(_)))).then_some((reading, first))
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
            let look = doubted.bucket.is_right(&doubted.digest, doubted.size);
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
