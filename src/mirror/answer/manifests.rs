//! Manifests by digest: from the store, verified, or else from upstream, once for all who ask.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::metadata::{Location, Membership};
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::Fills;
use crate::mirror::flight::beside::or_instead;
use crate::mirror::flight::flights::{Flights, Landing, Shareable};
use crate::mirror::flight::shared::pace_beside;
use crate::mirror::flight::{BlobKey, Fetched};
use crate::mirror::recall::freshness::overdue;
use crate::mirror::recall::memory::{Asked, Memory};
use crate::mirror::recall::negatives::{Missing, Negatives};
use crate::mirror::room::stored::Stored;
use crate::mirror::routes::Route;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest};
use crate::outcome::Outcome;
use crate::tier::Pace;

/// An answer with a manifest.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// Bytes and descriptor, exactly as upstream sent them.
    pub manifest: Arc<Manifest>,
    /// Where they come from.
    pub outcome: Outcome,
    /// For a stale answer, how long ago upstream last confirmed the tag.
    pub stale_for: Option<Duration>,
}

/// Answers with manifests by digest.
pub(super) struct Manifests {
    pub(super) stored: Arc<Stored>,
    pub(super) memory: Arc<Memory>,
    pub(super) fills: Arc<Fills>,
    pub(super) flights: Flights<(Location, Digest, AcceptSet), Shareable<Fetched>>,
    pub(super) negatives: Arc<Negatives>,
    /// Those that somebody has in hand just now: they are in memory once.
    pub(super) in_use: Mutex<HashMap<BlobKey, Weak<Manifest>>>,
}

impl Manifests {
    /// Immutable: the store first, then upstream.
    pub(super) async fn answer(
        self: &Arc<Manifests>,
        route: &Route,
        digest: Digest,
        accept: &AcceptSet,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (manifest, outcome) = self.by_digest(route, digest, accept).await?;
        Ok(ManifestAnswer { manifest, outcome, stale_for: None })
    }

    /// The store first, then upstream, which is asked for every type that we know and for those that only the
    /// client knows.
    pub(super) async fn by_digest(self: &Arc<Manifests>, route: &Route, digest: Digest, accept: &AcceptSet) -> Fetched {
        if let Some(manifest) = self.stored(&route.location, &digest).await {
            return Ok((manifest, Outcome::Hit));
        }
        let accept = accept.others();
        self.negatives.check(&Missing::Manifest(route.location.clone(), digest, accept.clone()))?;
        let key = (route.location.clone(), digest, accept.clone());
        if self.flights.join(&key).is_none() {
            route.asker.question()?;
        }
        let (manifests, route) = (Arc::clone(self), route.clone());
        let work = || async move {
            if let Some(manifest) = manifests.stored(&route.location, &digest).await {
                return Ok((manifest, Outcome::Hit));
            }
            let pace = pace_beside(&*route.upstream, &route.waited);
            if let Some(manifest) = manifests.in_bucket(&route, &digest, pace).await {
                return Ok((manifest, Outcome::Tier));
            }
            let asked = async {
                let manifest = manifests.fills.manifest(&route, digest, &accept).await?;
                manifests.is_in_hand((route.location.clone(), digest), &manifest);
                Ok((manifest, Outcome::Fill))
            };
            manifests.or_after_all(&route, (&digest, pace), Box::pin(asked), |manifest| (manifest, Outcome::Tier)).await
        };
        if self.stored.standing.is_of_callers(&key.0) {
            return work().await;
        }
        arrived(self.flights.share(&self.fills.tasks, key, None, work).await)
    }

