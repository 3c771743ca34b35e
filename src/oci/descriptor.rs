//! Media types and descriptors.
//!
//! `MediaType` is `oci-spec`'s: it keeps what it does not know word for word. Docker's own types
//! are unknown to it and stand here as constants.

use serde::{Deserialize, Serialize};

use super::digest::Digest;

pub use oci_spec::image::MediaType;

/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's multi-platform manifest.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's oldest manifest, schema 1, signed.
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker's oldest manifest, schema 1.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// What an artifact was described in before OCI had a word for it.
pub const ORAS_ARTIFACT: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";

/// The type of blobs, whatever they are.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// What content is: its digest, its size in bytes, its media type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The name of the content.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// How it is to be read.
    pub media_type: MediaType,
}

impl Descriptor {
    /// Content that was asked for as a blob: what else it is, is not known.
    pub fn of_blob(digest: Digest, size: u64) -> Descriptor {
        Descriptor { digest, size, media_type: MediaType::from(OCTET_STREAM) }
    }

    /// Whether it is a blob and no manifest: no more is known of it, or it is called a layer or a
    /// configuration.
    pub fn is_of_blob(&self) -> bool {
        is_blob(&self.media_type)
    }
}

/// Whether something of this type is a blob and no manifest.
pub(super) fn is_blob(media_type: &MediaType) -> bool {
    let media_type = media_type.as_ref();
    media_type == OCTET_STREAM || BLOBS.iter().any(|part| media_type.contains(part))
}

/// What the types of layers and configurations have in them, and those of manifests have not.
const BLOBS: [&str; 6] = [".layer.", ".rootfs.", ".config.", ".container.image.", ".cacheconfig.", ".empty."];
