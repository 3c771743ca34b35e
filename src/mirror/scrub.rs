//! Whether stored content still is what its digest says: read in the background, and fetched again where
//! it is not. [`verify`] does the same for whoever waits for it. What is read by clients is looked at in
//! `room::stored`.

pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::mirror::Mirror;
use crate::mirror::fill::Fills;
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::routes::{Route, Routes};
use crate::oci::Digest;
use crate::oci::manifest::is_manifest;

/// How long after a start the scrub begins, and how long it pauses after each pass.
const PAUSE: Duration = Duration::from_secs(600);

/// What finds and replaces what is damaged.
pub(crate) struct Scrub {
    pub(super) routes: Routes,
    pub(super) fills: Arc<Fills>,
}

impl Mirror {
    /// Reads everything that is stored, over and over, at most `rate` bytes a second, and replaces
    /// what is damaged. Ends never; at once when `rate` is zero.
    pub async fn scrub(&self, rate: u64) {
        if rate == 0 {
            return;
        }
        loop {
            tokio::time::sleep(PAUSE).await;
            self.scrub_once(rate).await;
        }
    }

    /// One pass of [`Mirror::scrub`]; how many blobs were damaged. It begins where the last passes
    /// are unlikely to have come: a daemon that is stopped every night must not always check the same.
    pub async fn scrub_once(&self, rate: u64) -> u64 {
        let mut blobs = match self.0.stored.blobs.list().await {
            Ok(blobs) => blobs,
            Err(error) => {
                tracing::warn!(%error, "the blobs could not be listed to be checked");
                return 0;
            }
        };
        blobs.sort_unstable();
        let first = usize::try_from(self.0.clock.now().0).unwrap_or_default() % blobs.len().max(1);
        blobs.rotate_left(first);
        let (start, mut read, mut damaged) = (Instant::now(), 0_u64, 0);
        for (digest, size) in blobs {
            // Evicted since the list was made.
            let Some(content) = self.0.stored.blobs.open(&digest).await else { continue };
            if !self.0.stored.check(&digest, &content).await {
                damaged += 1;
                let healed = self.0.scrub.heal(digest).await;
                tracing::warn!(%digest, healed, "the scrub found a damaged blob");
            }
            read = read.saturating_add(size);
            if let Some(millis) = read.saturating_mul(1000).checked_div(rate) {
                tokio::time::sleep_until(start + Duration::from_millis(millis)).await;
            }
        }
        damaged
    }
}

impl Scrub {
    /// Fetches again what was set aside, from any repository that has it; whether it is there now.
    async fn heal(&self, digest: Digest) -> bool {
        let stored = &self.fills.stored;
        let Ok(members) = stored.records.with(|metadata| metadata.members()).await else { return false };
        for (location, descriptor) in members.into_iter().filter(|(_, descriptor)| descriptor.digest == digest) {
            let Some(upstream) = self.routes.upstream(&location.upstream) else { continue };
            if is_manifest(&descriptor.media_type) {
                let route = Route { location, upstream, namespace: None };
                // Kept, or only fetched: the store tells.
                let _ = self.fills.manifest(&route, digest).await;
            } else {
                let (mut following, _) = self.fills.fly(BlobSource { upstream, location, digest }, None);
                while following.changed().await.is_ok() {}
            }
            if stored.blobs.open(&digest).await.is_some() {
                return true;
            }
        }
        false
    }
}
