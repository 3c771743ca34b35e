//! What the bucket has of an image that somebody asks about: its names and manifests are taken over, as they are for a
//! client; of its content it is only looked whether it is there.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use crate::metadata::{Location, Pin, TagKey};
use crate::mirror::Mirror;
use crate::mirror::images::catalog::Catalog;
use crate::mirror::room::shared::Shared;
use crate::oci::manifest::Children;
use crate::oci::{AcceptSet, Digest, Reference};
use crate::tier::{Pace, Waited};

/// So many manifests of an image are followed, and so many blobs looked for.
const MOST: usize = 2_000;
const AT_ONCE: usize = 8;
/// How long somebody who asks waits for it; what is not known then is not there.
const DEADLINE: Duration = Duration::from_secs(10);

impl Mirror {
    /// What belongs to an image, is not stored, and can be had from the bucket.
    pub(crate) async fn behind(&self, pin: &Pin) -> HashSet<Digest> {
        let mut there = HashSet::new();
        if let Some(shared) = self.0.fills.stored.shared() {
            let looked = Box::pin(self.look_behind(shared, pin, &mut there));
            let _ = tokio::time::timeout(DEADLINE, looked).await;
        }
        there
    }

    async fn look_behind(&self, shared: &std::sync::Arc<Shared>, pin: &Pin, there: &mut HashSet<Digest>) {
        let location = &pin.location;
        if let Reference::Tag(tag) = &pin.reference {
            let key = TagKey { location: location.clone(), tag: tag.clone(), accept: AcceptSet::everything() };
            shared.recall_acts_of(location, tag).await;
            shared.recall_tag(&key).await;
            shared.recall_history(location, tag).await;
        }
        let name = pin.clone();
        let top = self.0.graph.ask(move |graph| Catalog::of(graph)?.stands_for(&name)).await;
        let (mut open, mut seen, mut blobs) = (Vec::from_iter(top.ok().flatten()), HashSet::new(), HashSet::new());
        while let Some(digest) = open.pop().filter(|_| seen.len() < MOST && blobs.len() < MOST) {
            if seen.insert(digest)
                && let Some(children) = self.children(location, digest).await
            {
                open.extend(children.manifests.into_iter().map(|(child, _)| child.digest));
                blobs.extend(children.blobs.into_iter().map(|blob| blob.digest));
            }
        }
        let stored = &self.0.fills.stored;
        let looks = blobs.into_iter().map(|digest| async move {
            if stored.has(location, &digest).await {
                return None;
            }
            let bucket = &stored.recall(location, &digest, &Waited::default()).await?.bucket;
            bucket.stat(&digest).await.ok()?.map(|_| digest)
        });
        let mut found = stream::iter(looks).buffer_unordered(AT_ONCE);
        while let Some(digest) = found.next().await {
            there.extend(digest);
        }
    }

    /// What a manifest leads to, which is stored, or comes from the bucket now.
    async fn children(&self, location: &Location, digest: Digest) -> Option<Children> {
        let stored = &self.0.fills.stored;
        if !stored.has(location, &digest).await {
            return Some(
                self.0.fills.manifest_in_bucket(location, &digest, (&Waited::default(), Pace::Any)).await?.children(),
            );
        }
        let (location, descriptor) = (location.clone(), stored.member(location, &digest)?.descriptor);
        let read = self.0.graph.ask(move |graph| Ok(graph.manifest(Some(&location), &descriptor).ok()));
        Some(read.await.ok()??.children())
    }
}
