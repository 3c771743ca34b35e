//! What the mirror holds, by image: for people and scripts, never on the path of a pull.
//!
//! Lists images, and says what one consists of and what of it is stored. Looking does not count as using. What is
//! answered are documents.

mod acts;
pub(crate) mod why;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::clock::Timestamp;
use crate::documents::{
    self, Failure, History, HistoryEntry, ImageDetail, ImageSummary, Part, PlatformDetail, Readiness, State,
};
use crate::graph::image::{self, Completeness, Image, Lacking, Parts, Platforms};
use crate::graph::links::Known;
use crate::graph::{Graph, Lane, Unreadable};
use crate::metadata::{MetadataError, Pin, TagRecord};
use crate::mirror::{Location, Mirror, Route, RouteError, Wings};
use crate::oci::manifest::is_manifest;
use crate::oci::{Descriptor, Digest, ImageName, Platform, Reference, Tag};

/// Why the catalog could not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The image is from no upstream of ours.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Nothing of this name was ever pulled.
    #[error("{0} was never pulled through this mirror")]
    Unknown(String),
    /// Neither the store nor upstream has what the tag is to be frozen to.
    #[error("{image} cannot be had, so {tag} is not frozen to it: {reason}")]
    NotToBeHad {
        /// What.
        image: String,
        /// The tag.
        tag: Tag,
        /// Why.
        failure: Failure,
        /// The same for people.
        reason: String,
    },
    /// A part of what is to be kept left the bucket before that was known there, or may have, and cannot be fetched.
    #[error("{image} may not be kept whole: {reason}")]
    NotKept {
        /// What.
        image: String,
        /// Why.
        reason: String,
    },
    /// The command needs a tag.
    #[error("{0} names a digest, which never changes; a tag can be frozen and has a history")]
    NotATag(String),
    /// The disk failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl Mirror {
    /// Finds the upstream of an image as people name it.
    ///
    /// # Errors
    /// [`RouteError`]; nobody was asked.
    pub fn route_of(&self, image: &ImageName) -> Result<Route, RouteError> {
        self.0.routes.of_image(image)
    }

    /// Every image that has a tag, is pinned or is frozen, by name; also one that was never fetched.
    ///
    /// # Errors
    /// [`CatalogError::Metadata`].
    pub async fn images(&self) -> Result<Vec<ImageSummary>, CatalogError> {
        let Wings { graph, listing, .. } = &*self.0;
        let list = || async {
            let place = graph.place(Lane::People).await;
            graph.look(&place, |graph| Catalog::of(graph)?.images()).await
        };
        Ok(listing.share(list).await?.to_vec())
    }

    /// One image, looked at closely.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`] when nothing of that name is known.
    pub async fn inspect(&self, name: &ImageName) -> Result<ImageDetail, CatalogError> {
        let pin = self.pin_of(name)?;
        let unknown = CatalogError::Unknown(pin.to_string());
        let behind = self.behind(&pin).await;
        let place = self.0.graph.place(Lane::People).await;
        let found = self.0.graph.look(&place, move |graph| Catalog { behind, ..Catalog::of(graph)? }.inspect(&pin));
        found.await?.ok_or(unknown)
    }

    /// The digests of all that belongs to an image, as far as that is known.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`] when nothing of that name is known.
    pub async fn parts_of(&self, name: &ImageName) -> Result<Vec<Digest>, CatalogError> {
        let pin = self.pin_of(name)?;
        let unknown = CatalogError::Unknown(pin.to_string());
        let place = self.0.graph.place(Lane::People).await;
        let parts_of = move |graph: &Graph| Ok(Catalog::of(graph)?.named(&pin)?.map(|found| parts(&found)));
        let found = self.0.graph.look(&place, parts_of);
        found.await?.ok_or(unknown)
    }

    /// Whether an image can be pulled for these platforms without an upstream: from the store and the bucket.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`]; an unknown image is not ready.
    pub async fn readiness(&self, name: &ImageName, platforms: &Platforms) -> Result<Readiness, CatalogError> {
        let behind = self.behind(&self.pin_of(name)?).await;
        self.readiness_with(name, platforms, behind).await
    }

    /// The same with what is in the bucket.
    pub(super) async fn readiness_with(
        &self,
        name: &ImageName,
        platforms: &Platforms,
        behind: HashSet<Digest>,
    ) -> Result<Readiness, CatalogError> {
        let (pin, platforms, (policy, now)) = (self.pin_of(name)?, platforms.clone(), self.0.answers.rules());
        let may_stand_in = move |checked_at| policy.serves(checked_at, now) || policy.may_stand_in(checked_at, now);
        let ready =
            move |graph: &Graph| Catalog { behind, ..Catalog::of(graph)? }.readiness(&pin, &platforms, &may_stand_in);
        let place = self.0.graph.place(Lane::People).await;
        Ok(self.0.graph.look(&place, ready).await?)
    }

    /// Everything a tag was seen to have, oldest first.
    ///
    /// # Errors
    /// [`CatalogError::NotATag`], and [`CatalogError::Unknown`] when it was never seen.
    pub async fn history(&self, name: &ImageName) -> Result<History, CatalogError> {
        let (location, tag) = self.tag_of(name)?;
        if let Some(shared) = self.0.fills.stored.shared() {
            shared.recall_history(&location, &tag).await;
        }
        let history = self.0.graph.ask(move |graph| seen(graph, &location, &tag)).await?;
        let image = name.to_string();
        if history.is_empty() { Err(CatalogError::Unknown(image)) } else { Ok(History { image, history }) }
    }

    fn pin_of(&self, name: &ImageName) -> Result<Pin, CatalogError> {
        Ok(Pin { location: self.route_of(name)?.location, reference: name.reference.clone() })
    }

    fn tag_of(&self, name: &ImageName) -> Result<(Location, Tag), CatalogError> {
        match self.pin_of(name)? {
            Pin { location, reference: Reference::Tag(tag) } => Ok((location, tag)),
            Pin { .. } => Err(CatalogError::NotATag(name.to_string())),
        }
    }
}

