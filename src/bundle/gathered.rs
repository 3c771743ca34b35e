//! What of an image goes into a bundle, or has come out of one.
//!
//! An index is followed into the manifests that are held; those that are not are platforms nobody
//! asked for. A manifest that is held without everything it needs makes the image incomplete, and one
//! that is damaged makes it unusable.

use std::collections::HashSet;

use crate::graph::image::{Image, Parts};
use crate::graph::{Graph, Unreadable};
use crate::metadata::Location;
use crate::oci::manifest::is_index;
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
    /// What of that is damaged.
    pub(super) damaged: Vec<Digest>,
    /// Whether a manifest is.
    unsound: bool,
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
        !self.variants.is_empty() && !self.unsound
    }

    fn add(&mut self, graph: &Graph, image: &Image, platform: Option<&Platform>, scope: &Scope<'_>) {
        match &image.parts {
            Parts::Unknown | Parts::TooDeep => self.lack(&image.manifest, Unreadable::Missing),
            // What cannot be read of it, nobody has.
            _ if image.unreadable > 0 => self.lack(&image.manifest, Unreadable::Missing),
            Parts::Nothing => match graph.open(scope.within, &image.manifest) {
                Ok(_) => self.take(&image.manifest),
                Err(why) => self.lack(&image.manifest, why),
            },
            Parts::Damaged => {
                self.lack(&image.manifest, Unreadable::Damaged);
                self.unsound = true;
            }
            Parts::Blobs(blobs) => self.add_variant(graph, image, blobs, platform, scope),
            Parts::Images(images) => {
                self.take(&image.manifest);
                for (platform, image) in images {
                    let in_scope = scope.manifests.is_none_or(|manifests| manifests.contains(&image.manifest.digest));
                    let expected = scope.manifests.is_some() || image.parts != Parts::Unknown;
                    // Platforms of indexes within are told further down.
                    let wanted = is_index(&image.manifest.media_type)
                        || image.parts == Parts::Nothing
                        || scope.wants(platform.as_ref());
                    if in_scope && expected && wanted {
                        self.add(graph, image, platform.as_ref(), scope);
                    }
                }
                // An index of blobs is used as a whole.
                if !images.is_empty() && images.iter().all(|(_, image)| image.parts == Parts::Nothing) {
                    let blobs = images.iter().map(|(_, image)| image.manifest.clone()).collect();
                    self.variants.push(Variant { platform: None, manifest: image.manifest.clone(), blobs });
                }
            }
        }
    }

    fn add_variant(
        &mut self,
        graph: &Graph,
        image: &Image,
        blobs: &[Descriptor],
        platform: Option<&Platform>,
        scope: &Scope<'_>,
    ) {
        let missing = blobs.iter().filter_map(|blob| Some((blob, graph.open(scope.within, blob).err()?)));
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            return missing.into_iter().for_each(|(blob, why)| self.lack(blob, why));
        }
        let (manifest, platform) = (&image.manifest, platform.cloned());
        let platform = platform.or_else(|| graph.platform(scope.within, image));
        if scope.wants(platform.as_ref()) {
            std::iter::once(manifest).chain(blobs).for_each(|part| self.take(part));
            self.variants.push(Variant { platform, manifest: manifest.clone(), blobs: blobs.to_vec() });
        }
    }

    fn lack(&mut self, part: &Descriptor, why: Unreadable) {
        self.missing.push(part.digest);
        self.damaged.extend((why == Unreadable::Damaged).then_some(part.digest));
    }

    fn take(&mut self, part: &Descriptor) {
        if !self.contents.iter().any(|held| held.digest == part.digest) {
            self.contents.push(part.clone());
        }
    }
}
