//! What HEAD is told of manifests: from what is stored, or else from a HEAD of upstream, which costs no pull.
//!
//! What upstream told is believed as long as a tag is fresh, in memory and by HEAD alone. It moves no pointer:
//! that is done when the manifest is there, so that a tag that could be served offline stays one.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::metadata::{Location, MetadataStore, TagKey, TagRecord};
use crate::mirror::Mirror;
use crate::mirror::answer::manifests::{ManifestAnswer, arrived, patiently};
use crate::mirror::answer::tags::{Tags, Turn, stale_there};
use crate::mirror::error::MirrorError;
use crate::mirror::flight::Fetched;
use crate::mirror::flight::shared::pace_beside;
use crate::mirror::recall::freshness::{Consulted, Remembered};
use crate::mirror::recall::heads::HeadKey;
use crate::mirror::recall::negatives::Missing;
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest, Reference, Together};
use crate::outcome::Outcome;
use crate::upstream::heard::{Heard, listening};
use crate::upstream::{Resolved, Resource, Upstream};

/// What a manifest is, for clients that want no more.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// Its digest, size and media type.
    pub descriptor: Descriptor,
    /// Where the answer comes from.
    pub outcome: Outcome,
    /// For a stale answer, how long ago upstream last confirmed the tag.
    pub stale_for: Option<Duration>,
}

/// What a question for a head brings.
type Told = Fetched<Descriptor>;

impl Mirror {
    /// What a manifest is, by tag or digest, without fetching it.
    ///
    /// # Errors
    /// Those of [`Mirror::manifest`].
    pub async fn stat_manifest(
        &self,
        route: &Route,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<ManifestHead, MirrorError> {
        let tags = &self.0.answers.tags;
        if let Reference::Tag(tag) = reference
            && tags.is_known(&TagKey { location: route.location.clone(), tag: tag.clone(), accept: accept.clone() })
        {
            self.0.fills.stored.hear_of_denial(&route.location, &route.waited).await;
        }
        // What is denied is given again by a manifest, not by a head.
        if self.0.fills.stored.denials.holds(&route.location) {
            let ManifestAnswer { manifest, outcome, stale_for } = self.manifest(route, reference, accept).await?;
            return Ok(ManifestHead { descriptor: manifest.descriptor.clone(), outcome, stale_for });
        }
        let found = match reference {
            Reference::Digest(digest) => tags.head_of(route, *digest, accept).await,
            Reference::Tag(tag) => {
                tags.head(route, TagKey { location: route.location.clone(), tag: tag.clone(), accept }).await
            }
        };
        let found = self.heard(route, found)?;
        self.refuse_a_part(route, reference, &found.descriptor, found.outcome).await?;
        Ok(ManifestHead { outcome: found.stale_for.map_or(found.outcome, |_| Outcome::Stale), ..found })
    }
}

fn head((descriptor, outcome): (Descriptor, Outcome)) -> ManifestHead {
    ManifestHead { descriptor, outcome, stale_for: None }
}

impl Tags {
    /// A manifest is there, by whatever name it was asked for: clients ask for the head of a tag, and then for what
    /// it points at. From now on the tag can be served without upstream.
    pub(super) async fn arrived(&self, route: &Route, manifest: &Descriptor) {
        let told = self.heads.arrived(&route.location, manifest.digest);
        if !told.is_empty() {
            self.manifests.fills.writing.over(Some(&route.location)).await;
        }
        for (key, told_at, at) in told {
            // Who has begun with what it pointed at ends with that.
            if !self.has_moved(&key, &manifest.digest, told_at) {
                let before = self.metadata.tag(&key).ok().flatten();
                self.point(key, before, manifest.clone(), (told_at, true), at).await;
            }
        }
    }

    /// Whether a tag that was told to point at this manifest has moved since, as far as anybody here was told, whatever
    /// types he accepts.
    fn has_moved(&self, key: &TagKey, manifest: &Digest, told_at: Timestamp) -> bool {
        let TagKey { location, tag, accept } = key;
        if self.heads.told_other(location, tag, manifest, told_at) {
            return true;
        }
        let records = self.metadata.tag_records(location, tag).unwrap_or_default();
        records.iter().filter(|(_, record)| record.descriptor.digest != *manifest).any(|(set, record)| {
            let pointed_since = if set == accept { record.checked_at } else { record.since };
            pointed_since >= told_at
        })
    }

    /// Whether it may be told without a question what a tag points at.
    fn is_known(&self, key: &TagKey) -> bool {
        self.heads.tag(key).is_some() || self.metadata.tag(key).is_ok_and(|known| known.is_some())
    }

