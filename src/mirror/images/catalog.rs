//! What the mirror holds, by image: for people and scripts, never on the path of a pull.
//!
//! Lists images, says what one consists of and what of it is stored, remembers pins and frozen tags,
//! forgets. Looking does not count as using. What is answered are documents.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::clock::Timestamp;
use crate::documents::{
    self, History, HistoryEntry, ImageDetail, ImageSummary, Part, PlatformDetail, Readiness, State,
};
use crate::metadata::{FrozenTag, MetadataError, Pin, TagRecord};
use crate::mirror::images::image;
use crate::mirror::images::image::{Completeness, Image, Parts, Platforms};
use crate::mirror::{Location, Mirror, Route, RouteError, Shared};
use crate::oci::manifest::{MAX_MANIFEST_SIZE, is_image, is_index};
use crate::oci::{Descriptor, Digest, ImageName, Manifest, Platform, Reference, Tag};

/// Indexes within indexes are followed so deep.
const MAX_DEPTH: usize = 3;

/// Why the catalog could not answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The image is from no upstream of ours.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Nothing of this name was ever pulled.
    #[error("{0} was never pulled through this mirror; get it with: registry-mirror pull {0}")]
    Unknown(String),
    /// The command needs a tag.
    #[error("{0} names a digest, which never changes; a tag can be frozen and has a history")]
    NotATag(String),
    /// The disk failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// What there is to know before images are looked at, fetched once for a whole list.
struct Surroundings {
    pins: HashSet<Pin>,
    frozen: HashMap<(Location, Tag), Digest>,
    used: HashMap<Digest, Timestamp>,
}

impl Mirror {
    /// Finds the upstream of an image as people name it.
    ///
    /// # Errors
    /// [`RouteError`]; nobody was asked.
    pub fn route_of(&self, image: &ImageName) -> Result<Route, RouteError> {
        self.0.routes.of_image(image)
    }

    /// Every image that has a tag or is pinned, by name.
    ///
    /// # Errors
    /// [`CatalogError::Metadata`].
    pub async fn images(&self) -> Result<Vec<ImageSummary>, CatalogError> {
        let around = self.surroundings()?;
        let mut wanted: BTreeMap<Pin, Option<TagRecord>> = around.pins.iter().map(|pin| (pin.clone(), None)).collect();
        for (key, record) in self.0.metadata.tags()? {
            let known = wanted.entry(Pin { location: key.location, reference: Reference::Tag(key.tag) }).or_default();
            if known.as_ref().is_none_or(|known| known.checked_at < record.checked_at) {
                *known = Some(record);
            }
        }
        for (location, tag) in around.frozen.keys() {
            wanted.entry(Pin { location: location.clone(), reference: Reference::Tag(tag.clone()) }).or_default();
        }
        let mut summaries = Vec::new();
        for (name, record) in wanted {
            if let Some((image, _)) = self.image_of(&name, record.as_ref(), &around).await {
                summaries.push(self.summary(&name, record.as_ref(), &image, &around).await);
            }
        }
        Ok(summaries)
    }

    /// One image, looked at closely.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`] when nothing of that name is known.
    pub async fn inspect(&self, name: &ImageName) -> Result<ImageDetail, CatalogError> {
        let around = self.surroundings()?;
        let (pin, record) = self.named(name)?;
        let Some((image, media_type)) = self.image_of(&pin, record.as_ref(), &around).await else {
            return Err(CatalogError::Unknown(pin.to_string()));
        };
        let history = match &pin.reference {
            Reference::Tag(tag) => self.seen(&pin.location, tag)?,
            Reference::Digest(_) => Vec::new(),
        };
        let stored = self.stored(&pin.location, &image).await;
        let alone = [(None, image.clone())];
        let images = match &image.parts {
            Parts::Images(images) => images,
            _ => &alone[..],
        };
        let images = images.iter().map(|(platform, image)| detail(platform.as_ref(), image, &stored)).collect();
        let summary = self.summary(&pin, record.as_ref(), &image, &around).await;
        Ok(ImageDetail { summary, media_type, images, history })
    }

