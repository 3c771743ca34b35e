//! Port: what we remember about tags, repositories and blobs.
//!
//! Tags and memberships are written to small files that are the truth; the index beside them is
//! disposable (see `metadata/sled.rs`). Losing the index costs time, never a pull: blobs are
//! served from the blob store without asking here. Methods are synchronous, short, and each is
//! atomic by itself; none of them is called with a lock held.

mod encoding;
mod files;
mod first_places;
mod lists;
mod membership;
pub mod memory;
pub mod names;
pub mod sled;
mod standing;
pub mod uses;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use self::files::a_tag;
pub use self::first_places::{FirstLook, since_first};
pub use self::lists::{KeptList, ListKey};
pub use self::membership::{Membership, Note, Noted, Proof};
pub use self::standing::Standing;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::oci::manifest::is_index;
use crate::oci::{AcceptSet, Descriptor, Digest, MediaType, Places, Reference, RegistryName, Repository, Tag};

/// A repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The upstream, under the name that images use.
    pub upstream: RegistryName,
    /// The repository there.
    pub repository: Repository,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.upstream, self.repository)
    }
}

/// A tag as seen by clients that accept a certain set of manifest types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagKey {
    /// Where the tag is.
    pub location: Location,
    /// The tag.
    pub tag: Tag,
    /// What the client accepts: the upstream's answer may depend on it.
    pub accept: AcceptSet,
}

/// So far ahead of the store's clock a moment may seem that was read off it: whole seconds are all it tells.
const AHEAD: Duration = Duration::from_secs(5);

/// What a tag pointed at when upstream was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest it points at.
    pub descriptor: Descriptor,
    /// When upstream last said so.
    pub checked_at: Timestamp,
    /// When upstream first said so, without another digest in between.
    pub since: Timestamp,
    /// When upstream was asked, by the clock of the bucket's store, where there is one: what replicas go by, whose own
    /// clocks differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// Where the upstream was that said so, as in [`Membership::places`].
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub places: Places,
}

impl TagRecord {
    /// When upstream was asked, by the store's clock, which shows `now` where that is known. A moment that has not come
    /// yet was read off that clock while it was wrong.
    pub fn observed(&self, now: Option<Timestamp>) -> Option<Timestamp> {
        self.observed_at.filter(|at| now.is_none_or(|now| *at <= now.plus(AHEAD)))
    }

    /// Whether upstream was asked later for it than for `other`, as far as can be told at `now` by the store's clock.
    pub fn is_later_than(&self, other: &TagRecord, now: Option<Timestamp>) -> bool {
        match (self.observed(now), other.observed(now)) {
            (Some(this), Some(other)) => this > other,
            (Some(_), None) if other.observed_at.is_some() => true,
            (None, Some(_)) if self.observed_at.is_some() => false,
            _ => self.checked_at > other.checked_at,
        }
    }

    /// How well it stands for the tag to whom nothing was told himself, the greatest best: an index is for every
    /// platform, what those get who cannot read one is for a single one; then what was said last.
    pub fn fitness(&self) -> (bool, Timestamp) {
        (is_index(&self.descriptor.media_type), self.checked_at)
    }
}

/// One digest that a tag once had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
    /// When the tag was seen to have it.
    pub at: Timestamp,
    /// The upstream that said so.
    pub from: RegistryName,
}

/// What a file takes on disk at least, in bytes, and a folder.
pub const BLOCK: u64 = 4096;

/// What names take on disk: the files of tags, their histories, memberships and lists, with their folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// In whole blocks, as a disk has them.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
    /// What an index over them takes besides, in bytes.
    pub index: u64,
}

/// How many changes of a tag are kept: the last ones.
pub const CHANGES_KEPT: usize = 1000;

impl HistoryEntry {
    /// What the record of a tag adds to its history.
    fn of(key: &TagKey, record: &TagRecord) -> HistoryEntry {
        let Descriptor { digest, size, media_type } = record.descriptor.clone();
        HistoryEntry { digest, media_type, size, at: record.checked_at, from: key.location.upstream.clone() }
    }
}

/// What two have seen of a tag, oldest first: each change once, and no more of them than are kept.
pub fn merged(mut mine: Vec<HistoryEntry>, theirs: Vec<HistoryEntry>) -> Vec<HistoryEntry> {
    mine.extend(theirs);
    mine.sort_by_key(|entry| entry.at);
    mine.dedup_by(|later, earlier| later.digest == earlier.digest);
    mine.drain(..mine.len().saturating_sub(CHANGES_KEPT));
    mine
}

