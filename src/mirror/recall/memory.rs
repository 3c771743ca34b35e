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

use crate::blob_store::{Content, Source};
use crate::clock::Timestamp;
use crate::mirror::Location;
use crate::oci::{AcceptSet, Descriptor, Digest, Reference, Request, Tag};

/// What is longer, in bytes, goes from its file to the socket at least as well.
pub(crate) const LONGEST: usize = 64 << 10;
/// About what an entry takes besides its bytes.
const OVERHEAD: usize = 1 << 10;
/// Uses of one answer closer to one another than this, in milliseconds, are noted once.
const NOTED_ONCE: u64 = 1000;

/// What can be at hand. A manifest may also be asked for as a blob, and is then answered as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// A manifest by tag, by a client that accepts these types.
    Tag(Tag, AcceptSet),
    /// A manifest by digest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
}

impl Asked {
    /// What is asked for by a client that accepts these types of manifests; `None` where it is a list,
    /// or nothing.
    pub fn of(request: &Request, accept: AcceptSet) -> Option<Asked> {
        match request {
            Request::Manifest { reference: Reference::Tag(tag), .. } => Some(Asked::Tag(tag.clone(), accept.key())),
            Request::Manifest { reference: Reference::Digest(digest), .. } => Some(Asked::Manifest(*digest)),
            Request::Blob { digest, .. } => Some(Asked::Blob(*digest)),
            Request::Ping | Request::Tags { .. } | Request::Referrers { .. } => None,
        }
    }
}

/// How far the ports have counted: see [`Stored::stamp`](crate::mirror::room::stored::Stored::stamp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) changes: u64,
    pub(crate) removals: u64,
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

    /// Whether it was made when as much had changed.
    pub(crate) fn is_of(&self, stamp: Stamp) -> bool {
        self.stamp == stamp
    }

    /// For a tag that can grow stale, when upstream last confirmed it.
    pub(crate) const fn checked_at(&self) -> Option<Timestamp> {
        self.checked_at
    }

    /// Takes note of a use; whether it is to be told to others.
    pub(crate) fn note(&self, now: Timestamp) -> bool {
        let due = now.0.wrapping_sub(self.noted_at.load(Ordering::Relaxed)) >= NOTED_ONCE;
        if due {
            self.noted_at.store(now.0, Ordering::Relaxed);
        }
        due
    }

    fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + OVERHEAD).unwrap_or(u32::MAX)
    }
}

/// The answers in memory.
#[derive(Debug)]
pub(crate) struct Memory(Option<Cache<(Location, Asked), Arc<Kept>>>);

impl Memory {
    /// Of at most `capacity` bytes; none when that is zero.
    pub(crate) fn new(capacity: u64) -> Memory {
        let cache = Cache::builder().max_capacity(capacity).weigher(|_, kept: &Arc<Kept>| kept.weight());
        // How often something is looked up says little: see `Mirror::still_holds`.
        let cache = cache.eviction_policy(EvictionPolicy::lru());
        Memory((capacity > 0).then(|| cache.build()))
    }

    pub(crate) fn get(&self, location: &Location, asked: &Asked) -> Option<Arc<Kept>> {
        self.0.as_ref()?.get(&(location.clone(), asked.clone()))
    }

    /// Whether content of `size` bytes is kept at all.
    fn takes(&self, size: u64) -> bool {
        self.0.is_some() && size < LONGEST as u64
    }

    /// Keeps what was found in the store after `stamp` was read, where it is small.
    pub(crate) fn keep(
        &self,
        location: &Location,
        asked: Asked,
        descriptor: &Descriptor,
        bytes: &Bytes,
        checked_at: Option<Timestamp>,
        stamp: Stamp,
    ) {
        let Some(cache) = self.0.as_ref().filter(|_| self.takes(bytes.len() as u64)) else { return };
        let kept = Kept {
            descriptor: descriptor.clone(),
            bytes: bytes.clone(),
            head: OnceLock::new(),
            stamp,
            checked_at,
            noted_at: AtomicU64::new(0),
        };
        cache.insert((location.clone(), asked), Arc::new(kept));
    }

    /// A blob that was found in the store after `stamp` was read: in memory, where it is small.
    ///
    /// # Errors
    /// [`Damaged`] when its bytes are not what they should be.
    pub(crate) async fn load(
        &self,
        location: &Location,
        digest: &Digest,
        content: Content,
        stamp: Stamp,
    ) -> Result<Content, Damaged> {
        if !self.takes(content.size) || matches!(content.source, Source::Memory(_)) {
            return Ok(content);
        }
        let asked = Asked::Blob(*digest);
        let bytes = match self.get(location, &asked).filter(|kept| kept.descriptor.size == content.size) {
            Some(kept) => kept.bytes.clone(),
            None => match read(*digest, content.clone()).await {
                Some((bytes, true)) => bytes,
                Some((_, false)) => return Err(Damaged(content)),
                None => return Ok(content),
            },
        };
        self.keep(location, asked, &Descriptor::of_blob(*digest, content.size), &bytes, None, stamp);
        Ok(Content { source: Source::Memory(bytes), ..content })
    }

    /// How many bytes are in use.
    pub(crate) fn used(&self) -> u64 {
        self.0.as_ref().map_or(0, |cache| {
            cache.run_pending_tasks();
            cache.weighted_size()
        })
    }
}

/// Content whose bytes are not what its digest says.
pub(crate) struct Damaged(pub(crate) Content);

/// The bytes, and whether they have the digest.
async fn read(digest: Digest, content: Content) -> Option<(Bytes, bool)> {
    let read = move || {
        let bytes = content.read_at(0, LONGEST).ok()?;
        let sound = Digest::of(digest.algorithm(), &bytes) == digest;
        Some((bytes, sound))
    };
    tokio::task::spawn_blocking(read).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_is_at_hand_takes_no_more_memory_than_it_may() {
        let (capacity, bytes) = (1 << 20, Bytes::from(vec![0; 10_000]));
        let memory = Memory::new(capacity);
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "a".parse().expect("a name") };
        let stamp = Stamp { changes: 0, removals: 0 };
        for number in 0..1000_u64 {
            let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
            let descriptor = Descriptor::of_blob(digest, bytes.len() as u64);
            memory.keep(&location, Asked::Blob(digest), &descriptor, &bytes, None, stamp);
        }
        assert!((capacity / 2..=capacity).contains(&memory.used()), "{}", memory.used());
    }
}
