//! A look at the bucket for which nobody waits: whether it answers, and gives content that it has. It tells those who ask
//! how the bucket is while no client does, and is what ends it where it was left alone.

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{ObjectStoreExt as _, PutMode};
use tokio::time::Instant;

use super::health::Asked;
use super::{Bucket, Pace, Trouble};
use crate::oci::{Digest, Span, Verifier};

/// What is looked for, and need not be there.
const KEY: &str = "probe/present";
const LONGEST: u64 = 64;
/// What is written to see whether it is taken.
const TRIED: &[u8] = b"{}";
/// So much of what it has is read while all is well, in bytes.
const LITTLE: u64 = 4 << 10;

impl Bucket {
    /// Looks at it; with `at_content` also at what it has, which is always looked at when it is time to see whether
    /// content comes again.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn look(&self, at_content: bool) -> Result<(), Trouble> {
        let looked = self.look_at_all(at_content).await;
        self.health.saw(&looked);
        looked.and(self.look_at_writes().await)
    }

    /// Whether the object under this digest is that blob, read anew and whole; `None` where there is none. What has another
    /// `size` in bytes, where that is known, is not.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn is_right(&self, digest: &Digest, size: Option<u64>) -> Result<Option<bool>, Trouble> {
        let Some(found) = self.sized(digest).await? else { return Ok(None) };
        if size.is_some_and(|size| size != found) {
            return Ok(Some(false));
        }
        // Nothing of that digest has a size of which nothing is given.
        let Some(mut reading) = self.blob(digest, Span::from(0), Pace::Any).await? else { return Ok(Some(false)) };
        let mut verifier = Verifier::new(digest.algorithm());
        while let Some(bytes) = reading.body.next().await {
            verifier.update(&bytes?);
        }
        Ok(Some(verifier.finish() == *digest))
    }

    async fn look_at_all(&self, at_content: bool) -> Result<(), Trouble> {
        let path = self.path(KEY)?;
        self.patiently(Asked::Names, self.object(&path, KEY, LONGEST)).await?;
        let is_due = |asked| {
            let breaker = self.health.of(asked);
            if breaker.is_closed() { at_content } else { breaker.waits().is_zero() }
        };
        let content = is_due(Asked::Sizes) || is_due(Asked::Content);
        if !content {
            return Ok(());
        }
        self.look_at_content().await.inspect_err(|_| self.health.missed())
    }

    /// Whether it takes again what is written, where it did not: nobody else tries that in front of a reader.
    async fn look_at_writes(&self) -> Result<(), Trouble> {
        let is_due = |asked| {
            let breaker = self.health.of(asked);
            !breaker.is_closed() && breaker.waits().is_zero()
        };
        let tried = async |asked, key: String| {
            let path = self.path(&key)?;
            let bytes = Bytes::from_static(TRIED);
            if asked == Asked::Writes {
                let put = self.store.put(&path, bytes.into());
                self.written(TRIED.len() as u64, self.patience, put).await?;
            } else {
                let put = self.store.put_opts(&path, bytes.into(), PutMode::Create.into());
                self.patiently(asked, put).await?;
            }
            // What stays is no lease, and goes with those that are void.
            let _ = tokio::time::timeout(self.patience, self.remove(&key)).await;
            Ok(())
        };
        let name = format!("{:064x}", rand::random::<u128>());
        if is_due(Asked::Writes) {
            tried(Asked::Writes, format!("probe/{name}")).await?;
        }
        if self.takes_writes() && is_due(Asked::Leases) {
            tried(Asked::Leases, format!("fills/sha256/{name}/1")).await?;
        }
        Ok(())
    }

    async fn look_at_content(&self) -> Result<(), Trouble> {
        let Some(digest) = self.health.sample() else { return Ok(()) };
        let gone = || {
            if self.health.has_not(&digest) {
                self.is_back(Asked::Content);
            }
        };
        if self.sized(&digest).await?.is_none() {
            gone();
            return Ok(());
        }
        let end = self.health.of(Asked::Content).wants().max(LITTLE);
        let began = Instant::now();
        let Some(mut reading) = self.begun(&digest, Span { start: 0, end: Some(end) }, Pace::Helps).await? else {
            gone();
            return Ok(());
        };
        let (mut came, is_late) = (0, self.is_late(began));
        while let Some(bytes) = reading.body.next().await {
            came += bytes?.len() as u64;
        }
        // All of it came, and there is no more.
        if came >= reading.size && !is_late {
            if self.health.is_told_by(&digest) {
                self.is_back(Asked::Content);
            } else {
                self.health.came_whole(came);
            }
        }
        Ok(())
    }
}
