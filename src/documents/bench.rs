//! What measured pulls come to. Times are in seconds, rates in bytes a second.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Document;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bench {
    /// The version of the program that measured.
    pub program: String,
    /// One for each image that could be pulled.
    pub images: Vec<Report>,
}

impl Document for Bench {
    const NAME: &'static str = "bench";
}

/// Which way an image was pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From the registry itself.
    Direct,
    /// Through the mirror, which did not have it.
    Cold,
    /// Through the mirror, which had it.
    Warm,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 3] = [Way::Direct, Way::Cold, Way::Warm];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Cold => "cold",
            Way::Warm => "warm",
        }
    }
}

/// What a run of one image came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The image as it was meant.
    pub image: String,
    /// The manifest that was pulled.
    pub digest: String,
    /// Whose image of an index.
    pub platform: String,
    /// All of a pull, manifests included.
    pub size_bytes: u64,
    /// Configuration and layers of a pull.
    pub blobs: usize,
    /// Clients at once.
    pub clients: usize,
    /// Blobs at a time, for each client.
    pub parallel: usize,
    /// One for each way that was pulled.
    pub series: Vec<Series>,
    /// Medians of times against each other.
    pub ratios: Ratios,
    /// How it was measured, and what is to be known of the numbers.
    pub notes: Vec<String>,
}

/// All rounds of one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// Which way.
    pub way: Way,
    /// Rounds; each has one pull for each client.
    pub rounds: usize,
    /// Times of pulls, each from its own start to its last byte.
    pub time: Summary,
    /// Times from the start of a pull to the first byte of its first blob.
    pub first_byte: Summary,
    /// Times from the request for a blob to the first byte of it.
    pub blob_first_byte: Option<Summary>,
    /// The median over the rounds of the bytes of all clients together in a second.
    pub rate: f64,
    /// Bytes that the mirror fetched for each byte that it delivered; none where it does not tell.
    pub upstream_bytes_per_client_byte: Option<f64>,
    /// Whether every round made the mirror fetch the image; none where it does not tell.
    pub fetched: Option<bool>,
    /// The time of every pull, in the order of the rounds.
    pub samples: Vec<f64>,
}

/// How the medians of the times compare; none where one of the two was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ratios {
    /// Above 1 the mirror costs time when it has to fetch.
    pub cold_to_direct: Option<f64>,
    /// Below 1 the mirror saves time.
    pub warm_to_direct: Option<f64>,
    /// What being warm saves.
    pub warm_to_cold: Option<f64>,
}

/// What samples of a time come to, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// How many samples.
    pub count: usize,
    /// The least.
    pub min: f64,
    /// Half are no more.
    pub median: f64,
    /// Nine of ten are no more.
    pub p90: f64,
    /// Ninety-nine of a hundred are no more.
    pub p99: f64,
    /// The most.
    pub max: f64,
    /// The width of the middle half.
    pub spread: f64,
}