/// What stands best for a tag, to whomever upstream said it.
fn fittest(graph: &Graph, location: &Location, tag: &Tag) -> Result<Option<TagRecord>, MetadataError> {
    let records = graph.metadata().tag_records(location, tag)?.into_iter().map(|(_, record)| record);
    let counts = records.map(|record| Ok(graph.points(location, &record)?.then_some(record)));
    let counting: Vec<_> = counts.filter_map(Result::transpose).collect::<Result<_, MetadataError>>()?;
    Ok(counting.into_iter().max_by_key(TagRecord::fitness))
}

fn seen(graph: &Graph, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>, MetadataError> {
    let seen = graph.metadata().history(location, tag)?.into_iter();
    Ok(seen.map(|entry| HistoryEntry { digest: entry.digest, seen_at: entry.at.into(), from: entry.from }).collect())
}

/// What there is to know before images are looked at, fetched once for a whole list. All of it blocks.
pub(super) struct Catalog<'g> {
    graph: &'g Graph,
    pins: HashSet<Pin>,
    frozen: HashMap<(Location, Tag), Digest>,
    used: HashMap<Digest, Timestamp>,
    /// What the bucket has and the store has not.
    behind: HashSet<Digest>,
}

/// An image as it is found under its name.
struct Found {
    image: Image,
    media_type: String,
    lacking: Lacking,
    record: Option<TagRecord>,
}

/// What was known of a name.
struct Forgotten {
    was_pinned: bool,
    was_frozen: bool,
    /// What its repository is no longer known to have, if the image was known.
    gone: Option<Vec<Digest>>,
}

