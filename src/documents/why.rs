//! What a pull of an image would get now, and why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Completeness, Document, Explanation, ImageSummary, Moment};
use crate::oci::RegistryName;

/// What a pull would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// The whole name of the image.
    pub image: String,
    /// The registry that it is of.
    pub upstream: RegistryName,
    /// Whether it would succeed, as far as can be told without asking.
    pub succeeds: bool,
    /// The word for its manifest in the log, the metrics and `Cache-Status`; none where it would fail.
    pub outcome: Option<String>,
    /// Where its bytes would come from; none where it would fail, and for
    /// the mirror's own image.
    pub from: Option<Source>,
    /// In a sentence, why.
    pub reason: String,
    /// Until when the tag is served without a question; none where that is not a matter of time.
    pub fresh_until_at: Option<Moment>,
    /// Until when it is served while upstream does not answer; none where that is not a matter of time.
    pub stale_until_at: Option<Moment>,
    /// What is stored of it; none where nothing is known.
    pub stored: Option<ImageSummary>,
    /// What of it there is for this machine's platform, and what is not.
    pub completeness: Completeness,
    /// Of what is missing, so much is there of fills that did not end, and need not be fetched again.
    #[serde(default)]
    pub begun_bytes: u64,
    /// Whether who shows nothing may pull it, and what decides; none where nobody says. All else is what somebody
    /// gets who may.
    #[serde(default)]
    pub anonymous: Option<Explanation>,
}

impl Document for Why {
    const NAME: &'static str = "why";
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From the store, all of them.
    Store,
    /// From the bucket, what is not stored.
    Bucket,
    /// From the store, and what is missing there from upstream.
    Both,
    /// From upstream.
    Upstream,
}
