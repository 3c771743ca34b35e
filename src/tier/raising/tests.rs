//! All that is stored goes up, also where it is more than the list holds.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;

use super::names::MOST;
use super::*;
use crate::blob_store::ingest::IngestDir;
use crate::blob_store::key_of;
use crate::blob_store::memory::MemoryBlobStore;
use crate::clock::Timestamp;
use crate::metadata::names::Name;
use crate::metadata::{Location, Membership, Proof, TagKey, TagRecord, names};
use crate::oci::{AcceptSet, Algorithm, Descriptor, MediaType, Places};
use crate::tier::settings::{Credentials, Settings};

fn bucket() -> Bucket {
    Bucket::in_memory(&Settings {
        name: "shared".to_owned(),
        endpoint: None,
        region: None,
        prefix: "mirror/".to_owned(),
        credentials: Credentials::Environment,
        ca: None,
        patience: Duration::from_secs(10),
    })
}

#[tokio::test]
async fn a_store_of_more_names_than_the_list_holds_goes_up_in_turns() {
    let store = tempfile::tempdir().expect("a folder");
    let keys: Vec<_> = (0..40).map(|n| format!("repositories/docker.io/library/app/_pins/{n}")).collect();
    std::fs::create_dir_all(store.path().join("repositories/docker.io/library/app/_pins")).expect("a folder");
    for key in &keys {
        std::fs::write(store.path().join(key), "\"pinned\"").expect("written");
    }
    let (bucket, owed) = (bucket(), Owed::of(store.path(), 8).expect("a list"));
    let blobs = Arc::new(MemoryBlobStore::new());
    let raising = Raising::new(bucket.clone(), Arc::clone(&owed), blobs, store.path(), Arc::new(Metrics::new([])));
    let is_listed = AtomicBool::default();
    let all = async {
        raising.owe_all().await;
        is_listed.store(true, Ordering::Relaxed);
    };
    let raised = async {
        while !is_listed.load(Ordering::Relaxed) || !owed.is_empty() {
            raising.drain().await.expect("carried up");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(all, raised);
    for key in keys {
        assert!(bucket.read(&key, MOST).await.expect("read").is_some(), "{key}");
    }
    assert!(owed.is_complete(&bucket.place()) && owed.dropped() == 0);
}

#[tokio::test]
async fn what_did_not_stay_on_the_list_is_put_on_it_again() {
    let store = tempfile::tempdir().expect("a folder");
    let keys: Vec<_> = (0..12).map(|n| format!("repositories/docker.io/library/app/_pins/{n}")).collect();
    std::fs::create_dir_all(store.path().join("repositories/docker.io/library/app/_pins")).expect("a folder");
    let (bucket, owed) = (bucket(), Owed::of(store.path(), 4).expect("a list"));
    owed.completed(&bucket.place());
    let blobs = Arc::new(MemoryBlobStore::new());
    let raising = Raising::new(bucket.clone(), Arc::clone(&owed), blobs, store.path(), Arc::new(Metrics::new([])));
    let raising = Arc::new(raising);
    let running = tokio::spawn(Arc::clone(&raising).run());
    // By then it has seen that all was put on the list.
    while raising.standing().conditional.is_none() {
        tokio::task::yield_now().await;
    }
    for key in &keys {
        std::fs::write(store.path().join(key), "\"pinned\"").expect("written");
        owed.up(key);
    }
    assert_eq!(owed.dropped(), 8);
    for key in keys {
        while bucket.read(&key, MOST).await.expect("read").is_none() {
            tokio::task::yield_now().await;
        }
    }
    running.abort();
}

/// What the collector takes just now is wanted again: it waits, and nothing else does.
#[tokio::test(start_paused = true)]
async fn what_a_collector_takes_just_now_waits_for_it_and_all_else_goes_up_meanwhile() {
    let store = tempfile::tempdir().expect("a folder");
    let ingests = IngestDir::open(store.path().join("ingest")).expect("a folder");
    let (bucket, owed) = (bucket(), Owed::open(store.path()).expect("a list"));
    owed.completed(&bucket.place());
    let blobs = Arc::new(MemoryBlobStore::new());
    let raising =
        Raising::new(bucket.clone(), Arc::clone(&owed), blobs.clone(), store.path(), Arc::new(Metrics::new([])));
    let raising = Arc::new(raising);
    let location =
        Location { upstream: "docker.io".parse().expect("a name"), repository: "app".parse().expect("a name") };
    let mut names = Vec::new();
    for n in 0..41 {
        let bytes = Bytes::from(n.to_string());
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let mut ingest = ingests.begin(&digest).expect("begun");
        ingest.append(&bytes).expect("written");
        blobs.commit(ingest, &digest).await.expect("stored");
        let descriptor = Descriptor { digest, size: bytes.len() as u64, media_type: MediaType::ImageLayer };
        let (proof, places) = (Proof::Bytes, Places::default());
        let member = names::member(&location, &digest);
        let path = store.path().join(&member);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let record = Membership { descriptor, proof, anonymous: true, places };
        std::fs::write(path, serde_json::to_vec(&record).expect("JSON")).expect("written");
        if n < 40 {
            bucket.write(&claims::claim_of(&key_of(&digest)), Bytes::from_static(b"{}")).await.expect("claimed");
        }
        names.extend([key_of(&digest), member]);
    }
    let began = Instant::now();
    names.iter().for_each(|name| owed.up(name));
    let running = tokio::spawn(Arc::clone(&raising).run());
    let tick = Duration::from_millis(100);
    for name in &names[80..] {
        while owed.is_owed(name) {
            tokio::time::sleep(tick).await;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(owed.len(), 80, "what was claimed is owed still");
    // Ordered anew it rests all the same.
    owed.up(&names[0]);
    tokio::time::sleep(claims::OUTLASTS).await;
    assert_eq!((owed.len(), bucket.list("blobs").count().await), (80, 1), "as long as the claims stand");
    let kept = Owed::open(store.path()).expect("a list");
    assert_eq!(kept.len(), 80, "a stop forgets none of it");
    for claim in bucket.list(claims::FOLDER).map(|listed| listed.expect("listed").key).collect::<Vec<_>>().await {
        bucket.remove(&claim).await.expect("removed");
    }
    let began = Instant::now();
    while !owed.is_empty() {
        tokio::time::sleep(tick).await;
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    for name in &names {
        assert!(bucket.read(name, MOST).await.expect("read").is_some(), "{name}");
    }
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn at_the_end_no_name_goes_up_before_what_it_needs_and_all_of_it_does() {
    let store = tempfile::tempdir().expect("a folder");
    let ingests = IngestDir::open(store.path().join("ingest")).expect("a folder");
    let bucket = Bucket::in_slow_memory(&Settings::for_tests());
    let owed = Owed::open(store.path()).expect("a list");
    owed.completed(&bucket.place());
    let blobs = Arc::new(MemoryBlobStore::new());
    let metrics = Arc::new(Metrics::new([]));
    let raising = Arc::new(Raising::new(bucket.clone(), Arc::clone(&owed), blobs.clone(), store.path(), metrics));
    let location =
        Location { upstream: "docker.io".parse().expect("a name"), repository: "app".parse().expect("a name") };
    let tag = TagKey { location: location.clone(), tag: "1".parse().expect("a tag"), accept: AcceptSet::everything() };
    let write = |key: &str, record: Vec<u8>| {
        let path = store.path().join(key);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, record).expect("written");
        owed.up(key);
    };
    let mut parts: Vec<(Descriptor, Bytes)> =
        (0..21).map(|n: u32| described(n.to_string(), MediaType::ImageLayer)).collect();
    let entries: Vec<_> = parts.iter().map(|(of, _)| serde_json::json!({"mediaType": of.media_type.to_string(), "digest": of.digest.to_string(), "size": of.size})).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": entries[0], "layers": entries[1..]});
    parts.push(described(manifest.to_string(), MediaType::ImageManifest));
    let top = parts[21].0.clone();
    // Names were owed first.
    let record = TagRecord {
        descriptor: top,
        checked_at: Timestamp(1),
        since: Timestamp(1),
        observed_at: None,
        places: Places::default(),
    };
    write(&names::tag(&tag), serde_json::to_vec(&record).expect("JSON"));
    for (descriptor, bytes) in &parts {
        let mut ingest = ingests.begin(&descriptor.digest).expect("begun");
        ingest.append(bytes).expect("written");
        blobs.commit(ingest, &descriptor.digest).await.expect("stored");
        let member = Membership {
            descriptor: descriptor.clone(),
            proof: Proof::Bytes,
            anonymous: true,
            places: Places::default(),
        };
        write(&names::member(&location, &descriptor.digest), serde_json::to_vec(&member).expect("JSON"));
    }
    parts.iter().for_each(|(descriptor, _)| owed.up(&key_of(&descriptor.digest)));
    raising.end();
    let mut ending = tokio::spawn(Arc::clone(&raising).run());
    let mut seen = 0;
    loop {
        let is_over = tokio::time::timeout(Duration::from_millis(1), &mut ending).await.is_ok();
        let keys: Vec<_> = bucket.list("").map(|listed| listed.expect("listed").key).collect().await;
        let has = |digest: &Digest| keys.contains(&key_of(digest));
        for key in &keys {
            match names::parse(key) {
                Some(Name::Member(_, digest)) => assert!(has(&digest), "{key}"),
                Some(Name::Tag(_)) => assert!(parts.iter().all(|(part, _)| has(&part.digest)), "{key}"),
                _ => continue,
            }
            seen += 1;
        }
        if is_over {
            break;
        }
    }
    assert!(owed.is_empty() && seen > 40, "{} owed, {seen} seen", owed.len());
}

fn described(text: String, media_type: MediaType) -> (Descriptor, Bytes) {
    let bytes = Bytes::from(text);
    (Descriptor { digest: Digest::of(Algorithm::Sha256, &bytes), size: bytes.len() as u64, media_type }, bytes)
}
