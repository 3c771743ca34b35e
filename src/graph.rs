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
//! All of it blocks, on threads within a runtime that may; [`Graph::ask`] is for everybody else. What only looks at
//! images, for whoever likes to ask, goes by [`Graph::look`]: an image takes memory, several times the bytes of its
//! manifests, so few are looked at at a time, and no longer than somebody waits for it.

pub mod image;
pub mod links;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blob_store::{BlobStore, Content};
use crate::metadata::{Location, Membership, MetadataError, MetadataStore, Standing, TagRecord};
use crate::oci::manifest::{Children, MAX_MANIFEST_SIZE, is_index, is_manifest, platform_of};
use crate::oci::plausible::{Asked, Told, check};
use crate::oci::{Descriptor, Digest, Manifest, Platform};
use image::{Image, Lacking, Parts, Platforms};

/// Indexes within indexes are followed so deep.
pub const MAX_DEPTH: usize = 8;
/// Manifests that are read for one image. No real one has so many; indexes that name one another over
/// and over would.
pub const MOST_MANIFESTS: usize = 10_000;
/// Bytes of manifests after which no more are read for one image.
pub const MOST_BYTES: u64 = 32 << 20;

/// What images are looked at for, each with its own places, so that nothing waits for what takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A client that pulls, where the manifest is short.
    Short,
    /// The same where it is long.
    Long,
    /// People and scripts.
    People,
}

impl Lane {
    /// So many looks may be under way at once, by lane.
    const PLACES: [usize; 3] = [8, 2, 2];
}

/// A place among those who look at images. What is found there is dropped before the place is.
#[derive(Clone, Debug)]
pub struct Place(Option<Arc<OwnedSemaphorePermit>>);

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
    /// Where only that counts which would be served.
    standing: Option<Arc<Standing>>,
    places: Arc<[Arc<Semaphore>; Lane::PLACES.len()]>,
    /// Where this looks for somebody who may leave.
    place: Option<Place>,
}

/// What may still be read for one image.
struct Left {
    manifests: usize,
    bytes: u64,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

impl Graph {
    /// The graph of what these hold.
    pub fn new(blobs: Arc<dyn BlobStore>, metadata: Arc<dyn MetadataStore>) -> Graph {
        let places = Arc::new(Lane::PLACES.map(|places| Arc::new(Semaphore::new(places))));
        Graph { blobs, metadata, standing: None, places, place: None }
    }

    /// The same, where nothing is known but what counts as upstreams are asked now. What stays in the store is for the
    /// one that knows all.
    #[must_use]
    pub fn of_what_counts(&self, standing: Arc<Standing>) -> Graph {
        Graph { standing: Some(standing), ..self.clone() }
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
        self.clone().answer(question).await
    }

    async fn answer<T: Send + 'static>(
        self,
        question: impl FnOnce(&Graph) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let answered = tokio::task::spawn_blocking(move || question(&self)).await;
        answered.unwrap_or_else(|ended| Err(MetadataError::new("looking at what is stored", ended)))
    }

    /// A place to look at images from. Whoever waits for it may leave.
    pub async fn place(&self, lane: Lane) -> Place {
        let [short, long, people] = &*self.places;
        let places = match lane {
            Lane::Short => short,
            Lane::Long => long,
            Lane::People => people,
        };
        // Nobody closes it.
        Place(Arc::clone(places).acquire_owned().await.ok().map(Arc::new))
    }

