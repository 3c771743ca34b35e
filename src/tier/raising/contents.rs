//! How content goes up, and what becomes of that which is not here any more.

use std::sync::Arc;

use super::super::Trouble;
use super::super::inventory::digest_of;
use super::{Raising, Went};
use crate::blob_store::{Flaw, key_of};
use crate::oci::Digest;
use crate::owed::Order;

impl Raising {
    pub(super) async fn blob(&self, name: &str, order: Order) -> Result<Went, Trouble> {
        let Some(digest) = digest_of(name) else { return Ok(Went::Up) };
        // Before it is looked whether it is there.
        self.bucket.spare(&digest).await?;
        if self.bucket.is_going(&key_of(&digest)).await? {
            return Ok(Went::Rests);
        }
        let _place = self.places.acquire().await;
        let Some(content) = self.blobs.open(&digest).await else { return self.unopened(&digest, order).await };
        if order != Order::Anew && self.bucket.stat(&digest).await? == Some(content.size) {
            return Ok(Went::Up);
        }
        let key = key_of(&digest);
        let begun = |id: &str| self.owed.upload_begun(&key, id);
        let sent = self.bucket.send(&digest, &content, begun).await;
        if let Some((_, id)) = self.owed.uploads().into_iter().find(|(of, _)| *of == key) {
            if sent.is_err() {
                self.bucket.abort(&key, &id).await?;
            }
            self.owed.upload_over(&key);
        }
        sent?;
        self.owed.put_right(&key);
        self.bucket.doubted().remove(&digest);
        self.metrics.bucket_got(content.size);
        Ok(Went::Up)
    }

    /// What was evicted meanwhile is fetched again by who wants it, and goes up then over what was found wrong. What is here
    /// and cannot be read is told of.
    async fn unopened(&self, digest: &Digest, order: Order) -> Result<Went, Trouble> {
        let (blobs, of) = (Arc::clone(&self.blobs), *digest);
        let Ok(Some(flaw)) = tokio::task::spawn_blocking(move || blobs.flaw(&of)).await else { return Ok(Went::Up) };
        if order == Order::Anew || self.bucket.stat(digest).await?.is_none() {
            match flaw {
                Flaw::Damaged(what) => return Err(Trouble::Unfit(what)),
                Flaw::Closed(why) => self.is_closed(&key_of(digest), why),
            }
        }
        Ok(Went::Up)
    }
}
