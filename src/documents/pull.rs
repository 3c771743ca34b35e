//! What happens while images are fetched ahead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Document;
use crate::oci::Digest;

/// What kind of failure it was, as far as a script may care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Upstream does not have it, or it is not made for the platform.
    NotFound,
    /// Upstream refused: not for us, or too often.
    Refused,
    /// Upstream could not answer.
    Unavailable,
    /// Upstream sent other bytes than the digest says, or no registry answer at all.
    BadAnswer,
    /// It was fetched, but the store could not keep it.
    NotKept,
    /// Anything else.
    Other,
}

/// What happens while images are fetched ahead, a line for each event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum PullEvent {
    /// It is known what the name stands for.
    Resolved {
        /// The image, under its whole name.
        image: String,
        /// Its manifest.
        digest: Digest,
    },
    /// A blob belongs to it that is not stored.
    Queued {
        /// The blob.
        digest: Digest,
        /// All of it.
        size_bytes: u64,
    },
    /// A blob has grown.
    Progress {
        /// The blob.
        digest: Digest,
        /// What is there of it.
        written_bytes: u64,
    },
    /// A blob is stored.
    Finished {
        /// The blob.
        digest: Digest,
        /// All of it.
        size_bytes: u64,
        /// Whether it was fetched now.
        fetched: bool,
    },
    /// A part of an image, or the whole image, cannot be had.
    Failed {
        /// The image.
        image: String,
        /// The part, if it was one.
        digest: Option<Digest>,
        /// What kind of failure.
        failure: Failure,
        /// For people.
        message: String,
    },
    /// An image is done with.
    Done {
        /// The image.
        image: String,
        /// Whether all of it is stored.
        complete: bool,
        /// How many blobs it has.
        blobs: usize,
        /// What was fetched now.
        fetched_bytes: u64,
    },
}

impl Document for PullEvent {
    const NAME: &'static str = "pull";
}
