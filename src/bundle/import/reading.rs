//! Takes blobs out of a bundle: each entry once, in the order in which they come.

use std::any::Any;
use std::collections::HashSet;
use std::io::{self, Read};

use serde::Deserialize;
use tokio::runtime::Handle;

use super::source::{self, Meter};
use super::{ImportError, Intake};
use crate::blob_store::StoreError;
use crate::blob_store::ingest::Ingest;
use crate::bundle::Stores;
use crate::bundle::format::{Description, Entry, Index, PathTrick, VERSION};
use crate::documents::Imported;
use crate::metadata::BlobRecord;
use crate::oci::{Digest, Verifier};

/// The longest JSON file that is read, in bytes. What is made of it may not be much larger: a few bytes
/// of gzip can be all of it.
const LONGEST_JSON: u64 = 32 << 20;
/// The longest `oci-layout`, in bytes.
const LONGEST_LAYOUT: u64 = 64 << 10;
/// The largest blob that is read, in bytes: what claims to be more is a mistake or worse. What is
/// skipped may be as much, all together.
const LARGEST_BLOB: u64 = 256 << 30;
/// How many bytes may lie between the content of two entries: headers, long names, padding.
const LONGEST_HEADERS: u64 = 1 << 20;
/// How much is read at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// What a bundle brought.
pub(super) struct Taken {
    pub(super) index: Index,
    pub(super) description: Option<Description>,
    /// The blobs that were in it, also those that were here already.
    pub(super) blobs: HashSet<Digest>,
    pub(super) report: Imported,
}

/// Reads a bundle to its end and keeps its blobs.
pub(super) fn read(
    stores: &Stores,
    bundle: impl Read,
    intake: &Intake<'_>,
    runtime: &Handle,
) -> Result<Taken, ImportError> {
    let meter = Meter::default();
    let tar = source::tar(bundle, &meter)?;
    let mut reader = Reader { stores, runtime, intake, entries: 0, seen: Seen::default(), report: Imported::default() };
    match reader.read_all(tar, &meter) {
        Err(Failed::Tar(error)) if meter.broken.get() => Err(ImportError::Read(error)),
        // What the tar reader says of it may quote what is no tar.
        Err(Failed::Tar(_)) if reader.entries == 0 => {
            let told = "it is neither a tar nor a tar compressed with gzip";
            Err(ImportError::Malformed(told.to_owned()))
        }
        Err(Failed::Tar(_)) => {
            Err(ImportError::Malformed(format!("the tar is cut short or damaged after {} entries", reader.entries)))
        }
        Err(Failed::Import(error)) => Err(error),
        Ok(()) => reader.finish(),
    }
}

/// `oci-layout`.
#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion", default)]
    version: String,
}

/// What `mirror-bundle.json` says in every version of it.
#[derive(Deserialize)]
struct Made {
    version: Option<u32>,
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
    /// Bytes that were skipped.
    skipped: u64,
    index: Option<Index>,
    description: Option<Description>,
    blobs: HashSet<Digest>,
}

struct Reader<'a> {
    stores: &'a Stores,
    runtime: &'a Handle,
    intake: &'a Intake<'a>,
    /// How many entries were read to their end.
    entries: usize,
    seen: Seen,
    report: Imported,
}

