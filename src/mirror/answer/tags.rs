//! Manifests by tag, as fresh as the policy asks (flow D).
//!
//! A look-up of a tag ends with the manifest in the store; what HEAD asks for is in `heads`. The pointer
//! is moved only after the new manifest is there, so that a tag that could be served offline stays one.

mod turns;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::access::Rule;
use crate::clock::{Clock, Timestamp};
use crate::metadata::{Location, MetadataError, MetadataStore, TagKey, TagRecord, names};
use crate::metrics::Metrics;
use crate::mirror::answer::manifests::{ManifestAnswer, Manifests, arrived, patiently};
use crate::mirror::answer::tag_moves;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::flight::Fetched;
use crate::mirror::flight::beside::or_instead;
use crate::mirror::flight::flights::{Flights, Rest, Shareable};
use crate::mirror::flight::shared::pace_beside;
use crate::mirror::recall::freshness::{Consulted, Policy, Question, Remembered};
use crate::mirror::recall::heads::{HeadKey, Heads};
use crate::mirror::recall::memory::{Asked, Stamp};
use crate::mirror::recall::negatives::{Missing, Negatives};
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest, Reference, Tag, Together};
use crate::outcome::Outcome;
use crate::tier::Pace;
use crate::upstream::heard::{Heard, listening};
use crate::upstream::{Allowance, Resolved, Resource, UpstreamError, UpstreamErrorClass};

pub(super) use turns::Turn;

/// How long who asks again waits for the pointer that the first answer left behind.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Answers with what tags point at.
pub(super) struct Tags {
    pub(super) manifests: Arc<Manifests>,
    pub(super) flights: Flights<TagKey, Shareable<Fetched>>,
    pub(super) heads: Arc<Heads>,
    pub(super) head_flights: Flights<HeadKey, Shareable<Fetched<Descriptor>>>,
    pub(super) policy: Policy,
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) negatives: Arc<Negatives>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
}

impl Tags {
    /// What the operator froze the tag to, or else what it points at: mutable, so upstream comes first
    /// when that is no longer fresh, then what is remembered.
    pub(super) async fn manifest(self: &Arc<Tags>, route: &Route, key: TagKey) -> Result<ManifestAnswer, MirrorError> {
        self.pointed(&key).await;
        self.renew(route, &key).await;
        self.or_known_after_all(route, &key, || self.known(route, key.clone())).await
    }

    async fn known(self: &Arc<Tags>, route: &Route, key: TagKey) -> Result<ManifestAnswer, MirrorError> {
        let stamp = self.manifests.stored.stamp();
        let Some(digest) = self.frozen(&route.location, &key.tag) else {
            return self.pointed_at(route, key, stamp).await;
        };
        let answer = self.manifests.answer(route, digest, &key.accept).await?;
        // Another replica may let it go, which memory does not hear of.
        if self.manifests.stored.shared().is_none() {
            self.keep_at_hand(key, &answer, None, stamp);
        }
        Ok(answer)
    }

    /// Waits for what the tag was just told to point at: whoever was told has left its pointer behind, for any types.
    pub(super) async fn pointed(&self, key: &TagKey) {
        let same = |other: &TagKey| other.tag == key.tag && other.location == key.location;
        self.flights.landed(same, PATIENCE).await;
    }

    /// Takes over from the bucket what other replicas know of the tag, where what is known here is not fresh.
    pub(super) async fn renew(&self, route: &Route, key: &TagKey) {
        let Some(shared) = self.manifests.stored.shared().map(|shared| shared.at(route.waited.pace())) else { return };
        let acts = Box::pin(shared.recall_acts_of(&key.location, &key.tag));
        if self.frozen(&key.location, &key.tag).is_some() {
            shared.bucket.within(&route.waited, acts).await;
            return;
        }
        if self.remembered(key).is_some_and(|remembered| self.is_fresh(route, &remembered)) {
            return shared.recall_acts_behind(&key.location, &key.tag);
        }
        let both = async { tokio::join!(acts, Box::pin(shared.recall_tag(key))) };
        shared.bucket.within(&route.waited, both).await;
    }

