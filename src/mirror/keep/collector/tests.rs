//! Replicas that pull, forget and carry up, while collectors go round the same bucket. Time is paused.

mod claims;
mod meanwhile;
mod over_the_wire;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::blob_store::BlobStore as _;
use crate::blob_store::ingest::IngestDir;
use crate::blob_store::memory::MemoryBlobStore;
use crate::clock::{ManualClock, Timestamp};
use crate::metadata::{BLOCK, ListKey, Location, Membership, Proof, TagKey};
use crate::oci::{AcceptSet, Descriptor, MediaType, Places, Tag};
use crate::owed::Owed;
use crate::tier::Raising;
use crate::tier::settings::Settings;

const DAY: Duration = Duration::from_secs(86_400);

/// An image of two layers out of a few, and what it consists of.
fn image(n: usize) -> Vec<(Descriptor, Bytes)> {
    let blob = |what: &str, n: usize, media_type: MediaType| {
        let bytes = Bytes::from(format!("{what} {n} ").repeat(20));
        (Descriptor { digest: Digest::of(Algorithm::Sha256, &bytes), size: bytes.len() as u64, media_type }, bytes)
    };
    let layer = |n| blob("layer", n % 7, MediaType::ImageLayer);
    let mut parts = vec![blob("configuration", n, MediaType::ImageConfig), layer(n), layer(n / 2 + 3)];
    let entry = |(of, _): &(Descriptor, Bytes)| serde_json::json!({"mediaType": of.media_type.to_string(), "digest": of.digest.to_string(), "size": of.size});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest.to_string(),
        "config": entry(&parts[0]),
        "layers": parts[1..].iter().map(entry).collect::<Vec<_>>(),
    });
    let bytes = Bytes::from(manifest.to_string());
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    parts.push((Descriptor { digest, size: bytes.len() as u64, media_type: MediaType::ImageManifest }, bytes));
    parts
}

fn location() -> Location {
    Location { upstream: "docker.io".parse().expect("a name"), repository: "app".parse().expect("a name") }
}

fn pointer(n: usize) -> String {
    let tag: Tag = format!("t{n}").parse().expect("a tag");
    names::tag(&TagKey { location: location(), tag, accept: AcceptSet::everything() })
}

/// A replica: its disk, and what carries up.
struct Replica {
    store: tempfile::TempDir,
    blobs: Arc<MemoryBlobStore>,
    owed: Arc<Owed>,
    raising: Arc<Raising>,
    /// The images that it has.
    has: Mutex<BTreeMap<usize, ()>>,
}

impl Replica {
    fn of(bucket: &Bucket) -> Arc<Replica> {
        Replica::on(bucket, tempfile::tempdir().expect("a folder"), Arc::new(MemoryBlobStore::new()))
    }

    /// One with this disk.
    fn on(bucket: &Bucket, store: tempfile::TempDir, blobs: Arc<MemoryBlobStore>) -> Arc<Replica> {
        let owed = Owed::open(store.path()).expect("a list");
        let metrics = Arc::new(Metrics::new([]));
        let raising = Raising::new(bucket.clone(), Arc::clone(&owed), blobs.clone(), store.path(), metrics);
        Arc::new(Replica { store, blobs, owed, raising: Arc::new(raising), has: Mutex::default() })
    }

    fn write(&self, key: &str, record: &impl serde::Serialize) {
        let path = self.store.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        std::fs::write(path, serde_json::to_vec(record).expect("JSON")).expect("written");
        self.owed.up(key);
    }

