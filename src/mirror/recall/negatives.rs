//! What upstream said a moment ago that it has not got. Bounded, in memory, for seconds.
//!
//! Only a plain "not found" is remembered: whoever was refused or could not be answered asks again.
//! A tag is remembered for the set of types that was accepted, content for what it was asked for as,
//! because clients ask for a manifest among the blobs when it is not found among the manifests, and for
//! the method: what HEAD is told is no word on what GET would get.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::metadata::{Location, TagKey};
use crate::mirror::error::{MirrorError, Subject};
use crate::oci::{AcceptSet, Digest, Reference, RegistryName};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// What was not found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Missing {
    /// A tag, by clients that accept these types.
    Tag(TagKey),
    /// A manifest, asked for with these types besides those that we always ask for.
    Manifest(Location, Digest, AcceptSet),
    /// A blob.
    Blob(Location, Digest),
    /// The head of a blob. Some registries have none before somebody got the blob itself.
    Head(Location, Digest),
}

impl Missing {
    const fn location(&self) -> &Location {
        match self {
            Missing::Tag(key) => &key.location,
            Missing::Manifest(location, ..) | Missing::Blob(location, _) | Missing::Head(location, _) => location,
        }
    }

    /// The same, with no more than it takes to find it again.
    fn into_key(self) -> Missing {
        match self {
            Missing::Tag(TagKey { location, tag, accept }) => {
                Missing::Tag(TagKey { location, tag, accept: accept.key() })
            }
            Missing::Manifest(location, digest, accept) => Missing::Manifest(location, digest, accept.key()),
            blob => blob,
        }
    }

    fn error(&self) -> MirrorError {
        let (subject, what) = match self {
            Missing::Tag(key) => (Subject::Manifest, format!("{}:{}", key.location, key.tag)),
            Missing::Manifest(location, digest, _) => (Subject::Manifest, format!("{location}@{digest}")),
            Missing::Blob(location, digest) | Missing::Head(location, digest) => {
                (Subject::Blob, format!("{location}@{digest}"))
            }
        };
        let message = format!("{what} was not found a moment ago");
        MirrorError::upstream(subject, UpstreamError::new(UpstreamErrorClass::NotFound, message))
    }
}

/// What was not found, and when.
pub(crate) struct Negatives {
    ttl: Duration,
    clock: Arc<dyn Clock>,
    known: Cache<Missing, Timestamp>,
    /// Upstreams that say "not found" to one caller and not to another.
    of_callers: HashSet<RegistryName>,
}

/// For so long a no to GET outweighs a yes to HEAD.
const LATELY: Duration = Duration::from_secs(30);

impl Negatives {
    const MAX: u64 = 10_000;

    /// Believes a "not found" for `ttl`.
    pub(crate) fn new(ttl: Duration, clock: Arc<dyn Clock>, of_callers: HashSet<RegistryName>) -> Negatives {
        Negatives { ttl, clock, known: Cache::new(Negatives::MAX), of_callers }
    }

    /// How many entries there are.
    pub(crate) fn table(&self) -> (&'static str, u64) {
        ("negatives", self.known.entry_count())
    }

    /// Fails where upstream need not be asked again.
    pub(crate) fn check(&self, missing: &Missing) -> Result<(), MirrorError> {
        match self.known.get(missing).and_then(|at| at.age(self.clock.now())) {
            Some(age) if age < self.ttl => Err(missing.error()),
            _ => Ok(()),
        }
    }

    /// Whether upstream said so lately, however long that is believed, and nothing else since.
    pub(crate) fn was_missing(&self, missing: &Missing) -> bool {
        self.known.get(missing).and_then(|at| at.age(self.clock.now())).is_some_and(|age| age < LATELY)
    }

    /// Whether upstream need not be asked again for a manifest, by some who accept other types or by all.
    pub(crate) fn is_absent(&self, location: &Location, reference: &Reference) -> bool {
        let is_it = |missing: &Missing| match (missing, reference) {
            (Missing::Tag(key), Reference::Tag(tag)) => key.location == *location && key.tag == *tag,
            (Missing::Manifest(at, digest, _), Reference::Digest(named)) => at == location && digest == named,
            _ => false,
        };
        self.known.iter().any(|(missing, _)| is_it(&missing) && self.check(&missing).is_err())
    }

    /// Takes note of what upstream said, if it is "not found".
    pub(crate) fn note(&self, missing: impl FnOnce() -> Missing, class: UpstreamErrorClass) {
        if class != UpstreamErrorClass::NotFound {
            return;
        }
        let missing = missing().into_key();
        if !self.of_callers.contains(&missing.location().upstream) {
            self.known.insert(missing, self.clock.now());
        }
    }

    /// It is there after all.
    pub(crate) fn forget(&self, missing: &Missing) {
        self.known.invalidate(missing);
    }

    /// Anything may be there after all.
    pub(crate) fn forget_all(&self) {
        self.known.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::oci::Algorithm;

    #[test]
    fn made_up_digests_do_not_fill_the_memory() {
        let negatives =
            Negatives::new(Duration::from_secs(10), Arc::new(ManualClock::at(Timestamp(1))), HashSet::new());
        let upstream = "docker.io".parse().expect("a name");
        let location = Location { upstream, repository: "a/b".parse().expect("a name") };
        for n in 0..2 * Negatives::MAX {
            let digest = Digest::of(Algorithm::Sha256, &n.to_le_bytes());
            negatives.note(|| Missing::Blob(location.clone(), digest), UpstreamErrorClass::NotFound);
        }
        negatives.known.run_pending_tasks();
        assert_eq!(negatives.table().1, Negatives::MAX);
    }
}
