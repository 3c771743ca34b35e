//! The vocabulary of registries: digests, names, manifests, requests, errors.
//!
//! Owns the grammar and nothing else: no I/O, no async, no clock. Everything that comes from the
//! network becomes one of these types once, at the edge, and is data from then on. `oci-spec`
//! supplies media types and the JSON shape of descriptors; what it spells as strings (digests,
//! repository names) is narrowed here to types that cannot hold an invalid value, because paths on
//! disk and requests to upstreams are built from them.

pub mod accept;
pub mod challenge;
pub mod descriptor;
pub mod digest;
pub mod error;
pub mod glob;
pub mod header;
pub mod host;
pub mod image;
pub(crate) mod key;
pub mod link;
pub mod manifest;
pub mod name;
pub mod notice;
pub mod page;
pub mod place;
pub mod platform;
pub mod plausible;
pub mod range;
pub mod refusal;
pub mod request;
pub mod tag_names;
pub mod target;

pub use accept::AcceptSet;
pub use descriptor::{Descriptor, MediaType};
pub use digest::{Algorithm, Digest, Verifier};
pub use error::ErrorCode;
pub use glob::Glob;
pub use image::{ImageName, ImageNameError};
pub use manifest::Manifest;
pub use name::{NameError, Reference, RegistryName, Repository, Tag};
pub use notice::Notice;
pub use page::{Cursor, Page};
pub use place::{Place, Places, Together, Whereabouts};
pub use platform::Platform;
pub use range::{ContentRange, RangeHeader, Selection, Span};
pub use refusal::RequestError;
pub use request::Request;
pub use tag_names::TagNames;
pub use target::{RepositoryPath, Target};
