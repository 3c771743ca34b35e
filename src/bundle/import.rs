//! Taking a bundle in: a tar that somebody else made, read once, from front to back.
//!
//! Entries are read, never unpacked: a name only says which digest the bytes should have, modes,
//! owners and times say nothing, links are refused where content should be and skipped elsewhere.
//! Every blob is hashed against its name. Tags and memberships come last, for images that are wholly
//! there, so an import that ends early leaves true blobs behind and is simply run again.

use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, Read};
use std::rc::Rc;

use serde::Serialize;
use tokio::runtime::Handle;

use super::format::{DescribedImage, Description, Entry, Index, PathTrick, Pointer, VERSION};
use super::graph::{self, Holdings, Scope};
use super::{Receipt, Stores};
use crate::blob_store::StoreError;
use crate::metadata::{BlobRecord, Location, MetadataError, TagKey, TagRecord};
use crate::oci::{AcceptSet, Descriptor, Digest, ImageName, Reference, Verifier};

/// The longest JSON file that is read, in bytes.
const LONGEST_JSON: u64 = 32 << 20;
/// The largest blob that is read, in bytes: what claims to be more is a mistake or worse.
const LARGEST_BLOB: u64 = 256 << 30;
/// How many bytes may lie between the content of two entries: headers, long names, padding.
const LONGEST_HEADERS: u64 = 1 << 20;
/// How much is read at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// How a bundle is to be taken in.
#[derive(Clone, Debug, Default)]
pub struct Intake {
    /// How many bytes the store may take; as many as there are if not known.
    pub room: Option<u64>,
    /// The name of the image of a layout that has one image and no whole name for it.
    pub name: Option<ImageName>,
}

/// Why a bundle was not taken in to its end. What was taken in before stays and is true.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// An entry tries something that no tool does by mistake.
    #[error("the bundle was refused at the entry {entry:?}: {reason}")]
    Hostile {
        /// The name of the entry, as far as it is text.
        entry: String,
        /// What it tries.
        reason: &'static str,
    },
    /// It is cut short, or not a bundle.
    #[error("the bundle cannot be understood: {0}")]
    Malformed(String),
    /// There is no room for it.
    #[error(
        "the bundle brings {needed} bytes that are not stored, and the store may take {room} more; raise store.max_size, \
         or remove images"
    )]
    NoRoom {
        /// Bytes that are not stored yet, as far as the bundle told.
        needed: u64,
        /// Bytes that the store may take.
        room: u64,
    },
    /// It cannot be read.
    #[error("the bundle cannot be read: {0}")]
    Read(#[source] io::Error),
    /// Content cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Tags and memberships cannot be written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// What became of an image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It can be pulled.
    Ready,
    /// It is here; its tag stays where it is, because upstream said so more recently.
    KeptNewer,
    /// Something of it is neither in the bundle nor in the store.
    Incomplete,
    /// It has no whole name, so nobody can ask for it.
    Nameless,
}

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportedImage {
    /// Its whole name, or the digest of its manifest.
    pub name: String,
    /// Its manifest.
    pub digest: Digest,
    /// What became of it.
    pub fate: Fate,
    /// What is missing.
    pub missing: Vec<Digest>,
}

/// A bundle that was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its images, in its order.
    pub images: Vec<ImportedImage>,
    /// Blobs that were stored.
    pub stored: u64,
    /// How many bytes these have.
    pub stored_bytes: u64,
    /// Blobs that were there already.
    pub known: u64,
    /// Blobs whose bytes were not what their name said. Nothing of them was kept.
    pub damaged: Vec<Digest>,
    /// Entries that are not part of an image layout.
    pub ignored: u64,
}

/// What this side has, for the next export. Blocks.
///
/// # Errors
/// [`ImportError::Store`] when the blobs cannot be listed.
pub fn receipt(stores: &Stores, runtime: &Handle) -> Result<Receipt, ImportError> {
    let blobs = runtime.block_on(stores.blobs.list())?;
    Ok(blobs.into_iter().map(|(digest, _)| digest).collect())
}

/// Takes a bundle in. Blocks; `runtime` drives the stores.
///
/// # Errors
/// [`ImportError`]. Blobs that do not match their digest are not an error: see [`Imported::damaged`].
pub fn import(stores: &Stores, bundle: impl Read, intake: &Intake, runtime: &Handle) -> Result<Imported, ImportError> {
    let allowance = Rc::new(Cell::new(0));
    let broken = Rc::new(Cell::new(false));
    let metered = Metered { inner: bundle, allowance: Rc::clone(&allowance), broken: Rc::clone(&broken) };
    let mut reader = Reader { stores, runtime, intake, seen: Seen::default(), report: Imported::default() };
    let read = reader.read_all(metered, &allowance);
    match read {
        Err(Failed::Tar(error)) if broken.get() => return Err(ImportError::Read(error)),
        Err(Failed::Tar(error)) => return Err(ImportError::Malformed(error.to_string())),
        Err(Failed::Import(error)) => return Err(error),
        Ok(()) => {}
    }
    reader.finish()
}

