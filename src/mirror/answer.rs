//! Answers for clients: blobs, manifests and lists, from memory, the store, a fill or upstream.

mod at_hand;
pub mod blobs;
pub mod body;
pub(crate) mod canary;
mod denied;
mod doubtful;
pub mod heads;
mod lazy;
pub mod led;
pub mod lists;
mod looked;
pub mod manifests;
mod own;
mod publicity;
pub mod reader;
pub mod relay;
pub mod replicas;
pub mod tag_moves;
pub(crate) mod tags;
mod witness;

use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::clock::{Clock, Timestamp};
use crate::documents::Mode;
use crate::graph::image::{self, Platforms};
use crate::metadata::{MetadataStore, Pin, TagKey};
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::Fills;
use crate::mirror::flight::flights::{Flights, Shareable};
use crate::mirror::recall::freshness::Policy;
use crate::mirror::recall::memory::Memory;
use crate::mirror::routes::Route;
use crate::mirror::{Location, Mirror};
use crate::oci::{AcceptSet, Descriptor, Digest, Reference, RegistryName, Repository, Request};
use crate::outcome::Outcome;
use crate::upstream::{Resource, UpstreamError, UpstreamErrorClass};

use at_hand::AtHand;
use blobs::Blobs;
use denied::LookedInto;
use led::below::Below;
use led::questions::Questions;
use lists::ListAnswers;
use looked::{Looked, Turn};
use manifests::{ManifestAnswer, Manifests};
use own::OwnQuestion;
use publicity::Publicity;
use tags::Tags;

/// Everything that answers clients.
pub(crate) struct Answers {
    pub(crate) blobs: Blobs,
    tags: Arc<Tags>,
    pub(crate) lists: ListAnswers,
    at_hand: AtHand,
    publicity: Publicity,
    /// Questions of callers about their own rights.
    own_questions: Flights<OwnQuestion, Shareable<Result<(), MirrorError>>>,
    /// Whether a manifest is refused while upstream is away, when not all that it leads to is stored.
    complete_only: bool,
    /// What of images is lacking for that, as far as it was looked at.
    lacking: Looked<(Location, Digest), Option<String>>,
    /// Whether one thing leads to another.
    leading: Looked<(Location, [Digest; 2]), bool>,
    /// How often tags are asked whether they do.
    questions: Questions,
    /// What manifests lead to.
    below: Below,
    looked_into: LookedInto,
    /// How many other replicas may get something at a time.
    for_replicas: Arc<Semaphore>,
}

/// What clients are answered by.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) policy: Policy,
    pub(super) complete_only: bool,
    pub(super) fetches_ahead: bool,
    pub(super) memory: u64,
}

impl Answers {
    /// How many entries there are in what grows with what is asked for.
    pub(super) fn tables(&self) -> Vec<(&'static str, u64)> {
        let Tags { manifests, flights, heads, head_flights, negatives, .. } = &*self.tags;
        let flights = manifests.flights.len() + flights.len() + head_flights.len() + self.own_questions.len();
        let flights = flights + self.looked_into.len();
        let own = [
            ("flights_of_manifests", flights as u64),
            ("manifests_in_hand", manifests.in_use.lock().len() as u64),
            negatives.table(),
            ("images_looked_at", self.lacking.len() + self.leading.len()),
            self.below.table(),
        ];
        own.into_iter().chain(self.questions.tables()).chain(heads.tables()).chain(self.lists.tables()).collect()
    }

    pub(super) fn new(
        fills: &Arc<Fills>,
        lists: ListAnswers,
        metadata: Arc<dyn MetadataStore>,
        clock: Arc<dyn Clock>,
        rules: Rules,
    ) -> Answers {
        let Rules { policy, complete_only, fetches_ahead, memory } = rules;
        let (fills, stored, negatives) = (Arc::clone(fills), Arc::clone(&fills.stored), Arc::clone(&fills.negatives));
        let (memory, metrics, tasks) = (Arc::new(Memory::new(memory)), Arc::clone(&fills.metrics), fills.tasks.clone());
        let at_hand = AtHand {
            memory: memory.clone(),
            stored: stored.clone(),
            policy,
            manifests_lead_on: fetches_ahead || (complete_only && policy.mode == Mode::Offline),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let manifests = Arc::new(Manifests {
            stored: stored.clone(),
            memory: memory.clone(),
            fills: fills.clone(),
            flights: Flights::new(),
            negatives: negatives.clone(),
            in_use: Mutex::default(),
        });
        let blobs = Blobs { stored, memory, fills, negatives: negatives.clone() };
        let publicity = Publicity::new(policy, &metadata, &clock);
        let flights = Flights::new();
        let (heads, head_flights) = (Arc::default(), Flights::new());
        let tags = Arc::new(Tags {
            manifests,
            flights,
            heads,
            head_flights,
            policy,
            metadata,
            negatives,
            clock,
            metrics,
            tasks,
        });
        let (lacking, leading) = (Looked::new(), Looked::new());
        let (own_questions, for_replicas) = (Flights::new(), Arc::new(Semaphore::new(replicas::AT_A_TIME)));
        Answers {
            blobs,
            tags,
            lists,
            at_hand,
            publicity,
            own_questions,
            complete_only,
            lacking,
            leading,
            questions: Questions::new(),
            below: Below::new(),
            looked_into: LookedInto::new(),
            for_replicas,
        }
    }
}

impl Answers {
    /// Waits until tags are remembered that were answered before.
    pub(super) async fn written(&self) {
        self.tags.flights.landed(|_| true, tags::PATIENCE).await;
    }