impl Reader<'_> {
    fn read_all(&mut self, tar: impl Read, meter: &Meter) -> Result<(), Failed> {
        let mut archive = tar::Archive::new(tar);
        let mut entries = archive.entries().map_err(Failed::Tar)?;
        loop {
            meter.allowance.set(LONGEST_HEADERS);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(Failed::Tar)?;
            let name = entry.path_bytes().into_owned();
            let what = Entry::of(&name).map_err(|PathTrick| hostile(&name, "its name is not plain"))?;
            let kind = entry.header().entry_type();
            let size = entry.size();
            // The content, and the padding that is skipped with it.
            meter.allowance.set(size.saturating_add(LONGEST_HEADERS));
            if what != Entry::Other && !kind.is_file() {
                return Err(hostile(&name, "it is not a plain file").into());
            }
            let longest = match what {
                Entry::Blob(_) => LARGEST_BLOB,
                Entry::Layout => LONGEST_LAYOUT,
                _ => LONGEST_JSON,
            };
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
                Entry::Other => self.skip(&name, size)?,
            }
            io::copy(&mut entry, &mut io::sink()).map_err(Failed::Tar)?;
            self.entries += 1;
        }
        // Padding, and the sum that gzip ends with. Whoever sends it is not to be cut off either.
        match io::copy(&mut archive.into_inner(), &mut io::sink()) {
            Err(_) if meter.allowance.get() == 0 => Ok(()),
            padding => padding.map(drop).map_err(Failed::Tar),
        }
    }

    fn skip(&mut self, name: &[u8], size: u64) -> Result<(), ImportError> {
        self.report.ignored += 1;
        self.seen.skipped = self.seen.skipped.saturating_add(size);
        if self.seen.skipped > LARGEST_BLOB {
            return Err(hostile(name, "what is no part of an image is larger than anything we would read"));
        }
        Ok(())
    }

    fn layout(&mut self, name: &[u8], entry: &mut impl Read) -> Result<(), Failed> {
        let layout: Layout = read_json(name, entry)?;
        if !layout.version.starts_with("1.") {
            return Err(ImportError::Malformed("the image layout has a version that is not known".to_owned()).into());
        }
        once(name, std::mem::replace(&mut self.seen.layout, true))?;
        Ok(())
    }

    fn description(&mut self, name: &[u8], entry: &mut impl Read) -> Result<(), Failed> {
        let text = read_text(entry)?;
        let told = |error| ImportError::Malformed(format!("mirror-bundle.json: {error}"));
        let Made { version } = serde_json::from_slice(&text).map_err(told)?;
        if version != Some(VERSION) {
            tracing::warn!("the bundle was made by a newer registry-mirror; only what every tool reads is used");
            return Ok(());
        }
        let description: Description = serde_json::from_slice(&text).map_err(told)?;
        self.check_room(&description)?;
        once(name, self.seen.description.replace(description).is_some())?;
        Ok(())
    }

    /// Refuses before anything is written what cannot fit.
    fn check_room(&self, description: &Description) -> Result<(), ImportError> {
        let Some(room) = self.intake.space.map(super::Space::most) else { return Ok(()) };
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
        if let Some(space) = self.intake.space {
            space.hold(&digest);
        }
        let (mut ingest, _granted) = match self.stored(&digest, size) {
            true => (None, None),
            false => self.begin(&digest, size).map(|(ingest, granted)| (Some(ingest), granted))?,
        };
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
                match (ingest.append(bytes), self.intake.space) {
                    (Err(StoreError::NoSpace(_)), Some(space)) => {
                        space.relieve(left);
                        ingest.append(bytes)?;
                    }
                    (appended, _) => appended?,
                }
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
                // As for a fill: the file is the truth, the index is brought up to date from it.
                if let Err(error) = self.stores.metadata.put_blob(&digest, &record) {
                    tracing::warn!(%digest, %error, "stored, but not in the index");
                }
                self.report.stored += 1;
                self.report.stored_bytes += size;
            }
        }
        Ok(())
    }

    /// Begins to write a blob, with room for all of it.
    fn begin(&self, digest: &Digest, size: u64) -> Result<(Ingest, Option<Box<dyn Any>>), Failed> {
        let ingests = &self.stores.ingests;
        let Some(space) = self.intake.space else { return Ok((ingests.begin(digest)?, None)) };
        let granted = space.reserve(size).map_err(|error| match error {
            StoreError::NoSpace(_) => ImportError::NoRoom { needed: size, room: space.most() },
            error @ StoreError::Io(_) => error.into(),
        })?;
        Ok((ingests.begin(digest)?, Some(granted)))
    }

    fn finish(self) -> Result<Taken, ImportError> {
        let Seen { layout, index, description, blobs, .. } = self.seen;
        let Some(index) = index.filter(|_| layout) else {
            let hint = "it is cut short, or not an image layout (docker save writes one since Docker 25)";
            return Err(ImportError::Malformed(format!("oci-layout or index.json is not there; {hint}")));
        };
        let mut expected = description.iter().flat_map(|description| &description.contents);
        if expected.any(|content| !blobs.contains(&content.digest)) {
            return Err(ImportError::Malformed("it is cut short: blobs that it lists are not there".to_owned()));
        }
        Ok(Taken { index, description, blobs, report: self.report })
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
    let bytes = read_text(entry)?;
    let told = |error| ImportError::Malformed(format!("{}: {error}", String::from_utf8_lossy(name)));
    serde_json::from_slice(&bytes).map_err(|error| told(error).into())
}

fn read_text(entry: &mut impl Read) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    entry.take(LONGEST_JSON).read_to_end(&mut bytes).map_err(Failed::Tar)?;
    Ok(bytes)
}