    /// Has a question about images answered that changes nothing. When this future is dropped, no more is read.
    ///
    /// # Errors
    /// As of [`Graph::ask`].
    pub async fn look<T: Send + 'static>(
        &self,
        place: &Place,
        question: impl FnOnce(&Graph) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        // The thread has the place, too: it is taken until that is done, also when nobody waits any more.
        Graph { place: Some(place.clone()), ..self.clone() }.answer(question).await
    }

    /// Whether somebody waits for what is found.
    fn is_awaited(&self) -> bool {
        let place = self.place.as_ref().and_then(|place| place.0.as_ref());
        place.is_none_or(|place| Arc::strong_count(place) > 1)
    }

    /// What a repository is known to have under this digest.
    pub fn member(&self, location: &Location, digest: &Digest) -> Option<Descriptor> {
        let member = self.metadata.member(location, digest).unwrap_or_else(|error| {
            tracing::warn!(%location, %digest, %error, "membership unknown, taken for none");
            None
        });
        let counts = |member: &Membership| self.standing.as_ref().is_none_or(|it| it.is_given(location, member));
        member.filter(counts).map(|member| member.descriptor)
    }

    /// Whether what was said of a tag counts.
    ///
    /// # Errors
    /// When it cannot be read whether what it points at does.
    pub fn points(&self, location: &Location, record: &TagRecord) -> Result<bool, MetadataError> {
        let Some(standing) = &self.standing else { return Ok(true) };
        let member = self.metadata.member(location, &record.descriptor.digest)?;
        Ok(!standing.is_withdrawn(location, record, member.as_ref()))
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
        let mut left = Left { manifests: MOST_MANIFESTS, bytes: MOST_BYTES };
        let mut image = self.walk(within, manifest, MAX_DEPTH, &mut left);
        image.platform = self.platform(within, &image);
        image
    }

    fn walk(&self, within: Option<&Location>, mut manifest: Descriptor, depth: usize, left: &mut Left) -> Image {
        let fewer = left.manifests.checked_sub(1).filter(|_| left.bytes > 0 && self.is_awaited());
        let Some(fewer) = fewer else { return Image::new(manifest, Parts::TooDeep) };
        left.manifests = fewer;
        let read = match self.manifest(within, &manifest) {
            Ok(read) => read,
            Err(why) => {
                let parts = if why == Unreadable::Damaged { Parts::Damaged } else { Parts::Unknown };
                return Image::new(manifest, parts);
            }
        };
        left.bytes = left.bytes.saturating_sub(read.descriptor.size);
        manifest.media_type = read.descriptor.media_type.clone();
        let Children { manifests, blobs, unreadable } = read.children();
        drop(read);
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
        let parts = image::parts(image, &Platforms::All).into_iter().take_while(|_| self.is_awaited());
        parts.filter_map(|part| Some((part.digest, self.open(within, part).err()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::blob_store::memory::MemoryBlobStore;
    use crate::metadata::memory::MemoryMetadata;
    use crate::oci::Algorithm;

    fn graph() -> Graph {
        Graph::new(Arc::new(MemoryBlobStore::new()), Arc::new(MemoryMetadata::new()))
    }

    #[tokio::test]
    async fn few_images_are_looked_at_at_a_time_also_where_nobody_waits_any_more() {
        let graph = graph();
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (goes_on, wait) = mpsc::channel::<()>();
            let (started, starts) = oneshot::channel();
            let place = graph.place(Lane::Long).await;
            let mut look = Box::pin(graph.look(&place, move |graph| {
                let _ = started.send(());
                let _ = wait.recv();
                Ok(graph.is_awaited())
            }));
            assert!((&mut look).now_or_never().is_none());
            starts.await.expect("it looks");
            threads.push(goes_on);
        }
        assert!(graph.place(Lane::Long).now_or_never().is_none(), "the two who left still look");
        assert!(graph.place(Lane::Short).now_or_never().is_some(), "others have their own places");
        threads.clear();
        for _ in 0..2 {
            let place = graph.place(Lane::Long).await;
            assert!(graph.look(&place, |graph| Ok(graph.is_awaited())).await.expect("an answer"));
        }
    }

    #[tokio::test]
    async fn nothing_more_is_read_when_nobody_waits_for_it() {
        let graph = graph();
        let index = Manifest::from_wire(Bytes::from_static(br#"{"manifests":[]}"#), None, Algorithm::Sha256);
        let (goes_on, wait) = mpsc::channel::<()>();
        let ((tell_first, told_first), (tell, told)) = (oneshot::channel(), oneshot::channel());
        let place = graph.place(Lane::People).await;
        let look = graph.look(&place, move |graph| {
            let _ = tell_first.send(graph.image(None, index.descriptor.clone()).parts);
            let _ = wait.recv();
            let _ = tell.send(graph.image(None, index.descriptor).parts);
            Ok(())
        });
        assert!(Box::pin(look).now_or_never().is_none());
        assert_eq!(told_first.await, Ok(Parts::Unknown));
        drop(place);
        drop(goes_on);
        assert_eq!(told.await, Ok(Parts::TooDeep));
    }
}
