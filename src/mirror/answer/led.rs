//! What a tag leads to: for those who may read a tag and nothing else of a repository.
//!
//! First as far as it is known here; where that is not enough the tag is asked for, as if by GET, and for whom what was
//! told a while ago is not fresh: he names a digest, and would be refused what the tag leads to now. Truth: what is
//! refused was looked for in the same way whether it is stored or not, and how often upstream is asked for it has a
//! bound, whatever is asked for.

mod pointers;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::Timestamp;
use crate::graph::image::{Platforms, parts};
use crate::metadata::{Location, MetadataError, TagKey, TagRecord};
use crate::mirror::Mirror;
use crate::mirror::answer::looked::Turn;
use crate::mirror::answer::tags::PATIENCE;
use crate::mirror::error::MirrorError;
use crate::mirror::recall::sizes::LONGEST;
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest, Reference, Tag};

use pointers::{Pointer, compared};

/// So many tags are asked for, for one who may read nothing else.
const MOST_TAGS: usize = 8;
/// So many manifests are looked into for each of them: an index may name many.
const MOST_MANIFESTS: usize = 32;
/// For so many kinds of clients the tag is asked for once more, where something else was told since.
const MOST_DOUBTFUL: usize = 4;
/// How long all that may take.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// Tags that were asked for in vain.
pub(super) struct InVain(Cache<(Location, Tag), Timestamp>);

impl InVain {
    const MOST: u64 = 10_000;
    /// For so long such a tag is not asked for again, whatever it is to lead to, and what it leads to counts as known.
    const LATELY: Duration = Duration::from_secs(5);

    pub(super) fn new() -> InVain {
        InVain(Cache::new(InVain::MOST))
    }

    pub(super) fn table(&self) -> (&'static str, u64) {
        ("led_in_vain", self.0.entry_count())
    }

    fn has(&self, tag: &(Location, Tag), now: Timestamp) -> bool {
        self.0.get(tag).and_then(|at| at.age(now)).is_some_and(|age| age < InVain::LATELY)
    }

    fn add(&self, tag: (Location, Tag), now: Timestamp) {
        self.0.insert(tag, now);
    }
}

