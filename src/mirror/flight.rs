//! What is on its way: nouns that fills and answers share, and nothing that acts.
//!
//! Owns the table of who asks for what, what readers see of a fill, a transfer from upstream that
//! goes on where it broke off, and the bounds of all fills and of all bodies in memory together.

pub(crate) mod beside;
pub mod bodies;
pub mod bounds;
pub mod early;
pub mod flights;
pub(crate) mod givers;
pub mod places;
pub mod progress;
pub mod replica;
pub mod shared;
pub mod transfer;
pub mod unread;
pub mod window;
pub(crate) mod writing;

use std::sync::Arc;

use crate::metadata::Location;
use crate::mirror::error::MirrorError;
use crate::oci::{Digest, Manifest};
use crate::outcome::Outcome;

/// The key of what is on its way. Not the digest alone: who joins must not inherit another
/// repository's permission, or its 404.
pub(crate) type BlobKey = (Location, Digest);

/// What a flight for a manifest brings, or for less of it.
pub(crate) type Fetched<M = Arc<Manifest>> = Result<(M, Outcome), MirrorError>;