    /// Pulls an image; what it has of it already does not go up again, as in a store.
    async fn pull(&self, n: usize, now: Timestamp) {
        let ingests = IngestDir::open(self.store.path().join("ingest")).expect("a folder");
        let parts = image(n);
        for (descriptor, bytes) in &parts {
            let digest = descriptor.digest;
            if self.blobs.open(&digest).await.is_none() {
                let mut ingest = ingests.begin(&digest).expect("begun");
                ingest.append(bytes).expect("written");
                self.blobs.commit(ingest, &digest).await.expect("stored");
                self.owed.up(&key_of(&digest));
            }
            let member = names::member(&location(), &digest);
            if !self.store.path().join(&member).exists() {
                self.write(
                    &member,
                    &Membership {
                        descriptor: descriptor.clone(),
                        proof: Proof::Bytes,
                        anonymous: true,
                        places: Places::default(),
                    },
                );
            }
        }
        let descriptor = parts[3].0.clone();
        self.write(
            &pointer(n),
            &TagRecord { descriptor, checked_at: now, since: now, observed_at: None, places: Places::default() },
        );
        self.has.lock().insert(n, ());
    }

    /// Forgets an image, here and in the bucket, with what no other image here needs; the bytes stay here.
    async fn forget(&self, n: usize) {
        if self.has.lock().remove(&n).is_none() {
            return;
        }
        while self.owed.is_owed(&pointer(n)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let kept: HashSet<Digest> =
            self.has.lock().keys().flat_map(|n| image(*n)).map(|(descriptor, _)| descriptor.digest).collect();
        while self.raising.bucket().remove(&pointer(n)).await.is_err() {}
        let _ = std::fs::remove_file(self.store.path().join(pointer(n)));
        for (Descriptor { digest, .. }, _) in image(n).iter().filter(|(of, _)| !kept.contains(&of.digest)) {
            let member = names::member(&location(), digest);
            let _ = std::fs::remove_file(self.store.path().join(&member));
            self.owed.away(&member);
            // As if it had been evicted: the next pull has to see whether the bucket has it.
            self.blobs.delete(digest).await.expect("deleted");
        }
    }
}

/// Every name in the bucket has its bytes, and every tag all that it leads to.
async fn assert_no_name_without_bytes(bucket: &Bucket, when: &str) {
    let (mut all, mut tags) = (bucket.list(names::REPOSITORIES), 0);
    while let Some(listed) = all.next().await.transpose().expect("listed") {
        match names::parse(&listed.key) {
            Some(Name::Member(_, digest)) => {
                assert!(bucket.stat(&digest).await.expect("told").is_some(), "{when}: {}", listed.key);
            }
            Some(Name::Tag(key)) => {
                tags += 1;
                let n = key.tag.as_str()[1..].parse().expect("a number");
                for (Descriptor { digest, .. }, _) in image(n) {
                    let blob = key_of(&digest);
                    assert!(bucket.stat(&digest).await.expect("told").is_some(), "{when}: {blob} of tag {n}");
                }
            }
            _ => {}
        }
    }
    assert!(tags < 40, "{tags}");
}

async fn modified(bucket: &Bucket, key: &str) -> Option<Timestamp> {
    bucket.read(key, LONGEST).await.expect("told").map(|object| object.modified)
}

async fn keys(bucket: &Bucket) -> Vec<String> {
    bucket.list("").map(|listed| listed.expect("listed").key).collect().await
}

/// Where replicas and collectors race.
struct Course<'a> {
    bucket: Bucket,
    /// The same, as collectors reach it.
    collected: Bucket,
    /// So much content they look at at a time.
    page: usize,
    /// What it may hold, in bytes; 0 is no bound.
    max_size: u64,
    rounds: usize,
    /// How much longer all pauses are than over a bucket in memory.
    pace: u32,
    /// What has to be done there for this time to go by.
    later: &'a dyn Fn(Duration),
}

