//! The mirror: answers requests from the store and from upstreams. The use case, without any edge.
//!
//! Four flows (see the crate's documentation): a hit, a cold miss, a joiner, a tag. In wings: the
//! nouns [`flight`], [`recall`] and [`room`] below; above them what acts, each on those before it:
//! [`keep`], [`fill`], [`answer`], [`images`] and [`scrub`]. This file puts them together. It knows
//! ports, never adapters, and nothing of HTTP.
//!
//! Truths: a dead upstream never breaks a pull that the store can serve; a broken store never
//! breaks a pull that the upstream can serve; content in the store is served only to a repository
//! of which it was proven that it has it.

pub mod answer;
pub mod error;
pub mod fill;
pub mod flight;
pub mod images;
pub mod keep;
pub mod recall;
pub mod room;
pub mod routes;
pub mod scrub;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob_store::BlobStore;
use crate::blob_store::ingest::IngestDir;
use crate::bundle::Stores;
use crate::carrier::Carrier;
use crate::clients::ClientId;
use crate::clock::{Clock, Timestamp};
use crate::graph::Graph;
use crate::metadata::{MetadataStore, Standing};
use crate::metrics::Metrics;
use crate::oci::{RegistryName, Target, Whereabouts};

pub use crate::documents::Mode;
pub use crate::metadata::Location;
pub use answer::blobs::{BlobAnswer, Framing};
pub use answer::body::{BlobBody, Chunk, Selected};
pub use answer::heads::ManifestHead;
pub use answer::led::below::Sought;
pub use answer::lists::{ReferrersAnswer, Tags, TagsAnswer};
pub use answer::manifests::ManifestAnswer;
pub use answer::replicas::ToReplica;
pub use error::{MirrorError, Subject};
pub use flight::bodies::{InMemory, Share, Taker, TooMuch};
pub use flight::replica::{AskReplica, Replicas};
pub use recall::freshness::Policy;
pub use recall::memory::{Asked, Kept};
pub use room::Room;
pub use room::shared::Behind;
pub use room::stored::Complaint;
pub use routes::{Found, Route, RouteError, Routes};

use answer::canary::Canary;
use answer::lists::ListAnswers;
use answer::{Answers, Rules};
use fill::disk::Disk;
use fill::{Fills, Wrong};
use flight::bounds::Bounds;
use flight::flights::Flights;
use flight::unread::FinishUnread;
use images::bundles::Bundles;
use images::listing::Listing;
use images::prefetch::Ahead;
use keep::RoomKeeper;
use recall::negatives::Negatives;
use recall::sizes::Sizes;
use room::holds::Holds;
use room::records::Records;
use room::stored::Stored;
use scrub::Scrub;

/// How often access times are written.
const USES_EVERY: Duration = Duration::from_secs(10);

/// After how many times of that the index is made durable: what it knows of need not be hashed after an
/// unclean stop.
const FLUSH_EVERY: usize = 6;

/// How often it is looked whether pins and frozen tags still count, and at first for those of other replicas.
const ACTS_AGAIN: Duration = Duration::from_secs(30);

/// How long fills that were told to end may take for it, at the least and at the most.
const LAST_WORDS: Duration = Duration::from_millis(500);
const MOST_LAST_WORDS: Duration = Duration::from_secs(5);

/// What the settings say, which may change while it runs.
pub struct Terms {
    /// Which upstreams there are.
    pub routes: Routes,
    /// Those of them that are asked without a credential: what they give, they give to everybody.
    pub public: HashSet<RegistryName>,
    /// Those that callers show something of their own: what is refused to one of them says nothing to others.
    pub of_callers: HashSet<RegistryName>,
    /// Where each of them is.
    pub places: Arc<Whereabouts>,
    /// The rules for tags and lists.
    pub policy: Policy,
    /// Whether a manifest is refused while upstream is away, when not all that it leads to is stored.
    pub complete_only: bool,
    /// Bytes of an image that are fetched ahead when a client gets its manifest; zero for none.
    pub prefetch: u64,
    /// How much may be missing of a blob for its fill to go on without readers.
    pub finish_unread: FinishUnread,
    /// How long upstream's "not found" is believed.
    pub negative_ttl: Duration,
    /// The bounds of all fills together.
    pub bounds: Arc<Bounds>,
    /// Whether every blob is hashed before it is served.
    pub verify_on_read: bool,
    /// Memory for small content that was asked for lately, in bytes; none when zero.
    pub memory: u64,
}

