//! How a mirror is doing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Checked, Document, Moment};
use crate::oci::Digest;

/// How eager a mirror is to ask upstreams: what the configuration says, and the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It asks when a tag is no longer fresh, and waits for the answer, as long as its patience lasts where
    /// there is something to serve.
    #[default]
    Online,
    /// The same, with little patience.
    PreferCache,
    /// It never asks.
    Offline,
}

impl Mode {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Online => "online",
            Mode::PreferCache => "prefer-cache",
            Mode::Offline => "offline",
        }
    }
}

/// How the mirror is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The version of the program that runs the daemon.
    pub program: String,
    /// When it started.
    pub started_at: Moment,
    /// Whom it asks.
    pub mode: Mode,
    /// Where clients find it, as addresses such as `http://127.0.0.1:5000`.
    #[serde(default)]
    pub listening: Vec<String>,
    /// What clients asked for.
    pub requests: Share,
    /// What clients got, in bytes.
    pub bytes: Share,
    /// What upstreams sent of content.
    pub fetched_bytes: u64,
    /// What clients got and no upstream sent.
    pub saved_bytes: u64,
    /// What is being fetched just now.
    pub fills: Vec<FillStatus>,
    /// The registries that we may ask.
    pub upstreams: Vec<UpstreamStatus>,
    /// What the store holds and may hold.
    pub store: StoreStatus,
    /// What is not as it should be, with what to do.
    #[serde(default)]
    pub problems: Vec<Checked>,
    /// The bucket behind it, where there is one.
    #[serde(default)]
    pub bucket: Option<BucketStatus>,
}

impl Document for Status {
    const NAME: &'static str = "status";
}

/// A sum by where it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// All together.
    pub total: u64,
    /// From the store.
    pub hit: u64,
    /// From fills that others had started.
    pub joined: u64,
    /// Fetched for it.
    pub missed: u64,
    /// What was served from the cache, `hit` and `joined`, as a part of `total`, 0 to 1; nothing while there
    /// is nothing to count.
    pub hit_ratio: Option<f64>,
}

/// A blob on its way from upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FillStatus {
    /// Upstream and repository.
    pub repository: String,
    /// The blob.
    pub digest: Digest,
    /// What is there of it.
    pub written_bytes: u64,
    /// All of it, where upstream says so.
    pub size_bytes: Option<u64>,
    /// Clients that read along.
    pub readers: usize,
}

/// A registry that we may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamStatus {
    /// The name images use.
    pub host: String,
    /// Fills that get bytes from it.
    pub filling: usize,
    /// Fills that wait for their turn, or for its answer.
    pub waiting: usize,
    /// Its addresses in the order in which they are tried; none when nobody is ever asked.
    pub endpoints: Vec<Endpoint>,
}

/// How one address of an upstream fares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Where it is, as it is configured.
    pub url: String,
    /// Whether it is asked.
    pub state: EndpointState,
    /// When it is asked again, if not now.
    pub asked_again_at: Option<Moment>,
    /// What went wrong last, since the start.
    pub last_error: Option<LastError>,
    /// When it last gave what it was asked for, since the start.
    pub answered_at: Option<Moment>,
    /// How long its latest answers took to begin, the median.
    pub latency_seconds: Option<f64>,
    /// What it grants, where it says so.
    pub pulls: Option<Pulls>,
}

/// Whether an address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It is, as far as we know with success.
    Up,
    /// It did not answer and is left alone for a while.
    Down,
    /// It did not answer, and one request is finding out whether it does again.
    Probing,
    /// It said 429 and is left alone for a while.
    Limited,
}

/// The latest request that did not get what it asked for. That something does not exist is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastError {
    /// What kind of error.
    pub class: String,
    /// When.
    pub failed_at: Moment,
}

/// The pulls that an address grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pulls {
    /// In a window.
    pub limit: u64,
    /// How many are left of them.
    pub left: u64,
    /// When the window ends, at the latest.
    pub resets_at: Moment,
}

/// What the store holds and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreStatus {
    /// All blobs together.
    pub used_bytes: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// What it may hold; 0 until that is known.
    pub budget_bytes: u64,
}

/// The bucket that all replicas share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BucketStatus {
    /// Its name.
    pub name: String,
    /// Why it does not answer, gives no content, or does not take what is owed to it; nothing while it does.
    pub trouble: Option<String>,
    /// Objects that have still to go up.
    pub backlog: u64,
    /// Whether the store keeps to the conditions of writes; nothing while that is not known.
    pub conditions_hold: Option<bool>,
    /// Leases that this replica holds, for blobs that it fetches for all; nothing where each replica fetches for
    /// itself.
    #[serde(default)]
    pub leases: Option<u64>,
}

impl BucketStatus {
    /// What is not as it should be.
    pub fn problem(&self) -> Option<Checked> {
        let why = self.trouble.as_ref()?;
        Some(Checked::warn(
            "bucket",
            format!("{}: {why}; pulls go on without it", self.name),
            "registry-mirror store test",
        ))
    }
}

/// What is being fetched just now: a line of `events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fills {
    /// Each by itself.
    pub fills: Vec<RunningFill>,
}

impl Document for Fills {
    const NAME: &'static str = "fills";
}

/// A blob on its way from upstream, and when it will be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunningFill {
    /// As in the status.
    #[serde(flatten)]
    pub fill: FillStatus,
    /// How fast it has come lately; nothing before that can be told.
    pub per_second_bytes: Option<u64>,
    /// How long the rest takes at that.
    pub left_seconds: Option<u64>,
}
