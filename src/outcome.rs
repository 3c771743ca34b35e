//! How a request was answered, in one word.
//!
//! The same enum stands in the log line, the metric, the `Cache-Status` header and the tests.

use std::fmt;

/// Where the bytes of an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// From the store, without asking upstream.
    Hit,
    /// From a fill that another request had started.
    Join,
    /// From a fill that this request started; for a manifest, fetched now.
    Fill,
    /// From the store, after upstream confirmed it.
    Revalidated,
    /// From the store, because upstream cannot answer.
    Stale,
    /// Straight from upstream, not kept.
    Relayed,
    /// From the bucket that all replicas share, without asking upstream.
    Tier,
    /// Answered by us alone: a ping, a refusal, an error.
    Local,
}

impl Outcome {
    /// All of them, in the order of their declaration.
    pub const ALL: [Outcome; 8] = [
        Outcome::Hit,
        Outcome::Join,
        Outcome::Fill,
        Outcome::Revalidated,
        Outcome::Stale,
        Outcome::Relayed,
        Outcome::Tier,
        Outcome::Local,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Join => "join",
            Outcome::Fill => "fill",
            Outcome::Revalidated => "revalidated",
            Outcome::Stale => "stale",
            Outcome::Relayed => "relayed",
            Outcome::Tier => "tier",
            Outcome::Local => "local",
        }
    }

    /// Whether it counts as served from the cache: upstream sent no byte of content for it alone.
    pub const fn is_from_cache(self) -> bool {
        matches!(self, Outcome::Hit | Outcome::Join | Outcome::Revalidated | Outcome::Stale | Outcome::Tier)
    }

    /// The value of the `Cache-Status` header (RFC 9211).
    pub const fn cache_status(self) -> &'static str {
        match self {
            Outcome::Hit => "registry-mirror; hit; detail=hit",
            Outcome::Join => "registry-mirror; fwd=miss; collapsed; detail=join",
            Outcome::Fill => "registry-mirror; fwd=miss; stored; detail=fill",
            Outcome::Revalidated => "registry-mirror; fwd=stale; fwd-status=200; detail=revalidated",
            Outcome::Stale => "registry-mirror; hit; detail=stale",
            Outcome::Relayed => "registry-mirror; fwd=miss; detail=relayed",
            Outcome::Tier => "registry-mirror; hit; detail=tier",
            Outcome::Local => "registry-mirror; detail=local",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