    /// Takes over from the bucket what other replicas know of the tag for any types, fresh here or not.
    pub(super) async fn renew_all(&self, route: &Route, tag: &Tag) {
        let Some(shared) = self.manifests.stored.shared().map(|shared| shared.at(route.waited.pace())) else { return };
        let known = self.metadata.tag_records(&route.location, tag).unwrap_or_default();
        let sets = known.into_iter().map(|(accept, _)| accept).chain([AcceptSet::everything()]);
        let key = |accept| TagKey { location: route.location.clone(), tag: tag.clone(), accept };
        let keys: Vec<_> = sets.map(key).collect();
        let recalled = join_all(keys.iter().map(|key| shared.recall_tag(key)));
        shared.bucket.within(&route.waited, Box::pin(recalled)).await;
    }

    /// What comes of a look at the tag; where upstream fails, or says nothing for long, of another one once the bucket has
    /// said after all what it knows: while upstream might have answered it was not asked, or not for long.
    pub(super) async fn or_known_after_all<A, F>(
        &self,
        route: &Route,
        key: &TagKey,
        look: impl Fn() -> F,
    ) -> Result<A, MirrorError>
    where
        F: Future<Output = Result<A, MirrorError>>,
    {
        let Some(shared) = self.manifests.stored.shared() else { return Box::pin(look()).await };
        let is_news = route.waited.pace() == Pace::Helps;
        let after_all = async {
            if !is_news {
                return None;
            }
            route.waited.has_nobody_else();
            self.renew(route, key).await;
            let is_known = self.frozen(&key.location, &key.tag).is_some() || self.remembered(key).is_some();
            if is_known { Box::pin(look()).await.ok() } else { None }
        };
        or_instead(shared.bucket.patience(), Box::pin(look()), MirrorError::is_no_answer, Box::pin(after_all)).await
    }

    async fn pointed_at(
        self: &Arc<Tags>,
        route: &Route,
        key: TagKey,
        stamp: Stamp,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (remembered, own) = self.recalled(route, &key).await;
        let question = self.question(route, &key, remembered.as_ref());
        let look_up = |patience| self.look_up(route, key.clone(), own.clone(), patience);
        match self.policy_for(route).consult(&*self.clock, question, remembered, look_up).await? {
            Consulted::Asked((manifest, outcome)) => {
                Ok(ManifestAnswer { manifest, outcome, stale_for: stale_there(route, &key.tag) })
            }
            Consulted::Remembered(record) => {
                let answer = match self.manifests.answer(route, record.descriptor.digest, &key.accept).await {
                    // Nobody has what the tag was said to have: upstream is asked what it has now.
                    Err(error) if error.is_missing() => {
                        let (manifest, outcome) = self.look_up(route, key, None, None).await?;
                        return Ok(ManifestAnswer { manifest, outcome, stale_for: None });
                    }
                    answer => answer?,
                };
                if let Some(own) = own {
                    self.keep_at_hand(key, &answer, Some(own.checked_at), stamp);
                }
                Ok(answer)
            }
            Consulted::Stale(record, age, error) => self.stale(route, &key, record.descriptor.digest, age, error).await,
        }
    }

    /// What is remembered, and what of that is for these types.
    pub(super) async fn recalled(
        &self,
        route: &Route,
        key: &TagKey,
    ) -> (Option<Remembered<TagRecord>>, Option<TagRecord>) {
        let mut remembered = self.remembered(key);
        if let Some(remembered) = remembered.as_mut().filter(|remembered| !self.is_fresh(route, remembered)) {
            let digest = &remembered.what.descriptor.digest;
            remembered.stored = self.manifests.stored.has(&route.location, digest).await
                || self
                    .manifests
                    .in_bucket(route, digest, pace_beside(&*route.upstream, &route.waited))
                    .await
                    .is_some();
        }
        let own = remembered.as_ref().filter(|remembered| remembered.conclusive).map(|own| own.what.clone());
        (remembered, own)
    }