    /// Upstream has just said what a tag points at, to who asked whether somebody may read it. Where that is stored,
    /// the tag need not be asked for again; where it is not, HEAD is told it. What points elsewhere is no longer fresh:
    /// who was just let in by this answer is given nothing that it does not speak of.
    pub(super) async fn observed(
        &self,
        location: &Location,
        reference: &Reference,
        (accept, asked_at): (AcceptSet, Timestamp),
        (told, at): (&Descriptor, Together),
    ) {
        let Reference::Tag(tag) = reference else { return };
        let key = TagKey { location: location.clone(), tag: tag.clone(), accept };
        let before = self.metadata.tag(&key).ok().flatten();
        if before.as_ref().is_none_or(|before| before.descriptor.digest != told.digest) {
            self.age(&key, told.digest, asked_at).await;
        }
        if self.manifests.stored.has(location, &told.digest).await {
            self.point(key, before, told.clone(), (asked_at, false), at).await;
        } else {
            self.heads.keep((key.location, reference.clone(), key.accept), (told.clone(), asked_at, at));
        }
    }

    /// No pointer of this tag, for whatever types, is fresh that points elsewhere than upstream says, and was
    /// checked before. It may still stand in for upstream.
    async fn age(&self, TagKey { location, tag, .. }: &TagKey, told: Digest, asked_at: Timestamp) {
        let (location, tag) = (location.clone(), tag.clone());
        let no_longer_fresh = self.policy.stale_since(Duration::ZERO, asked_at);
        let age = move |metadata: &dyn MetadataStore| {
            let records = metadata.tag_records(&location, &tag)?.into_iter();
            let is_fresh = |at: Timestamp| at > no_longer_fresh && at <= asked_at;
            let mut moved = records.filter(|(_, it)| it.descriptor.digest != told && is_fresh(it.checked_at));
            moved.try_for_each(|(accept, record)| {
                let key = TagKey { location: location.clone(), tag: tag.clone(), accept };
                metadata.put_tag(&key, &TagRecord { checked_at: no_longer_fresh, ..record })
            })
        };
        self.manifests.stored.records.add("a tag moved and counts as fresh", age).await;
    }

    /// The head of a manifest by digest.
    async fn head_of(
        self: &Arc<Tags>,
        route: &Route,
        digest: Digest,
        accept: AcceptSet,
    ) -> Result<ManifestHead, MirrorError> {
        if let Some(stored) = self.manifests.stored(&route.location, &digest).await {
            return Ok(head((stored.descriptor.clone(), Outcome::Hit)));
        }
        let missing = Missing::Manifest(route.location.clone(), digest, accept.others());
        self.negatives.check(&missing)?;
        let (tags, asking, asked) = (Arc::clone(self), route.clone(), AcceptSet::everything().and(&accept));
        let work = |upstream: Arc<dyn Upstream>, heard: Heard| async move {
            let pace = pace_beside(&*asking.upstream, &asking.waited);
            if let Some(manifest) = tags.manifests.in_bucket(&asking, &digest, pace).await {
                return Ok((manifest.descriptor.clone(), Outcome::Tier));
            }
            let (repository, reference) = (&asking.location.repository, Reference::Digest(digest));
            let asked = async {
                match upstream.resolve(repository, &reference, asked).await {
                    Ok(Resolved::Told(descriptor)) => Ok((descriptor, Outcome::Relayed)),
                    Ok(Resolved::Fetched(manifest)) => tags.kept(&asking, manifest, &heard).await,
                    Err(error) => Err(tags.manifests.fills.no_manifest(&asking, digest, missing, error).await),
                }
            };
            let found = |manifest: Arc<Manifest>| (manifest.descriptor.clone(), Outcome::Tier);
            tags.manifests.or_after_all(&asking, (&digest, pace), Box::pin(asked), found).await
        };
        let key = (route.location.clone(), Reference::Digest(digest), accept.others());
        self.ask_for_head(route, key, None, work).await.map(head)
    }

    /// The head of what a tag points at.
    async fn head(self: &Arc<Tags>, route: &Route, key: TagKey) -> Result<ManifestHead, MirrorError> {
        self.pointed(&key).await;
        self.renew(route, &key).await;
        self.or_known_after_all(route, &key, || self.known_head(route, key.clone())).await
    }

    async fn known_head(self: &Arc<Tags>, route: &Route, key: TagKey) -> Result<ManifestHead, MirrorError> {
        if let Some(digest) = self.frozen(&route.location, &key.tag) {
            return self.head_of(route, digest, key.accept).await;
        }
        let (remembered, own) = self.recalled(route, &key).await;
        // Of what nobody pulled only this is known.
        let remembered = remembered.or_else(|| {
            let (descriptor, at, places) = self.heads.tag(&key)?;
            let places = places.into();
            let what = TagRecord { descriptor, checked_at: at, since: at, observed_at: None, places };
            Some(Remembered { what, checked_at: at, conclusive: true, stored: true })
        });
        let question = self.question(route, &key, remembered.as_ref());
        let look_up = |patience| self.look_up_head(route, key.clone(), own, patience);
        let stale = |record: TagRecord, outcome, stale_for| {
            Ok(ManifestHead { descriptor: record.descriptor, outcome, stale_for })
        };
        match self.policy.consult(&*self.clock, question, remembered, look_up).await? {
            Consulted::Asked(told) => Ok(ManifestHead { stale_for: stale_there(route, &key.tag), ..head(told) }),
            Consulted::Remembered(record) => stale(record, Outcome::Hit, None),
            Consulted::Stale(record, age, error) => {
                let error = error.as_ref().map(tracing::field::display);
                tracing::debug!(location = %key.location, tag = %key.tag, error, "a head stands in");
                stale(record, Outcome::Stale, Some(age))
            }
        }
    }