impl<'g> Catalog<'g> {
    pub(super) fn of(graph: &'g Graph) -> Result<Catalog<'g>, MetadataError> {
        let metadata = graph.metadata();
        let frozen = metadata.frozen_tags()?.into_iter().map(|frozen| ((frozen.location, frozen.tag), frozen.digest));
        // Without an index it is not known when blobs were used: no reason not to list images.
        let blobs = metadata.blobs().unwrap_or_default();
        Ok(Catalog {
            graph,
            pins: metadata.pins()?.into_iter().collect(),
            frozen: frozen.collect(),
            used: blobs.into_iter().map(|(digest, record)| (digest, record.used_at)).collect(),
            behind: HashSet::new(),
        })
    }

    /// Every name that there is, with what is known of it.
    fn names(&self) -> Result<BTreeMap<Pin, Option<TagRecord>>, MetadataError> {
        let mut wanted: BTreeMap<Pin, Option<TagRecord>> = self.pins.iter().map(|pin| (pin.clone(), None)).collect();
        for (key, record) in self.graph.metadata().tags()? {
            let counts = self.graph.points(&key.location, &record)?;
            let known = wanted.entry(Pin { location: key.location, reference: Reference::Tag(key.tag) }).or_default();
            if counts && known.as_ref().is_none_or(|known| known.fitness() < record.fitness()) {
                *known = Some(record);
            }
        }
        for (location, tag) in self.frozen.keys() {
            wanted.entry(Pin { location: location.clone(), reference: Reference::Tag(tag.clone()) }).or_default();
        }
        Ok(wanted)
    }

    fn images(&self) -> Result<Vec<ImageSummary>, MetadataError> {
        let summary = |(name, record)| match self.found(&name, record) {
            Some(found) => self.summary(&name, &found),
            None => self.never_fetched(&name),
        };
        Ok(self.names()?.into_iter().map(summary).collect())
    }

    /// What belongs to other images than this one.
    fn of_others(&self, name: &Pin) -> Result<HashSet<Digest>, MetadataError> {
        let others = self.names()?.into_iter().filter(|(other, _)| other != name);
        let found = others.filter_map(|(other, record)| self.found(&other, record));
        Ok(found.flat_map(|other| parts(&other)).collect())
    }

    fn inspect(&self, name: &Pin) -> Result<Option<ImageDetail>, MetadataError> {
        let Some(found) = self.named(name)? else { return Ok(None) };
        let history = match &name.reference {
            Reference::Tag(tag) => seen(self.graph, &name.location, tag)?,
            Reference::Digest(_) => Vec::new(),
        };
        let alone = [(found.image.platform.clone(), found.image.clone())];
        let images = match &found.image.parts {
            Parts::Images(images) => images,
            _ => &alone[..],
        };
        let others = self.of_others(name)?;
        let images = images.iter().map(|(platform, image)| detail(platform.as_ref(), image, &found.lacking, &others));
        let (images, own_bytes) = (images.collect(), own_bytes(&found, &others));
        let (summary, media_type) = (self.summary(name, &found), found.media_type);
        Ok(Some(ImageDetail { summary, media_type, own_bytes, images, history }))
    }

    fn readiness(
        &self,
        name: &Pin,
        platforms: &Platforms,
        may_stand_in: &dyn Fn(Timestamp) -> bool,
    ) -> Result<Readiness, MetadataError> {
        let image = name.to_string();
        let Some(Found { image: found, lacking, record, .. }) = self.named(name)? else {
            let reason = Some("it was never pulled through this mirror".to_owned());
            let completeness = documents::Completeness::default();
            return Ok(Readiness { image, ready: false, digest: None, completeness, reason });
        };
        let completeness = image::completeness(&found, platforms, &lacking);
        let too_old = self.fixed(name).is_none() && record.is_some_and(|record| !may_stand_in(record.checked_at));
        let reason = match (completeness.is_complete(), too_old) {
            (false, _) => Some(why_not(name, &completeness)),
            (_, true) => Some(format!(
                "it is longer ago than stale_if_error that upstream said what the tag stands for; ask anew with: \
                 registry-mirror pull {name}"
            )),
            _ => None,
        };
        let (ready, digest) = (reason.is_none(), Some(found.manifest.digest));
        let completeness = completeness.document();
        Ok(Readiness { image, ready, digest, completeness, reason })
    }

    fn forget(&self, name: &Pin) -> Result<Forgotten, MetadataError> {
        let (metadata, location) = (self.graph.metadata(), &name.location);
        let found = self.named(name)?;
        let (was_pinned, mut was_frozen) = (metadata.unpin(name)?, false);
        if let Reference::Tag(tag) = &name.reference {
            was_frozen = metadata.unfreeze(location, tag)?;
            metadata.remove_tag(location, tag)?;
        }
        let Some(Found { image, .. }) = found else { return Ok(Forgotten { was_pinned, was_frozen, gone: None }) };
        // Anew: this name is no root any more.
        let members = metadata.members(Some(location))?;
        let mut known = Known::new();
        let needed = self.graph.links(&members, &mut known);
        let needed = needed.reach(self.graph.roots(Some(location), HashSet::new())?.all());
        let parts = image::parts(&image, &Platforms::All).into_iter().map(|part| part.digest);
        let gone: Vec<_> = parts.filter(|digest| !needed.contains(digest)).collect();
        metadata.remove_lists(location, None)?;
        for digest in &gone {
            metadata.remove_member(location, digest)?;
            metadata.remove_lists(location, Some(digest))?;
        }
        Ok(Forgotten { was_pinned, was_frozen, gone: Some(gone) })
    }

    /// The image that a name is answered with; `None` when nothing is known.
    fn named(&self, name: &Pin) -> Result<Option<Found>, MetadataError> {
        let record = match &name.reference {
            Reference::Tag(tag) => fittest(self.graph, &name.location, tag)?,
            Reference::Digest(_) => None,
        };
        Ok(self.found(name, record))
    }

    /// The manifest that a name is answered with.
    pub(super) fn stands_for(&self, name: &Pin) -> Result<Option<Digest>, MetadataError> {
        let record = match &name.reference {
            Reference::Tag(tag) => fittest(self.graph, &name.location, tag)?,
            Reference::Digest(_) => None,
        };
        Ok(self.fixed(name).or(record.map(|record| record.descriptor.digest)))
    }

    /// The manifest that a name stands for, whatever upstream says.
    fn fixed(&self, name: &Pin) -> Option<Digest> {
        match &name.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => self.frozen.get(&(name.location.clone(), tag.clone())).copied(),
        }
    }

