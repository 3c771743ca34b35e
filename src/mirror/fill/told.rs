//! How large a blob is, as far as that is known before upstream is asked for it: from memory, or else from what is
//! stored of its repository.

use std::sync::Arc;
use std::time::Duration;

use crate::metadata::Location;
use crate::mirror::fill::Fills;
use crate::mirror::flight::early::Early;
use crate::mirror::recall::sizes::LONGEST;
use crate::oci::manifest::is_manifest;
use crate::oci::{Digest, Manifest};

/// So many manifests of a repository are read at most, and so many bytes of them.
const MOST_MANIFESTS: usize = 1000;
const MOST_BYTES: u64 = 16 << 20;
/// No fill waits longer for it.
const PATIENCE: Duration = Duration::from_secs(1);

impl Fills {
    /// How large a blob is, and what may be handed out of it before it is verified. `None` where nothing that is stored
    /// tells.
    pub(crate) async fn early_of(self: &Arc<Fills>, location: &Location, digest: Digest) -> Option<Arc<Early>> {
        let key = (location.clone(), digest);
        if let Some(known) = self.sizes.of(&key) {
            return Some(known);
        }
        if let Some(size) = self.stored.proven_size(location, &digest) {
            return Some(self.sizes.is(key, size));
        }
        if !self.sizes.were_read(location) {
            let (fills, of) = (Arc::clone(self), location.clone());
            let read = || async move { fills.read_manifests(&of).await };
            self.reading.share(&self.tasks, location.clone(), Some(PATIENCE), read).await;
        }
        self.sizes.of(&key)
    }

    /// Takes note of what the stored manifests of a repository say.
    async fn read_manifests(&self, location: &Location) {
        let (of, mut left) = (location.clone(), MOST_BYTES);
        let members = self.stored.records.with(move |metadata| metadata.members(Some(&of))).await.unwrap_or_default();
        let manifests = members.into_iter().map(|(_, member)| member).filter(|member| is_manifest(&member.media_type));
        for descriptor in manifests.take(MOST_MANIFESTS) {
            let Some(content) = self.stored.blobs.open(&descriptor.digest).await else { continue };
            if content.size > LONGEST {
                continue;
            }
            let Some(rest) = left.checked_sub(content.size) else { break };
            left = rest;
            if let Some(bytes) = self.stored.verified(&descriptor.digest, &content).await {
                self.sizes.told(location, &Manifest { descriptor, bytes });
            }
        }
        self.sizes.are_read(location);
    }
}
