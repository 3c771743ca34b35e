//! What upstream said a moment ago that it has not got. Bounded, in memory, for seconds.
//!
//! Only a plain "not found" is remembered: whoever was refused or could not be answered asks again.
//! A tag is remembered for the set of types that was accepted, content for what it was asked for as,
//! because clients ask for a manifest among the blobs when it is not found among the manifests.

use std::time::Duration;

use moka::sync::Cache;

use crate::clock::Timestamp;
use crate::metadata::TagKey;
use crate::mirror::Location;
use crate::mirror::error::{MirrorError, Subject};
use crate::oci::Digest;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// What was not found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::mirror) enum Missing {
    /// A tag, by clients that accept these types.
    Tag(TagKey),
    /// A manifest or a blob by digest.
    Content(Subject, Location, Digest),
}

impl Missing {
    /// A blob, as something that upstream may not have.
    pub(in crate::mirror) fn blob(location: &Location, digest: Digest) -> Missing {
        Missing::Content(Subject::Blob, location.clone(), digest)
    }

    /// A manifest, likewise.
    pub(in crate::mirror) fn manifest(location: &Location, digest: Digest) -> Missing {
        Missing::Content(Subject::Manifest, location.clone(), digest)
    }

    fn error(&self) -> MirrorError {
        let (subject, what) = match self {
            Missing::Tag(key) => (Subject::Manifest, format!("{}:{}", key.location, key.tag)),
            Missing::Content(subject, location, digest) => (*subject, format!("{location}@{digest}")),
        };
        let message = format!("{what} was not found a moment ago");
        MirrorError::upstream(subject, UpstreamError::new(UpstreamErrorClass::NotFound, message))
    }
}

/// What was not found, and when.
pub(in crate::mirror) struct Negatives {
    ttl: Duration,
    known: Cache<Missing, Timestamp>,
}

impl Negatives {
    const MAX: u64 = 10_000;

    /// Believes a "not found" for `ttl`.
    pub(in crate::mirror) fn new(ttl: Duration) -> Negatives {
        Negatives { ttl, known: Cache::new(Negatives::MAX) }
    }

    /// Fails where upstream need not be asked again.
    pub(in crate::mirror) fn check(&self, missing: &Missing, now: Timestamp) -> Result<(), MirrorError> {
        match self.known.get(missing).and_then(|at| at.age(now)) {
            Some(age) if age < self.ttl => Err(missing.error()),
            _ => Ok(()),
        }
    }

    /// Takes note of what upstream said, if it is "not found".
    pub(in crate::mirror) fn note(&self, missing: impl FnOnce() -> Missing, class: UpstreamErrorClass, now: Timestamp) {
        if class == UpstreamErrorClass::NotFound && !self.ttl.is_zero() {
            self.known.insert(missing(), now);
        }
    }

    /// It is there after all.
    pub(in crate::mirror) fn forget(&self, missing: &Missing) {
        self.known.invalidate(missing);
    }

    /// Anything may be there after all.
    pub(in crate::mirror) fn forget_all(&self) {
        self.known.invalidate_all();
    }
}
