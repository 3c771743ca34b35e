//! What the mirror was good for: what clients got from it, and what that spared them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Moment};

/// What clients got, since the start, within a day, and ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// When the daemon started.
    pub started_at: Moment,
    /// Since then.
    pub since_start: Used,
    /// When counting began: with the first start on this store, or with the first one after what was known was
    /// found damaged.
    pub counted_since_at: Moment,
    /// Since then.
    pub of_all_time: Used,
    /// The last 24 hours, the present one at the end.
    pub hours: Vec<HourOfUse>,
}

impl Document for Usage {
    const NAME: &'static str = "usage";
}

/// What clients got in some time. What the mirror answered alone is not counted, nor what was refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Used {
    /// Requests, by outcome.
    pub requests: BTreeMap<String, u64>,
    /// Bytes that went to clients, by outcome.
    pub bytes: BTreeMap<String, u64>,
    /// Bytes of content that came from upstreams.
    pub fetched_bytes: u64,
    /// What went to clients less what came from upstreams.
    pub saved_bytes: u64,
    /// How long upstreams would have taken for that, each at its rate of that day.
    pub saved_seconds: u64,
    /// Requests that were served from the cache (hit, revalidated, stale, joined), as a part of all, 0 to 1;
    /// nothing while there is nothing to count.
    pub hit_ratio: Option<f64>,
    /// The same of bytes.
    pub hit_ratio_of_bytes: Option<f64>,
}

/// An hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HourOfUse {
    /// When it began.
    pub begun_at: Moment,
    /// What clients got in it.
    #[serde(flatten)]
    pub used: Used,
}
