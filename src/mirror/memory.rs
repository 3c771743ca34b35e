//! Manifests and small blobs that were asked for lately, in memory and ready to be sent.
//!
//! A request that finds its answer here looks nothing up: no file, no index, no hash. Truth: an
//! answer from here is the one that the store would give. Each carries the numbers by which both
//! ports count what was changed and taken away, read before it was made. When either has moved on,
//! membership and presence are looked up again before the answer counts; only its bytes, which
//! were verified and have the digest whatever happens, are used again. How fresh a tag is, is
//! decided for every request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::freshness::{self, Plan};
use super::{Location, Mirror, Mode, OCTET_STREAM, Policy, Route, Shared};
use crate::blob_store::{Content, Source};
use crate::clock::Timestamp;
use crate::metadata::TagKey;
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest, MediaType, Reference};

/// What is longer, in bytes, goes from its file to the socket at least as well.
const LONGEST: usize = 64 << 10;
/// About what an entry takes besides its bytes.
const OVERHEAD: usize = 1 << 10;
/// Uses of one answer closer to one another than this, in milliseconds, are noted once.
const NOTED_ONCE: u64 = 1000;

/// What can be asked for. A manifest may also be asked for as a blob, and is then answered as one.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A manifest, by a client that accepts these types.
    Manifest(&'a Reference, AcceptSet),
    /// A blob.
    Blob(&'a Digest),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Tag(TagKey),
    Manifest(Location, Digest),
    Blob(Location, Digest),
}

impl Name {
    fn of(location: &Location, wanted: Wanted<'_>) -> Name {
        let location = location.clone();
        match wanted {
            Wanted::Manifest(Reference::Tag(tag), accept) => Name::Tag(TagKey { location, tag: tag.clone(), accept }),
            Wanted::Manifest(Reference::Digest(digest), _) => Name::Manifest(location, *digest),
            Wanted::Blob(digest) => Name::Blob(location, *digest),
        }
    }
}

/// How far the ports have counted: see [`Shared::stamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    changes: u64,
    removals: u64,
}

/// An answer in memory: a hit, as long as nothing changed.
#[derive(Debug)]
pub struct Kept {
    /// What the bytes are; for what was asked for as a blob, some bytes.
    pub descriptor: Descriptor,
    /// All of them, verified.
    pub bytes: Bytes,
    head: OnceLock<HeaderMap>,
    stamp: Stamp,
    /// For a tag that can grow stale, when upstream last confirmed it.
    checked_at: Option<Timestamp>,
    noted_at: AtomicU64,
}

impl Kept {
    /// The headers of the answer, made once by whoever asks first.
    pub fn head(&self, make: impl FnOnce(&Kept) -> HeaderMap) -> &HeaderMap {
        self.head.get_or_init(|| make(self))
    }

    fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + OVERHEAD).unwrap_or(u32::MAX)
    }
}

/// The answers in memory.
#[derive(Debug)]
pub(super) struct Memory(Option<Cache<Name, Arc<Kept>>>);

impl Memory {
    /// Of at most `capacity` bytes; none when that is zero.
    pub(super) fn new(capacity: u64) -> Memory {
        let cache = Cache::builder().max_capacity(capacity).weigher(|_, kept: &Arc<Kept>| kept.weight());
        // How often something is looked up says little: see `Mirror::still_holds`.
        let cache = cache.eviction_policy(EvictionPolicy::lru());
        Memory((capacity > 0).then(|| cache.build()))
    }

    fn get(&self, name: &Name) -> Option<Arc<Kept>> {
        self.0.as_ref()?.get(name)
    }

    /// How many bytes are in use.
    fn used(&self) -> u64 {
        self.0.as_ref().map_or(0, |cache| {
            cache.run_pending_tasks();
            cache.weighted_size()
        })
    }
}

impl Mirror {
    /// The answer, if it is in memory and needs no look at anything else. It counts as a use.
    pub fn at_hand(&self, route: &Route, wanted: Wanted<'_>) -> Option<Arc<Kept>> {
        let kept = self.0.memory.get(&Name::of(&route.location, wanted))?;
        self.still_holds(route, wanted, &kept).then_some(kept)
    }

