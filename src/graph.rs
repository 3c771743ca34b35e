//! What images lead to: one verified reader of stored manifests, one walk, one set of roots.
//!
//! A noun of its own below `mirror` and `bundle`: both need it, and the mirror needs bundles. `image`
//! judges what the walk found, `links` is the same for everything that is stored at once.
//!
//! Truth: what a manifest leads to is told by bytes only that have its digest and the shape of its media
//! type. An image of which a manifest cannot be read is not complete and goes into no bundle; what such
//! a manifest may lead to, which is everything in its repositories, is not taken for unreferenced. A part
//! of an image is whole, damaged or missing, whoever speaks of it: see [`Unreadable`]. Looking at an image
//! is no use of it and mends nothing.
//!
//! All of it blocks, on threads within a runtime that may; [`Graph::ask`] is for everybody else.

pub mod image;
pub mod links;

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::blob_store::{BlobStore, Content};
use crate::metadata::{Location, MetadataError, MetadataStore};
use crate::oci::manifest::{Children, MAX_MANIFEST_SIZE, is_index, is_manifest, platform_of};
use crate::oci::plausible::{Asked, Told, check};
use crate::oci::{Descriptor, Digest, Manifest, Platform};
use image::{Image, Lacking, Parts, Platforms};

/// Indexes within indexes are followed so deep.
pub const MAX_DEPTH: usize = 8;
/// Manifests that are read for one image. No real one has so many; indexes that name one another over
/// and over would.
pub const MOST_MANIFESTS: usize = 10_000;

/// Why a part of an image is not whole, and, of a manifest, why it is not known what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Nothing is stored under its digest, or not for this repository, or it is a manifest of a type that
    /// leads nowhere that we know.
    Missing,
    /// There is something under its digest that is not it: other bytes, more or fewer of them, something that
    /// is no file or cannot be read, a manifest without the shape of its media type. Or that was set aside.
    Damaged,
    /// Nothing is stored, and the bucket has it.
    Behind,
}

/// What is stored, as images. Cheap to clone.
#[derive(Clone)]
pub struct Graph {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

impl Graph {
    /// The graph of what these hold.
    pub fn new(blobs: Arc<dyn BlobStore>, metadata: Arc<dyn MetadataStore>) -> Graph {
        Graph { blobs, metadata }
    }

    /// Tags, pins, memberships: where images begin.
    pub fn metadata(&self) -> &dyn MetadataStore {
        &*self.metadata
    }

    /// Has a question answered on a thread that may block.
    ///
    /// # Errors
    /// Those of `question`; and when it was not answered, because the runtime ends.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Graph) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let graph = self.clone();
        let answered = tokio::task::spawn_blocking(move || question(&graph)).await;
        answered.unwrap_or_else(|ended| Err(MetadataError::new("looking at what is stored", ended)))
    }

    /// What a repository is known to have under this digest.
    pub fn member(&self, location: &Location, digest: &Digest) -> Option<Descriptor> {
        let member = self.metadata.member(location, digest).unwrap_or_else(|error| {
            tracing::warn!(%location, %digest, %error, "membership unknown, taken for none");
            None
        });
        member.map(|member| member.descriptor)
    }

    /// Opens content of exactly this size. With `within` it counts only if it is known to be in that
    /// repository, as it does for clients.
    ///
    /// # Errors
    /// [`Unreadable`], as far as that shows without reading it.
    pub fn open(&self, within: Option<&Location>, descriptor: &Descriptor) -> Result<Content, Unreadable> {
        let known = match within {
            Some(location) => Some(self.member(location, &descriptor.digest).ok_or(Unreadable::Missing)?),
            None => None,
        };
        let content = self.content(&descriptor.digest)?;
        match known {
            _ if content.size == descriptor.size => Ok(content),
            Some(known) if known.size != content.size => Err(Unreadable::Damaged),
            // Whoever leads to it means something else.
            _ => Err(Unreadable::Missing),
        }
    }

    /// Whether something is stored under this digest.
    pub fn has(&self, digest: &Digest) -> bool {
        self.content(digest).is_ok()
    }

