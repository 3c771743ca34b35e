//! A blob that the bucket has: where a fill gets its bytes before it asks upstream.
//!
//! Truth: once the bucket has not given what it was asked for, this fill asks upstream for the rest, and the bucket no
//! more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::oci::{Digest, Span};
use crate::tier::{Bucket, Reading, Trouble, Waited};
use crate::upstream::{UpstreamBlob, UpstreamError, UpstreamErrorClass};

/// One blob in the bucket.
#[derive(Debug)]
pub struct InBucket {
    bucket: Bucket,
    digest: Digest,
    /// Its size in bytes, where that was seen here.
    size: Option<u64>,
    /// How long the look-up of it has waited.
    waited: Waited,
    gone: AtomicBool,
    gave: AtomicU64,
}

impl InBucket {
    /// A blob of which nothing was asked yet.
    pub(crate) fn new(bucket: Bucket, digest: Digest, size: Option<u64>, waited: Waited) -> Arc<InBucket> {
        Arc::new(InBucket { bucket, digest, size, waited, gone: AtomicBool::new(false), gave: AtomicU64::new(0) })
    }

    /// Whether it is what the bucket gives, as far as that was asked.
    pub(crate) fn gives(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }

    /// Whether the bucket gave any of it.
    pub(crate) fn gave_some(&self) -> bool {
        self.gave.load(Ordering::Acquire) > 0
    }

    /// Whether nobody else was asked.
    pub(crate) fn gave_all(&self) -> bool {
        self.gives() && self.gave_some()
    }

    /// A part of it, if the bucket gives that.
    pub(super) async fn blob(self: &Arc<Self>, span: Span) -> Option<UpstreamBlob> {
        if !self.gives() {
            return None;
        }
        let begun = Box::pin(self.begun(span));
        let Some((Reading { size, offset, part, body }, first)) =
            self.bucket.within(&self.waited, begun).await.flatten()
        else {
            tracing::debug!(digest = %self.digest, "not from the bucket");
            self.gone.store(true, Ordering::Release);
            return None;
        };
        if self.size.is_some_and(|known| known != size) {
            self.gone.store(true, Ordering::Release);
            self.distrust().await;
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
                shared.gone.store(true, Ordering::Release);
                Err(UpstreamError::new(UpstreamErrorClass::Unavailable, trouble.to_string()))
            }
        });
        Some(UpstreamBlob::new(Some(size), offset, part, body.boxed()))
    }

    /// A part of it as soon as its first bytes are there, with these.
    async fn begun(&self, span: Span) -> Option<(Reading, Option<Result<Bytes, Trouble>>)> {
        let mut reading = self.bucket.blob(&self.digest, span).await.ok()??;
        let first = reading.body.next().await;
        (!matches!(first, Some(Err(_)))).then_some((reading, first))
    }

    /// All that it gave is not the blob: it goes, so that it is fetched again.
    pub(crate) async fn distrust(&self) {
        tracing::error!(digest = %self.digest, "an object in the bucket is not what its name says; it is removed");
        if let Err(error) = self.bucket.remove(&crate::blob_store::key_of(&self.digest)).await {
            tracing::error!(digest = %self.digest, %error, "it could not be removed");
        }
    }
}