    /// Whether an answer that was at hand for this before still is one. It counts as a use.
    pub fn still_holds(&self, route: &Route, wanted: Wanted<'_>, kept: &Kept) -> bool {
        let shared = &self.0;
        if kept.stamp != shared.stamp() {
            return false;
        }
        let now = shared.clock.now();
        let Policy { mode, complete_only, prefetch, .. } = shared.policy;
        // Whether the rest is there has to be looked at: to refuse half an image, or to fetch it ahead.
        let leads_on = prefetch > 0 || (complete_only && mode == Mode::Offline);
        if matches!(wanted, Wanted::Manifest(..)) && leads_on {
            return false;
        }
        if let Some(checked_at) = kept.checked_at {
            let allowance = route.upstream.allowance(now);
            if freshness::plan(Some(checked_at), now, &shared.policy, allowance) != Plan::Serve {
                return false;
            }
        }
        let noted_at = kept.noted_at.load(Ordering::Relaxed);
        if now.0.wrapping_sub(noted_at) >= NOTED_ONCE {
            kept.noted_at.store(now.0, Ordering::Relaxed);
            shared.uses.note(&kept.descriptor.digest, now);
            // Whoever kept a hold of it did not look it up: it is in use all the same.
            drop(shared.memory.get(&Name::of(&route.location, wanted)));
        }
        shared.metrics.at_hand();
        true
    }

    /// How many bytes the answers in memory take.
    pub fn memory_used(&self) -> u64 {
        self.0.memory.used()
    }
}

impl Shared {
    /// How far changes are counted now. What is looked up after this call holds as long as this
    /// stays the same.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { changes: self.metadata.changes(), removals: self.blobs.removals() }
    }

    /// The bytes of a manifest, if they are in memory; whether they may be served is not said.
    pub(super) fn bytes_at_hand(&self, location: &Location, descriptor: &Descriptor) -> Option<Bytes> {
        let kept = self.memory.get(&Name::Manifest(location.clone(), descriptor.digest))?;
        Some(kept.bytes.clone())
    }

    /// Keeps a manifest that was found in the store after `stamp` was read.
    pub(super) fn keep_at_hand(&self, name: Name, manifest: &Manifest, checked_at: Option<Timestamp>, stamp: Stamp) {
        self.keep(name, &manifest.descriptor, &manifest.bytes, checked_at, stamp);
    }

    fn keep(&self, name: Name, descriptor: &Descriptor, bytes: &Bytes, checked_at: Option<Timestamp>, stamp: Stamp) {
        let Some(cache) = self.memory.0.as_ref().filter(|_| bytes.len() < LONGEST) else { return };
        let kept = Kept {
            descriptor: descriptor.clone(),
            bytes: bytes.clone(),
            head: OnceLock::new(),
            stamp,
            checked_at,
            noted_at: AtomicU64::new(0),
        };
        cache.insert(name, Arc::new(kept));
    }

    /// A blob that was found in the store after `stamp` was read: in memory, where it is small.
    /// `None` when it turns out to be damaged; it was then taken out of sight.
    pub(super) async fn blob_in_memory(
        &self,
        location: &Location,
        digest: &Digest,
        content: Content,
        stamp: Stamp,
    ) -> Option<Content> {
        let small = self.memory.0.is_some() && content.size < LONGEST as u64;
        if !small || matches!(content.source, Source::Memory(_)) {
            return Some(content);
        }
        let name = Name::Blob(location.clone(), *digest);
        let bytes = match self.memory.get(&name).filter(|kept| kept.descriptor.size == content.size) {
            Some(kept) => kept.bytes.clone(),
            None => match load(digest, &content).await {
                Loaded::Verified(bytes) => bytes,
                Loaded::Unread => return Some(content),
                // Read and hashed once more, and set aside if that is how it is.
                Loaded::Damaged => return self.check(digest, &content).await.then_some(content),
            },
        };
        let descriptor = Descriptor { digest: *digest, size: content.size, media_type: MediaType::from(OCTET_STREAM) };
        self.keep(name, &descriptor, &bytes, None, stamp);
        Some(Content { source: Source::Memory(bytes), ..content })
    }
}

enum Loaded {
    Verified(Bytes),
    Damaged,
    Unread,
}

/// Reads a small file and looks whether it is what it should be.
async fn load(digest: &Digest, content: &Content) -> Loaded {
    let (digest, content) = (*digest, content.clone());
    let read = tokio::task::spawn_blocking(move || {
        let bytes = content.read_at(0, LONGEST)?;
        let verified = Digest::of(digest.algorithm(), &bytes) == digest;
        std::io::Result::Ok(if verified { Loaded::Verified(bytes) } else { Loaded::Damaged })
    });
    read.await.ok().and_then(Result::ok).unwrap_or(Loaded::Unread)
}