/// An image that somebody wants to keep: whatever the tag points at, or the manifest of the digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin {
    /// Where the image is.
    pub location: Location,
    /// The tag or digest.
    pub reference: Reference,
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if matches!(self.reference, Reference::Tag(_)) { ':' } else { '@' };
        write!(f, "{}{separator}{}", self.location, self.reference)
    }
}

/// A tag that is answered with one manifest, whatever upstream says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrozenTag {
    /// Where the tag is.
    pub location: Location,
    /// The tag.
    pub tag: Tag,
    /// The manifest it is answered with.
    pub digest: Digest,
}

/// What we know about a blob, beyond its presence in the blob store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// In bytes.
    pub size: u64,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// When it was last served; written in batches.
    pub used_at: Timestamp,
    /// How often it was asked for, the first time included; uses soon after one another count once.
    pub uses: u32,
}

/// Requests closer to one another than this are one use.
const ONE_USE: Duration = Duration::from_secs(60);

impl BlobRecord {
    /// A blob of `size` bytes that is stored, and used for the first time, `now`.
    pub const fn new(size: u64, now: Timestamp) -> BlobRecord {
        BlobRecord { size, stored_at: now, used_at: now, uses: 1 }
    }

    /// The record after one more use. The requests of one pull are one use.
    #[must_use]
    pub fn used(self, at: Timestamp) -> BlobRecord {
        let again = self.used_at.age(at).is_some_and(|idle| idle >= ONE_USE);
        BlobRecord { used_at: self.used_at.max(at), uses: self.uses.saturating_add(u32::from(again)), ..self }
    }
}

/// What [`MetadataStore::changes`] counts with. A change notes itself when it begins; it counts when
/// it is over, however it ended.
#[derive(Debug, Default)]
struct Changes(AtomicU64);

impl Changes {
    const fn begin(&self) -> Change<'_> {
        Change(self)
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A change under way; counts when dropped.
struct Change<'a>(&'a Changes);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Why the metadata store could not do what it was asked. Callers go on without it.
#[derive(Debug, thiserror::Error)]
#[error("metadata: {doing}: {source}")]
pub struct MetadataError {
    /// What was being done.
    pub doing: &'static str,
    /// What stopped it.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl MetadataError {
    /// Wraps the cause.
    pub fn new(doing: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> MetadataError {
        MetadataError { doing, source: source.into() }
    }
}

/// Remembers tags, memberships and blobs.
///
/// Every method may fail with [`MetadataError`] when the disk or the index does; nothing else makes
/// it fail, in particular not an unknown key.
pub trait MetadataStore: Send + Sync + 'static {
    /// What the tag pointed at.
    fn tag(&self, key: &TagKey) -> Result<Option<TagRecord>, MetadataError>;

    /// What the tag pointed at, for each set of accepted types it was asked with.
    fn tag_records(&self, location: &Location, tag: &Tag) -> Result<Vec<(AcceptSet, TagRecord)>, MetadataError>;

    /// Remembers what the tag points at. Durable when it returns.
    fn put_tag(&self, key: &TagKey, record: &TagRecord) -> Result<(), MetadataError>;

    /// Forgets the tag for every set of accepted types: upstream said that it is gone.
    fn remove_tag(&self, location: &Location, tag: &Tag) -> Result<(), MetadataError>;

    /// Forgets the tag for one set of accepted types: upstream has nothing there for that set.
    fn remove_tag_for(&self, key: &TagKey) -> Result<(), MetadataError>;

    /// What is known of content that was proven to be in this repository: clients of the repository may have it.
    fn member(&self, location: &Location, digest: &Digest) -> Result<Option<Membership>, MetadataError>;

    /// Remembers that the repository has the content. What was proven before stays proven.
    fn put_member(&self, location: &Location, membership: &Membership) -> Result<(), MetadataError>;

    /// The repositories that have this content, and how that was proven, in no particular order. One may be left out:
    /// then more is asked for than need be.
    fn holders(&self, digest: &Digest) -> Result<Vec<(Location, Membership)>, MetadataError>;

    /// Forgets a membership: upstream said that the content is gone, or not ours to see.
    fn remove_member(&self, location: &Location, digest: &Digest) -> Result<(), MetadataError>;

    /// When and where this was noted of the repository, if it was.
    fn noted(&self, location: &Location, note: Note) -> Result<Option<Noted>, MetadataError>;

    /// Notes this of the repository, or takes the note back. Durable when it returns.
    fn note(&self, location: &Location, note: Note, noted: Option<&Noted>) -> Result<(), MetadataError>;

