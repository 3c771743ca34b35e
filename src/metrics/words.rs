//! The words that labels are made of: closed sets, so that the number of series is known.

use crate::oci::Request;

/// What a client asked for, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestKind {
    /// `/v2/`
    Ping,
    /// A manifest.
    Manifest,
    /// A blob.
    Blob,
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
    /// Anything else, refused.
    Other,
}

impl RequestKind {
    /// How many there are.
    pub(super) const COUNT: usize = RequestKind::Other as usize + 1;

    /// Of a request that is understood.
    pub const fn of(request: &Request) -> RequestKind {
        match request {
            Request::Ping => RequestKind::Ping,
            Request::Manifest { .. } => RequestKind::Manifest,
            Request::Blob { .. } => RequestKind::Blob,
            Request::Tags { .. } => RequestKind::Tags,
            Request::Referrers { .. } => RequestKind::Referrers,
        }
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            RequestKind::Ping => "ping",
            RequestKind::Manifest => "manifest",
            RequestKind::Blob => "blob",
            RequestKind::Tags => "tags",
            RequestKind::Referrers => "referrers",
            RequestKind::Other => "other",
        }
    }
}

/// How the body of an answer got to the socket. A body that went several ways counts as the last of
/// them in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SentBy {
    /// From memory: manifests, small blobs, what is relayed.
    Memory,
    /// From a file through TLS.
    Tls,
    /// From a file by the kernel, without a copy.
    Sendfile,
    /// From a file through a buffer, where the page cache or the file system did not help.
    Copy,
}

impl SentBy {
    /// All of them.
    pub const ALL: [SentBy; 4] = [SentBy::Memory, SentBy::Tls, SentBy::Sendfile, SentBy::Copy];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            SentBy::Memory => "memory",
            SentBy::Tls => "tls",
            SentBy::Sendfile => "sendfile",
            SentBy::Copy => "copy",
        }
    }
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FillResult {
    /// Verified and in the store.
    Stored,
    /// Verified and delivered, but the store could not take it.
    NotStored,
    /// Upstream sent other bytes than the digest says.
    Mismatch,
    /// Upstream could not deliver.
    UpstreamFailed,
    /// Given up: the daemon stops, or nobody waits for it.
    Abandoned,
}

impl FillResult {
    /// All of them.
    pub const ALL: [FillResult; 5] = [
        FillResult::Stored,
        FillResult::NotStored,
        FillResult::Mismatch,
        FillResult::UpstreamFailed,
        FillResult::Abandoned,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            FillResult::Stored => "stored",
            FillResult::NotStored => "not-stored",
            FillResult::Mismatch => "mismatch",
            FillResult::UpstreamFailed => "upstream-failed",
            FillResult::Abandoned => "abandoned",
        }
    }
}
