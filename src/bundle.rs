//! Bundles: images carried from one mirror to another, or to an engine, in one tar file.
//!
//! A bundle is an OCI image layout in a tar (image-spec, image-layout.md) with the original bytes of
//! manifests, configurations and layers, `manifest.json` for `docker load`, and `mirror-bundle.json`,
//! which says what the tags meant, when, and where. [`export`] writes one from what is stored,
//! [`import`] takes one in, [`receipt`] says what the other side has. Works on ports; reading and
//! writing are blocking and meant for a thread of their own.
//!
//! Truths: what is exported is what this mirror would serve; nothing read from a bundle becomes a
//! path; a blob is stored only under the digest of its own bytes; a tag moves last, and only to an
//! image that is wholly there. Who imports a bundle believes its maker about what tags mean.

pub mod export;
pub mod format;
mod graph;
pub mod import;
pub mod receipt;

use std::sync::Arc;

use crate::blob_store::BlobStore;
use crate::blob_store::ingest::IngestDir;
use crate::clock::Clock;
use crate::metadata::MetadataStore;

pub use export::{ExportError, Exported, Plan, Selection};
pub use import::{ImportError, Imported};
pub use receipt::Receipt;

/// What bundles are made from and taken into.
#[derive(Clone)]
pub struct Stores {
    /// Verified content.
    pub blobs: Arc<dyn BlobStore>,
    /// Where content is written before it is verified.
    pub ingests: Arc<IngestDir>,
    /// Tags and memberships.
    pub metadata: Arc<dyn MetadataStore>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}
