//! The collector of the bucket: what no name leads to any more leaves it, and of the rest what was not used for longest,
//! where it holds more than it may.
//!
//! One replica at a time goes round, the one that took the lease; the next round is due when that is old. Content
//! without a name is marked, waited for for a day, looked at once more, and deleted. Decisions are in [`fate`](mod@fate) and
//! [`eviction`](super::eviction). Each round has a deadline, as each question has, looks at so much content at a time,
//! and ends at the first trouble. Truth: nothing is deleted that a name needs, or that anybody may be on his way to.

mod excess;
pub mod fate;
mod lease;
mod lists;
mod taking;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::fate::{Fate, Marked, Seen, fate};
use self::taking::{AT_A_TIME, Left};
use crate::blob_store::key_of;
use crate::clock::{Clock, Timestamp};
use crate::metadata::names::{self, Name};
use crate::metadata::{Pin, TagRecord};
use crate::metrics::Metrics;
use crate::oci::manifest::{Children, MAX_MANIFEST_SIZE};
use crate::oci::{Algorithm, Digest, Manifest, Reference};
use crate::tier::marks::{FOLDER, Mark, USED, mark_of, use_of};
use crate::tier::{Bucket, Listed, Trouble, remove_void};

/// How often it is looked whether a round is due.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long after one began the next is due, and how long one may take.
const ROUND_EVERY: Duration = Duration::from_secs(6 * 60 * 60);
const ROUND_AT_MOST: Duration = Duration::from_secs(3 * 60 * 60);
/// So much content is looked at at a time.
const PAGE: usize = 100_000;
/// So much is asked of the bucket at a time.
const AT_ONCE: usize = 16;
/// What was used longer ago is as old as what never was.
const USES_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// No name is longer, in bytes.
const LONGEST: u64 = 2 << 20;
/// In between pins and what tags stand for are looked at anew, so often, while content is deleted.
const LOOK_AT_NAMES: Duration = Duration::from_secs(10 * 60);
const BLOBS: &str = "blobs";
/// In it lies what is listed behind all names, by rounds: no upstream is called so.
const LAST: &str = "repositories/~";

/// Goes round the bucket.
pub struct Collector {
    bucket: Bucket,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// What the bucket may hold, in bytes; 0 is no bound.
    max_size: u64,
    /// What lists may take there, in bytes.
    most_lists: u64,
    page: usize,
    /// Which round is ours: the epoch of the last lease that we took.
    round: AtomicU64,
    left: Mutex<Vec<Left>>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// The beginning of a digest. Two that begin alike are one, which stays as long as one of them has to.
type Short = u64;

fn short(digest: &Digest) -> Short {
    digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What came of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What content there was.
    pub objects: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The size of what has no name, in bytes.
    pub unnamed: u64,
    /// How much was marked.
    pub marked: u64,
    /// How many names were taken away, because there was more than there may be.
    pub names: u64,
    /// How much lost its mark.
    pub spared: u64,
    /// How much content was deleted.
    pub deleted: u64,
    /// Its size in bytes.
    pub freed: u64,
    /// How many uploads were aborted, and leases removed, that nobody goes on with.
    pub left_over: u64,
}

impl Collector {
    /// For a bucket that may hold so many bytes; 0 is no bound.
    pub fn new(bucket: Bucket, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, max_size: u64) -> Collector {
        let (round, left) = (AtomicU64::default(), Mutex::default());
        Collector { bucket, clock, metrics, max_size, most_lists: lists::MOST, page: PAGE, round, left }
    }

