//! What operators say of images: kept whatever happens, frozen, forgotten. With a bucket it is told there first, and
//! not done where that fails: what an operator asks for is for all replicas.

use std::collections::HashSet;

use tokio::sync::mpsc;

use super::{Catalog, CatalogError, Forgotten, Found, fittest};
use crate::blob_store::key_of;
use crate::documents::Changed;
use crate::graph::image::{self, Platforms};
use crate::metadata::{FrozenTag, MetadataError, Pin, TagKey, names};
use crate::mirror::Mirror;
use crate::mirror::images::prefetch;
use crate::oci::{AcceptSet, Descriptor, Digest, ImageName, Reference};
use crate::owed::Quiet;
use crate::tier::Trouble;

impl Mirror {
    /// Keeps an image whatever happens, also one that is fetched later; whether it can be pulled without a
    /// network now, for some platform.
    ///
    /// # Errors
    /// [`CatalogError::Route`], [`CatalogError::Metadata`] and [`CatalogError::NotKept`].
    pub async fn pin(&self, name: &ImageName) -> Result<bool, CatalogError> {
        let pin = self.pin_of(name)?;
        let there = self.behind(&pin).await;
        let _told = self.tell(names::pin(&pin), serde_json::to_vec(&pin.to_string()).ok()).await?;
        let kept = pin.clone();
        let pinned = self.0.graph.ask(move |graph| {
            graph.metadata().pin(&pin)?;
            let found = Catalog::of(graph)?.named(&pin)?;
            Ok(found.is_some_and(|Found { image, lacking, .. }| image::is_pullable(&image, &lacking)))
        });
        let is_pullable = pinned.await?;
        self.keep_there(name, kept, &there).await?;
        Ok(is_pullable)
    }