    fn content(&self, digest: &Digest) -> Result<Content, Unreadable> {
        let content = Handle::current().block_on(self.blobs.open(digest));
        let why = || if self.blobs.is_damaged(digest) { Unreadable::Damaged } else { Unreadable::Missing };
        content.ok_or_else(why)
    }

    /// Reads a stored manifest: the only place where that is done for what it leads to. The media type
    /// is the one of the membership, where `within` is given.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn manifest(&self, within: Option<&Location>, descriptor: &Descriptor) -> Result<Manifest, Unreadable> {
        let digest = &descriptor.digest;
        let known = match within {
            // What was fetched as a blob does not know that it is a manifest, and is not served as one.
            Some(location) => self.member(location, digest).filter(|known| is_manifest(&known.media_type)),
            None => Some(descriptor.clone()),
        };
        let known = known.ok_or(Unreadable::Missing)?;
        let content = self.content(digest)?;
        let size = usize::try_from(content.size.min(MAX_MANIFEST_SIZE + 1)).map_err(|_| Unreadable::Damaged)?;
        let bytes = content.read_at(0, size).map_err(|_| Unreadable::Damaged)?;
        let read = Manifest::from_wire(bytes, Some(known.media_type.as_ref()), digest.algorithm());
        if read.descriptor.digest != *digest {
            return Err(Unreadable::Damaged);
        }
        if !is_manifest(&read.descriptor.media_type) {
            return Err(Unreadable::Missing);
        }
        let told = Told { content_type: Some(read.descriptor.media_type.as_ref()), ..Told::default() };
        let plausible = check(Asked::Manifest(Some(digest)), &told, Some(&read.bytes));
        plausible.map(|()| read).map_err(|_| Unreadable::Damaged)
    }

    /// A manifest and everything that it leads to, as far as manifests can be read.
    pub fn image(&self, within: Option<&Location>, manifest: Descriptor) -> Image {
        let mut image = self.walk(within, manifest, MAX_DEPTH, &mut MOST_MANIFESTS.clone());
        image.platform = self.platform(within, &image);
        image
    }

    fn walk(&self, within: Option<&Location>, mut manifest: Descriptor, depth: usize, left: &mut usize) -> Image {
        let Some(fewer) = left.checked_sub(1) else { return Image::new(manifest, Parts::TooDeep) };
        *left = fewer;
        let read = match self.manifest(within, &manifest) {
            Ok(read) => read,
            Err(why) => {
                let parts = if why == Unreadable::Damaged { Parts::Damaged } else { Parts::Unknown };
                return Image::new(manifest, parts);
            }
        };
        manifest.media_type = read.descriptor.media_type.clone();
        let Children { manifests, blobs, unreadable } = read.children();
        let parts = match (is_index(&manifest.media_type), depth.checked_sub(1)) {
            (false, _) => Parts::Blobs(blobs),
            (true, None) => Parts::TooDeep,
            (true, Some(depth)) => {
                let images = manifests.into_iter().map(|(child, platform)| {
                    let image = self.walk(within, child, depth, left);
                    (platform.or_else(|| self.platform(within, &image)), image)
                });
                let blob = |blob| (None, Image::new(blob, Parts::Nothing));
                Parts::Images(images.chain(blobs.into_iter().map(blob)).collect())
            }
        };
        Image { unreadable, ..Image::new(manifest, parts) }
    }

    /// What an image is for, as its stored configuration says.
    pub fn platform(&self, within: Option<&Location>, image: &Image) -> Option<Platform> {
        let Parts::Blobs(blobs) = &image.parts else { return None };
        let configuration = blobs.first()?;
        let content = self.open(within, configuration).ok().filter(|content| content.size <= MAX_MANIFEST_SIZE)?;
        let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
        let is_it = Digest::of(configuration.digest.algorithm(), &bytes) == configuration.digest;
        platform_of(&bytes).filter(|_| is_it)
    }

    /// What of an image cannot be served to the repository, and why, as far as that shows without reading it.
    pub fn lacking(&self, within: Option<&Location>, image: &Image) -> Lacking {
        let parts = image::parts(image, &Platforms::All).into_iter();
        parts.filter_map(|part| Some((part.digest, self.open(within, part).err()?))).collect()
    }
}
