//! What a tag leads to: for those who may read a tag and nothing else of a repository.
//!
//! First as far as it is known here and was asked for lately; where that is not enough the tag is asked for, as if by
//! GET, and for whom what was told a while ago is not fresh: he names a digest, and would be refused what the tag leads
//! to now. Truth: what is refused was looked for in the same way whether it is stored or not, and how often upstream is
//! asked for it has a bound, whatever is asked for.

mod asked;
pub mod below;
mod pointers;
pub(super) mod questions;

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::graph::image::{Platforms, parts};
use crate::metadata::{Location, MetadataError, TagKey, TagRecord};
use crate::mirror::Mirror;
use crate::mirror::answer::looked::Turn;
use crate::mirror::answer::tags::PATIENCE;
use crate::mirror::error::MirrorError;
use crate::oci::{Descriptor, Digest, Tag};

use pointers::{Pointer, compared};
use questions::Questions;

/// What somebody is told that a tag leads to.
#[derive(Clone, Copy, Debug)]
struct Told {
    manifest: Digest,
    /// Whether that stands in for what upstream did not say.
    is_stale: bool,
}

impl Mirror {
    /// The first of `tags` that leads to this content, as its manifest, or as something below that, and that manifest;
    /// as far as the tag was asked for lately. Nobody is asked. What a client was given of them a moment ago, and is still being written, is waited for.
    pub async fn tag_that_leads(&self, location: &Location, tags: Vec<Tag>, digest: Digest) -> Option<(Tag, Digest)> {
        let answers = &self.0.answers.tags;
        let heads = &answers.heads;
        let told = tags.iter().filter_map(|tag| {
            let told_at = heads.points(location, tag, &digest)?;
            let is_last = heads.last(location, tag).is_none_or(|(last, at)| last == digest || at <= told_at);
            (is_last && answers.is_recent(told_at, Questions::LATELY)).then(|| (tag.clone(), told_at))
        });
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
        let led = async {
            let pointers = self.pointers(location, tags).await;
            for (tag, pointer) in pointers.map_err(|error| MirrorError::Internal(error.to_string()))? {
                let (root, manifest) = (pointer.manifest.digest, pointer.manifest.clone());
                let may = pointer.is_known && self.leads(location, manifest, digest).await?;
                if may && self.is_current(location, &pointer).await? {
                    return Ok(Some((tag, root)));
                }
            }
            Ok(None)
        };
        led.await.unwrap_or_else(not_known)
    }

    /// The pointers of these tags, and what they are frozen to.
    async fn pointers(&self, location: &Location, tags: Vec<Tag>) -> Result<Vec<(Tag, Pointer)>, MetadataError> {
        let (at, heads) = (location.clone(), Arc::clone(&self.0.answers.tags.heads));
        let (all, now) = (Arc::clone(&self.0.answers.tags), self.0.fills.stored.shared());
        let now = now.and_then(|shared| shared.bucket.time());
        let named = self.0.graph.ask(move |graph| {
            let mut named = Vec::new();
            for tag in tags {
                let records = graph.metadata().tag_records(&at, &tag)?;
                let frozen = graph.metadata().frozen(&at, &tag)?;
                let head = heads.last(&at, &tag);
                let told_at = records.iter().map(|(_, record)| record.checked_at).chain(head.map(|(_, at)| at)).max();
                let is_known = told_at.is_some_and(|at| all.is_recent(at, Questions::LATELY));
                let mut pointers = compared(&records, head, now);
                pointers.iter_mut().for_each(|pointer| pointer.is_known = is_known);
                pointers.extend(frozen.and_then(|frozen| graph.member(&at, &frozen)).map(Pointer::fixed));
                named.extend(pointers.into_iter().map(|pointer| (tag.clone(), pointer)));
            }
            Ok(named)
        });
        named.await
    }

    /// Whether it may be what the registry says now: nothing else was told since, or nothing but what it names.
    async fn is_current(&self, location: &Location, pointer: &Pointer) -> Result<bool, MirrorError> {
        for told in &pointer.told_since {
            if !pointer.may_be_above() || !self.leads(location, pointer.manifest.clone(), *told).await? {
                return Ok(false);
            }
        }
        Ok(true)
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
        led.await.unwrap_or_else(not_known)
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

fn not_known<T>(error: MirrorError) -> Option<T> {
    tracing::warn!(%error, "not known what a tag leads to, so nothing is given by it");
    None
}