    /// Undoes [`Mirror::pin`]; whether it was pinned.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub async fn unpin(&self, name: &ImageName) -> Result<bool, CatalogError> {
        let pin = self.pin_of(name)?;
        let told = self.tell(names::pin(&pin), None).await?;
        Ok(self.0.graph.ask(move |graph| graph.metadata().unpin(&pin)).await? || told.is_some_and(|(known, _)| known))
    }

    /// Answers a tag with one manifest until it is unfrozen: `to`, which is fetched if it is not stored, or what
    /// it has now.
    ///
    /// # Errors
    /// [`CatalogError::NotATag`], [`CatalogError::Unknown`] when it is not known what it has, and
    /// [`CatalogError::NotToBeHad`] and [`CatalogError::NotKept`].
    pub async fn freeze(&self, name: &ImageName, to: Option<Digest>) -> Result<Digest, CatalogError> {
        let (location, tag) = self.tag_of(name)?;
        if let Some(digest) = to {
            let image = ImageName { reference: Reference::Digest(digest), ..name.clone() };
            let there = self.manifest(&self.route_of(&image)?, &image.reference, AcceptSet::everything()).await;
            there.map_err(|error| CatalogError::NotToBeHad {
                image: image.to_string(),
                tag: tag.clone(),
                failure: prefetch::failure(&error),
                reason: error.to_string(),
            })?;
            // It is there before a tag stands for it.
            self.written().await;
        }
        if let Some(shared) = self.0.fills.stored.shared().filter(|_| to.is_none()) {
            let (location, tag) = (location.clone(), tag.clone());
            shared.recall_tag(&TagKey { location, tag, accept: AcceptSet::everything() }).await;
        }
        let (at, of) = (location.clone(), tag.clone());
        let known = self.0.graph.ask(move |graph| Ok(fittest(graph, &at, &of)?.map(|record| record.descriptor.digest)));
        let digest = match to {
            Some(digest) => digest,
            None => known.await?.ok_or_else(|| CatalogError::Unknown(name.to_string()))?,
        };
        let reference = Reference::Digest(digest);
        let there = self.behind(&Pin { location: location.clone(), reference }).await;
        let _told = self.tell(names::frozen(&location, &tag), serde_json::to_vec(&digest).ok()).await?;
        tracing::info!(%location, %tag, %digest, "tag frozen");
        let kept = Pin { location: location.clone(), reference: Reference::Tag(tag.clone()) };
        let frozen = FrozenTag { location, tag, digest };
        self.0.graph.ask(move |graph| graph.metadata().freeze(&frozen)).await?;
        self.keep_there(name, kept, &there).await?;
        Ok(digest)
    }

    /// What is to be kept stays in the bucket, with all that it leads to, also where it was about to leave. What a collector
    /// took before it could see that, of what was `there`, is fetched and goes up again.
    async fn keep_there(&self, name: &ImageName, kept: Pin, there: &HashSet<Digest>) -> Result<(), CatalogError> {
        let Some(shared) = self.0.fills.stored.shared() else { return Ok(()) };
        let listed = self.0.graph.ask(move |graph| {
            let found = Catalog::of(graph)?.named(&kept)?;
            let location = &kept.location;
            let mut listed = Vec::new();
            if let Reference::Tag(tag) = &kept.reference {
                for (accept, _) in graph.metadata().tag_records(location, tag)? {
                    listed.push(names::tag(&TagKey { location: location.clone(), tag: tag.clone(), accept }));
                }
                listed.push(names::history(location, tag));
            }
            let all = found.iter().flat_map(|found| image::parts(&found.image, &Platforms::All));
            let all: Vec<Descriptor> = all.cloned().collect();
            for Descriptor { digest, .. } in &all {
                listed.extend([names::member(location, digest), key_of(digest)]);
            }
            Ok((listed, all))
        });
        let (listed, mut all) = listed.await?;
        shared.keep(&listed);
        let not_kept = |reason: String| CatalogError::NotKept { image: name.to_string(), reason };
        let digests: Vec<_> = all.iter().map(|part| part.digest).collect();
        let absent = shared.saved(&listed, &digests).await.map_err(|trouble| not_kept(trouble.to_string()))?;
        all.retain(|part| absent.contains(&part.digest) && there.contains(&part.digest));
        let (route, (events, _)) = (self.route_of(name)?, mpsc::channel(1));
        for part in all {
            let fetched = self.fetch_blob(route.clone(), part, events.clone()).await;
            fetched.map_err(|(_, _, reason)| not_kept(reason))?;
        }
        Ok(())
    }

    /// Undoes [`Mirror::freeze`]; whether it was frozen.
    ///
    /// # Errors
    /// [`CatalogError::NotATag`], [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub async fn unfreeze(&self, name: &ImageName) -> Result<bool, CatalogError> {
        let (location, tag) = self.tag_of(name)?;
        let told = self.tell(names::frozen(&location, &tag), None).await?;
        let unfrozen = self.0.graph.ask(move |graph| {
            let was_frozen = graph.metadata().unfreeze(&location, &tag)?;
            if was_frozen {
                tracing::info!(%location, %tag, "tag unfrozen");
            }
            Ok(was_frozen)
        });
        Ok(unfrozen.await? || told.is_some_and(|(known, _)| known))
    }

    /// Forgets an image: its name, its pin, that its repository has what no other tag of the
    /// repository needs, and the lists that name it. The bytes go with the next `gc`; the history stays. Whether it was
    /// known, and what of it an operator had said.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub async fn forget(&self, name: &ImageName) -> Result<Changed, CatalogError> {
        let pin = self.pin_of(name)?;
        // What is only there is known here first, with all that belongs to it.
        self.behind(&pin).await;
        let stored = &self.0.fills.stored;
        let told = match stored.shared() {
            Some(shared) => Some(shared.tell_forgotten(&pin).await.map_err(untold)?),
            None => None,
        };
        let location = pin.location.clone();
        // Also of what does not count any more.
        let forgotten = self.0.room.graph.ask(move |graph| Catalog::of(graph)?.forget(&pin));
        let Forgotten { was_pinned, was_frozen, gone } = forgotten.await?;
        for digest in gone.iter().flatten() {
            stored.no_longer(|| names::member(&location, digest));
        }
        let was_known = gone.is_some() || was_pinned || was_frozen || told.is_some_and(|(known, _)| known);
        if let Some(gone) = gone {
            self.0.answers.lists.forget(&location, &gone);
            tracing::info!(image = %name, "forgotten");
        }
        Ok(Changed { unpinned: Some(was_pinned), unfrozen: Some(was_frozen), ..Changed::of(name, was_known) })
    }

    /// What an operator asks for is for all replicas: told first, or not done. Whether they knew of it.
    async fn tell(&self, name: String, record: Option<Vec<u8>>) -> Result<Option<(bool, Quiet)>, MetadataError> {
        match self.0.fills.stored.shared() {
            Some(shared) => shared.tell(&name, record).await.map(Some).map_err(untold),
            None => Ok(None),
        }
    }
}

fn untold(trouble: Trouble) -> MetadataError {
    MetadataError::new("telling the other replicas; nothing was changed, try it again later", trouble)
}