/// What a mirror is made of.
pub struct Parts {
    /// What the settings say.
    pub terms: Terms,
    /// Verified content.
    pub blobs: Arc<dyn BlobStore>,
    /// Where fills write, on the file system of `blobs`.
    pub ingests: Arc<IngestDir>,
    /// What is remembered of tags, memberships and blobs.
    pub metadata: Arc<dyn MetadataStore>,
    /// What carries fills.
    pub carrier: Carrier,
    /// What is behind the store; `None` without a bucket.
    pub behind: Option<Behind>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// How much the store may hold.
    pub room: Room,
    /// Where events are counted.
    pub metrics: Arc<Metrics>,
}

impl Terms {
    fn standing(&self) -> Arc<Standing> {
        let (public, of_callers, places) = (self.public.clone(), self.of_callers.clone(), Arc::clone(&self.places));
        Arc::new(Standing { public, of_callers, places })
    }
}

/// What stays under all terms.
struct Lasting {
    present: Arc<Mutex<Weak<Wings>>>,
    earlier: Vec<Weak<Fills>>,
    started_at: Timestamp,
    room: Arc<RoomKeeper>,
    stored: Arc<Stored>,
    disk: Arc<Disk>,
    carrier: Carrier,
    ending: CancellationToken,
    canary: Arc<Canary>,
}

/// What a mirror consists of.
struct Wings {
    /// Of all that came before and after it under other terms: what answers now.
    present: Arc<Mutex<Weak<Wings>>>,
    /// The fills that those before it may have under way still.
    earlier: Vec<Weak<Fills>>,
    started_at: Timestamp,
    mode: Mode,
    routes: Routes,
    graph: Graph,
    room: Arc<RoomKeeper>,
    fills: Arc<Fills>,
    answers: Answers,
    ahead: Ahead,
    bundles: Bundles,
    scrub: Arc<Scrub>,
    canary: Arc<Canary>,
    listing: Listing,
}

/// The use case: answers for manifests and blobs, under certain terms. Cheap to clone. What was begun under terms
/// goes on under them: whoever holds a mirror has its upstreams and what is on its way from them.
#[derive(Clone)]
pub struct Mirror(Arc<Wings>);

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("routes", &self.0.routes).field("fills", &self.fills()).finish_non_exhaustive()
    }
}

impl Mirror {
    /// Puts a mirror together. Does no I/O and asks nobody.
    pub fn new(parts: Parts) -> Mirror {
        let Parts { terms, blobs, ingests, metadata, carrier, behind, clock, room, metrics } = parts;
        let tasks = TaskTracker::new();
        let graph = Graph::new(blobs.clone(), metadata.clone());
        let records = Records::new(metadata, clock.clone(), tasks.clone());
        let stored = Stored::new(blobs, records, metrics.clone(), terms.standing(), terms.verify_on_read);
        let stored = Arc::new(stored.before(behind));
        let (stored_now, holds, started_at) = (Arc::clone(&stored), Holds::default(), clock.now());
        let room = Arc::new(RoomKeeper { room, holds, graph, stored: stored_now, ingests, clock, metrics, tasks });
        let (disk, ending) = (Arc::default(), CancellationToken::new());
        let canary = Arc::new(Canary::new(Arc::clone(&room.clock)));
        let (present, earlier) = (Arc::default(), Vec::new());
        Mirror::of(Lasting { present, earlier, started_at, room, stored, disk, carrier, ending, canary }, terms)
    }

    /// The same mirror under other terms: with the store, the memory of what upstreams denied, and the bounds that
    /// are handed on, and with nothing else of what upstreams said. It answers from here on what is asked of
    /// [`Mirror::present`].
    #[must_use]
    pub fn under(&self, terms: Terms) -> Mirror {
        let Wings { present, started_at, room, fills, earlier, canary, .. } = &*self.0;
        let earlier = earlier.iter().filter(|fills| fills.strong_count() > 0).cloned().chain([Arc::downgrade(fills)]);
        let lasting = Lasting {
            present: Arc::clone(present),
            earlier: earlier.collect(),
            started_at: *started_at,
            room: Arc::clone(room),
            stored: Arc::new(fills.stored.under(terms.standing(), terms.verify_on_read)),
            disk: Arc::clone(&fills.disk),
            carrier: fills.carrier.clone(),
            ending: fills.ending.clone(),
            canary: Arc::clone(canary),
        };
        Mirror::of(lasting, terms)
    }

