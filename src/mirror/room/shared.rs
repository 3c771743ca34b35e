//! What the bucket has for this replica: names that others have put there, which are taken over into the local
//! store, and content.
//!
//! A repository's membership, with its proof, is what opens content here as it is on the disk; before the first of
//! a repository is taken over, its denial is, and from then on again and again. Names are asked for once for all who wait, no longer than their
//! patience, and not at all while the bucket is away. Truth: what is taken over never makes anything older than it is
//! here.

mod acts;
mod notes;
pub(crate) mod unread;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use moka::sync::Cache;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use crate::blob_store::key_of;
use crate::clock::{Clock, Timestamp};
use crate::metadata::names;
use crate::metadata::{KeptList, ListKey, Location, Membership, MetadataError, MetadataStore, TagKey, TagRecord};
use crate::mirror::flight::BlobKey;
use crate::mirror::flight::flights::{Flights, Landing, Shareable};
use crate::mirror::flight::replica::Replicas;
use crate::mirror::flight::shared::{InBucket, LookUp};
use crate::mirror::recall::denials::Denials;
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{Descriptor, Digest, Tag};
use crate::owed::{Owed, Quiet};
use crate::tier::marks::use_of;
use crate::tier::{Bucket, IN_A_ROW, Listed, Pace, Trouble, Waited};
use notes::Look;
use unread::Recalled;

/// No name is longer, in bytes.
const LONGEST: u64 = 2 << 20;
/// For so many kinds of clients it is looked up what a tag points at, where nobody like this one has asked before.
const MOST_KINDS: usize = 32;

/// What is behind the store.
#[derive(Clone)]
pub struct Behind {
    /// The bucket.
    pub bucket: Bucket,
    /// What is owed to it.
    pub owed: Arc<Owed>,
    /// How long a client waits for it.
    pub patience: Duration,
    /// Whether what is used least leaves it now.
    pub is_bounded: bool,
    /// The other replicas, where they tell each other what they fetch.
    pub replicas: Option<Replicas>,
}

/// The bucket as the mirror sees it.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) bucket: Bucket,
    /// Who reads it, too, where they tell each other what they fetch.
    pub(crate) replicas: Option<Replicas>,
    owed: Arc<Owed>,
    metadata: Arc<dyn MetadataStore>,
    denials: Arc<Denials>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    patience: Duration,
    members: Arc<Flights<BlobKey, Shareable<bool>>>,
    tags: Arc<Flights<TagKey, Shareable<bool>>>,
    lists: Arc<Flights<ListKey, Shareable<Option<KeptList>>>>,
    /// Names that the bucket did not have a moment ago.
    absent: Cache<String, ()>,
    /// Repositories whose notes were looked up lately, and tags for which it was what operators asked for.
    notes: Cache<Location, ()>,
    /// When it was looked up whether they are denied.
    looks: Cache<Location, Look>,
    looking: Arc<Flights<Location, Shareable<bool>>>,
    acts: Cache<(Location, Tag), Timestamp>,
    is_bounded: bool,
    /// Content of which the bucket was told that it is used, or need not be.
    used: Cache<Digest, ()>,
}

impl Shared {
    const MAX: u64 = 10_000;
    const A_MOMENT: Duration = Duration::from_secs(2);
    const LATELY: Duration = Duration::from_secs(30);
    /// How often the bucket is told that the same is used, and of how much that is known. What is pulled daily is told of
    /// daily; and content waits for longer with a mark.
    const USED: Duration = Duration::from_secs(20 * 60 * 60);
    const MOST_USED: u64 = 100_000;

    pub(crate) fn new(
        Behind { bucket, owed, patience, is_bounded, replicas }: Behind,
        metadata: Arc<dyn MetadataStore>,
        denials: Arc<Denials>,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
    ) -> Shared {
        fn cache<K, V>(time: Duration) -> Cache<K, V>
        where
            K: std::hash::Hash + Eq + Send + Sync + 'static,
            V: Clone + Send + Sync + 'static,
        {
            Cache::builder().max_capacity(Shared::MAX).time_to_live(time).build()
        }
        let (members, tags, lists) = (Arc::new(Flights::new()), Arc::new(Flights::new()), Arc::new(Flights::new()));
        let (absent, notes, acts) = (cache(Shared::A_MOMENT), cache(Shared::LATELY), cache(Shared::LATELY));
        let (looks, looking) = (cache(Shared::LATELY), Arc::new(Flights::new()));
        let used = Cache::builder().max_capacity(Shared::MOST_USED).time_to_live(Shared::USED).build();
        Shared {
            bucket,
            replicas,
            owed,
            metadata,
            denials,
            tasks,
            patience,
            members,
            tags,
            lists,
            absent,
            notes,
            looks,
            looking,
            acts,
            is_bounded,
            used,
            clock,
        }
    }