    /// The rules for tags, and what time it is by them.
    pub(super) fn rules(&self) -> (Policy, Timestamp) {
        (self.tags.policy, self.tags.clock.now())
    }

    /// Whether upstream said a moment ago that it has no such manifest, and is not asked again yet.
    pub(super) fn is_absent(&self, location: &Location, reference: &Reference) -> bool {
        self.tags.negatives.is_absent(location, reference)
    }
}

impl Mirror {
    /// What to do about an image that its upstream cannot give now. In offline mode the error says it.
    pub fn advice(&self, upstream: &RegistryName, error: &MirrorError) -> Option<String> {
        let away = error.upstream_class().is_some_and(UpstreamErrorClass::is_outage) && self.0.mode != Mode::Offline;
        away.then(|| format!("pull it again when {upstream} answers, or bring it with: registry-mirror import FILE"))
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when upstream says no, or cannot answer and nothing stored may
    /// stand in for it.
    pub async fn manifest(
        &self,
        route: &Route,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<ManifestAnswer, MirrorError> {
        let tags = &self.0.answers.tags;
        let answer = match reference {
            Reference::Digest(digest) => tags.manifests.answer(route, *digest, &accept).await,
            Reference::Tag(tag) => {
                let key = TagKey { location: route.location.clone(), tag: tag.clone(), accept };
                tags.manifest(route, key).await
            }
        };
        let answer = self.heard(route, answer)?;
        tags.arrived(route, &answer.manifest.descriptor).await;
        self.refuse_a_part(route, reference, &answer.manifest.descriptor, answer.outcome).await?;
        Ok(ManifestAnswer { outcome: answer.stale_for.map_or(answer.outcome, |_| Outcome::Stale), ..answer })
    }

    /// What upstream said to people beside its latest answer to this, and about what was `found` by it.
    pub fn warnings(&self, route: &Route, request: &Request, found: Option<Digest>) -> Vec<HeaderValue> {
        let of = |about: &dyn Fn(&Repository) -> Resource| route.notice(about).warnings;
        let mut warnings = match request {
            Request::Ping => Vec::new(),
            Request::Manifest { reference, .. } => of(&|repository| Resource::manifest(repository, reference)),
            Request::Blob { digest, .. } => of(&|repository| Resource::blob(repository, digest)),
            Request::Tags { .. } => of(&Resource::tags),
            Request::Referrers { digest, .. } => of(&|repository| Resource::referrers(repository, digest)),
        };
        if let Some(digest) = found {
            let more = of(&|repository| Resource::manifest(repository, &Reference::Digest(digest)));
            let new = more.into_iter().filter(|warning| !warnings.contains(warning)).collect::<Vec<_>>();
            warnings.extend(new);
        }
        warnings
    }

    /// Refuses a manifest of which nobody could pull the rest now, where that is wanted.
    async fn refuse_a_part(
        &self,
        route: &Route,
        name: &Reference,
        manifest: &Descriptor,
        outcome: Outcome,
    ) -> Result<(), MirrorError> {
        let Answers { tags, complete_only, .. } = &self.0.answers;
        let is_away = tags.policy.mode == Mode::Offline || outcome == Outcome::Stale;
        if !*complete_only || !is_away {
            return Ok(());
        }
        let Some(shortfall) = self.shortfall(&route.location, manifest).await? else { return Ok(()) };
        let message = format!("{}: {name} is incomplete here, {shortfall}, and upstream is away", route.location);
        let error = UpstreamError::new(UpstreamErrorClass::Unavailable, message);
        Err(MirrorError::upstream(Subject::Manifest, error))
    }

    /// In a clause, what of an image is neither here nor in the bucket, if that is too much to pull it.
    async fn shortfall(&self, location: &Location, manifest: &Descriptor) -> Result<Option<String>, MirrorError> {
        let (looked, digest) = (&self.0.answers.lacking, manifest.digest);
        let look = match looked.turn(self, manifest, (location.clone(), digest)).await? {
            Turn::Seen(seen) => return Ok(seen),
            Turn::Look(look) => look,
        };
        let (within, manifest) = (location.clone(), manifest.clone());
        let found = self.0.graph.look(&look.place, move |graph| {
            let image = graph.image(Some(&within), manifest);
            let lacking = graph.lacking(Some(&within), &image);
            Ok((image::is_pullable(&image, &lacking), image, lacking))
        });
        let (is_here, image, mut lacking) = found.await.map_err(|error| MirrorError::Internal(error.to_string()))?;
        let is_all_there_is = is_here || self.0.fills.stored.shared().is_none();
        if !is_all_there_is {
            let behind = self.behind(&Pin { location: location.clone(), reference: Reference::Digest(digest) }).await;
            lacking.retain(|digest, _| !behind.contains(digest));
        }
        let lacks = !is_here && !image::is_pullable(&image, &lacking);
        let shortfall = lacks.then(|| image::completeness(&image, &Platforms::Machines, &lacking).shortfall());
        // What others put into the bucket shows in no stamp of ours.
        if is_all_there_is {
            looked.saw(look, shortfall.clone());
        }
        Ok(shortfall)
    }
}