    /// Whether an image can be pulled for these platforms without a network.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`]; an unknown image is not ready.
    pub async fn readiness(&self, name: &ImageName, platforms: &Platforms) -> Result<Readiness, CatalogError> {
        let (pin, record) = self.named(name)?;
        let image = self.image_of(&pin, record.as_ref(), &self.surroundings()?).await;
        let Some((image, _)) = image else {
            let reason = Some("it was never pulled through this mirror".to_owned());
            let completeness = documents::Completeness::default();
            return Ok(Readiness { image: pin.to_string(), ready: false, digest: None, completeness, reason });
        };
        let stored = self.stored(&pin.location, &image).await;
        let completeness = image::completeness(&image, platforms, &|part| stored.contains(&part.digest));
        let reason = (!completeness.is_complete()).then(|| why_not(&completeness));
        let (ready, digest) = (completeness.is_complete(), Some(image.manifest.digest));
        let completeness = completeness.document();
        Ok(Readiness { image: pin.to_string(), ready, digest, completeness, reason })
    }

    /// Everything a tag was seen to have, oldest first.
    ///
    /// # Errors
    /// [`CatalogError::NotATag`], and [`CatalogError::Unknown`] when it was never seen.
    pub fn history(&self, name: &ImageName) -> Result<History, CatalogError> {
        let (location, tag) = self.tag_of(name)?;
        let (image, history) = (name.to_string(), self.seen(&location, &tag)?);
        if history.is_empty() { Err(CatalogError::Unknown(image)) } else { Ok(History { image, history }) }
    }

    fn seen(&self, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>, MetadataError> {
        let seen = self.0.metadata.history(location, tag)?.into_iter();
        Ok(seen
            .map(|entry| HistoryEntry { digest: entry.digest, seen_at: entry.at.into(), from: entry.from })
            .collect())
    }

    /// Keeps an image whatever happens; whether it is stored does not matter.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub fn pin(&self, name: &ImageName) -> Result<(), CatalogError> {
        Ok(self.0.metadata.pin(&self.pin_of(name)?)?)
    }

