//! What comes of looking after a mirror: of collecting, verifying and checking.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Document;
use crate::oci::Digest;

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Garbage {
    /// Whether it was only looked for.
    pub dry_run: bool,
    /// How many blobs.
    pub blobs: u64,
    /// All of them together.
    pub size_bytes: u64,
    /// How many blobs could not be deleted.
    pub failed: u64,
    /// How many manifests that are wanted could not be read; nothing in their repositories goes.
    pub unreadable: u64,
    /// Which of those are damaged; the others are missing.
    pub damaged: Vec<Digest>,
    /// Which blobs.
    pub digests: Vec<Digest>,
}

impl Document for Garbage {
    const NAME: &'static str = "gc";
}

/// What comes of reading everything, a line for each finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Finding {
    /// So much was read so far.
    Progress {
        /// Blobs that were read.
        checked: u64,
        /// All of them together.
        checked_bytes: u64,
        /// Blobs that there are.
        of: u64,
        /// All of those together.
        #[serde(default)]
        of_bytes: u64,
    },
    /// A blob is not what its digest says, or was not when it was set aside earlier and images lack it still.
    Damaged {
        /// The blob.
        digest: Digest,
        /// Whether it is sound again.
        repaired: bool,
    },
    /// Everything was read.
    Done {
        /// Blobs that were read.
        checked: u64,
        /// All of them together.
        checked_bytes: u64,
        /// Blobs that were not what their digest says.
        damaged: u64,
        /// Those of them that are sound again.
        repaired: u64,
        /// Blobs that are damaged, or were and are set aside, and that images here lack still.
        #[serde(default)]
        lacking: u64,
    },
}

impl Document for Finding {
    const NAME: &'static str = "verify";
}

/// Whether the daemon can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Whether it can.
    pub ready: bool,
}

impl Document for Health {
    const NAME: &'static str = "healthcheck";
}

/// Whether a configuration can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Whether it can.
    pub valid: bool,
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
    /// What may not be what was meant.
    pub warnings: Vec<String>,
}

impl Document for Check {
    const NAME: &'static str = "check";
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `mirror.toml:3:1`, the name of a variable or a flag; empty when it has no place.
    pub place: String,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// All of that as people are told it, line by line, with the place in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}