    /// The same for a look-up that waits at this pace.
    pub(crate) fn at(self: &Arc<Self>, pace: Pace) -> Arc<Shared> {
        match pace {
            Pace::Helps => Arc::clone(self),
            Pace::Any => {
                let (bucket, patience) = (self.bucket.at(pace), self.patience * IN_A_ROW);
                Arc::new(Shared { bucket, patience, ..Shared::clone(self) })
            }
        }
    }

    /// How many entries there are.
    pub(crate) fn tables(&self) -> [(&'static str, u64); 5] {
        let lately = self.absent.entry_count() + self.notes.entry_count() + self.acts.entry_count();
        let lately = lately + self.looks.entry_count();
        let used = self.used.entry_count();
        let doubted = self.bucket.doubted().len() as u64;
        let (owed, wrong) = (self.owed.len() as u64, self.owed.wrong_count() as u64);
        [
            ("bucket_lately", lately),
            ("bucket_used", used),
            ("bucket_doubted", doubted),
            ("owed", owed),
            ("bucket_wrong", wrong),
        ]
    }

    /// Content is about to be stored that comes from the bucket.
    pub(crate) fn quiet(&self, digest: &Digest) -> Quiet {
        // That its names are there is seen to when it is served.
        if self.is_bounded && !self.used.contains_key(digest) {
            self.owed.up(&use_of(digest));
        }
        self.owed.quiet(&key_of(digest))
    }

    /// Content is used: now and again the bucket is told, where each of it may leave by itself.
    pub(crate) fn used(&self, digest: &Digest) {
        if self.is_bounded && self.is_news(digest) {
            self.owed.up(&use_of(digest));
        }
    }

    /// Whether it was not known that this is used.
    fn is_news(&self, digest: &Digest) -> bool {
        let is_news = !self.used.contains_key(digest);
        if is_news {
            self.used.insert(*digest, ());
        }
        is_news
    }

    /// The bucket is told now and again which images are used, also as long as it has no bound: once it gets one, those go
    /// that were used least. What is used has its names there, too, whatever was taken out of it while nobody used it, and
    /// whatever a store lost: of images all that they lead to.
    pub(crate) fn tell_uses(&self, uses: &[(Digest, Timestamp)]) -> Result<(), MetadataError> {
        for (digest, _) in uses.iter().filter(|(digest, _)| self.is_news(digest)) {
            let holders = self.metadata.holders(digest)?;
            if self.is_bounded || holders.iter().any(|(_, member)| !member.descriptor.is_of_blob()) {
                self.owed.up(&use_of(digest));
            }
            for (location, _) in holders.iter().filter(|(_, of)| self.is_bounded || !of.descriptor.is_of_blob()) {
                self.owed.up(&names::member(location, digest));
            }
        }
        Ok(())
    }

    /// Whether content has still to go up.
    pub(crate) fn is_owed(&self, digest: &Digest) -> bool {
        self.owed.is_owed(&key_of(digest))
    }

    /// Whether this name has still to go up.
    pub(crate) fn owes(&self, name: &str) -> bool {
        self.owed.is_owed(name)
    }

    /// A moment of our clock by that of the store.
    pub(crate) fn observed(&self, at: Timestamp) -> Option<Timestamp> {
        Some(self.bucket.time()?.minus(at.age(self.clock.now()).unwrap_or_default()))
    }

    /// A moment of the store's clock by ours.
    fn by_our_clock(&self, observed: Timestamp) -> Option<Timestamp> {
        Some(self.clock.now().minus(observed.age(self.bucket.time()?).unwrap_or_default()))
    }

    /// It may have come since it was looked for.
    pub(crate) fn look_anew(&self, location: &Location, digest: &Digest) {
        self.absent.invalidate(&names::member(location, digest));
    }

    /// What the bucket had to say is no longer so.
    pub(crate) fn away(&self, key: &str) {
        self.owed.away(key);
    }

    /// A blob in it, whose size in bytes may be known.
    pub(crate) fn blob(&self, digest: &Digest, size: Option<u64>, waited: &Waited) -> Arc<InBucket> {
        InBucket::new((self.bucket.clone(), Arc::clone(&self.owed)), *digest, size, waited.clone())
    }

    /// A blob of which it has not said yet whether it is there for a repository, which `look_up` finds out.
    pub(crate) fn blob_to_look_up(&self, digest: &Digest, look_up: LookUp, waited: &Waited) -> Arc<InBucket> {
        InBucket::to_look_up((self.bucket.clone(), Arc::clone(&self.owed)), *digest, look_up, waited.clone())
    }

    /// Whether it has not said a moment ago that the repository has no such content, and is not to forget that it has.
    pub(crate) fn may_have(&self, location: &Location, digest: &Digest) -> bool {
        let name = names::member(location, digest);
        !self.absent.contains_key(&name) && !self.owed.is_owed(&name)
    }

    /// A manifest in it, with the right digest, if it comes at this pace.
    pub(crate) async fn manifest(&self, of: &Descriptor, pace: Pace) -> Option<bytes::Bytes> {
        let digest = &of.digest;
        let found = self.bucket.content(of, MAX_MANIFEST_SIZE, pace).await;
        let bytes = self.told(&key_of(digest), found)??.bytes;
        if Digest::of(digest.algorithm(), &bytes) == *digest {
            return Some(bytes);
        }
        self.blob(digest, None, &Waited::default()).distrust();
        None
    }

    /// Takes over what the repository is known to have; whether it is known here now.
    pub(crate) async fn recall_member(self: &Arc<Self>, location: &Location, digest: &Digest) -> bool {
        let (key, name) = ((location.clone(), *digest), names::member(location, digest));
        if self.is_of_no_use(&name) {
            return false;
        }
        let (shared, of) = (Arc::clone(self), key.clone());
        let work = || async move {
            let (location, digest) = &of;
            let (member, noted) = tokio::join!(shared.small::<Membership>(&name), shared.recall_notes(location));
            match member.filter(|_| noted) {
                Some(Some(mut member)) if member.descriptor.digest == *digest => {
                    // Where the upstream of whoever wrote it was, this replica does not know.
                    member.places = member.places.or_nowhere();
                    let of = location.clone();
                    shared.take_over(&name, move |metadata| metadata.put_member(&of, &member)).await
                }
                Some(_) => {
                    shared.absent.insert(name, ());
                    false
                }
                None => false,
            }
        };
        let landed = self.members.share(&self.tasks, key, Some(self.patience), work).await;
        matches!(landed, Landing::Arrived(true, _))
    }

    /// Whether the bucket need not be asked for this: it is away, did not have it a moment ago, or is to get it from here.
    fn is_of_no_use(&self, name: &str) -> bool {
        self.is_away() || self.absent.contains_key(name) || self.owed.is_owed(name)
    }

    fn is_away(&self) -> bool {
        !self.bucket.is_well() && !self.bucket.pause().is_zero()
    }

    /// Takes over what upstream answered another replica to a question for a list, where nothing is known here.
    pub(crate) async fn recall_list(self: &Arc<Self>, key: &ListKey) -> Option<KeptList> {
        let name = names::list(key);
        if self.is_of_no_use(&name) {
            return None;
        }
        let (shared, of) = (Arc::clone(self), key.clone());
        let work = || async move { shared.list(&name, of).await };
        match self.lists.share(&self.tasks, key.clone(), Some(self.patience), work).await {
            Landing::Arrived(list, _) => list,
            Landing::Overdue | Landing::Lost => None,
        }
    }

    async fn list(&self, name: &str, key: ListKey) -> Option<KeptList> {
        let (noted, found) = tokio::join!(self.recall_notes(&key.location), self.bucket.read(name, LONGEST));
        let Some(found) = self.told(name, found)?.filter(|_| noted && !self.denials.holds(&key.location)) else {
            self.absent.insert(name.to_owned(), ());
            return None;
        };
        let list = KeptList::of_written(&key, &found.bytes)?;
        let kept = list.clone();
        self.take_over(name, move |metadata| metadata.put_list(&key, &kept)).await;
        Some(list)
    }

    /// Takes over a list of this name, whatever it was asked with; whether that is known now.
    pub(crate) async fn recall_any_list(&self, location: Location, about: Option<Digest>, name: &str) -> bool {
        let Some(Some(found)) = self.told(name, self.bucket.read(name, LONGEST).await) else { return false };
        let Some(key) = ListKey::of_written(location, about, &found.bytes) else { return false };
        // What is known here is not made older.
        self.metadata.list(&key).is_ok_and(|known| known.is_some()) || self.list(name, key).await.is_some()
    }

    /// Takes over what a tag points at, where that was checked later than what is known here; whether it was.
    pub(crate) async fn recall_tag(self: &Arc<Self>, key: &TagKey) -> bool {
        if self.is_away() {
            return false;
        }
        let (shared, of) = (Arc::clone(self), key.clone());
        let work = || async move { shared.tag(&of).await };
        let landed = self.tags.share(&self.tasks, key.clone(), Some(self.patience), work).await;
        matches!(landed, Landing::Arrived(true, _))
    }

    async fn tag(&self, key: &TagKey) -> bool {
        let name = names::tag(key);
        let (noted, found) = tokio::join!(self.recall_notes(&key.location), self.small::<TagRecord>(&name));
        let records = match found.filter(|_| noted) {
            None => return false,
            Some(Some(record)) => vec![(key.clone(), record)],
            // Nobody like this client has asked: what others were told may do.
            Some(None) if self.metadata.tag_records(&key.location, &key.tag).is_ok_and(|known| known.is_empty()) => {
                self.of_others(key).await
            }
            Some(None) => Vec::new(),
        };
        let (mut taken, mut history) = (false, None);
        for (key, mut record) in records {
            let (here, now) = (self.metadata.tag(&key).ok().flatten(), self.bucket.time());
            // What is owed is what is so.
            if self.owed.is_owed(&names::tag(&key))
                || here.as_ref().is_some_and(|here| !record.is_later_than(here, now))
            {
                continue;
            }
            record.places = record.places.or_nowhere();
            // The clock of who was told may be another one.
            if let Some(checked_at) = record.observed(now).and_then(|observed| self.by_our_clock(observed)) {
                record.checked_at = checked_at;
            }
            if here.is_none() && history.is_none() {
                history = Some(self.recall_history(&key.location, &key.tag).await);
            }
            let (name, digest) = (names::tag(&key), record.descriptor.digest);
            // What is known from now on takes the place of one that cannot be read.
            let is_readable = history != Some(Recalled::Unread);
            let _quiet = is_readable.then(|| self.owed.quiet(&names::history(&key.location, &key.tag)));
            let location = key.location.clone();
            let is_new = here.is_none_or(|here| here.descriptor.digest != record.descriptor.digest);
            let is_taken = self.take_over(&name, move |metadata| metadata.put_tag(&key, &record)).await;
            if is_taken && is_new && self.is_bounded {
                // It is used: a collector may be about to take it.
                self.owed.up(&name);
            }
            taken |= is_taken;
            tracing::debug!(%location, name, %digest, "taken over from the bucket");
        }
        taken
    }

    async fn of_others(&self, key: &TagKey) -> Vec<(TagKey, TagRecord)> {
        if !self.bucket.is_well() {
            return Vec::new();
        }
        let names = self.bucket.list(&names::tag_folder(&key.location, &key.tag)).take(MOST_KINDS);
        let names: Vec<_> = names.filter_map(|found| std::future::ready(found.ok())).collect().await;
        let reads =
            names.into_iter().filter_map(|Listed { key: name, .. }| {
                let accept = names::accept_of(&name)?;
                Some(async move {
                    Some((TagKey { accept, ..key.clone() }, self.small::<TagRecord>(&name).await.flatten()?))
                })
            });
        join_all(reads).await.into_iter().flatten().collect()
    }

    /// A small object: `None` when that is not known. One that cannot be read says nothing, neither that it is so nor
    /// that it is not.
    async fn small<T: DeserializeOwned>(&self, name: &str) -> Option<Option<T>> {
        let Some(found) = self.told(name, self.bucket.read(name, LONGEST).await)? else { return Some(None) };
        match serde_json::from_slice(&found.bytes) {
            Ok(small) => Some(Some(small)),
            Err(error) => {
                tracing::warn!(name, %error, bucket = self.bucket.name(), "an object in the bucket cannot be read");
                None
            }
        }
    }

    fn told<T>(&self, name: &str, told: Result<T, Trouble>) -> Option<T> {
        told.inspect_err(|trouble| tracing::debug!(name, %trouble, bucket = self.bucket.name(), "not known")).ok()
    }

    /// Writes to the local store what need not go up again; whether it could.
    async fn take_over(
        &self,
        name: &str,
        change: impl FnOnce(&dyn MetadataStore) -> Result<(), MetadataError> + Send + 'static,
    ) -> bool {
        let (metadata, quiet) = (Arc::clone(&self.metadata), self.owed.quiet(name));
        // It is done also where nobody waits for it any more.
        let changing = move || {
            let _quiet = quiet;
            change(&*metadata)
        };
        match tokio::task::spawn_blocking(changing).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(name, %error, "not taken over from the bucket");
                false
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::metadata::Proof;
    use crate::metadata::memory::MemoryMetadata;
    use crate::mirror::room::records::Records;
    use crate::mirror::room::stored::Stored;
    use crate::oci::{Algorithm, Together};
    use crate::tier::settings::Settings;

    pub(super) fn shared(store: &std::path::Path) -> Arc<Shared> {
        let settings = Settings::for_tests();
        let (bucket, owed) = (Bucket::in_memory(&settings), Owed::open(store).expect("a list"));
        let metadata: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::new());
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1)));
        let denials = Arc::new(Denials::new(Arc::clone(&metadata), Arc::clone(&clock)));
        let behind = Behind { bucket, owed, patience: settings.patience, is_bounded: true, replicas: None };
        Arc::new(Shared::new(behind, metadata, denials, clock, TaskTracker::new()))
    }

    #[tokio::test]
    async fn what_was_not_in_the_bucket_a_moment_ago_is_looked_for_once_we_have_had_it() {
        let store = tempfile::tempdir().expect("a folder");
        let (shared, metrics) = (shared(store.path()), Arc::new(crate::metrics::Metrics::new([])));
        let blobs = Arc::new(crate::blob_store::memory::MemoryBlobStore::new());
        let records = Records::new(Arc::clone(&shared.metadata), Arc::clone(&shared.clock), TaskTracker::new());
        let stored = Stored::new(blobs, records, metrics, Arc::default(), false).with(&shared);
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "app".parse().expect("a name") };
        let digest = Digest::of(Algorithm::Sha256, b"x");
        assert!(stored.recall(&location, &digest, &Waited::default()).await.is_none());
        stored.add_blob_member(&location, digest, 1, (Proof::Bytes, Together::default())).await;
        let member = shared.metadata.member(&location, &digest).expect("known").expect("it was added");
        // It goes up, and leaves this disk.
        let name = names::member(&location, &digest);
        shared.bucket.write(&name, serde_json::to_vec(&member).expect("JSON").into()).await.expect("written");
        shared.metadata.remove_member(&location, &digest).expect("removed");
        assert!(stored.recall(&location, &digest, &Waited::default()).await.is_some());
    }

    #[tokio::test]
    async fn made_up_names_do_not_fill_the_memory() {
        let store = tempfile::tempdir().expect("a folder");
        let shared = shared(store.path());
        for n in 0..Shared::MAX + 100 {
            let repository = format!("r{n}").parse().expect("a name");
            let location = Location { upstream: "docker.io".parse().expect("a name"), repository };
            let digest = Digest::of(Algorithm::Sha256, &n.to_le_bytes());
            assert!(!shared.recall_member(&location, &digest).await);
            shared.recall_acts_of(&location, &"1".parse().expect("a tag")).await;
        }
        let told =
            (0..Shared::MOST_USED + 100).filter(|n| shared.is_news(&Digest::of(Algorithm::Sha256, &n.to_le_bytes())));
        assert_eq!(told.count() as u64, Shared::MOST_USED + 100);
        shared.used.run_pending_tasks();
        assert!((1..=Shared::MOST_USED).contains(&shared.used.entry_count()));
        shared.notes.run_pending_tasks();
        shared.looks.run_pending_tasks();
        shared.absent.run_pending_tasks();
        shared.acts.run_pending_tasks();
        let most = Shared::MAX;
        assert!((1..=most).contains(&shared.notes.entry_count()) && (1..=most).contains(&shared.acts.entry_count()));
        assert!(shared.absent.entry_count() <= most && (1..=most).contains(&shared.looks.entry_count()));
    }
}
