//! How clients are set up to pull through a mirror, and whether they do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Document, Moment};
use crate::oci::RegistryName;

/// Where clients pull from, and who pulled the image by which they are seen to do so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Canary {
    /// The addresses of the mirror, those for Docker Hub first, as clients on its machine are to be told.
    pub mirrors: Vec<String>,
    /// For each of them, the upstream of a request that names none.
    #[serde(default)]
    pub upstreams: Vec<String>,
    /// The registries that it serves.
    #[serde(default)]
    pub registries: Vec<RegistryName>,
    /// For each upstream for which it was pulled since the daemon started.
    pub pulls: Vec<CanaryPulls>,
}

impl Document for Canary {
    const NAME: &'static str = "canary";
}

/// Pulls of the canary for one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CanaryPulls {
    /// The upstream that it was pulled for.
    pub upstream: String,
    /// How often its tag was asked for.
    pub count: u64,
    /// Who asked last, as in the log.
    pub client: String,
    /// When.
    pub pulled_at: Moment,
}

/// What is done about a client's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SetUpAction {
    /// They are shown.
    Print,
    /// They are written.
    Apply,
    /// The canary is pulled.
    Check,
    /// They become what they were.
    Undo,
}

/// What `setup` did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetUp {
    /// Which client.
    pub client: String,
    /// What was asked for.
    pub action: SetUpAction,
    /// The mirror's address; null for `undo`.
    pub mirror: Option<String>,
    /// For which registries.
    pub registries: Vec<String>,
    /// The client's files that change, or would.
    pub files: Vec<SetUpFile>,
    /// What is to be done by hand.
    pub steps: Vec<String>,
    /// Where the client's service was restarted: the unit.
    pub restarted: Option<String>,
    /// For `check`: who was seen to pull the canary.
    pub pulls: Vec<CanaryPulls>,
}

impl Document for SetUp {
    const NAME: &'static str = "setup";
}

/// One file of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetUpFile {
    /// Where it is.
    pub path: String,
    /// What became of it, or would.
    pub change: FileChange,
    /// From what it was to what it becomes, in the unified format.
    pub diff: String,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// There was none.
    Created,
    /// It says something else.
    Changed,
    /// It stays as it is.
    Unchanged,
    /// It goes.
    Removed,
}
