//! Why the mirror could not answer, and the one place where that becomes an error code.

use std::time::Duration;

use crate::clients::TooMany;
use crate::mirror::RouteError;
use crate::oci::{ErrorCode, RegistryName};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// When to ask again where everything was taken.
const BUSY: Duration = Duration::from_secs(5);

/// What was asked for, as far as the error code depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A manifest, by tag or digest.
    Manifest,
    /// A blob.
    Blob,
    /// The tags of a repository.
    Tags,
    /// The manifests that refer to one.
    Referrers,
}

/// Why the mirror could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    /// The request names no upstream of ours, or two.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Upstream failed, and nothing stored could stand in for it.
    #[error("{error}")]
    Upstream {
        /// What was asked for.
        subject: Subject,
        /// What upstream did.
        error: UpstreamError,
    },
    /// The range lies outside of the blob.
    #[error("the range lies outside of the blob, which has {size} bytes")]
    Range {
        /// The size of the blob in bytes.
        size: u64,
    },
    /// The client has had what one client may have.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// No fill of this upstream ended in time, and as many requests as may be are under way to it.
    #[error("{upstream} is asked for as much as may be at a time; ask again in a moment")]
    Busy {
        /// The upstream.
        upstream: RegistryName,
    },
    /// Bodies that others have in hand take all the memory that there is for them.
    #[error("this mirror has as many answers in memory as it may; ask again in a moment")]
    Crowded,
    /// The task that fetched for several requests ended without an answer.
    #[error("the mirror failed while it fetched this: {0}")]
    Internal(String),
}

impl MirrorError {
    /// An upstream error about `subject`.
    pub const fn upstream(subject: Subject, error: UpstreamError) -> MirrorError {
        MirrorError::Upstream { subject, error }
    }

    /// What was asked for, where an upstream failed.
    pub const fn subject(&self) -> Option<Subject> {
        match self {
            MirrorError::Upstream { subject, .. } => Some(*subject),
            _ => None,
        }
    }

    /// The class of the upstream's failure, where it was one.
    pub const fn upstream_class(&self) -> Option<UpstreamErrorClass> {
        match self {
            MirrorError::Upstream { error, .. } => Some(error.class),
            _ => None,
        }
    }

    /// Whether upstream says that it is not for who asks.
    pub fn is_denial(&self) -> bool {
        self.upstream_class() == Some(UpstreamErrorClass::Denied)
    }

    /// Whether that is a word on the rights of who asks.
    pub fn is_verdict(&self) -> bool {
        matches!(self, MirrorError::Upstream { error, .. } if error.is_verdict())
    }

    /// Whether upstream says that it is not there.
    pub fn is_missing(&self) -> bool {
        self.upstream_class() == Some(UpstreamErrorClass::NotFound)
    }

    /// Whether upstream says another no: that asking in this way is of no use.
    pub fn is_refusal(&self) -> bool {
        self.upstream_class() == Some(UpstreamErrorClass::Refused)
    }

    /// Whether upstream does not say.
    pub fn is_outage(&self) -> bool {
        self.upstream_class().is_some_and(UpstreamErrorClass::is_outage)
    }

    /// Whether nothing came of upstream that could be an answer, so that what is stored may stand in.
    pub fn is_no_answer(&self) -> bool {
        self.upstream_class().is_some_and(UpstreamErrorClass::is_no_answer)
    }

    /// Whether upstream, or its token service, does not say whether who asks may have it: neither yes nor a no to him.
    pub fn says_nothing_of_rights(&self) -> bool {
        self.is_no_answer() || self.is_denial() && !self.is_verdict()
    }

    /// The status of an upstream's refusal, where it was one.
    pub const fn upstream_status(&self) -> Option<u16> {
        match self {
            MirrorError::Upstream { error, .. } => error.status,
            _ => None,
        }
    }

    /// Why upstream did not give it, in words that may be told to others, where it is known.
    pub fn upstream_reason(&self) -> Option<&str> {
        match self {
            MirrorError::Upstream { error, .. } => error.reason.as_deref(),
            _ => None,
        }
    }

