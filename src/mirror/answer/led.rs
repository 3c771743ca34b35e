//! What a tag leads to, as far as it is known here: for those who may read a tag and nothing else of a repository.

use crate::clock::Timestamp;
use crate::graph::image::{Platforms, parts};
use crate::metadata::{Location, MetadataError, TagKey, TagRecord};
use crate::mirror::Mirror;
use crate::mirror::answer::looked::Turn;
use crate::mirror::answer::tags::PATIENCE;
use crate::mirror::error::MirrorError;
use crate::oci::{Descriptor, Digest, Tag};

impl Mirror {
    /// The first of `tags` that leads to this content, as its manifest, or as something below that, and that manifest.
    /// Nobody is asked. What a client was given of them a moment ago, and is still being written, is waited for.
    pub async fn tag_that_leads(&self, location: &Location, tags: Vec<Tag>, digest: Digest) -> Option<(Tag, Digest)> {
        let answers = &self.0.answers.tags;
        let told = tags.iter().filter_map(|tag| Some((tag.clone(), answers.heads.points(location, tag, &digest)?)));
        if let Some(tag) = self.first_that_stayed(location, told.collect(), digest).await {
            return Some((tag, digest));
        }
        let known = self.tag_that_is_known_to_lead(location, tags.clone(), digest).await;
        if known.is_some() {
            return known;
        }
        let same = |other: &TagKey| other.location == *location && tags.contains(&other.tag);
        answers.flights.landed(same, PATIENCE).await;
        self.0.fills.writing.over(Some(location)).await;
        self.tag_that_is_known_to_lead(location, tags, digest).await
    }

    /// The first of these tags, told to point at this manifest at these times, that was not seen to move since.
    async fn first_that_stayed(
        &self,
        location: &Location,
        told: Vec<(Tag, Timestamp)>,
        manifest: Digest,
    ) -> Option<Tag> {
        if told.is_empty() {
            return None;
        }
        let at = location.clone();
        let stayed = self.0.graph.ask(move |graph| {
            for (tag, told_at) in told {
                let records = graph.metadata().tag_records(&at, &tag)?;
                let moved = |record: &TagRecord| record.descriptor.digest != manifest && record.since >= told_at;
                if !records.iter().any(|(_, record)| moved(record)) {
                    return Ok(Some(tag));
                }
            }
            Ok(None)
        });
        stayed.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "not known whether a tag has moved, so nothing is given by it");
            None
        })
    }

    /// The first of these tags whose manifest leads to this content, wherever the tag itself leads now.
    pub async fn tag_that_led(&self, location: &Location, led: Vec<(Tag, Digest)>, digest: Digest) -> Option<Tag> {
        if let Some((tag, _)) = led.iter().find(|(_, manifest)| *manifest == digest) {
            return Some(tag.clone());
        }
        let at = location.clone();
        let named = self.0.graph.ask(move |graph| {
            let there = |(tag, manifest)| Some((tag, graph.member(&at, &manifest)?));
            Ok(led.into_iter().filter_map(there).collect())
        });
        self.first_that_leads(location, named, digest).await.map(|(tag, _)| tag)
    }

    async fn tag_that_is_known_to_lead(
        &self,
        location: &Location,
        tags: Vec<Tag>,
        digest: Digest,
    ) -> Option<(Tag, Digest)> {
        let at = location.clone();
        let named = self.0.graph.ask(move |graph| {
            let mut named = Vec::new();
            for tag in tags {
                let records = graph.metadata().tag_records(&at, &tag)?.into_iter();
                let mut manifests: Vec<_> = records.map(|(_, record)| record.descriptor).collect();
                let frozen = graph.metadata().frozen(&at, &tag)?;
                manifests.extend(frozen.and_then(|frozen| graph.member(&at, &frozen)));
                named.extend(manifests.into_iter().map(|manifest| (tag.clone(), manifest)));
            }
            Ok(named)
        });
        self.first_that_leads(location, named, digest).await
    }

    async fn first_that_leads(
        &self,
        location: &Location,
        named: impl Future<Output = Result<Vec<(Tag, Descriptor)>, MetadataError>>,
        digest: Digest,
    ) -> Option<(Tag, Digest)> {
        let led = async {
            for (tag, manifest) in named.await.map_err(|error| MirrorError::Internal(error.to_string()))? {
                let root = manifest.digest;
                if self.leads(location, manifest, digest).await? {
                    return Ok(Some((tag, root)));
                }
            }
            Ok(None)
        };
        led.await.unwrap_or_else(|error: MirrorError| {
            tracing::warn!(%error, "not known what a tag leads to, so nothing is given by it");
            None
        })
    }

    async fn leads(&self, location: &Location, manifest: Descriptor, digest: Digest) -> Result<bool, MirrorError> {
        let looked = &self.0.answers.leading;
        let look = match looked.turn(self, &manifest, (location.clone(), [manifest.digest, digest])).await? {
            Turn::Seen(seen) => return Ok(seen),
            Turn::Look(look) => look,
        };
        let within = location.clone();
        let leads = self.0.graph.look(&look.place, move |graph| {
            let image = graph.image(Some(&within), manifest);
            Ok(parts(&image, &Platforms::All).iter().any(|part| part.digest == digest))
        });
        let leads = leads.await.map_err(|error| MirrorError::Internal(error.to_string()))?;
        looked.saw(look, leads);
        Ok(leads)
    }
}