impl Mirror {
    /// The first of `tags` that leads to this content, as its manifest, or as something below that, and that manifest.
    /// Nobody is asked. What a client was given of them a moment ago, and is still being written, is waited for.
    pub async fn tag_that_leads(&self, location: &Location, tags: Vec<Tag>, digest: Digest) -> Option<(Tag, Digest)> {
        let answers = &self.0.answers.tags;
        let heads = &answers.heads;
        let told = tags.iter().filter_map(|tag| {
            let told_at = heads.points(location, tag, &digest)?;
            let is_last = heads.last(location, tag).is_none_or(|(last, at)| last == digest || at <= told_at);
            is_last.then(|| (tag.clone(), told_at))
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

    /// The first tag that turns out to lead to this content, and its manifest, when each is asked for by its way in, as
    /// by GET: for a pull of which only a part comes here, or that begins with a digest. Fewer are asked for than
    /// there may be, and none that was asked for in vain a moment ago.
    ///
    /// # Errors
    /// [`MirrorError::TooMany`], to whoever asked too much.
    pub async fn tag_that_turns_out_to_lead(
        &self,
        ways: Vec<(Tag, Route)>,
        digest: Digest,
    ) -> Result<Option<(Tag, Digest)>, MirrorError> {
        let asked = async {
            for (tag, route) in ways.into_iter().take(MOST_TAGS) {
                if let Some(manifest) = self.turns_out_to_lead(&route, &tag, digest).await? {
                    return Ok(Some((tag, manifest)));
                }
            }
            Ok(None)
        };
        tokio::time::timeout(LONG_ENOUGH, asked).await.unwrap_or(Ok(None))
    }

    async fn turns_out_to_lead(&self, route: &Route, tag: &Tag, digest: Digest) -> Result<Option<Digest>, MirrorError> {
        let (answers, of) = (&self.0.answers, (route.location.clone(), tag.clone()));
        if answers.led_in_vain.has(&of, answers.tags.clock.now()) {
            return Ok(None);
        }
        answers.tags.renew_all(route, tag).await;
        let (route, location) = (&route.clone().checked_within(InVain::LATELY), &of.0);
        let told = self.told(route, tag, AcceptSet::everything()).await?;
        // What clients who accept other types were told is what it leads to, too, as long as it may be what they are told now.
        let (mut roots, mut doubtful) = (Vec::from_iter(told), Vec::new());
        for (_, pointer) in self.pointers(location, vec![tag.clone()]).await.unwrap_or_default() {
            if self.is_current(location, &pointer).await? {
                roots.push(pointer.manifest.digest);
            } else if self.leads(location, pointer.manifest, digest).await? {
                doubtful.push(pointer.accept);
            }
        }
        let (mut seen, mut left) = (HashSet::new(), MOST_MANIFESTS);
        for root in roots {
            if seen.insert(root) && self.leads_down(route, root, digest, (&mut seen, &mut left)).await? {
                return Ok(Some(root));
            }
        }
        doubtful.extend(answers.tags.heads.told_to(location, tag, &digest));
        for accept in doubtful.into_iter().take(MOST_DOUBTFUL) {
            let Some(root) = self.told(route, tag, accept).await? else { continue };
            if seen.insert(root) && self.leads_down(route, root, digest, (&mut seen, &mut left)).await? {
                return Ok(Some(root));
            }
        }
        answers.led_in_vain.add(of, answers.tags.clock.now());
        Ok(None)
    }

    /// What a tag leads to for clients that accept these types, as they are told it.
    async fn told(&self, route: &Route, tag: &Tag, accept: AcceptSet) -> Result<Option<Digest>, MirrorError> {
        match self.manifest(route, &Reference::Tag(tag.clone()), accept).await {
            Ok(answer) => Ok(Some(answer.manifest.descriptor.digest)),
            Err(error @ MirrorError::TooMany(_)) => Err(error),
            Err(error) => {
                tracing::debug!(location = %route.location, %tag, %error, "not told what a tag leads to");
                Ok(None)
            }
        }
    }

    /// Whether a manifest leads to this content, as it is or by what it names; those that are not here are fetched.
    async fn leads_down(
        &self,
        route: &Route,
        root: Digest,
        digest: Digest,
        (seen, left): (&mut HashSet<Digest>, &mut usize),
    ) -> Result<bool, MirrorError> {
        let (manifests, mut next) = (&self.0.answers.tags.manifests, VecDeque::from([root]));
        while let Some(at) = next.pop_front() {
            if at == digest {
                return Ok(true);
            }
            let Some(fewer) = left.checked_sub(1) else { return Ok(false) };
            *left = fewer;
            let manifest = match Box::pin(manifests.by_digest(route, at, &AcceptSet::everything())).await {
                Ok((manifest, _)) => manifest,
                Err(error @ MirrorError::TooMany(_)) => return Err(error),
                Err(_) => continue,
            };
            let Manifest { descriptor, .. } = &*manifest;
            if descriptor.size > LONGEST {
                // It is looked into in its turn, where it lies.
                self.0.fills.writing.over(Some(&route.location)).await;
                if self.leads(&route.location, descriptor.clone(), digest).await? {
                    return Ok(true);
                }
                continue;
            }
            let children = manifest.children();
            if children.blobs.iter().any(|blob| blob.digest == digest) {
                return Ok(true);
            }
            let below: Vec<_> = children.manifests.into_iter().map(|(manifest, _)| manifest.digest).collect();
            if below.contains(&digest) {
                return Ok(true);
            }
            next.extend(below.into_iter().filter(|manifest| seen.insert(*manifest)));
        }
        Ok(false)
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
                if self.leads(location, manifest, digest).await? && self.is_current(location, &pointer).await? {
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
        let now = self.0.fills.stored.shared().and_then(|shared| shared.bucket.time());
        let named = self.0.graph.ask(move |graph| {
            let mut named = Vec::new();
            for tag in tags {
                let records = graph.metadata().tag_records(&at, &tag)?;
                let frozen = graph.metadata().frozen(&at, &tag)?;
                let mut pointers = compared(&records, heads.last(&at, &tag), now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_asked_for_in_vain_is_left_alone_for_a_while_and_so_many_are_remembered() {
        let (in_vain, start) = (InVain::new(), Timestamp(1_000_000));
        let tag = |n: u64| {
            let location =
                Location { upstream: "a.example".parse().expect("valid"), repository: "app".parse().expect("valid") };
            (location, format!("t{n}").parse::<Tag>().expect("a tag"))
        };
        in_vain.add(tag(0), start);
        let later = |millis| Timestamp(start.0 + millis);
        assert!(in_vain.has(&tag(0), later(4_999)) && !in_vain.has(&tag(0), later(5_000)));
        assert!(!in_vain.has(&tag(1), start));
        for n in 0..2 * InVain::MOST {
            in_vain.add(tag(n), start);
        }
        in_vain.0.run_pending_tasks();
        assert_eq!(in_vain.table(), ("led_in_vain", InVain::MOST));
    }
}
