//! A look at the bucket for which nobody waits: whether it answers, and gives content that it has. It tells those who ask
//! how the bucket is while no client does, and is what ends it where it was left alone.

use futures_util::StreamExt as _;

use super::health::Asked;
use super::{Bucket, Pace, Trouble};
use crate::oci::Span;

/// What is looked for, and need not be there.
const KEY: &str = "probe/present";
const LONGEST: u64 = 64;
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
        self.health.saw(looked.as_ref().err());
        looked
    }

    async fn look_at_all(&self, at_content: bool) -> Result<(), Trouble> {
        let path = self.path(KEY)?;
        self.patiently(Asked::Names, self.object(&path, KEY, LONGEST)).await?;
        let is_due = |asked| {
            let breaker = self.health.of(asked);
            if breaker.is_closed() { at_content } else { breaker.waits().is_zero() }
        };
        if is_due(Asked::Sizes) || is_due(Asked::Content) {
            self.look_at_content().await?;
        }
        Ok(())
    }

    async fn look_at_content(&self) -> Result<(), Trouble> {
        let Some(digest) = self.health.sample() else { return Ok(()) };
        let gone = || {
            self.health.has_not(&digest);
            self.is_back(Asked::Content);
        };
        if self.sized(&digest).await?.is_none() {
            gone();
            return Ok(());
        }
        let end = self.health.of(Asked::Content).wants().max(LITTLE);
        let Some(mut reading) = self.begun(&digest, Span { start: 0, end: Some(end) }, Pace::Helps).await? else {
            gone();
            return Ok(());
        };
        let mut came = 0;
        while let Some(bytes) = reading.body.next().await {
            came += bytes?.len() as u64;
        }
        // All of it came, and there is no more.
        if came >= reading.size {
            self.is_back(Asked::Content);
        }
        Ok(())
    }
}
