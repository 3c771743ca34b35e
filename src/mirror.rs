//! The mirror: answers requests from the store and from upstreams. The use case, without any edge.
//!
//! Four flows (see the crate's documentation): a hit, a cold miss, a joiner, a tag. In wings: the
//! nouns [`flight`], [`recall`] and [`room`] below; what acts on them, [`fill`], [`answer`], [`keep`]
//! and [`images`], above; this file puts them together. It knows ports, never adapters, and nothing of
//! HTTP.
//!
//! Truths: a dead upstream never breaks a pull that the store can serve; a broken store never
//! breaks a pull that the upstream can serve; content in the store is served only to a repository
//! of which upstream said that it has it.

pub mod answer;
pub mod error;
pub mod fill;
pub mod flight;
pub mod images;
pub mod keep;
pub mod recall;
pub mod room;
pub mod routes;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob_store::ingest::IngestDir;
use crate::blob_store::{BlobStore, Content};
use crate::clock::{Clock, Timestamp};
use crate::metadata::uses::Uses;
use crate::metadata::{MetadataStore, TagKey};
use crate::metrics::Metrics;
use crate::oci::{Descriptor, Digest, RegistryName, Target};
use crate::upstream::{ReferrerList, TagList};

pub use crate::metadata::Location;
pub use answer::blob::BlobAnswer;
pub use answer::body::{BlobBody, Chunk};
pub use answer::lists::{ReferrersAnswer, TagsAnswer};
pub use answer::manifests::ManifestAnswer;
pub use error::{MirrorError, Subject};
pub use keep::scrub::Complaint;
pub use recall::freshness::{Mode, Policy};
pub use recall::memory::{Asked, Kept};
pub use room::Room;
pub use routes::{Route, RouteError, Routes};

use answer::manifests::Fetched;
use flight::bounds::Bounds;
use flight::flights::{Flights, Shareable};
use flight::progress::Following;
use flight::unread::FinishUnread;
use recall::lists::Lists;
use recall::memory::Memory;
use recall::negatives::Negatives;
use room::holds::Holds;
use room::late::Late;
use room::trust::Trust;

/// The type of content that was fetched as a blob.
const OCTET_STREAM: &str = "application/octet-stream";

/// How often access times are written.
const USES_EVERY: Duration = Duration::from_secs(10);

/// After how many times of that the index is made durable: what it knows of need not be hashed after an
/// unclean stop.
const FLUSH_EVERY: usize = 6;

/// How long fills that were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a mirror is made of.
pub struct Parts {
    /// Which upstreams there are.
    pub routes: Routes,
    /// Verified content.
    pub blobs: Arc<dyn BlobStore>,
    /// Where fills write, on the file system of `blobs`.
    pub ingests: Arc<IngestDir>,
    /// What is remembered of tags, memberships and blobs.
    pub metadata: Arc<dyn MetadataStore>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
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
    pub bounds: Bounds,
    /// How much the store may hold.
    pub room: Room,
    /// Whether every blob is hashed before it is served.
    pub verify_on_read: bool,
    /// Memory for small content that was asked for lately, in bytes; none when zero.
    pub memory: u64,
    /// Where events are counted.
    pub metrics: Arc<Metrics>,
}

/// The key of a fill. Not the digest alone: a joiner must not inherit another repository's
/// permission, or its 404.
pub(crate) type BlobKey = (Location, Digest);

/// What all tasks of a mirror share.
pub(crate) struct Shared {
    routes: Routes,
    blobs: Arc<dyn BlobStore>,
    ingests: Arc<IngestDir>,
    metadata: Arc<dyn MetadataStore>,
    clock: Arc<dyn Clock>,
    started_at: Timestamp,
    policy: Policy,
    complete_only: bool,
    prefetch: u64,
    finish_unread: FinishUnread,
    bounds: Bounds,
    room: Room,
    holds: Holds,
    trust: Trust,
    memory: Memory,
    metrics: Arc<Metrics>,
    fills: Flights<BlobKey, Following>,
    tags: Flights<TagKey, Shareable<Fetched>>,
    manifests: Flights<BlobKey, Shareable<Fetched>>,
    negatives: Negatives,
    tag_lists: Lists<TagList>,
    referrer_lists: Lists<ReferrerList>,
    uses: Uses,
    late: Arc<Late>,
    tasks: TaskTracker,
    /// Cancelled when running fills have to end.
    ending: CancellationToken,
}

