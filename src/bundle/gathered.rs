//! What of an image goes into a bundle, or has come out of one.
//!
//! An index is followed into the manifests that are held; those that are not are platforms nobody
//! asked for. A manifest that is held without everything it needs makes the image incomplete, and one
//! that is damaged makes it unusable.

use std::collections::HashSet;

use crate::graph::Graph;
use crate::graph::image::{Image, Parts};
use crate::metadata::Location;
use crate::oci::manifest::{MAX_MANIFEST_SIZE, is_index};
use crate::oci::{Descriptor, Digest, Platform};

/// What there is of an image.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Everything that is there and complete, each once, parents first.
    pub(super) contents: Vec<Descriptor>,
    /// The images that are complete: more than one for an index.
    pub(super) variants: Vec<Variant>,
    /// What should be there and is not.
    pub(super) missing: Vec<Digest>,
    /// Manifests among that of which other bytes are there.
    pub(super) damaged: Vec<Digest>,
}

/// An image for one platform.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) platform: Option<Platform>,
    pub(super) manifest: Descriptor,
    /// Configuration first.
    pub(super) blobs: Vec<Descriptor>,
}

/// Which parts of an image count.
#[derive(Clone, Copy, Default)]
pub(super) struct Scope<'a> {
    /// Content counts only if it is known to be in this repository, as it does for clients.
    pub(super) within: Option<&'a Location>,
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

impl Gathered {
    /// Finds out what there is of the image below `root`.
    pub(super) fn of(graph: &Graph, root: &Descriptor, scope: &Scope<'_>) -> Gathered {
        let mut gathered = Gathered::default();
        gathered.add(graph, &graph.image(scope.within, root.clone()), None, scope);
        gathered
    }

    /// Whether it can be used on some platform, and is sound on all.
    pub(super) fn usable(&self) -> bool {
        !self.variants.is_empty() && self.damaged.is_empty()
    }

    fn add(&mut self, graph: &Graph, image: &Image, platform: Option<&Platform>, scope: &Scope<'_>) {
        match &image.parts {
            Parts::Unknown => self.missing.push(image.manifest.digest),
            Parts::Damaged => {
                self.missing.push(image.manifest.digest);
                self.damaged.push(image.manifest.digest);
            }
            Parts::Blobs(blobs) => self.add_variant(graph, &image.manifest, blobs, platform, scope),
            Parts::Images(images) => {
                self.take(&image.manifest);
                for (platform, image) in images {
                    let in_scope = scope.manifests.is_none_or(|manifests| manifests.contains(&image.manifest.digest));
                    let expected = scope.manifests.is_some() || image.parts != Parts::Unknown;
                    // Platforms of indexes within are told further down.
                    let wanted = is_index(&image.manifest.media_type) || scope.wants(platform.as_ref());
                    if in_scope && expected && wanted {
                        self.add(graph, image, platform.as_ref(), scope);
                    }
                }
            }
        }
    }

    fn add_variant(
        &mut self,
        graph: &Graph,
        manifest: &Descriptor,
        blobs: &[Descriptor],
        platform: Option<&Platform>,
        scope: &Scope<'_>,
    ) {
        let missing = blobs.iter().filter(|blob| graph.open(scope.within, blob).is_none()).map(|blob| blob.digest);
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            return self.missing.extend(missing);
        }
        let platform = platform.cloned().or_else(|| configured_platform(graph, scope.within, blobs.first()?));
        if scope.wants(platform.as_ref()) {
            std::iter::once(manifest).chain(blobs).for_each(|part| self.take(part));
            self.variants.push(Variant { platform, manifest: manifest.clone(), blobs: blobs.to_vec() });
        }
    }

    fn take(&mut self, part: &Descriptor) {
        if !self.contents.iter().any(|held| held.digest == part.digest) {
            self.contents.push(part.clone());
        }
    }
}

/// What the configuration of an image says it is for.
fn configured_platform(graph: &Graph, within: Option<&Location>, config: &Descriptor) -> Option<Platform> {
    let content = graph.open(within, config).filter(|content| content.size <= MAX_MANIFEST_SIZE)?;
    let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
    serde_json::from_slice(&bytes).ok()
}