    /// The code to answer with.
    ///
    /// A refusal is told as 404, and an outage or a rate limit of an upstream as 503, because docker 1.13
    /// aborts a pull on a 403 or 429 in place of going on to its next endpoint. A limit of ours is a 429: who
    /// wants too much is not to go on elsewhere.
    pub const fn code(&self) -> ErrorCode {
        match self {
            MirrorError::Route(RouteError::UnknownUpstream(_)) => ErrorCode::NameUnknown,
            MirrorError::Route(RouteError::Contradiction(..) | RouteError::InvalidName) => ErrorCode::NameInvalid,
            MirrorError::Range { .. } => ErrorCode::RangeInvalid,
            MirrorError::TooMany(_) => ErrorCode::TooManyRequests,
            MirrorError::Internal(_) => ErrorCode::Unknown,
            MirrorError::Busy { .. } | MirrorError::Crowded => ErrorCode::Unavailable,
            MirrorError::Upstream { subject, error } => match (told(error), subject) {
                (UpstreamErrorClass::NotFound, Subject::Manifest) => ErrorCode::ManifestUnknown,
                (UpstreamErrorClass::NotFound | UpstreamErrorClass::Denied, Subject::Blob) => ErrorCode::BlobUnknown,
                (UpstreamErrorClass::Denied, Subject::Manifest) => ErrorCode::NameUnknown,
                (UpstreamErrorClass::NotFound | UpstreamErrorClass::Denied, Subject::Tags) => ErrorCode::NameUnknown,
                (UpstreamErrorClass::NotFound, Subject::Referrers) => ErrorCode::NameUnknown,
                // A 404 would say that there is no such list, and signatures would seem to be missing of what is given.
                (UpstreamErrorClass::Denied | UpstreamErrorClass::Refused, Subject::Referrers) => ErrorCode::Denied,
                // A refusal stays one of ours, too: after 5xx clients ask again.
                (UpstreamErrorClass::Refused, Subject::Manifest) => ErrorCode::ManifestUnknown,
                (UpstreamErrorClass::Refused, Subject::Blob) => ErrorCode::BlobUnknown,
                (UpstreamErrorClass::Refused, Subject::Tags) => ErrorCode::NameUnknown,
                (UpstreamErrorClass::RateLimited(_) | UpstreamErrorClass::Unavailable, _) => ErrorCode::Unavailable,
                (UpstreamErrorClass::Protocol, _) => ErrorCode::Unknown,
            },
        }
    }

    /// A short name for the metric.
    pub const fn class(&self) -> &'static str {
        match self {
            MirrorError::Route(_) => "route",
            MirrorError::Range { .. } => "range",
            MirrorError::TooMany(_) => "client_limit",
            MirrorError::Internal(_) => "internal",
            MirrorError::Busy { .. } => "busy",
            MirrorError::Crowded => "crowded",
            MirrorError::Upstream { error, .. } => error.class.as_str(),
        }
    }

    /// How long the client should wait before it asks again, where upstream said so or we do.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            MirrorError::TooMany(TooMany { wait, .. }) => Some(*wait),
            MirrorError::Busy { .. } | MirrorError::Crowded => Some(BUSY),
            MirrorError::Upstream { error, .. } => match error.class {
                UpstreamErrorClass::RateLimited(wait) => wait,
                _ => None,
            },
            _ => None,
        }
    }
}

/// What clients are told: a refusal stays one for them, also where it says nothing of what is there, as that of a
/// proxy, or of an upstream that does not know what is asked. One for want of time (408, 425) is none: it is to be asked
/// again.
const fn told(error: &UpstreamError) -> UpstreamErrorClass {
    match (error.class, error.status) {
        (UpstreamErrorClass::Protocol, Some(400..=499 | 501)) => UpstreamErrorClass::Refused,
        (class, _) => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_makes_an_old_client_abort() {
        use UpstreamErrorClass::{Denied, NotFound, Protocol, RateLimited, Refused, Unavailable};
        for (class, manifest, blob) in [
            (NotFound, 404, 404),
            (Denied, 404, 404),
            (Refused, 404, 404),
            (RateLimited(None), 503, 503),
            (Unavailable, 503, 503),
            (Protocol, 502, 502),
        ] {
            let status =
                |subject| MirrorError::upstream(subject, UpstreamError::new(class, "")).code().status().as_u16();
            assert_eq!((status(Subject::Manifest), status(Subject::Blob)), (manifest, blob), "{class:?}");
        }
    }
}