    /// Goes round when a round is due, while `may` says that something may be deleted, until the future is dropped.
    pub async fn run(self, may: impl Fn() -> bool) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if may() && self.bucket.is_well() {
                if let Err(trouble) = self.let_go_of_left().await {
                    tracing::debug!(%trouble, "claims of the collector stand");
                }
                self.turn().await;
            }
        }
    }

    /// Goes round if it is time and nobody else does; what came of it.
    pub async fn turn(&self) -> Option<Round> {
        let taken = lease::take(&self.bucket, self.clock.now(), ROUND_EVERY).await;
        let taken = taken.inspect_err(|trouble| tracing::debug!(%trouble, "it is not known whose round it is")).ok()?;
        self.round.store(taken?, Ordering::Relaxed);
        let mut round = Round::default();
        let trouble = match tokio::time::timeout(ROUND_AT_MOST, self.round(&mut round)).await {
            Ok(gone) => gone.err().map(|trouble| trouble.to_string()),
            Err(_) => Some("it took too long".to_owned()),
        };
        self.metrics.collected(&[round.deleted, round.freed, round.names], trouble.is_some());
        if trouble.is_none() {
            self.metrics.bucket_holds(round.objects - round.deleted, round.bytes - round.freed);
        }
        let Round { objects, bytes, unnamed, marked, names, spared, deleted, freed, left_over } = round;
        let (bucket, trouble) = (self.bucket.name(), trouble.map(tracing::field::display));
        tracing::info!(
            bucket,
            objects,
            bytes,
            unnamed,
            marked,
            names,
            spared,
            deleted,
            freed,
            left_over,
            trouble,
            "went round the bucket"
        );
        Some(round)
    }

    async fn round(&self, round: &mut Round) -> Result<(), Trouble> {
        round.left_over = self.bucket.abort_old().await? + remove_void(&self.bucket).await?;
        self.let_go_of_old().await?;
        self.forget_lasts().await?;
        // A store that leaves names out of its lists would have all deleted that they need.
        self.bucket.write(&self.last(), Bytes::from_static(b"{}")).await?;
        let went = self.through(round).await;
        self.bucket.remove(&self.last()).await?;
        went
    }

    /// What rounds left that were broken off.
    async fn forget_lasts(&self) -> Result<(), Trouble> {
        let mut lasts = self.bucket.list(LAST);
        while let Some(listed) = lasts.next().await.transpose()? {
            let age = self.bucket.time().and_then(|now| listed.modified.age(now));
            if age.is_some_and(|age| age >= ROUND_EVERY) {
                self.bucket.remove(&listed.key).await?;
            }
        }
        Ok(())
    }

    fn round_number(&self) -> u64 {
        self.round.load(Ordering::Relaxed)
    }

    /// What has to be listed behind all names in our round, and in no other.
    fn last(&self) -> String {
        // Behind those of rounds before.
        format!("{LAST}/{:020}", self.round_number())
    }

    /// All names, and an error in the end where these are not all.
    fn names(&self) -> BoxStream<'static, Result<Listed, Trouble>> {
        self.bucket.list_to(names::REPOSITORIES, &self.last())
    }

    async fn through(&self, round: &mut Round) -> Result<(), Trouble> {
        let mut blobs = self.bucket.list_in_order(BLOBS).fuse().boxed();
        loop {
            let mut page = self.page(&mut blobs).await?;
            if page.is_empty() {
                break;
            }
            self.look_at(&mut page).await?;
            self.settle(page, round).await?;
        }
        self.forget_marks().await?;
        self.drop_lists(round).await?;
        self.take_names(round).await
    }

    /// The next content, and how large it is.
    async fn page(&self, blobs: &mut BoxStream<'_, Result<Listed, Trouble>>) -> Result<HashMap<Digest, Seen>, Trouble> {
        let mut page = HashMap::new();
        while page.len() < self.page
            && let Some(Listed { key, size, modified: written }) = blobs.next().await.transpose()?
        {
            page.extend(digest_in(&key, BLOBS).map(|digest| (digest, Seen { size, written, ..Seen::default() })));
        }
        Ok(page)
    }

    /// What else there is about it: marks first, names last.
    async fn look_at(&self, page: &mut HashMap<Digest, Seen>) -> Result<(), Trouble> {
        let mut marks = self.bucket.list_in_order(FOLDER);
        while let Some(listed) = marks.next().await.transpose()? {
            if let Some((digest, seen)) =
                digest_in(&listed.key, FOLDER).and_then(|digest| Some((digest, page.get_mut(&digest)?)))
            {
                let mark = self.bucket.mark(&digest).await?;
                seen.mark = mark.map(|mark| Marked { at: mark.marked_at, written: listed.modified });
            }
        }
        let mut uses = self.bucket.list_in_order(USED);
        while let Some(listed) = uses.next().await.transpose()? {
            if let Some(seen) = digest_in(&listed.key, USED).and_then(|digest| page.get_mut(&digest)) {
                seen.used = Some(listed.modified);
            }
        }
        let mut all = self.names();
        while let Some(listed) = all.next().await.transpose()? {
            let named = match names::parse(&listed.key) {
                Some(Name::Member(_, digest)) => Some(digest),
                Some(Name::Pin(pin)) => match pin.reference {
                    Reference::Digest(digest) => Some(digest),
                    Reference::Tag(_) => None,
                },
                _ => None,
            };
            if let Some(seen) = named.and_then(|digest| page.get_mut(&digest)) {
                seen.named = true;
            }
        }
        Ok(())
    }

    /// Does with it what becomes of it.
    async fn settle(&self, page: HashMap<Digest, Seen>, round: &mut Round) -> Result<(), Trouble> {
        let (now, there) = (self.clock.now(), self.bucket.time());
        let mut due = HashMap::new();
        for (digest, seen) in page {
            round.objects += 1;
            round.bytes += seen.size;
            round.unnamed += if seen.named { 0 } else { seen.size };
            match fate(&seen, now, there) {
                Fate::Stays | Fate::Waits => {}
                Fate::Marked => {
                    self.write_mark(&digest).await?;
                    round.marked += 1;
                }
                Fate::Spared => {
                    self.bucket.remove(&mark_of(&digest)).await?;
                    round.spared += 1;
                }
                Fate::Goes => drop(due.insert(digest, seen)),
            }
        }
        let mut looked = None::<Instant>;
        while !due.is_empty() {
            if looked.is_none_or(|looked| looked.elapsed() > LOOK_AT_NAMES) {
                self.keep_what_tags_need(&mut due).await?;
                looked = Some(Instant::now());
            }
            let some: Vec<_> = due.keys().take(AT_A_TIME).copied().collect();
            let some = some.into_iter().filter_map(|digest| due.remove_entry(&digest)).collect();
            self.delete(some, round).await?;
        }
        Ok(())
    }

    /// What a tag stands for, or is pinned or frozen, stays, with all that it leads to, whether its repository says that it
    /// has it or not.
    async fn keep_what_tags_need(&self, due: &mut HashMap<Digest, Seen>) -> Result<(), Trouble> {
        let mut all = self.names();
        let mut seen = HashSet::new();
        while let Some(listed) = all.next().await.transpose()? {
            let mut open: Vec<Digest> = self.stands_for(&listed.key).await?.into_iter().collect();
            while let Some(digest) = open.pop().filter(|_| !due.is_empty()) {
                due.remove(&digest);
                if seen.insert(short(&digest)) {
                    let Children { manifests, blobs, .. } = self.leads_to(&digest).await?;
                    open.extend(manifests.into_iter().map(|(child, _)| child.digest));
                    due.retain(|digest, _| blobs.iter().all(|blob| blob.digest != *digest));
                }
            }
        }
        Ok(())
    }

    /// What a tag stands for, whose pointer this is, or what it is frozen to, or pinned by its digest.
    async fn stands_for(&self, key: &str) -> Result<Option<Digest>, Trouble> {
        let parse: fn(&[u8]) -> Option<Digest> = match names::parse(key) {
            Some(Name::Tag(_)) => |bytes| Some(serde_json::from_slice::<TagRecord>(bytes).ok()?.descriptor.digest),
            Some(Name::Frozen(..)) => |bytes| serde_json::from_slice(bytes).ok(),
            Some(Name::Pin(Pin { reference: Reference::Digest(digest), .. })) => return Ok(Some(digest)),
            _ => return Ok(None),
        };
        Ok(self.bucket.read(key, LONGEST).await?.and_then(|found| parse(&found.bytes)))
    }

    /// What a manifest leads to; what is none leads nowhere.
    async fn leads_to(&self, digest: &Digest) -> Result<Children, Trouble> {
        let found = self.bucket.read(&key_of(digest), MAX_MANIFEST_SIZE).await;
        let Some(found) = found? else { return Ok(Children::default()) };
        // One that is not what its name says leads nowhere; who reads it removes it.
        let is_it = Digest::of(digest.algorithm(), &found.bytes) == *digest;
        let manifest = Manifest::from_wire(found.bytes, None, digest.algorithm());
        Ok(if is_it { manifest.children() } else { Children::default() })
    }

    async fn write_mark(&self, digest: &Digest) -> Result<(), Trouble> {
        let mark = Mark { marked_at: self.clock.now() };
        self.bucket.write(&mark_of(digest), serde_json::to_vec(&mark).unwrap_or_default().into()).await
    }

    /// Deletes what of this nobody has spared. Who comes to need it takes its mark away, or says that it is used.
    async fn delete(&self, some: Vec<(Digest, Seen)>, round: &mut Round) -> Result<(), Trouble> {
        let mut claimed = self.claim(some.iter().map(|(digest, _)| key_of(digest)).collect()).await?;
        for (digest, seen) in some {
            let blob = key_of(&digest);
            if claimed.has(&blob) && self.is_spared_by_nobody(&digest, None).await? && claimed.take(&blob).await? {
                round.deleted += 1;
                round.freed += seen.size;
                round.unnamed -= seen.size;
                for key in [use_of(&digest), mark_of(&digest)] {
                    self.bucket.remove(&key).await?;
                }
            }
        }
        claimed.let_go().await
    }

    /// Whether it is marked still, and was not used since, nor since what was known of that before.
    async fn is_spared_by_nobody(&self, digest: &Digest, known: Option<Timestamp>) -> Result<bool, Trouble> {
        let Some(mark) = self.bucket.read(&mark_of(digest), LONGEST).await? else { return Ok(false) };
        let used = self.bucket.read(&use_of(digest), LONGEST).await?;
        Ok(used.is_none_or(|used| !fate::was_used_since(used.modified, mark.modified, known)))
    }

    /// Marks of what is not there, and words of use that are too old to tell.
    async fn forget_marks(&self) -> Result<(), Trouble> {
        let mut marks = self.bucket.list_in_order(FOLDER);
        while let Some(listed) = marks.next().await.transpose()? {
            if let Some(digest) = digest_in(&listed.key, FOLDER)
                && self.bucket.stat(&digest).await?.is_none()
            {
                self.bucket.remove(&listed.key).await?;
            }
        }
        let mut uses = self.bucket.list_in_order(USED);
        while let Some(listed) = uses.next().await.transpose()? {
            if self.bucket.time().and_then(|now| listed.modified.age(now)).is_some_and(|age| age > USES_KEPT) {
                self.bucket.remove(&listed.key).await?;
            }
        }
        Ok(())
    }
}

/// The digest that this key in a folder is about.
fn digest_in(key: &str, folder: &str) -> Option<Digest> {
    let (algorithm, hex) = key.strip_prefix(folder)?.strip_prefix('/')?.split_once('/')?;
    Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm)?.digest(hex)
}

#[cfg(test)]
mod tests;