    /// The manifest from the store, verified: it is small, and its media type is not in its bytes.
    pub(super) async fn stored(&self, location: &Location, digest: &Digest) -> Option<Arc<Manifest>> {
        let key = (location.clone(), *digest);
        if let Some(manifest) = self.fills.writing.get(&key) {
            return Some(manifest);
        }
        let stamp = self.stored.stamp();
        let (Membership { descriptor, .. }, content) = self.stored.open(location, digest).await?;
        // A blob that was fetched as a blob does not know that it is a manifest.
        if descriptor.is_of_blob() || content.size > MAX_MANIFEST_SIZE {
            return None;
        }
        let descriptor = Descriptor { size: content.size, ..descriptor };
        let in_use = self.in_use.lock().get(&key).and_then(Weak::upgrade);
        if let Some(manifest) = in_use.filter(|manifest| manifest.descriptor == descriptor) {
            return Some(manifest);
        }
        let asked = Asked::Manifest(*digest);
        let bytes = match self.memory.get(location, &asked) {
            Some(kept) => kept.bytes.clone(),
            None => {
                let bytes = self.stored.verified(digest, &content).await?;
                self.fills.bounds.bodies.hold(bytes, self.fills.bounds.fill_wait).await?
            }
        };
        let manifest = Arc::new(Manifest { descriptor, bytes });
        self.memory.keep(location, asked, &manifest.descriptor, &manifest.bytes, None, stamp);
        self.is_in_hand(key, &manifest);
        Some(manifest)
    }

    /// The manifest from the bucket, where the repository is known to have it, and if it comes at this pace.
    pub(super) async fn in_bucket(&self, route: &Route, digest: &Digest, pace: Pace) -> Option<Arc<Manifest>> {
        // Who has no bucket carries nothing of it along.
        self.stored.shared()?;
        let location = &route.location;
        let manifest = Box::pin(self.fills.manifest_in_bucket(location, digest, (&route.waited, pace))).await?;
        self.is_in_hand((location.clone(), *digest), &manifest);
        Some(manifest)
    }

    /// What comes of asking upstream for a manifest, which did not come from the bucket at this pace; or, where that fails
    /// or says nothing for long, the manifest from the bucket, which was passed over as long as upstream might give it.
    pub(super) async fn or_after_all<T>(
        &self,
        route: &Route,
        (digest, pace): (&Digest, Pace),
        asked: impl Future<Output = Result<T, MirrorError>>,
        found: impl FnOnce(Arc<Manifest>) -> T,
    ) -> Result<T, MirrorError> {
        let Some(shared) = self.stored.shared() else { return asked.await };
        let after_all = async {
            route.waited.has_nobody_else();
            // Whoever may be slow was asked so before.
            let is_news = pace == Pace::Helps;
            if is_news { self.in_bucket(route, digest, Pace::Any).await.map(found) } else { None }
        };
        or_instead(shared.bucket.patience(), asked, MirrorError::is_no_answer, Box::pin(after_all)).await
    }

    /// Who asks for this manifest while somebody has it gets the same bytes.
    pub(super) fn is_in_hand(&self, key: BlobKey, manifest: &Arc<Manifest>) {
        self.fills.sizes.told(&key.0, manifest);
        let mut in_use = self.in_use.lock();
        // Those that nobody has in hand any more leave, so that there are no more than answers.
        if in_use.len() >= in_use.capacity() {
            in_use.retain(|_, manifest| manifest.strong_count() > 0);
        }
        in_use.insert(key, Arc::downgrade(manifest));
    }
}

/// What is asked with a caller's own credential is his own question: nobody shares it, nor what is said to it.
pub(super) async fn patiently<M>(patience: Option<Duration>, asked: impl Future<Output = Fetched<M>>) -> Fetched<M> {
    match patience {
        Some(patience) => tokio::time::timeout(patience, asked).await.unwrap_or(Err(overdue(Subject::Manifest))),
        None => asked.await,
    }
}

/// What a shared flight brought, with `Join` for those who did not lead it.
pub(super) fn arrived<M>(landing: Landing<Fetched<M>>) -> Fetched<M> {
    match landing {
        Landing::Arrived(fetched, joined) => {
            let (manifest, outcome) = fetched?;
            Ok((manifest, if joined { Outcome::Join } else { outcome }))
        }
        Landing::Overdue => Err(overdue(Subject::Manifest)),
        Landing::Lost => Err(MirrorError::Internal("the look-up ended without a result".to_owned())),
    }
}
