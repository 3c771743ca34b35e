//! What is said of bundles: before and while one is written, and when one was taken in.
//!
//! A framed export is the document [`Plan`], then for each piece of the tar [`Frame::Data`] and as many
//! bytes as it says, then [`Frame::Done`] or an error; each document is a line.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Receipt};
use crate::oci::Digest;

/// An image that was asked for and cannot be in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unavailable {
    /// The image.
    pub image: String,
    /// What of it is missing; empty when nothing of it is known.
    pub missing: Vec<Digest>,
    /// What of that is damaged: other bytes are stored in its place, or were and are set aside.
    pub damaged: Vec<Digest>,
}

/// What a bundle consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exported {
    /// The whole names of the images in it.
    pub images: Vec<String>,
    /// The images that are not in it.
    pub unavailable: Vec<Unavailable>,
    /// How many blobs are in it.
    pub blobs: usize,
    /// All of them together.
    pub size_bytes: u64,
    /// How many blobs were left out because the other side has them.
    pub left_out: usize,
    /// All of them together.
    pub left_out_bytes: u64,
}

/// What a bundle would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// What it consists of.
    #[serde(flatten)]
    pub exported: Exported,
    /// What the other side has once it took the bundle in.
    pub receipt: Receipt,
}

impl Document for Plan {
    const NAME: &'static str = "plan";
}

/// What comes behind the plan of a framed bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Frame {
    /// So many bytes of the tar follow, directly behind the line.
    Data {
        /// How many.
        size_bytes: usize,
    },
    /// That was all of it.
    Done,
}

impl Document for Frame {
    const NAME: &'static str = "frame";
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Export {
    /// The file.
    pub output: PathBuf,
    /// What it consists of.
    #[serde(flatten)]
    pub exported: Exported,
}

impl Document for Export {
    const NAME: &'static str = "export";
}

/// What became of an image of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportedImage {
    /// Its whole name, or the digest of its manifest.
    pub image: String,
    /// Its manifest.
    pub digest: Digest,
    /// What became of it.
    pub fate: Fate,
    /// What is missing.
    pub missing: Vec<Digest>,
}

/// What came of one bundle that was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// Its images, in its order.
    pub images: Vec<ImportedImage>,
    /// Blobs that were stored.
    pub stored: u64,
    /// All of them together.
    pub stored_bytes: u64,
    /// Blobs that were there already.
    pub known: u64,
    /// Blobs whose bytes were not what their name said. Nothing of them was kept.
    pub damaged: Vec<Digest>,
    /// Entries that are not part of an image layout.
    pub ignored: u64,
}

impl Document for Imported {
    const NAME: &'static str = "bundle";
}

/// Files that were taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Import {
    /// One for each file, in the order of the command line.
    pub bundles: Vec<ImportedFile>,
}

impl Document for Import {
    const NAME: &'static str = "import";
}

/// A file that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportedFile {
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// What came of it.
    #[serde(flatten)]
    pub imported: Imported,
}

/// What is stored, for the next export of the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoredReceipt {
    /// The blobs.
    pub receipt: Receipt,
}

impl Document for StoredReceipt {
    const NAME: &'static str = "receipt";
}