    fn found(&self, name: &Pin, record: Option<TagRecord>) -> Option<Found> {
        let location = &name.location;
        let descriptor = match self.fixed(name) {
            Some(digest) => self.graph.member(location, &digest)?,
            None => record.as_ref()?.descriptor.clone(),
        };
        let media_type = descriptor.media_type.to_string();
        let image = self.graph.image(Some(location), descriptor);
        let mut lacking = self.graph.lacking(Some(location), &image);
        let behind = lacking.iter_mut().filter(|(digest, _)| self.behind.contains(*digest));
        behind.for_each(|(_, why)| *why = Unreadable::Behind);
        Some(Found { image, media_type, lacking, record })
    }

    fn summary(&self, name: &Pin, found: &Found) -> ImageSummary {
        let Found { image, lacking, record, .. } = found;
        let whole = image::completeness(image, &Platforms::Machines, lacking);
        let state = match (whole.is_complete(), image::is_pullable(image, lacking)) {
            (true, _) => State::Complete,
            (false, true) => State::SomePlatforms,
            (false, false) => State::Partly,
        };
        let used = image::parts(image, &Platforms::All).into_iter().filter_map(|part| self.used.get(&part.digest));
        ImageSummary {
            image: name.to_string(),
            digest: Some(image.manifest.digest),
            state,
            platforms: complete_platforms(image, lacking),
            stored_bytes: whole.size - whole.missing_bytes - whole.behind_bytes,
            missing_bytes: whole.missing_bytes,
            bucket_bytes: whole.behind_bytes,
            damaged: whole.damaged,
            pinned: self.pins.contains(name),
            frozen: self.is_frozen(name),
            checked_at: record.as_ref().map(|record| record.checked_at.into()),
            used_at: used.max().map(|at| (*at).into()),
        }
    }
}

