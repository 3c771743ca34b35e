//! What is said of images: what is stored, whether it is whole, and what was changed about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Moment};
use crate::oci::{Descriptor, Digest, ImageName, MediaType, RegistryName};

/// How much of an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All of it, for every platform.
    Complete,
    /// All of it for some platforms.
    SomePlatforms,
    /// Nobody could pull it without a network.
    Partly,
    /// It is pinned or frozen, and was never fetched.
    Missing,
}

/// Every image that has a tag, is pinned or is frozen, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Images {
    /// The images.
    pub images: Vec<ImageSummary>,
}

impl Document for Images {
    const NAME: &'static str = "images";
}

/// An image in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageSummary {
    /// Its whole name.
    pub image: String,
    /// The manifest that the name is answered with; none where that is not known.
    pub digest: Option<Digest>,
    /// How much of it is stored.
    pub state: State,
    /// The platforms that are stored whole. For an image that is not in an index what its configuration says.
    pub platforms: Vec<String>,
    /// What of it is stored; what it shares with others is counted for each.
    pub stored_bytes: u64,
    /// What of it is not, as far as that is known.
    pub missing_bytes: u64,
    /// What of it is in the bucket and not stored; told where an image is looked at by itself.
    #[serde(default)]
    pub bucket_bytes: u64,
    /// Its parts of which other bytes are stored, or were and are set aside.
    pub damaged: Vec<Digest>,
    /// Whether it never leaves the store.
    pub pinned: bool,
    /// Whether upstream is not asked about the tag.
    pub frozen: bool,
    /// When upstream last confirmed the tag.
    pub checked_at: Option<Moment>,
    /// When it was last asked for.
    pub used_at: Option<Moment>,
}

/// Content by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Content {
    /// Its name.
    pub digest: Digest,
    /// All of it.
    pub size_bytes: u64,
    /// How it is to be read.
    #[schemars(with = "String")]
    pub media_type: MediaType,
}

impl From<&Descriptor> for Content {
    fn from(descriptor: &Descriptor) -> Content {
        let Descriptor { digest, size, media_type } = descriptor.clone();
        Content { digest, size_bytes: size, media_type }
    }
}

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// What it is.
    #[serde(flatten)]
    pub content: Content,
    /// Whether it is stored.
    pub stored: bool,
    /// Whether other bytes are stored in its place, or were and are set aside.
    pub damaged: bool,
    /// Whether it is not stored, and the bucket has it.
    #[serde(default)]
    pub bucket: bool,
    /// Whether another image of ours has it, too.
    #[serde(default)]
    pub shared: bool,
}

/// One platform of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlatformDetail {
    /// The platform, as the index says or else the configuration; none where neither does.
    pub platform: Option<String>,
    /// Its manifest.
    pub manifest: Part,
    /// Configuration and layers; empty while the manifest is not stored.
    pub blobs: Vec<Part>,
    /// Whether all of it is stored, or in the bucket.
    pub complete: bool,
}

/// An image, looked at closely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageDetail {
    /// As in the list.
    #[serde(flatten)]
    pub summary: ImageSummary,
    /// The media type of the manifest that the name is answered with.
    pub media_type: String,
    /// What is stored of it and of no other image.
    #[serde(default)]
    pub own_bytes: u64,
    /// One for each platform.
    pub images: Vec<PlatformDetail>,
    /// What the tag was seen to have, oldest first.
    pub history: Vec<HistoryEntry>,
}

impl Document for ImageDetail {
    const NAME: &'static str = "inspect";
}

/// What a tag was seen to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// The manifest.
    pub digest: Digest,
    /// When it was first seen so.
    pub seen_at: Moment,
    /// The registry that said so.
    pub from: RegistryName,
}

/// Everything a tag was seen to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The tag, under its whole name.
    pub image: String,
    /// Oldest first.
    pub history: Vec<HistoryEntry>,
}

impl Document for History {
    const NAME: &'static str = "history";
}

/// Whether images can be pulled without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// Whether all of them can.
    pub ready: bool,
    /// Each by itself, in the order of the request.
    pub images: Vec<Readiness>,
}

impl Document for Ready {
    const NAME: &'static str = "ready";
}

/// Whether an image can be pulled without a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// How much of an image is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Completeness {
    /// All that belongs to it, as far as that is known.
    pub size_bytes: u64,
    /// What is not there. Below a manifest that is not there more may be missing.
    pub missing: Vec<Content>,
    /// All of that together.
    pub missing_bytes: u64,
    /// What is not stored, and not missing either: the bucket has it.
    #[serde(default)]
    pub bucket_bytes: u64,
    /// What of the missing is damaged: other bytes are stored in its place, or were and are set aside.
    pub damaged: Vec<Digest>,
    /// Platforms that were asked for and that the image is not made for.
    pub lacking: Vec<String>,
}

/// Whether something changed for an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// Its whole name.
    pub image: String,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Of a pin: whether it can be pulled without a network, for some platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<bool>,
    /// Of what was forgotten: whether it was pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpinned: Option<bool>,
    /// Of what was forgotten: whether it was frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfrozen: Option<bool>,
}

impl Changed {
    /// Whether something changed for this image, and no more.
    pub fn of(image: &ImageName, changed: bool) -> Changed {
        Changed { image: image.to_string(), changed, stored: None, unpinned: None, unfrozen: None }
    }
}

/// Images that are kept now whatever happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pinned {
    /// Each by itself, in the order of the request.
    pub images: Vec<Changed>,
}

impl Document for Pinned {
    const NAME: &'static str = "pin";
}

/// Images that are no longer kept whatever happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unpinned {
    /// Each by itself, in the order of the request.
    pub images: Vec<Changed>,
}

impl Document for Unpinned {
    const NAME: &'static str = "unpin";
}

/// Images that are forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forgotten {
    /// Each by itself, in the order of the request.
    pub images: Vec<Changed>,
}

impl Document for Forgotten {
    const NAME: &'static str = "forget";
}

/// A tag that is held still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frozen {
    /// The tag, under its whole name.
    pub image: String,
    /// What it is answered with.
    pub digest: Digest,
}

impl Document for Frozen {
    const NAME: &'static str = "freeze";
}

/// A tag that follows upstream again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unfrozen {
    /// The tag, under its whole name.
    pub image: String,
    /// Whether it was frozen.
    pub changed: bool,
}

impl Document for Unfrozen {
    const NAME: &'static str = "unfreeze";
}
