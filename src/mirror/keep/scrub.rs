//! Whether stored content still is what its digest says: on read, in the background, and what
//! happens when it is not.
//!
//! A commit syncs the file, renames it and syncs the folder, so what is visible is whole where the disk
//! keeps its word. What was stored shortly before an unclean stop, and not recorded durably, is hashed
//! before its first use all the same. Other damage is done later: by the disk, or behind our back. A blob
//! whose length is not the one of its membership is hashed before it is served, also when the index
//! was lost; with `verify_on_read` every blob is. Damaged content is taken out of sight at once, so
//! the next request fetches it again; the background scrub fetches it itself.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::blob_store::Content;
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::keep::making_room::is_manifest;
use crate::mirror::{Mirror, Route, Shared};
use crate::oci::{Digest, Verifier};

/// How many bytes are read at a time.
const PIECE: usize = 1 << 20;
/// How long after a start the scrub begins, and how long it pauses after each pass.
const PAUSE: Duration = Duration::from_secs(600);

/// How whoever sends a stored blob tells that it cannot be read: it is checked at once, and set aside
/// if that is so, so that the next request fetches it again.
#[derive(Clone)]
pub struct Complaint {
    shared: Weak<Shared>,
    digest: Digest,
    content: Content,
}

impl std::fmt::Debug for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Complaint").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Complaint {
    pub(in crate::mirror) fn new(shared: &Arc<Shared>, digest: Digest, content: &Content) -> Complaint {
        Complaint { shared: Arc::downgrade(shared), digest, content: content.clone() }
    }

    /// The blob could not be read to its end.
    pub fn raise(self) {
        let Some(shared) = self.shared.upgrade().filter(|_| Handle::try_current().is_ok()) else { return };
        let tasks = shared.tasks.clone();
        tasks.spawn(async move { shared.check(&self.digest, &self.content).await });
    }
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
        let mut blobs = match self.0.blobs.list().await {
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
            let Some(content) = self.0.blobs.open(&digest).await else { continue };
            if !self.0.check(&digest, &content).await {
                damaged += 1;
                let healed = self.0.clone().heal(&digest).await;
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

impl Shared {
    /// The content, if it may be served. `expected` is its size in bytes as upstream said it.
    pub(in crate::mirror) async fn trusted(
        &self,
        digest: &Digest,
        content: Content,
        expected: Option<u64>,
    ) -> Option<Content> {
        let unproven = self.blobs.is_unproven(digest);
        let odd = unproven || expected.is_some_and(|expected| expected != content.size);
        if !odd && (!self.trust.always || self.trust.lately.get(digest) == Some(content.size)) {
            return Some(content);
        }
        if !self.check(digest, &content).await {
            return None;
        }
        if unproven {
            self.blobs.vouch(digest);
        }
        self.trust.lately.insert(*digest, content.size);
        Some(content)
    }

    /// Hashes content. What is damaged is taken out of sight.
    pub(in crate::mirror) async fn check(&self, digest: &Digest, content: &Content) -> bool {
        self.metrics.checked(content.size);
        let reason = match hash(*digest, content.clone()).await {
            Ok(found) if found == *digest => return true,
            Ok(found) => format!("its bytes have the digest {found}"),
            Err(error) => format!("it cannot be read: {error}"),
        };
        self.metrics.damaged();
        match self.blobs.set_aside(digest, content).await {
            Ok(_) => tracing::error!(%digest, reason, "a stored blob is damaged and was set aside"),
            Err(error) => {
                tracing::error!(%digest, reason, %error, "a stored blob is damaged and could not be set aside");
            }
        }
        false
    }

    /// Fetches again what was set aside, from any repository that has it; whether it is there now.
    pub(in crate::mirror) async fn heal(self: Arc<Self>, digest: &Digest) -> bool {
        let metadata = Arc::clone(&self.metadata);
        let members = tokio::task::spawn_blocking(move || metadata.members()).await;
        let Ok(Ok(members)) = members else { return false };
        for (location, descriptor) in members.into_iter().filter(|(_, descriptor)| descriptor.digest == *digest) {
            let Some(upstream) = self.routes.upstream(&location.upstream) else { continue };
            if is_manifest(&descriptor.media_type) {
                let route = Route { location, upstream, namespace: None };
                // Kept, or only fetched: the store tells.
                let _ = self.fetch_manifest(&route, *digest).await;
            } else {
                let source = BlobSource { upstream, location, digest: *digest };
                let (mut following, _) = Arc::clone(&self).fly(source, None);
                while following.changed().await.is_ok() {}
            }
            if self.blobs.open(digest).await.is_some() {
                return true;
            }
        }
        false
    }
}

/// The digest that content has.
async fn hash(digest: Digest, content: Content) -> io::Result<Digest> {
    let read = move || {
        let mut verifier = Verifier::new(digest.algorithm());
        let mut offset = 0;
        while offset < content.size {
            let bytes = content.read_at(offset, PIECE)?;
            offset += bytes.len() as u64;
            verifier.update(&bytes);
        }
        Ok(verifier.finish())
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