    async fn look_up_head(
        self: &Arc<Tags>,
        route: &Route,
        key: TagKey,
        record: Option<TagRecord>,
        patience: Option<Duration>,
    ) -> Told {
        // Who asks for the manifest finds out as much.
        if self.flights.join(&key).is_some() {
            let (manifest, outcome) = self.look_up(route, key, record, patience).await?;
            return Ok((manifest.descriptor.clone(), outcome));
        }
        self.negatives.check(&Missing::Tag(key.clone()))?;
        let (tags, asking, of) = (Arc::clone(self), route.clone(), key.clone());
        let work = |upstream: Arc<dyn Upstream>, heard: Heard| async move {
            let turn = match Box::pin(tags.turn(&asking, &of, record.as_ref())).await {
                Turn::Told(told) => return Ok((told.descriptor, Outcome::Tier)),
                Turn::Ours(turn) => turn,
            };
            let asked_at = tags.clock.now();
            let (repository, reference) = (&asking.location.repository, Reference::Tag(of.tag.clone()));
            let resolved = match upstream.resolve(repository, &reference, of.accept.clone()).await {
                Ok(resolved) => resolved,
                Err(error) => return Err(tags.told(&of, error).await),
            };
            let (descriptor, outcome) = match resolved {
                Resolved::Fetched(manifest) => tags.kept(&asking, manifest, &heard).await?,
                Resolved::Told(told) if tags.manifests.stored.has(&of.location, &told.digest).await => {
                    (told, Outcome::Revalidated)
                }
                Resolved::Told(told) => return Ok((told, Outcome::Relayed)),
            };
            let as_of = tags.as_of(&asking, &of.tag, asked_at);
            let at = tags.manifests.stored.places_heard(&of.location, &heard);
            tags.point(of, record, descriptor.clone(), as_of, at).await;
            drop(turn);
            Ok((descriptor, outcome))
        };
        let TagKey { location, tag, accept } = key;
        self.ask_for_head(route, (location, Reference::Tag(tag), accept), patience, work).await
    }

    /// What upstream told lately, or tells now, together with everybody else who asks for it.
    async fn ask_for_head<F>(
        self: &Arc<Tags>,
        route: &Route,
        key: HeadKey,
        patience: Option<Duration>,
        work: impl FnOnce(Arc<dyn Upstream>, Heard) -> F,
    ) -> Told
    where
        F: Future<Output = Told> + Send + 'static,
    {
        let (heads, flights) = (&self.heads, &self.head_flights);
        if let Some((descriptor, at, _)) = heads.get(&key)
            && self.policy.serves(at, self.clock.now())
        {
            return Ok((descriptor, Outcome::Hit));
        }
        if flights.join(&key).is_none() {
            route.asker.question()?;
        }
        let (now, tags, of, route) = (self.clock.now(), Arc::clone(self), key.clone(), route.clone());
        let work = || {
            let (upstream, heard) = listening(&route.upstream);
            let work = work(upstream, heard.clone());
            async move {
                let answer = work.await;
                if let Ok((descriptor, Outcome::Relayed)) = &answer {
                    let stale_for = route.notice(|repository| Resource::manifest(repository, &of.1)).stale_for;
                    let told_at = stale_for.map_or(now, |age| tags.policy.stale_since(age, now));
                    let at = tags.manifests.stored.places_heard(&route.location, &heard);
                    tags.heads.keep(of, (descriptor.clone(), told_at, at));
                    // It may have come meanwhile.
                    if tags.manifests.stored.has(&route.location, &descriptor.digest).await {
                        tags.arrived(&route, descriptor).await;
                    }
                }
                answer
            }
        };
        if self.manifests.stored.standing.is_of_callers(&key.0) {
            return patiently(patience, work()).await;
        }
        arrived(flights.share(&self.tasks, key, patience, work).await)
    }

    async fn kept(&self, route: &Route, manifest: Manifest, heard: &Heard) -> Told {
        let (manifest, outcome) = self.keep(route, manifest, heard).await?;
        self.manifests.fills.writing.over(Some(&route.location)).await;
        Ok((manifest.descriptor.clone(), outcome))
    }
}