/// Many rounds of collectors on all replicas, while these pull and forget, and carry up; how much content was deleted,
/// and how many names.
async fn race(seed: u64, course: &Course<'_>) -> (u64, u64) {
    let Course { bucket, collected, page, max_size, rounds, pace, later } = course;
    let (page, max_size, pace) = (*page, *max_size, *pace);
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let metrics = Arc::new(Metrics::new([]));
    let replicas: Vec<_> = (0..3).map(|_| Replica::of(bucket)).collect();
    let carrying: Vec<_> = replicas.iter().map(|replica| tokio::spawn(Arc::clone(&replica.raising).run())).collect();
    let (mut random, mut deleted, mut taken) = (StdRng::seed_from_u64(seed), 0, 0);
    for round in 0..*rounds {
        let acts = replicas.iter().map(|replica| {
            let (replica, clock, mut random) = (Arc::clone(replica), Arc::clone(&clock), StdRng::from_rng(&mut random));
            tokio::spawn(async move {
                for _ in 0..8 {
                    tokio::time::sleep(pace * Duration::from_millis(random.random_range(0..400))).await;
                    let n = random.random_range(0..12);
                    if random.random_bool(0.4) {
                        replica.forget(n).await;
                    } else {
                        replica.pull(n, clock.now().plus(Duration::from_millis(random.random_range(0..99)))).await;
                    }
                }
            })
        });
        let acts: Vec<_> = acts.collect();
        let collectors = (0..2).map(|_| {
            let collector =
                Collector::new(collected.clone(), Arc::clone(&clock) as Arc<dyn Clock>, Arc::clone(&metrics), max_size);
            let collector = Collector { page, ..collector };
            let wait = pace * Duration::from_millis(random.random_range(0..1500));
            async move {
                tokio::time::sleep(wait).await;
                collector.turn().await.unwrap_or_default()
            }
        });
        for round in futures_util::future::join_all(collectors).await {
            deleted += round.deleted;
            taken += round.names;
        }
        for act in acts {
            act.await.expect("done");
        }
        for replica in &replicas {
            while !replica.owed.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        assert_no_name_without_bytes(bucket, &format!("seed {seed}, round {round}")).await;
        let time = DAY + Duration::from_secs(60);
        clock.advance(time);
        later(time);
    }
    carrying.iter().for_each(tokio::task::JoinHandle::abort);
    (deleted, taken)
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_races_with_pulls_leaves_no_name_without_bytes() {
    let (mut deleted, mut taken) = (0, 0);
    for (seed, max_size) in (0..4).flat_map(|seed| [(seed, 0), (seed, 1500)]) {
        let bucket = Bucket::in_slow_memory(&Settings::for_tests());
        let course =
            Course { collected: bucket.clone(), bucket, page: 7, max_size, rounds: 10, pace: 1, later: &|_| () };
        let gone = race(seed, &course).await;
        (deleted, taken) = (deleted + gone.0, taken + gone.1);
    }
    assert!(deleted > 20 && taken > 20, "nothing was shown: {deleted} deleted, {taken} names taken");
}

#[tokio::test(start_paused = true)]
async fn what_no_name_leads_to_goes_after_a_day_and_what_one_does_stays() {
    let bucket = Bucket::in_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let metrics = Arc::new(Metrics::new([]));
    let collector = Collector::new(bucket.clone(), Arc::clone(&clock) as Arc<dyn Clock>, metrics, 0);
    let replica = Replica::of(&bucket);
    replica.pull(1, clock.now()).await;
    replica.pull(0, clock.now()).await;
    replica.raising.drain().await.expect("carried up");
    let before = keys(&bucket).await;
    replica.forget(0).await;
    replica.raising.drain().await.expect("carried up");
    let first = collector.turn().await.expect("a round");
    assert_eq!((first.objects, first.deleted, first.marked), (7, 0, 3), "one layer is in both");
    assert_eq!(collector.turn().await, None, "not yet");
    clock.advance(DAY / 2);
    assert_eq!(collector.turn().await.expect("a round").deleted, 0);
    clock.advance(DAY / 2);
    let last = collector.turn().await.expect("a round");
    assert_eq!((last.deleted, last.objects), (3, 7));
    let gone: HashSet<String> = image(0).iter().map(|(of, _)| key_of(&of.digest)).collect();
    let left: Vec<_> = keys(&bucket).await.into_iter().filter(|key| !key.starts_with("collector/lease")).collect();
    let kept: HashSet<String> = image(1).iter().map(|(of, _)| key_of(&of.digest)).collect();
    let stay = |key: &&String| !key.contains("/t0/") && (!gone.contains(*key) || kept.contains(*key));
    let named = |key: &&String| !key.contains("_links") || kept.iter().any(|blob| key.ends_with(&blob[12..]));
    assert_eq!(left, before.iter().filter(stay).filter(named).cloned().collect::<Vec<_>>());
}

#[tokio::test]
async fn lists_stay_as_long_as_all_of_them_take_no_more_than_they_may() {
    let bucket = Bucket::in_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let collector = || {
        let clock = Arc::clone(&clock) as Arc<dyn Clock>;
        Collector::new(bucket.clone(), clock, Arc::new(Metrics::new([])), 0)
    };
    let key = |n: usize| ListKey { location: location(), about: None, part: format!("n={n}") };
    for n in 0..3 {
        bucket.write(&names::list(&key(n)), Bytes::from_static(b"{}")).await.expect("written");
    }
    let fits = Collector { most_lists: 3 * BLOCK, ..collector() };
    assert_eq!(fits.turn().await.expect("a round").names, 0);
    clock.advance(DAY);
    let is_more = Collector { most_lists: 3 * BLOCK - 1, ..collector() };
    assert_eq!(is_more.turn().await.expect("a round").names, 3, "all of an hour");
    assert!(keys(&bucket).await.iter().all(|key| !key.contains("_lists")));
}

#[tokio::test(start_paused = true)]
async fn of_too_much_the_images_go_that_were_not_used_for_longest_and_what_is_pinned_stays() {
    let bucket = Bucket::in_memory(&Settings::for_tests());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let replica = Replica::of(&bucket);
    // Images without a layer in common.
    for n in [0, 1, 2] {
        replica.pull(n, clock.now()).await;
        replica.raising.drain().await.expect("carried up");
    }
    let size = |n: usize| image(n).iter().map(|(of, _)| of.size).sum::<u64>();
    let pin = crate::metadata::Pin { location: location(), reference: Reference::Tag("t0".parse().expect("a tag")) };
    bucket.write(&names::pin(&pin), Bytes::from_static(b"\"app:t0\"")).await.expect("pinned");
    let used = use_of(&image(1)[3].0.digest);
    // Later than what came last, by a clock that counts milliseconds.
    while modified(&bucket, &used).await <= modified(&bucket, &key_of(&image(2)[3].0.digest)).await {
        bucket.write(&used, Bytes::new()).await.expect("used");
    }
    let metrics = Arc::new(Metrics::new([]));
    // What is no content counts as well.
    let (mut others, mut all) = (0, bucket.list(""));
    while let Some(listed) = all.next().await.transpose().expect("listed") {
        others += if listed.key.starts_with(BLOBS) { 0 } else { listed.size };
    }
    let most = size(0) + size(1) + others + 200;
    let collector = Collector::new(bucket.clone(), Arc::clone(&clock) as Arc<dyn Clock>, metrics, most);
    let taken = collector.turn().await.expect("a round");
    assert!(taken.names > 0 && taken.deleted == 0, "{taken:?}");
    for _ in 0..2 {
        clock.advance(DAY);
        collector.turn().await.expect("a round");
    }
    for (n, stays) in [(0, true), (1, true), (2, false)] {
        let there = bucket.read(&pointer(n), LONGEST).await.expect("told").is_some();
        let bytes = bucket.stat(&image(n)[3].0.digest).await.expect("told").is_some();
        assert_eq!((there, bytes), (stays, stays), "image {n}");
    }
    assert_no_name_without_bytes(&bucket, "at the end").await;
}