    pub(super) fn question<'a>(
        &self,
        route: &'a Route,
        key: &TagKey,
        remembered: Option<&Remembered<TagRecord>>,
    ) -> Question<'a> {
        let reference = Reference::Tag(key.tag.clone());
        Question {
            upstream: &*route.upstream,
            resource: Resource::manifest(&route.location.repository, &reference),
            subject: Subject::Manifest,
            allowance: self.allowance(route, remembered),
            in_vain: *route.permit().rule() == Rule::Grace,
        }
    }

    /// Serves what stands in for upstream.
    async fn stale(
        &self,
        route: &Route,
        key: &TagKey,
        digest: Digest,
        age: Duration,
        error: Option<MirrorError>,
    ) -> Result<ManifestAnswer, MirrorError> {
        match (self.manifests.stored(&route.location, &digest).await, error) {
            (Some(manifest), error) => {
                if let Some(error) = error {
                    tracing::warn!(location = %key.location, tag = %key.tag, %digest, %error, "served stale");
                }
                Ok(ManifestAnswer { manifest, outcome: Outcome::Stale, stale_for: Some(age) })
            }
            (None, Some(error)) => Err(error),
            (None, None) => {
                let answer = self.manifests.answer(route, digest, &key.accept).await?;
                Ok(ManifestAnswer { stale_for: Some(age), ..answer })
            }
        }
    }

    /// The manifest that an operator froze the tag to.
    pub(super) fn frozen(&self, location: &Location, tag: &Tag) -> Option<Digest> {
        self.metadata.frozen(location, tag).unwrap_or_else(|error| {
            tracing::warn!(%location, %tag, %error, "not known whether the tag is frozen, answering as if it were not");
            None
        })
    }

    /// What the tag pointed at when it was last checked. Clients that accept other types may have been
    /// told something that this client can read, too, if he was told nothing himself.
    fn remembered(&self, key: &TagKey) -> Option<Remembered<TagRecord>> {
        let own = self.metadata.tag(key).unwrap_or_else(|error| {
            tracing::warn!(location = %key.location, tag = %key.tag, %error, "tag not remembered, asking upstream");
            None
        });
        let withdrawn = |record: &TagRecord| self.manifests.stored.is_withdrawn(&key.location, record);
        let own = own.filter(|record| !withdrawn(record));
        // What upstream says to whom everything is right is what it has: it says the same to whoever names that type.
        let of_all = TagKey { accept: AcceptSet::everything(), ..key.clone() };
        let of_all = if key.accept == of_all.accept { None } else { self.metadata.tag(&of_all).ok().flatten() };
        let of_all = of_all.filter(|all| key.accept.names(&all.descriptor.media_type) && !withdrawn(all));
        let own = match (own, of_all) {
            (Some(own), Some(all)) => {
                let now = self.manifests.stored.shared().and_then(|shared| shared.bucket.time());
                Some(if all.is_later_than(&own, now) { all } else { own })
            }
            (own, all) => own.or(all),
        };
        let conclusive = own.is_some();
        let what = own.or_else(|| {
            let records = self.metadata.tag_records(&key.location, &key.tag).ok()?;
            let readable = records.into_iter().filter(|(_, record)| key.accept.takes(&record.descriptor.media_type));
            let readable = readable.filter(|(_, record)| !withdrawn(record));
            // What is too old to stand in comes last.
            let now = self.clock.now();
            let fitness = |record: &TagRecord| (self.policy.may_stand_in(record.checked_at, now), record.fitness());
            readable.map(|(_, record)| record).max_by_key(fitness)
        })?;
        Some(Remembered { checked_at: what.checked_at, conclusive, what, stored: false })
    }

    /// What is left of the pulls that upstream grants, where that matters: there is something to serve.
    fn allowance(&self, route: &Route, remembered: Option<&Remembered<TagRecord>>) -> Allowance {
        let covered = remembered.is_some_and(|remembered| remembered.stored);
        if covered { route.upstream.health().allowance } else { Allowance::Free }
    }

    /// Whether upstream need not be asked.
    fn is_fresh(&self, route: &Route, remembered: &Remembered<TagRecord>) -> bool {
        remembered.conclusive && self.policy_for(route).serves(remembered.checked_at, self.clock.now())
    }

    /// Whether he gets what the tag leads to, to whom every type is right, without a question.
    pub(super) fn needs_no_question(&self, route: &Route, tag: &Tag) -> bool {
        let (location, tag, accept) = (route.location.clone(), tag.clone(), AcceptSet::everything());
        let is_fresh = |key: &TagKey| self.remembered(key).is_some_and(|remembered| self.is_fresh(route, &remembered));
        self.frozen(&location, &tag).is_some() || is_fresh(&TagKey { location, tag, accept })
    }

    /// Whether a tag that was asked for then counts as leading where it led, for as long as tags are fresh, and `at_least`.
    pub(super) fn is_recent(&self, checked_at: Timestamp, at_least: Duration) -> bool {
        let tag_ttl = self.policy.tag_ttl.max(at_least);
        Policy { tag_ttl, ..self.policy }.serves(checked_at, self.clock.now())
    }

    /// The rules for who comes by this way.
    fn policy_for(&self, route: &Route) -> Policy {
        Policy { tag_ttl: route.fresh_for(self.policy.tag_ttl), ..self.policy }
    }

    /// A tag that was answered from the store is answered from memory the next time.
    fn keep_at_hand(&self, key: TagKey, answer: &ManifestAnswer, checked_at: Option<Timestamp>, stamp: Stamp) {
        if answer.outcome == Outcome::Hit {
            let TagKey { location, tag, accept } = key;
            let Manifest { descriptor, bytes } = &*answer.manifest;
            let memory = &self.manifests.memory;
            memory.keep(&location, Asked::Tag(tag, accept), descriptor, bytes, checked_at, stamp);
        }
    }

    /// Asks upstream what the tag points at, together with everybody else who asks just now, and waits for
    /// it as long as `patience` allows.
    pub(super) async fn look_up(
        self: &Arc<Tags>,
        route: &Route,
        key: TagKey,
        record: Option<TagRecord>,
        patience: Option<Duration>,
    ) -> Fetched {
        self.negatives.check(&Missing::Tag(key.clone()))?;
        if self.flights.join(&key).is_none() {
            route.asker.question()?;
        }
        let route = route.clone().asked_by(route.asker.counted());
        let (tags, of) = (Arc::clone(self), key.clone());
        let work = || tags.resolve(route, of, record);
        if self.manifests.stored.standing.is_of_callers(&key.location) {
            let whole = async {
                let (fetched, rest) = work().await;
                if let Some(rest) = rest {
                    rest.await;
                }
                fetched
            };
            return patiently(patience, whole).await;
        }
        arrived(self.flights.share_early(&self.tasks, key, patience, work).await)
    }

    /// What the tag points at now, as upstream is asked, or another replica is told that asks just now; and its pointer,
    /// where that waits for what it points at.
    async fn resolve(self: Arc<Tags>, route: Route, key: TagKey, record: Option<TagRecord>) -> (Fetched, Option<Rest>) {
        let turn = match Box::pin(self.turn(&route, &key, record.as_ref())).await {
            Turn::Told(told) => return (Box::pin(self.as_told(&route, &key, &told.descriptor.digest)).await, None),
            Turn::Ours(turn) => turn,
        };
        let asked_at = self.clock.now();
        let (manifest, outcome, at) = match Box::pin(self.resolved(&route, &key, record.is_none())).await {
            Ok(resolved) => resolved,
            Err(error) => return (Err(error), None),
        };
        let (descriptor, (asked_at, is_stale)) = (manifest.descriptor.clone(), self.as_of(&route, &key.tag, asked_at));
        let pointed = async move {
            self.manifests.fills.writing.over(Some(&route.location)).await;
            self.point(key, record, descriptor, (asked_at, is_stale), at).await;
            // Whoever waits for the turn is told by the pointer.
            drop(turn);
        };
        if outcome == Outcome::Fill {
            return (Ok((manifest, outcome)), Some(Box::pin(pointed)));
        }
        pointed.await;
        (Ok((manifest, outcome)), None)
    }

    /// What the tag points at now, and where that was said.
    async fn resolved(
        &self,
        route: &Route,
        key: &TagKey,
        is_new: bool,
    ) -> Result<(Arc<Manifest>, Outcome, Together), MirrorError> {
        let (reference, until) = (Reference::Tag(key.tag.clone()), Instant::now() + route.upstream.longest() * 2);
        if is_new && !route.upstream.is_heard() {
            // It may be dead, or silent to HEAD alone: one question tells, and it is the one that brings the manifest.
            return self.in_one_question(route, key, until).await;
        }
        let (upstream, heard) = listening(&route.upstream);
        let resolved = upstream.resolve(&route.location.repository, &reference, key.accept.clone()).await;
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(error) => return Err(self.told(key, error).await),
        };
        let digest = resolved.descriptor().digest;
        let known = self.manifests.stored(&route.location, &digest).await;
        if known.is_none() {
            // Upstream has just said that it is there.
            self.negatives.forget(&Missing::Manifest(route.location.clone(), digest, key.accept.others()));
        }
        let (manifest, outcome) = match (known, resolved) {
            (Some(manifest), _) => (manifest, Outcome::Revalidated),
            (None, Resolved::Fetched(manifest)) => self.keep(route, manifest, &heard).await?,
            (None, Resolved::Told(_)) => match self.manifests.by_digest(route, digest, &key.accept).await {
                Err(error) if error.upstream_class().is_some_and(|class| !class.is_outage()) => {
                    return self.in_one_question(route, key, until).await;
                }
                fetched => fetched?,
            },
        };
        Ok((manifest, outcome, self.manifests.stored.places_heard(&route.location, &heard)))
    }

    /// The manifest by tag: what upstream said that the tag points at is not given by digest, because the tag moved
    /// meanwhile, or because upstream says what it has not got, or does not do that; or nothing is heard of it. Two questions cannot be taken for
    /// one; all together take no longer than two.
    async fn in_one_question(
        &self,
        route: &Route,
        key: &TagKey,
        until: Instant,
    ) -> Result<(Arc<Manifest>, Outcome, Together), MirrorError> {
        let (repository, reference) = (&route.location.repository, Reference::Tag(key.tag.clone()));
        let (upstream, heard) = listening(&route.upstream);
        let asked = upstream.manifest(repository, &reference, key.accept.clone());
        let answer = timeout_at(until, asked).await.unwrap_or_else(|_| {
            let message = "not given by digest, and by tag not in the time of two questions".to_owned();
            Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message).answered())
        });
        match answer {
            Ok(manifest) => {
                let (manifest, outcome) = self.keep(route, manifest, &heard).await?;
                Ok((manifest, outcome, self.manifests.stored.places_heard(&route.location, &heard)))
            }
            Err(error) => Err(self.told(key, error).await),
        }
    }

    pub(super) async fn keep(&self, route: &Route, manifest: Manifest, heard: &Heard) -> Fetched {
        let manifest = self.manifests.fills.keep_manifest(&route.location, manifest, heard).await?;
        self.manifests.is_in_hand((route.location.clone(), manifest.descriptor.digest), &manifest);
        Ok((manifest, Outcome::Fill))
    }

    /// Takes note of what upstream said in place of an answer. A tag that is not there for some types is forgotten
    /// as far as it was one of these types, and stays for others. One that is refused is kept: whether that is a
    /// refusal of everything, to everybody, is found out by asking for what is stored.
    pub(super) async fn told(&self, key: &TagKey, error: UpstreamError) -> MirrorError {
        let gone = key.clone();
        let for_all = !self.manifests.stored.standing.is_of_callers(&key.location);
        if for_all && error.class == UpstreamErrorClass::NotFound {
            let forget = move |metadata: &dyn MetadataStore| {
                let TagKey { location, tag, accept } = &gone;
                let refuted = |(set, record): &(AcceptSet, TagRecord)| {
                    set == accept || accept.names(&record.descriptor.media_type)
                };
                let records = metadata.tag_records(location, tag)?.into_iter();
                records
                    .filter(refuted)
                    .try_for_each(|(accept, _)| metadata.remove_tag_for(&TagKey { accept, ..gone.clone() }))
            };
            self.manifests.stored.records.take_away("a tag is gone and not forgotten", forget).await;
            self.manifests.stored.no_longer(|| names::tag(key));
            self.heads.forget(key);
        }
        self.negatives.note(|| Missing::Tag(key.clone()), error.class);
        MirrorError::upstream(Subject::Manifest, error)
    }

    /// As of when a tag counts as checked of which upstream was asked then; and whether that is earlier, because it is
    /// stale behind upstream.
    pub(super) fn as_of(&self, route: &Route, tag: &Tag, asked_at: Timestamp) -> (Timestamp, bool) {
        let stale = stale_there(route, tag).map(|age| self.policy.stale_since(age, asked_at));
        (stale.unwrap_or(asked_at), stale.is_some())
    }

    /// Remembers what the tag points at, as upstream was asked at `checked_at`, or, if that is `earlier`, said to have
    /// known then, and where it said so; if it is kept: names of nothing fill no disk.
    pub(super) async fn point(
        &self,
        key: TagKey,
        before: Option<TagRecord>,
        descriptor: Descriptor,
        (checked_at, earlier): (Timestamp, bool),
        at: Together,
    ) {
        if self.manifests.stored.blobs.open(&descriptor.digest).await.is_none() {
            return;
        }
        let stored = &self.manifests.stored;
        // A tag of that name elsewhere is another one.
        let before = before.filter(|before| !stored.standing.is_from_elsewhere(&key.location, &before.places));
        let says_the_same = |before: &TagRecord| before.descriptor.digest == descriptor.digest;
        if earlier && before.as_ref().is_some_and(says_the_same) {
            return;
        }
        let moved_from =
            before.as_ref().map(|before| before.descriptor.digest).filter(|from| *from != descriptor.digest);
        let since = before.filter(|_| moved_from.is_none()).map_or_else(|| self.clock.now(), |before| before.since);
        let observed_at = self.manifests.stored.shared().and_then(|shared| shared.observed(checked_at));
        let record = TagRecord { descriptor, checked_at, since, observed_at, places: at.into() };
        let metrics = Arc::clone(&self.metrics);
        let records = &self.manifests.stored.records;
        let add = move |metadata: &dyn MetadataStore| {
            if key.accept.has_others() && is_crowded(metadata, &key)? {
                return Ok(());
            }
            if let Some(from) = moved_from {
                tag_moves::report(&key, from, record.descriptor.digest, metadata, &metrics);
            }
            metadata.put_tag(&key, &record)
        };
        records.add("tag not remembered", add).await;
    }
}

/// How stale upstream itself says that its answer for a tag is.
pub(super) fn stale_there(route: &Route, tag: &Tag) -> Option<Duration> {
    route.notice(|of| Resource::manifest(of, &Reference::Tag(tag.clone()))).stale_for
}

/// Clients may name what types they like. For so many sets with types that nobody here knows it is remembered
/// what a tag points at; the others ask each time.
const MOST_UNKNOWN_SETS: usize = 16;

/// Whether a tag has all the records that it may have for sets like this one.
fn is_crowded(metadata: &dyn MetadataStore, key: &TagKey) -> Result<bool, MetadataError> {
    let records = metadata.tag_records(&key.location, &key.tag)?;
    let is_new = records.iter().all(|(accept, _)| *accept != key.accept);
    Ok(is_new && records.iter().filter(|(accept, _)| accept.has_others()).count() >= MOST_UNKNOWN_SETS)
}
