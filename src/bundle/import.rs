//! Taking a bundle in: a tar that somebody else made, read once, from front to back.
//!
//! Entries are read, never unpacked: a name only says which digest the bytes should have, modes,
//! owners and times say nothing, links are refused where content should be and skipped elsewhere.
//! Every blob is hashed against its name. Tags and memberships come last, for images that are wholly
//! there, so an import that ends early leaves true blobs behind and is simply run again.
//! `source` is where the bytes come from, `reading` takes blobs out of them, `arrival` names images.

mod arrival;
mod reading;
mod source;

use std::io::{self, Read};

use tokio::runtime::Handle;

use super::{Space, Stores};
use crate::blob_store::StoreError;
use crate::documents::{self, Code, Imported, Receipt};
use crate::metadata::MetadataError;
use crate::oci::ImageName;

/// How a bundle is to be taken in.
#[derive(Clone, Copy, Default)]
pub struct Intake<'a> {
    /// Who grants room; without it there is always some.
    pub space: Option<&'a dyn Space>,
    /// The name of the image of a layout that has one image and no whole name for it.
    pub name: Option<&'a ImageName>,
}

impl std::fmt::Debug for Intake<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("name", &self.name).finish_non_exhaustive()
    }
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
    #[error("the bundle brings {needed} bytes that are not stored, and the store may take {room} more")]
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

impl From<ImportError> for documents::Error {
    fn from(error: ImportError) -> documents::Error {
        let code = match &error {
            ImportError::Hostile { .. } => Code::Hostile,
            ImportError::Malformed(_) => Code::Malformed,
            ImportError::NoRoom { .. } => Code::NoRoom,
            ImportError::Read(_) => Code::Read,
            ImportError::Store(_) => Code::Store,
            ImportError::Metadata(_) => Code::Metadata,
        };
        let said = documents::Error::new(code, error.to_string());
        match error {
            ImportError::NoRoom { .. } => said.with_hint("raise store.max_size, or remove images"),
            _ => said,
        }
    }
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
pub fn import(
    stores: &Stores,
    bundle: impl Read,
    intake: &Intake<'_>,
    runtime: &Handle,
) -> Result<Imported, ImportError> {
    let taken = reading::read(stores, bundle, intake, runtime)?;
    arrival::arrive(stores, runtime, intake.name, taken)
}