    /// Undoes [`Mirror::pin`]; whether it was pinned.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub fn unpin(&self, name: &ImageName) -> Result<bool, CatalogError> {
        Ok(self.0.metadata.unpin(&self.pin_of(name)?)?)
    }

    /// Answers a tag with one manifest until it is unfrozen: `to`, or what it has now.
    ///
    /// # Errors
    /// [`CatalogError::NotATag`], and [`CatalogError::Unknown`] when it is not known what it has.
    pub fn freeze(&self, name: &ImageName, to: Option<Digest>) -> Result<Digest, CatalogError> {
        let (location, tag) = self.tag_of(name)?;
        let (_, record) = self.named(name)?;
        let digest = to.or(record.map(|record| record.descriptor.digest));
        let digest = digest.ok_or_else(|| CatalogError::Unknown(name.to_string()))?;
        tracing::info!(%location, %tag, %digest, "tag frozen");
        self.0.metadata.freeze(&FrozenTag { location, tag, digest })?;
        Ok(digest)
    }

    /// Undoes [`Mirror::freeze`]; whether it was frozen.
    ///
    /// # Errors
    /// [`CatalogError::NotATag`], [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub fn unfreeze(&self, name: &ImageName) -> Result<bool, CatalogError> {
        let (location, tag) = self.tag_of(name)?;
        let was_frozen = self.0.metadata.unfreeze(&location, &tag)?;
        if was_frozen {
            tracing::info!(%location, %tag, "tag unfrozen");
        }
        Ok(was_frozen)
    }

    /// Forgets an image: its name, its pin, that its repository has what no other tag of the
    /// repository needs, and the lists that name it. The bytes go with the next `gc`; the history stays. Whether it was known.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`].
    pub async fn forget(&self, name: &ImageName) -> Result<bool, CatalogError> {
        let around = self.surroundings()?;
        let (pin, record) = self.named(name)?;
        let image = self.image_of(&pin, record.as_ref(), &around).await;
        let was_pinned = self.0.metadata.unpin(&pin)?;
        let mut was_frozen = false;
        if let Reference::Tag(tag) = &pin.reference {
            was_frozen = self.0.metadata.unfreeze(&pin.location, tag)?;
            self.0.metadata.remove_tag(&pin.location, tag)?;
        }
        let Some((image, _)) = image else { return Ok(was_pinned || was_frozen) };
        let kept = self.needed(&pin.location).await?;
        let gone: Vec<_> = image::digests(&image).difference(&kept).copied().collect();
        for digest in &gone {
            self.0.metadata.remove_member(&pin.location, digest)?;
        }
        self.0.answers.lists.forget(&pin.location, &gone);
        self.0.metadata.remove_lists(&pin.location, None)?;
        gone.iter().try_for_each(|digest| self.0.metadata.remove_lists(&pin.location, Some(digest)))?;
        tracing::info!(image = %pin, "forgotten");
        Ok(true)
    }

    /// What the tags, pins and frozen tags of a repository lead to.
    async fn needed(&self, location: &Location) -> Result<HashSet<Digest>, CatalogError> {
        let metadata = &self.0.metadata;
        let tags = metadata.tags()?.into_iter().filter(|(key, _)| key.location == *location);
        let mut manifests: Vec<_> = tags.map(|(_, record)| record.descriptor).collect();
        let frozen = metadata.frozen_tags()?.into_iter().map(|frozen| (frozen.location, frozen.digest));
        let pinned = metadata.pins()?.into_iter().filter_map(|pin| match pin.reference {
            Reference::Digest(digest) => Some((pin.location, digest)),
            Reference::Tag(_) => None,
        });
        let by_digest = frozen.chain(pinned).filter(|(at, _)| at == location);
        manifests.extend(by_digest.filter_map(|(_, digest)| self.0.member(location, &digest)));
        let mut needed = HashSet::new();
        for manifest in manifests {
            needed.extend(image::digests(&self.tree(location, manifest, MAX_DEPTH).await));
        }
        Ok(needed)
    }

    /// What of an image is stored and may be served to its repository.
    pub(crate) async fn stored(&self, location: &Location, image: &Image) -> HashSet<Digest> {
        let mut stored = HashSet::new();
        for digest in image::digests(image) {
            if self.0.has(location, &digest).await {
                stored.insert(digest);
            }
        }
        stored
    }

    fn surroundings(&self) -> Result<Surroundings, CatalogError> {
        let metadata = &self.0.metadata;
        let frozen = metadata.frozen_tags()?.into_iter().map(|frozen| ((frozen.location, frozen.tag), frozen.digest));
        // Without an index it is not known when blobs were used: no reason not to list images.
        let blobs = metadata.blobs().unwrap_or_default();
        Ok(Surroundings {
            pins: metadata.pins()?.into_iter().collect(),
            frozen: frozen.collect(),
            used: blobs.into_iter().map(|(digest, record)| (digest, record.used_at)).collect(),
        })
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

    /// The image of this name, and what upstream last said about its tag, to whomever.
    fn named(&self, name: &ImageName) -> Result<(Pin, Option<TagRecord>), CatalogError> {
        let pin = self.pin_of(name)?;
        let record = match &pin.reference {
            Reference::Tag(tag) => {
                let records = self.0.metadata.tag_records(&pin.location, tag)?;
                records.into_iter().map(|(_, record)| record).max_by_key(|record| record.checked_at)
            }
            Reference::Digest(_) => None,
        };
        Ok((pin, record))
    }

    /// The image that a name is answered with, and its media type; `None` when nothing is known.
    async fn image_of(&self, name: &Pin, record: Option<&TagRecord>, around: &Surroundings) -> Option<(Image, String)> {
        let digest = match &name.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => around.frozen.get(&(name.location.clone(), tag.clone())).copied(),
        };
        let descriptor = match digest {
            Some(digest) => self.0.member(&name.location, &digest)?,
            None => record?.descriptor.clone(),
        };
        let media_type = descriptor.media_type.to_string();
        Some((self.tree(&name.location, descriptor, MAX_DEPTH).await, media_type))
    }

    /// A manifest and what it leads to, as far as its manifests are stored.
    pub(crate) async fn tree(&self, location: &Location, manifest: Descriptor, depth: usize) -> Image {
        let Some(stored) = self.0.peek_manifest(location, &manifest).await else {
            return Image { manifest, parts: Parts::Unknown };
        };
        if !is_index(&manifest.media_type) {
            return Image { manifest, parts: Parts::Blobs(stored.children().blobs) };
        }
        let mut images = Vec::new();
        for (child, platform) in stored.platforms() {
            let image = match depth.checked_sub(1) {
                Some(depth) => Box::pin(self.tree(location, child, depth)).await,
                None => Image { manifest: child, parts: Parts::Unknown },
            };
            images.push((platform, image));
        }
        Image { manifest, parts: Parts::Images(images) }
    }

    async fn summary(
        &self,
        name: &Pin,
        record: Option<&TagRecord>,
        image: &Image,
        around: &Surroundings,
    ) -> ImageSummary {
        let stored = self.stored(&name.location, image).await;
        let have = |part: &Descriptor| stored.contains(&part.digest);
        let whole = image::completeness(image, &Platforms::Machines, &have);
        let state = match (whole.is_complete(), image::is_pullable(image, &have)) {
            (true, _) => State::Complete,
            (false, true) => State::SomePlatforms,
            (false, false) => State::Partly,
        };
        let frozen = match &name.reference {
            Reference::Tag(tag) => around.frozen.contains_key(&(name.location.clone(), tag.clone())),
            Reference::Digest(_) => false,
        };
        ImageSummary {
            image: name.to_string(),
            digest: image.manifest.digest,
            state,
            platforms: complete_platforms(image, &have),
            stored_bytes: whole.size - whole.missing_bytes,
            missing_bytes: whole.missing_bytes,
            pinned: around.pins.contains(name),
            frozen,
            checked_at: record.map(|record| record.checked_at.into()),
            used_at: image::digests(image)
                .iter()
                .filter_map(|digest| around.used.get(digest))
                .max()
                .map(|at| (*at).into()),
        }
    }
}