impl Catalog<'_> {
    fn is_frozen(&self, name: &Pin) -> bool {
        matches!(name.reference, Reference::Tag(_)) && self.fixed(name).is_some()
    }

    /// What there is to say of a name that is only held on to.
    fn never_fetched(&self, name: &Pin) -> ImageSummary {
        ImageSummary {
            image: name.to_string(),
            digest: self.fixed(name),
            state: State::Missing,
            platforms: Vec::new(),
            stored_bytes: 0,
            missing_bytes: 0,
            bucket_bytes: 0,
            damaged: Vec::new(),
            pinned: self.pins.contains(name),
            frozen: self.is_frozen(name),
            checked_at: None,
            used_at: None,
        }
    }
}

fn complete_platforms(image: &Image, lacking: &Lacking) -> Vec<String> {
    let Parts::Images(images) = &image.parts else {
        let named = image.platform.as_ref().filter(|_| image::is_pullable(image, lacking));
        return named.map(Platform::to_string).into_iter().collect();
    };
    let machines = images.iter().filter(|(platform, _)| !image::is_attestation(platform.as_ref()));
    let whole = machines.filter(|(_, image)| image::is_pullable(image, lacking));
    whole.filter_map(|(platform, _)| platform.as_ref().map(Platform::to_string)).collect()
}

/// All that belongs to an image.
fn parts(found: &Found) -> Vec<Digest> {
    image::parts(&found.image, &Platforms::All).into_iter().map(|part| part.digest).collect()
}

/// What is stored of an image and of no other.
fn own_bytes(found: &Found, others: &HashSet<Digest>) -> u64 {
    let parts = image::parts(&found.image, &Platforms::Machines).into_iter();
    let mut seen = HashSet::new();
    let own = parts.filter(|part| !others.contains(&part.digest) && !found.lacking.contains_key(&part.digest));
    own.filter(|part| seen.insert(part.digest)).map(|part| part.size).sum()
}

fn detail(platform: Option<&Platform>, image: &Image, lacking: &Lacking, others: &HashSet<Digest>) -> PlatformDetail {
    let part = |descriptor: &Descriptor, image: Option<&Image>| {
        let lack = image::lack(descriptor, image, lacking);
        Part {
            content: descriptor.into(),
            stored: lack.is_none(),
            damaged: lack == Some(Unreadable::Damaged),
            bucket: lack == Some(Unreadable::Behind),
            shared: others.contains(&descriptor.digest),
        }
    };
    let blobs = match &image.parts {
        Parts::Blobs(blobs) => blobs.iter().map(|blob| part(blob, None)).collect(),
        _ => Vec::new(),
    };
    PlatformDetail {
        platform: platform.map(Platform::to_string),
        manifest: part(&image.manifest, Some(image)),
        blobs,
        complete: image::is_pullable(image, lacking),
    }
}

/// In a sentence, why an image is not complete.
fn why_not(name: &Pin, completeness: &Completeness) -> String {
    if let Some(part) = completeness.missing.iter().find(|part| completeness.damaged.contains(&part.digest)) {
        let what = if is_manifest(&part.media_type) { "manifest" } else { "part" };
        return format!("its {what} {} is damaged; get it again with: registry-mirror pull {name}", part.digest);
    }
    completeness.why_incomplete()
}