/// Lets through so many bytes at most, and remembers whether the source failed. tar reads names of
/// any length into memory.
struct Metered<R> {
    inner: R,
    allowance: Rc<Cell<u64>>,
    broken: Rc<Cell<bool>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.allowance.get()).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry has headers without end"));
        }
        let read = self.inner.read(buffer.get_mut(..most).unwrap_or_default());
        match &read {
            Ok(count) => self.allowance.set(self.allowance.get().saturating_sub(*count as u64)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.broken.set(true),
        }
        read
    }
}

/// Why reading stopped.
enum Failed {
    /// tar, or what is below it.
    Tar(io::Error),
    Import(ImportError),
}

impl From<ImportError> for Failed {
    fn from(error: ImportError) -> Failed {
        Failed::Import(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Import(error.into())
    }
}

/// What was read so far.
#[derive(Default)]
struct Seen {
    layout: bool,
    index: Option<Index>,
    description: Option<Description>,
    blobs: HashSet<Digest>,
}

struct Reader<'a> {
    stores: &'a Stores,
    runtime: &'a Handle,
    intake: &'a Intake,
    seen: Seen,
    report: Imported,
}

impl Reader<'_> {
    fn read_all(&mut self, bundle: impl Read, allowance: &Cell<u64>) -> Result<(), Failed> {
        let mut archive = tar::Archive::new(bundle);
        let mut entries = archive.entries().map_err(Failed::Tar)?;
        loop {
            allowance.set(LONGEST_HEADERS);
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(Failed::Tar)?;
            let name = entry.path_bytes().into_owned();
            let what = Entry::of(&name).map_err(|PathTrick| hostile(&name, "its name is not plain"))?;
            let kind = entry.header().entry_type();
            let size = entry.size();
            // The content, and the padding that is skipped with it.
            allowance.set(size.saturating_add(LONGEST_HEADERS));
            if what != Entry::Other && !kind.is_file() {
                return Err(hostile(&name, "it is not a plain file").into());
            }
            let longest = if matches!(what, Entry::Blob(_)) { LARGEST_BLOB } else { LONGEST_JSON };
            if what != Entry::Other && size > longest {
                return Err(hostile(&name, "it claims to be larger than anything we would keep").into());
            }
            match what {
                Entry::Blob(digest) => self.blob(digest, size, &mut entry)?,
                Entry::Layout => self.layout(&name, &mut entry)?,
                Entry::Index => {
                    let index = read_json(&name, &mut entry)?;
                    once(&name, self.seen.index.replace(index).is_some())?;
                }
                Entry::Description => self.description(&name, &mut entry)?,
                Entry::Other if kind.is_dir() => {}
                Entry::Other => self.report.ignored += 1,
            }
            io::copy(&mut entry, &mut io::sink()).map_err(Failed::Tar)?;
        }
    }

    fn layout(&mut self, name: &[u8], entry: &mut impl Read) -> Result<(), Failed> {
        let layout: serde_json::Value = read_json(name, entry)?;
        if !layout["imageLayoutVersion"].as_str().is_some_and(|version| version.starts_with("1.")) {
            return Err(ImportError::Malformed("the image layout has a version that is not known".to_owned()).into());
        }
        once(name, std::mem::replace(&mut self.seen.layout, true))?;
        Ok(())
    }

    fn description(&mut self, name: &[u8], entry: &mut impl Read) -> Result<(), Failed> {
        let description: serde_json::Value = read_json(name, entry)?;
        if description["version"] != VERSION {
            tracing::warn!("the bundle was made by a newer registry-mirror; only what every tool reads is used");
            return Ok(());
        }
        let description: Description = serde_json::from_value(description)
            .map_err(|error| ImportError::Malformed(format!("mirror-bundle.json: {error}")))?;
        self.check_room(&description)?;
        once(name, self.seen.description.replace(description).is_some())?;
        Ok(())
    }

    /// Refuses before anything is written what cannot fit.
    fn check_room(&self, description: &Description) -> Result<(), ImportError> {
        let Some(room) = self.intake.room else { return Ok(()) };
        let missing = description.contents.iter().filter(|content| !self.stored(&content.digest, content.size));
        let needed = missing.fold(0, |sum: u64, content| sum.saturating_add(content.size));
        if needed > room { Err(ImportError::NoRoom { needed, room }) } else { Ok(()) }
    }

    fn stored(&self, digest: &Digest, size: u64) -> bool {
        self.runtime.block_on(self.stores.blobs.open(digest)).is_some_and(|content| content.size == size)
    }

    /// Hashes a blob, and keeps it if it is what it should be and not here yet.
    fn blob(&mut self, digest: Digest, size: u64, entry: &mut impl Read) -> Result<(), Failed> {
        self.seen.blobs.insert(digest);
        let known = self.stored(&digest, size);
        let room = self.intake.room.map(|room| room.saturating_sub(self.report.stored_bytes));
        if let Some(room) = room.filter(|room| !known && size > *room) {
            return Err(ImportError::NoRoom { needed: size, room }.into());
        }
        let mut ingest = if known { None } else { Some(self.stores.ingests.begin(&digest, None)?) };
        let mut verifier = Verifier::new(digest.algorithm());
        let mut chunk = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK)).max(1)];
        let mut left = size;
        while left > 0 {
            let read = match entry.read(&mut chunk) {
                Ok(0) => return Err(Failed::Tar(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failed::Tar(error)),
            };
            let bytes = chunk.get(..read).unwrap_or_default();
            verifier.update(bytes);
            if let Some(ingest) = &mut ingest {
                ingest.append(bytes)?;
            }
            left = left.saturating_sub(read as u64);
        }
        if verifier.finish() != digest {
            tracing::warn!(%digest, "a blob of the bundle is damaged");
            self.report.damaged.push(digest);
            return Ok(());
        }
        match ingest {
            None => self.report.known += 1,
            Some(ingest) => {
                self.runtime.block_on(self.stores.blobs.commit(ingest, &digest))?;
                let record = BlobRecord::new(size, self.stores.clock.now());
                self.stores.metadata.put_blob(&digest, &record).map_err(ImportError::from)?;
                self.report.stored += 1;
                self.report.stored_bytes += size;
            }
        }
        Ok(())
    }

    /// Points tags at what has arrived.
    fn finish(mut self) -> Result<Imported, ImportError> {
        let Some(index) = self.seen.index.take().filter(|_| self.seen.layout) else {
            let hint = "it is cut short, or not an image layout (docker save writes one since Docker 25)";
            return Err(ImportError::Malformed(format!("oci-layout or index.json is not there; {hint}")));
        };
        let description = self.seen.description.take();
        let expected = description.iter().flat_map(|description| &description.contents);
        if expected.clone().any(|content| !self.seen.blobs.contains(&content.digest)) {
            return Err(ImportError::Malformed("it is cut short: blobs that it lists are not there".to_owned()));
        }
        let left_out = description.iter().flat_map(|description| &description.left_out);
        let scope: HashSet<Digest> =
            self.seen.blobs.iter().copied().chain(left_out.map(|content| content.digest)).collect();
        let described = description.map(|description| description.images).unwrap_or_default();
        for image in described.iter().cloned().map(Arrival::from) {
            self.arrive(image, &scope)?;
        }
        let single = index.manifests.len() == 1;
        for root in &index.manifests {
            let Some(manifest) = root.manifest() else { continue };
            let name = root.name().or_else(|| self.intake.name.clone().filter(|_| single));
            let told = |image: &DescribedImage| Some(image.name()) == name;
            if !described.iter().any(told) {
                self.arrive(Arrival { name, manifest, pointers: Vec::new() }, &scope)?;
            }
        }
        self.stores.metadata.flush()?;
        Ok(self.report)
    }

    /// Makes an image available under its name, if it is all there.
    fn arrive(&mut self, arrival: Arrival, scope: &HashSet<Digest>) -> Result<(), ImportError> {
        let holdings = Holdings { stores: self.stores, runtime: self.runtime, within: None };
        let scope = Scope { platforms: &[], manifests: Some(scope) };
        let roots = std::iter::once(&arrival.manifest).chain(arrival.pointers.iter().map(|pointer| &pointer.manifest));
        let mut image = graph::Image::default();
        let mut walked_already = HashSet::new();
        for root in roots.filter(|root| walked_already.insert(root.digest)) {
            let walked = graph::walk(&holdings, root, &scope);
            image.contents.extend(walked.contents);
            image.missing.extend(walked.missing);
            image.variants.extend(walked.variants);
        }
        let complete = image.usable() && image.missing.is_empty();
        let fate = match &arrival.name {
            _ if !complete => Fate::Incomplete,
            // Signatures and the like belong to other images, by digest.
            None => match self.adopt(&image)? {
                true => return Ok(()),
                false => Fate::Nameless,
            },
            Some(name) => self.point(name, &arrival, &image.contents)?,
        };
        let digest = arrival.manifest.digest;
        self.report.images.push(ImportedImage {
            name: arrival.name.map_or_else(|| digest.to_string(), |name| name.to_string()),
            digest,
            fate,
            missing: image.missing.iter().map(|missing| missing.digest).collect(),
        });
        Ok(())
    }

    /// Makes a referrer part of every repository that its subject came into. Whether there is one.
    fn adopt(&self, image: &graph::Image) -> Result<bool, ImportError> {
        let subjects: HashSet<Digest> =
            image.variants.iter().filter_map(|variant| variant.manifest.subject()).collect();
        let mut adopted = false;
        for name in self.report.images.iter().filter(|image| matches!(image.fate, Fate::Ready | Fate::KeptNewer)) {
            let Ok(name) = name.name.parse::<ImageName>() else { continue };
            let location = Location { upstream: name.registry, repository: name.repository };
            for subject in &subjects {
                if self.stores.metadata.member(&location, subject)?.is_some() {
                    self.enrol(&location, &image.contents)?;
                    adopted = true;
                }
            }
        }
        Ok(adopted)
    }

    fn enrol(&self, location: &Location, contents: &[Descriptor]) -> Result<(), ImportError> {
        for content in contents {
            if self.stores.metadata.member(location, &content.digest)?.is_none() {
                self.stores.metadata.put_member(location, content)?;
            }
        }
        Ok(())
    }

    /// Records memberships, then moves the tag, unless upstream said something else more recently.
    fn point(&self, name: &ImageName, arrival: &Arrival, contents: &[Descriptor]) -> Result<Fate, ImportError> {
        let location = Location { upstream: name.registry.clone(), repository: name.repository.clone() };
        self.enrol(&location, contents)?;
        let Reference::Tag(tag) = &name.reference else { return Ok(Fate::Ready) };
        let now = self.stores.clock.now();
        let mut pointers = arrival.pointers.clone();
        let checked_at = pointers.iter().map(|pointer| pointer.checked_at).max().unwrap_or(now);
        if !pointers.iter().any(|pointer| pointer.accept == AcceptSet::everything()) {
            let since = pointers.iter().map(|pointer| pointer.since).min().unwrap_or(now);
            let accept = AcceptSet::everything();
            pointers.push(Pointer { accept, manifest: arrival.manifest.clone(), checked_at, since });
        }
        let mut fate = Fate::Ready;
        for Pointer { accept, manifest, checked_at, since } in pointers {
            let key = TagKey { location: location.clone(), tag: tag.clone(), accept };
            // Nobody's clock but ours decides how fresh a tag is.
            let (checked_at, since) = (checked_at.min(now), since.min(checked_at).min(now));
            let newer =
                |before: &TagRecord| before.checked_at > checked_at && before.descriptor.digest != manifest.digest;
            if self.stores.metadata.tag(&key)?.as_ref().is_some_and(newer) {
                fate = Fate::KeptNewer;
                continue;
            }
            self.stores.metadata.put_tag(&key, &TagRecord { descriptor: manifest, checked_at, since })?;
        }
        Ok(fate)
    }
}

/// An image that a bundle claims to bring.
struct Arrival {
    name: Option<ImageName>,
    manifest: Descriptor,
    pointers: Vec<Pointer>,
}

impl From<DescribedImage> for Arrival {
    fn from(image: DescribedImage) -> Arrival {
        Arrival { name: Some(image.name()), manifest: image.manifest, pointers: image.pointers }
    }
}

fn hostile(name: &[u8], reason: &'static str) -> ImportError {
    let entry = String::from_utf8_lossy(name).chars().take(200).collect();
    ImportError::Hostile { entry, reason }
}

/// A second file of the same name could mean something else to another reader.
fn once(name: &[u8], again: bool) -> Result<(), ImportError> {
    if again { Err(hostile(name, "it is there twice")) } else { Ok(()) }
}

fn read_json<T: serde::de::DeserializeOwned>(name: &[u8], entry: &mut impl Read) -> Result<T, Failed> {
    let mut bytes = Vec::new();
    entry.take(LONGEST_JSON).read_to_end(&mut bytes).map_err(Failed::Tar)?;
    let told = |error| ImportError::Malformed(format!("{}: {error}", String::from_utf8_lossy(name)));
    serde_json::from_slice(&bytes).map_err(|error| told(error).into())
}