impl Shared {
    /// Whether content is stored and known to be in this repository. Does not count as a use.
    pub(crate) async fn has(&self, location: &Location, digest: &Digest) -> bool {
        self.member(location, digest).is_some() && self.blobs.open(digest).await.is_some()
    }

    /// A stored manifest of this repository. Does not count as a use.
    pub(crate) async fn peek_manifest(&self, location: &Location, descriptor: &Descriptor) -> Option<Manifest> {
        let known = self.member(location, &descriptor.digest)?;
        if !is_index(&known.media_type) && !is_image(&known.media_type) {
            return None;
        }
        let content = self.blobs.open(&descriptor.digest).await.filter(|content| content.size <= MAX_MANIFEST_SIZE)?;
        let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
        Some(Manifest { descriptor: known, bytes })
    }
}

fn complete_platforms(image: &Image, have: &dyn Fn(&Descriptor) -> bool) -> Vec<String> {
    let Parts::Images(images) = &image.parts else { return Vec::new() };
    let machines = images.iter().filter(|(platform, _)| !image::is_attestation(platform.as_ref()));
    let whole = machines.filter(|(_, image)| image::is_pullable(image, have));
    whole.filter_map(|(platform, _)| platform.as_ref().map(Platform::to_string)).collect()
}

fn detail(platform: Option<&Platform>, image: &Image, stored: &HashSet<Digest>) -> PlatformDetail {
    let part =
        |descriptor: &Descriptor| Part { stored: stored.contains(&descriptor.digest), content: descriptor.into() };
    let blobs = match &image.parts {
        Parts::Blobs(blobs) => blobs.iter().map(part).collect(),
        _ => Vec::new(),
    };
    PlatformDetail {
        platform: platform.map(Platform::to_string),
        manifest: part(&image.manifest),
        blobs,
        complete: image::is_pullable(image, &|part| stored.contains(&part.digest)),
    }
}

/// In a sentence, why an image is not complete.
fn why_not(completeness: &Completeness) -> String {
    let lacking: Vec<_> = completeness.lacking.iter().map(Platform::to_string).collect();
    if !lacking.is_empty() {
        return format!("it is not made for {}", lacking.join(", "));
    }
    format!("{} parts with {} bytes are missing", completeness.missing.len(), completeness.missing_bytes)
}