    /// The last [`CHANGES_KEPT`] digests that the tag was seen to have, oldest first, also after it was removed. Written
    /// by [`MetadataStore::put_tag`].
    fn history(&self, location: &Location, tag: &Tag) -> Result<Vec<HistoryEntry>, MetadataError>;

    /// Adds what another replica saw the tag have. Durable when it returns.
    fn add_history(&self, location: &Location, tag: &Tag, entries: &[HistoryEntry]) -> Result<(), MetadataError>;

    /// Every repository that has a folder, in no particular order. For housekeeping, never for a request.
    fn repositories(&self) -> Result<Vec<Location>, MetadataError>;

    /// Forgets the histories of those tags of a repository of which `stays`, asked with the tag and its history,
    /// says no.
    fn retain_histories(
        &self,
        location: &Location,
        stays: &dyn Fn(&Tag, &[HistoryEntry]) -> bool,
    ) -> Result<(), MetadataError>;

    /// Remembers that an image is to be kept. Durable when it returns; nothing to do when it is
    /// pinned already. Whether anything of it is stored does not matter.
    fn pin(&self, pin: &Pin) -> Result<(), MetadataError>;

    /// Forgets a pin; whether there was one.
    fn unpin(&self, pin: &Pin) -> Result<bool, MetadataError>;

    /// Every pin, in no particular order. Fails rather than leave one out: what is not named here
    /// may be evicted.
    fn pins(&self) -> Result<Vec<Pin>, MetadataError>;

    /// From now on the tag is answered with this manifest. Durable when it returns; replaces what
    /// the tag was frozen to.
    fn freeze(&self, frozen: &FrozenTag) -> Result<(), MetadataError>;

    /// Undoes [`MetadataStore::freeze`]; whether the tag was frozen.
    fn unfreeze(&self, location: &Location, tag: &Tag) -> Result<bool, MetadataError>;

    /// What the tag is frozen to.
    fn frozen(&self, location: &Location, tag: &Tag) -> Result<Option<Digest>, MetadataError>;

    /// Every frozen tag, in no particular order. Fails rather than leave one out.
    fn frozen_tags(&self) -> Result<Vec<FrozenTag>, MetadataError>;

    /// What upstream last answered to this question, if it was kept and is whole.
    fn list(&self, key: &ListKey) -> Result<Option<KeptList>, MetadataError>;

    /// Keeps an answer, in place of the one before it. Of too long an answer, none is kept; when there
    /// are too many, the oldest go.
    fn put_list(&self, key: &ListKey, list: &KeptList) -> Result<(), MetadataError>;

    /// Forgets every list of tags of a repository, or all that are about one of its manifests.
    fn remove_lists(&self, location: &Location, about: Option<&Digest>) -> Result<(), MetadataError>;

    /// Drops lists, the oldest of the repository that takes most, until all of them together take no more than `most` bytes on disk.
    fn shrink_lists(&self, most: u64) -> Result<(), MetadataError>;

    /// What names take on disk, from memory: all of them, once they were counted after a start.
    fn names(&self) -> Names;

    /// Remembers a blob that was just stored.
    fn put_blob(&self, digest: &Digest, record: &BlobRecord) -> Result<(), MetadataError>;

    /// Forgets a blob that is no longer stored.
    fn remove_blob(&self, digest: &Digest) -> Result<(), MetadataError>;

    /// Every blob we know of, in no particular order.
    fn blobs(&self) -> Result<Vec<(Digest, BlobRecord)>, MetadataError>;

    /// Every tag, once for each set of accepted types, in no particular order. For housekeeping, never for a request.
    fn tags(&self) -> Result<Vec<(TagKey, TagRecord)>, MetadataError>;

    /// Every membership, or every one of a repository, in no particular order. All of them are for housekeeping, never
    /// for a request.
    fn members(&self, of: Option<&Location>) -> Result<Vec<(Location, Descriptor)>, MetadataError>;

    /// Notes when blobs were last used, each counted as one more use. Unknown blobs are left out silently; a lost note is harmless.
    fn touch(&self, uses: &[(Digest, Timestamp)]) -> Result<(), MetadataError>;

    /// How often tags, memberships, notes and frozen tags changed, from memory. Rises after a change can be
    /// seen and before the call that made it returns, so what was read since a number was read still
    /// is so as long as the number stands.
    fn changes(&self) -> u64;

    /// Makes durable what is not yet.
    fn flush(&self) -> Result<(), MetadataError>;
}