    fn of(lasting: Lasting, terms: Terms) -> Mirror {
        let Lasting { present, earlier, started_at, room, stored, disk, carrier, ending, canary } = lasting;
        let Terms { routes, policy, negative_ttl, complete_only, prefetch, memory, .. } = terms;
        let RoomKeeper { graph, ingests, clock, metrics, tasks, .. } = &*room;
        let (mode, metadata) = (policy.mode, stored.records.metadata.clone());
        let fills = Arc::new(Fills {
            flights: Flights::new(),
            bounds: terms.bounds,
            stored: stored.clone(),
            ingests: ingests.clone(),
            disk,
            carrier,
            writing: Arc::default(),
            room: room.clone(),
            negatives: Arc::new(Negatives::new(negative_ttl, clock.clone(), terms.of_callers)),
            sizes: Sizes::default(),
            wrong: Wrong::default(),
            reading: Flights::new(),
            finish_unread: terms.finish_unread,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            ending,
        });
        let (blobs, ingests) = (stored.blobs.clone(), ingests.clone());
        let (places, metadata_of) = (Arc::clone(&terms.places), metadata.clone());
        let stores = Stores { blobs, ingests, metadata: metadata_of, places, clock: clock.clone() };
        let bundles = Bundles::new(stores, &fills);
        let lists = ListAnswers::new(policy, negative_ttl, &stored, clock, tasks);
        let rules = Rules { policy, complete_only, fetches_ahead: prefetch > 0, memory };
        let scrub = Arc::new(Scrub { present: present.clone(), stored, clock: clock.clone() });
        let answers = Answers::new(&fills, lists, metadata, clock.clone(), rules);
        let ahead = Ahead::new(fills.clone(), if mode == Mode::Offline { 0 } else { prefetch });
        let graph = graph.of_what_counts(Arc::clone(&fills.stored.standing));
        let mirror = Mirror(Arc::new(Wings {
            present,
            earlier,
            started_at,
            mode,
            routes,
            graph,
            room,
            fills,
            answers,
            ahead,
            bundles,
            scrub,
            canary,
            listing: Listing::default(),
        }));
        *mirror.0.present.lock() = Arc::downgrade(&mirror.0);
        mirror
    }

    /// The mirror under the terms of now; this one where there is none any more.
    #[must_use]
    pub fn present(&self) -> Mirror {
        self.0.present.lock().upgrade().map_or_else(|| self.clone(), Mirror)
    }

    /// Finds the upstream and the repository of a request.
    ///
    /// # Errors
    /// [`RouteError`]; nobody was asked.
    pub fn route(&self, target: &Target) -> Result<Found, RouteError> {
        self.0.routes.route(target, None)
    }

    /// The same, where a request that names no upstream is for `default`.
    ///
    /// # Errors
    /// [`RouteError`]; nobody was asked.
    pub fn route_by(&self, target: &Target, default: Option<&RegistryName>) -> Result<Found, RouteError> {
        self.0.routes.route(target, default)
    }

    /// An upstream as a client names it, by the name that it has here.
    pub fn known_upstream(&self, name: RegistryName) -> Option<&RegistryName> {
        self.0.routes.known(name)
    }

    /// The registries that it serves, in order.
    pub fn registries(&self) -> Vec<RegistryName> {
        let mut registries: Vec<_> = self.0.routes.names().cloned().collect();
        registries.sort_unstable();
        registries
    }

    /// The upstream of a request that names none, where its listener has none of its own.
    pub fn default_upstream(&self) -> &RegistryName {
        self.0.routes.default()
    }

    /// How many fills are under way, those under earlier terms included.
    pub fn fills(&self) -> usize {
        self.all_fills().map(|fills| fills.flights.len()).sum()
    }

    /// Waits until manifests are in the store that were given to clients before, and named.
    pub async fn written(&self) {
        for fills in self.all_fills() {
            fills.writing.over(None).await;
        }
        self.0.answers.written().await;
    }

    fn all_fills(&self) -> impl Iterator<Item = Arc<Fills>> {
        self.0.earlier.iter().filter_map(Weak::upgrade).chain([Arc::clone(&self.0.fills)])
    }

