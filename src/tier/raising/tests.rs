//! All that is stored goes up, also where it is more than the list holds.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::blob_store::memory::MemoryBlobStore;
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
