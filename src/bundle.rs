//! Bundles: images carried from one mirror to another, or to an engine, in one tar file.
//!
//! A bundle is an OCI image layout in a tar (image-spec, image-layout.md) with the original bytes of
//! manifests, configurations and layers, `manifest.json` for `docker load`, and `mirror-bundle.json`,
//! which says what the tags meant, when, and where. [`plan`] finds out what would be in one, [`writing`]
//! writes it, [`import`] takes one in, [`Receipt`](crate::documents::Receipt) says what the other side
//! has. Works on ports; reading and writing are blocking and meant for a thread of their own.
//!
//! Truths: what is exported is what this mirror would serve; nothing read from a bundle becomes a
//! path; a blob is stored only under the digest of its own bytes; a tag moves last, and only to an
//! image that is wholly there. Who imports a bundle believes its maker about what tags mean.

pub mod format;
mod gathered;
pub mod import;
pub mod plan;
pub mod writing;

use std::any::Any;
use std::io;
use std::sync::Arc;

use crate::blob_store::ingest::IngestDir;
use crate::blob_store::{BlobStore, StoreError};
use crate::clock::Clock;
use crate::documents::{self, Code};
use crate::graph::Graph;
use crate::metadata::{MetadataError, MetadataStore};
use crate::oci::{Digest, Whereabouts};

pub use import::ImportError;
pub use plan::{Plan, Selection};

/// Why a bundle was not written, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Tags and memberships cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A stored blob is not what its digest says.
    #[error("the stored blob {0} is damaged and was set aside")]
    Damaged(Digest),
    /// A blob was evicted while the bundle was being written.
    #[error("the blob {0} was removed from the store while it was being exported")]
    Gone(Digest),
    /// The bundle cannot be written.
    #[error("the bundle cannot be written: {0}")]
    Write(#[source] io::Error),
}

impl From<ExportError> for documents::Error {
    fn from(error: ExportError) -> documents::Error {
        let (code, hint) = match &error {
            ExportError::Metadata(_) => (Code::Metadata, None),
            ExportError::Damaged(_) => (Code::Damaged, Some("pull the image again, then export it")),
            ExportError::Gone(_) => (Code::Gone, Some("export again")),
            ExportError::Write(_) => (Code::Write, None),
        };
        documents::Error { hint: hint.map(str::to_owned), ..documents::Error::new(code, error.to_string()) }
    }
}

/// What bundles are made from and taken into.
#[derive(Clone)]
pub struct Stores {
    /// Verified content.
    pub blobs: Arc<dyn BlobStore>,
    /// Where content is written before it is verified.
    pub ingests: Arc<IngestDir>,
    /// Tags and memberships.
    pub metadata: Arc<dyn MetadataStore>,
    /// Where the upstreams are of which bundles bring something.
    pub places: Arc<Whereabouts>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    fn graph(&self) -> Graph {
        Graph::new(Arc::clone(&self.blobs), Arc::clone(&self.metadata))
    }
}

/// Who grants room for what a bundle brings, and keeps it meanwhile. All of it may block.
pub trait Space: Send + Sync {
    /// How many bytes may come at most.
    fn most(&self) -> u64;

    /// Keeps a blob, there already or about to be, until the bundle is taken in.
    fn hold(&self, _digest: &Digest) {}

    /// Grants so many bytes until what is returned is dropped; by then they are counted, or gone.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when they cannot be had.
    fn reserve(&self, bytes: u64) -> Result<Box<dyn Any>, StoreError>;

    /// The disk had no room for `bytes`, although they were granted: makes some if that can be done.
    fn relieve(&self, _bytes: u64) {}
}

/// A store that nobody else works on and that evicts nothing.
pub struct Rest {
    /// What it consists of.
    pub blobs: Arc<dyn BlobStore>,
    /// How many bytes it may hold.
    pub budget: u64,
}

impl Space for Rest {
    fn most(&self) -> u64 {
        self.budget.saturating_sub(self.blobs.usage().bytes)
    }

    fn reserve(&self, bytes: u64) -> Result<Box<dyn Any>, StoreError> {
        if bytes > self.most() {
            return Err(StoreError::NoSpace(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(Box::new(()))
    }
}