    /// How many bytes of bodies are in memory, lists that are remembered included, and how many may be.
    pub fn bodies(&self) -> (u64, u64) {
        // What is untaken is in hand.
        let parts = self.parts_of_bodies().into_iter().filter(|(part, _)| *part != "untaken");
        parts.fold((0, 0), |(used, most), (_, part)| (used + part.0, most + part.1))
    }

    /// How many bytes each part of that takes, and may take.
    pub fn parts_of_bodies(&self) -> [(&'static str, (u64, u64)); 4] {
        let (bounds, lists) = (&self.0.fills.bounds, self.0.answers.lists.in_memory());
        let bodies = &bounds.bodies;
        let to_disk = bounds.to_disk();
        [("in_hand", bodies.used()), ("untaken", bodies.untaken_bytes()), ("lists", lists), ("to_disk", to_disk)]
    }

    /// One more answer to `client` made of this, until the share is dropped; `None` where it is short. While there is no
    /// room, what other clients do not take makes some.
    ///
    /// # Errors
    /// [`TooMuch`] that clients have still to take is in memory.
    pub async fn give<T: Taker + Clone + 'static>(
        &self,
        body: InMemory,
        client: ClientId,
        taker: &T,
    ) -> Result<Option<Share>, TooMuch> {
        let bounds = &self.0.fills.bounds;
        bounds.bodies.give(body, client, taker, bounds.fill_wait).await
    }

    /// How many entries there are in what clients and upstreams can make grow, by table.
    pub fn tables(&self) -> Vec<(&'static str, u64)> {
        let Wings { fills, answers, room, routes, .. } = &*self.0;
        let own = [
            ("flights_of_blobs", self.fills() as u64),
            ("left_over", fills.ingests.left_over_files()),
            ("lanes", fills.bounds.lanes()),
            ("manifests_being_written", fills.writing.len()),
            ("answers_untaken", fills.bounds.bodies.untaken()),
            ("held", room.holds.len()),
        ];
        let mut tables: BTreeMap<&'static str, u64> = BTreeMap::new();
        let own = own.into_iter().chain(fills.sizes.tables());
        let parts = own.chain(fills.stored.tables()).chain(answers.tables()).chain(routes.tables());
        parts.for_each(|(table, entries)| *tables.entry(table).or_default() += entries);
        tables.into_iter().collect()
    }

    /// Takes over what operators asked for on other replicas, and looks now and again whether what was asked for
    /// still counts, until the future is dropped.
    pub fn take_acts_over(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.0.fills.stored.shared().cloned();
        async move {
            let Some(shared) = shared else { return };
            while let Err(trouble) = shared.recall_acts().await {
                tracing::debug!(%trouble, "pins and frozen tags of other replicas are looked for later");
                tokio::time::sleep(ACTS_AGAIN).await;
            }
            let mut acts = Vec::new();
            loop {
                tokio::time::sleep(ACTS_AGAIN).await;
                shared.recall_again(&mut acts).await;
            }
        }
    }

    /// Writes access times, and makes durable what was recorded, until the future is dropped. Run it
    /// beside the server.
    pub fn keep_uses(&self) -> impl Future<Output = ()> + Send + use<> {
        let stored = Arc::clone(&self.0.fills.stored);
        async move {
            loop {
                for _ in 0..FLUSH_EVERY {
                    tokio::time::sleep(USES_EVERY).await;
                    stored.write_uses().await;
                }
                stored.records.flush("the index was not flushed").await;
            }
        }
    }

    /// Ends well, within `patience`: waits for running fills, tells them to end in time, and writes what is in
    /// memory.
    pub async fn close(&self, patience: Duration) {
        self.0.fills.tasks.close();
        let last_words = (patience / 2).clamp(LAST_WORDS, MOST_LAST_WORDS);
        if tokio::time::timeout(patience.saturating_sub(last_words), self.0.fills.tasks.wait()).await.is_err() {
            tracing::warn!(fills = self.fills(), "stopping with fills under way; they are resumed when asked for");
            self.0.fills.ending.cancel();
            let _ = tokio::time::timeout(last_words, self.0.fills.tasks.wait()).await;
        }
        self.0.fills.stored.write_uses().await;
        self.0.fills.stored.records.flush("the index was not flushed; it is rebuilt from the files").await;
    }
}
