//! What of an image is there: from its manifest down to its layers.
//!
//! An index is followed into the manifests that are held; those that are not are platforms nobody
//! asked for. A manifest that is held without everything it needs makes the image incomplete.

use std::collections::HashSet;

use tokio::runtime::Handle;

use super::Stores;
use crate::blob_store::Content;
use crate::metadata::Location;
use crate::oci::manifest::{MAX_MANIFEST_SIZE, is_image, is_index};
use crate::oci::{Descriptor, Digest, Manifest, Platform};

/// Indexes within indexes are followed so deep.
const MAX_DEPTH: usize = 3;

/// Looks into the stores from a thread that may block.
#[derive(Clone, Copy)]
pub(super) struct Holdings<'a> {
    pub(super) stores: &'a Stores,
    pub(super) runtime: &'a Handle,
    /// Content counts only if it is known to be in this repository, as it does for clients.
    pub(super) within: Option<&'a Location>,
}

impl Holdings<'_> {
    /// Opens content of exactly this size.
    pub(super) fn open(&self, descriptor: &Descriptor) -> Option<Content> {
        if let Some(location) = self.within {
            self.stores.metadata.member(location, &descriptor.digest).ok().flatten()?;
        }
        let content = self.runtime.block_on(self.stores.blobs.open(&descriptor.digest))?;
        (content.size == descriptor.size).then_some(content)
    }

    /// Reads a manifest.
    pub(super) fn manifest(&self, descriptor: &Descriptor) -> Option<Manifest> {
        let content = self.open(descriptor).filter(|content| content.size <= MAX_MANIFEST_SIZE)?;
        let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
        let read = Manifest::from_wire(bytes, Some(descriptor.media_type.as_ref()), descriptor.digest.algorithm());
        (read.descriptor.digest == descriptor.digest).then_some(read)
    }
}

/// What there is of an image.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// Everything that is there and complete, each once, parents first.
    pub(super) contents: Vec<Descriptor>,
    /// The images that are complete: more than one for an index.
    pub(super) variants: Vec<Variant>,
    /// What should be there and is not.
    pub(super) missing: Vec<Descriptor>,
}

/// An image for one platform.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) platform: Option<Platform>,
    pub(super) manifest: Manifest,
}

impl Image {
    /// Whether it can be used on some platform.
    pub(super) fn usable(&self) -> bool {
        !self.variants.is_empty()
    }

    fn add(&mut self, descriptor: &Descriptor) {
        if !self.contents.iter().any(|held| held.digest == descriptor.digest) {
            self.contents.push(descriptor.clone());
        }
    }
}

/// Which parts of an image count.
#[derive(Clone, Copy, Default)]
pub(super) struct Scope<'a> {
    /// Only these platforms; all if empty.
    pub(super) platforms: &'a [Platform],
    /// Of the manifests of an index only these.
    pub(super) manifests: Option<&'a HashSet<Digest>>,
}

impl Scope<'_> {
    fn wants(&self, platform: Option<&Platform>) -> bool {
        self.platforms.is_empty() || platform.is_some_and(|offered| self.platforms.iter().any(|p| p.takes(offered)))
    }
}

/// Finds out what there is of the image below `root`.
pub(super) fn walk(holdings: &Holdings<'_>, root: &Descriptor, scope: &Scope<'_>) -> Image {
    let mut image = Image::default();
    match holdings.manifest(root) {
        Some(manifest) => descend(holdings, &manifest, None, scope, &mut image, MAX_DEPTH),
        None => image.missing.push(root.clone()),
    }
    image
}

fn descend(
    holdings: &Holdings<'_>,
    manifest: &Manifest,
    platform: Option<Platform>,
    scope: &Scope<'_>,
    image: &mut Image,
    depth: usize,
) {
    if is_index(&manifest.descriptor.media_type) && depth > 0 {
        image.add(&manifest.descriptor);
        for (child, platform) in manifest.platforms() {
            if scope.manifests.is_some_and(|in_scope| !in_scope.contains(&child.digest)) {
                continue;
            }
            // Platforms of indexes within are told further down.
            if !is_index(&child.media_type) && !scope.wants(platform.as_ref()) {
                continue;
            }
            match holdings.manifest(&child) {
                Some(child) => descend(holdings, &child, platform, scope, image, depth - 1),
                None if scope.manifests.is_some() => image.missing.push(child),
                None => {}
            }
        }
    } else if is_image(&manifest.descriptor.media_type) {
        take_image(holdings, manifest, platform, scope, image);
    }
}

fn take_image(
    holdings: &Holdings<'_>,
    manifest: &Manifest,
    platform: Option<Platform>,
    scope: &Scope<'_>,
    image: &mut Image,
) {
    let blobs = manifest.children().blobs;
    let missing: Vec<_> = blobs.iter().filter(|blob| holdings.open(blob).is_none()).cloned().collect();
    if !missing.is_empty() {
        image.missing.extend(missing);
        return;
    }
    let platform = platform.or_else(|| configured_platform(holdings, blobs.first()?));
    if !scope.wants(platform.as_ref()) {
        return;
    }
    image.add(&manifest.descriptor);
    blobs.iter().for_each(|blob| image.add(blob));
    image.variants.push(Variant { platform, manifest: manifest.clone() });
}

/// What the configuration of an image says it is for.
fn configured_platform(holdings: &Holdings<'_>, config: &Descriptor) -> Option<Platform> {
    let content = holdings.open(config).filter(|content| content.size <= MAX_MANIFEST_SIZE)?;
    let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
    serde_json::from_slice(&bytes).ok()
}
