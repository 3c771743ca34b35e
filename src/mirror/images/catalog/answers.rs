//! What the catalog answers. This is also the JSON of the interface for operators, so fields are added
//! and never renamed.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mirror::images::catalog::HistoryEntry;
use crate::mirror::images::image::Completeness;
use crate::oci::{Descriptor, Digest};

/// How much of an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All of it, for every platform.
    Complete,
    /// All of it for some platforms.
    SomePlatforms,
    /// Nobody could pull it without a network.
    Partly,
}

/// An image in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSummary {
    /// Its whole name.
    pub image: String,
    /// The manifest that the name is answered with.
    pub digest: Digest,
    /// How much of it is stored.
    pub state: State,
    /// The platforms that are stored whole. Empty for an image that is not in an index.
    pub platforms: Vec<String>,
    /// Bytes of it that are stored; what it shares with others is counted for each.
    pub stored_bytes: u64,
    /// Bytes of it that are not.
    pub missing_bytes: u64,
    /// Whether it never leaves the store.
    pub pinned: bool,
    /// Whether upstream is not asked about the tag.
    pub frozen: bool,
    /// When upstream last confirmed the tag.
    pub checked_at: Option<Timestamp>,
    /// When it was last asked for.
    pub used_at: Option<Timestamp>,
}

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// Whether it is stored.
    pub stored: bool,
}

/// One platform of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformDetail {
    /// The platform; `None` for an image that is not in an index.
    pub platform: Option<String>,
    /// Its manifest.
    pub manifest: Part,
    /// Configuration and layers; empty while the manifest is not stored.
    pub blobs: Vec<Part>,
    /// Whether all of it is stored.
    pub complete: bool,
}

/// An image, looked at closely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDetail {
    /// As in the list.
    #[serde(flatten)]
    pub summary: ImageSummary,
    /// The media type of the manifest that the name is answered with.
    pub media_type: String,
    /// One for each platform.
    pub images: Vec<PlatformDetail>,
    /// What the tag was seen to have, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// Whether an image can be pulled without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Its whole name.
    pub image: String,
    /// Whether it can.
    pub ready: bool,
    /// The manifest that the name is answered with.
    pub digest: Option<Digest>,
    /// What is there and what is not.
    pub completeness: Completeness,
    /// In a sentence, why not.
    pub reason: Option<String>,
}