/// The use case: answers for manifests and blobs. Cheap to clone.
#[derive(Clone)]
pub struct Mirror(Arc<Shared>);

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("routes", &self.0.routes)
            .field("fills", &self.0.fills.len())
            .finish_non_exhaustive()
    }
}

impl Mirror {
    /// Puts a mirror together. Does no I/O and asks nobody.
    pub fn new(parts: Parts) -> Mirror {
        let Parts {
            routes,
            blobs,
            ingests,
            metadata,
            clock,
            policy,
            complete_only,
            prefetch,
            finish_unread,
            negative_ttl,
            bounds,
            room,
            verify_on_read,
            memory,
            metrics,
        } = parts;
        let tasks = TaskTracker::new();
        let of_lists = (Arc::clone(&metadata), Arc::clone(&clock), tasks.clone());
        let (for_tags, for_referrers) = (of_lists.clone(), of_lists);
        Mirror(Arc::new(Shared {
            routes,
            blobs,
            ingests,
            metadata,
            started_at: clock.now(),
            clock,
            policy,
            complete_only,
            prefetch,
            finish_unread,
            bounds,
            room,
            holds: Holds::default(),
            trust: Trust::new(verify_on_read),
            memory: Memory::new(memory),
            metrics,
            fills: Flights::new(),
            tags: Flights::new(),
            manifests: Flights::new(),
            negatives: Negatives::new(negative_ttl),
            tag_lists: Lists::new(policy, negative_ttl, for_tags.0, for_tags.1, for_tags.2),
            referrer_lists: Lists::new(policy, negative_ttl, for_referrers.0, for_referrers.1, for_referrers.2),
            uses: Uses::default(),
            late: Arc::default(),
            tasks,
            ending: CancellationToken::new(),
        }))
    }

    /// Finds the upstream and the repository of a request.
    ///
    /// # Errors
    /// [`RouteError`]; nobody was asked.
    pub fn route(&self, target: &Target) -> Result<Route, RouteError> {
        self.0.routes.route(target, None)
    }

    /// The same, where a request that names no upstream is for `default`.
    ///
    /// # Errors
    /// [`RouteError`]; nobody was asked.
    pub fn route_by(&self, target: &Target, default: Option<&RegistryName>) -> Result<Route, RouteError> {
        self.0.routes.route(target, default)
    }

    /// How many fills are under way.
    pub fn fills(&self) -> usize {
        self.0.fills.len()
    }

    /// Writes access times, and makes durable what was recorded, until the future is dropped. Run it
    /// beside the server.
    pub async fn keep_uses(&self) {
        loop {
            for _ in 0..FLUSH_EVERY {
                tokio::time::sleep(USES_EVERY).await;
                self.0.write_uses().await;
            }
            self.0.flush("the index was not flushed").await;
        }
    }

    /// Ends well: waits for running fills, at most for `patience`, and writes what is in memory.
    pub async fn close(&self, patience: Duration) {
        self.0.tasks.close();
        if tokio::time::timeout(patience, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(fills = self.fills(), "stopping with fills under way; they are resumed when asked for");
            self.0.ending.cancel();
            let _ = tokio::time::timeout(LAST_WORDS, self.0.tasks.wait()).await;
        }
        self.0.write_uses().await;
        self.0.flush("the index was not flushed; it is rebuilt from the files").await;
    }
}

impl Shared {
    async fn write_uses(&self) {
        let uses = self.uses.drain();
        if uses.is_empty() {
            return;
        }
        let metadata = Arc::clone(&self.metadata);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || metadata.touch(&uses)).await {
            tracing::debug!(%error, "access times were not written");
        }
    }

    /// Opens content of this repository, with what is known of it. `None` when it is not stored, or
    /// when upstream has not said that this repository has it.
    async fn open_member(&self, location: &Location, digest: &Digest) -> Option<(Descriptor, Content)> {
        let descriptor = self.member(location, digest)?;
        let content = self.blobs.open(digest).await?;
        let content = self.trusted(digest, content, Some(descriptor.size)).await?;
        self.uses.note(digest, self.clock.now());
        Some((descriptor, content))
    }

    fn member(&self, location: &Location, digest: &Digest) -> Option<Descriptor> {
        self.metadata.member(location, digest).unwrap_or_else(|error| {
            tracing::warn!(%location, %digest, %error, "membership unknown, asking upstream");
            None
        })
    }
}
