//! Names take room like blobs do: they count, they are bounded, and they leave with what they belong to.

use std::path::Path;
use std::time::Duration;

use scripted_registry::client::Connection;
use scripted_registry::{Image, Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

const BLOCK: u64 = 4096;

/// What lies below a folder: bytes on a disk of whole blocks, files and folders.
fn on_disk(folder: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let Ok(about) = entry.metadata() else { continue };
        inodes += 1;
        if about.is_dir() {
            let (more, below) = on_disk(&entry.path());
            (bytes, inodes) = (bytes + BLOCK + more, inodes + below);
        } else {
            bytes += about.len().div_ceil(BLOCK) * BLOCK;
        }
    }
    (bytes, inodes)
}

fn names(mirror: &TestMirror) -> (u64, u64) {
    on_disk(&mirror.store().join("repositories"))
}

async fn limited(registry: &Registry, bytes: u64) -> TestMirror {
    let limits = format!("store.max_size = \"{bytes}B\"\nstore.min_free = \"0\"\ncache.tag_ttl = \"0s\"");
    Settings::of(registry).config(&limits).start().await
}

async fn pull(mirror: &TestMirror, image: &Image) {
    let manifest = mirror.get(&format!("/v2/{}/manifests/{}", image.repository, image.tag)).await;
    assert_eq!(manifest.status, 200, "{}", image.repository);
    for blob in image.blobs() {
        let answer = mirror.get(&format!("/v2/{}/blobs/{}", image.repository, blob.digest)).await;
        assert!(answer.complete && answer.status == 200, "{}", image.repository);
    }
    mirror.settled().await;
    mirror.advance(Duration::from_secs(3600));
}

fn is_stored(mirror: &TestMirror, image: &Image) -> bool {
    image
        .blobs()
        .chain([&image.manifest])
        .all(|blob| mirror.store().join("blobs/sha256").join(blob.digest.hex()).exists())
}

fn folder(mirror: &TestMirror, image: &Image) -> std::path::PathBuf {
    mirror.store().join("repositories/docker.io").join(&image.repository)
}

#[tokio::test]
async fn a_store_of_small_blobs_takes_the_disk_that_it_may() {
    const MOST: u64 = 500_000;
    let registry = Registry::start().await;
    let mirror = limited(&registry, MOST).await;
    for number in 0..160 {
        let blob = registry.add_blob("library/app", noise(5000 + number, 100));
        assert!(mirror.get(&format!("/v2/library/app/blobs/{blob}")).await.complete);
        mirror.settled().await;
        mirror.advance(Duration::from_secs(60));
    }
    let (blobs, _) = on_disk(&mirror.store().join("blobs"));
    let (names, _) = names(&mirror);
    assert!(blobs >= 100_000, "{blobs}: they are kept as far as there is room");
    // What came last, and its names.
    assert!(blobs + names <= MOST + 20 * BLOCK, "{blobs} and {names} of {MOST}");
}

#[tokio::test]
async fn all_that_is_in_the_store_stays_within_what_it_may_hold_and_its_index_counts() {
    const BUDGET: u64 = 5_000_000;
    fn in_blocks(path: &Path) -> u64 {
        let below = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| in_blocks(&entry.path()));
        let own =
            std::fs::symlink_metadata(path).map_or(0, |about| std::os::unix::fs::MetadataExt::blocks(&about) * 512);
        own + below.sum::<u64>()
    }
    let registry = Registry::start().await;
    let mirror = limited(&registry, BUDGET).await;
    // As large as one gets that has had many names.
    std::fs::write(mirror.store().join("metadata/blobs/large"), noise(899, 1_000_000)).expect("written");
    for number in 0..30 {
        let image = registry.add_image(&format!("library/r{number}"), "1", &[noise(900 + number, 250_000)]);
        pull(&mirror, &image).await;
    }
    let within = async {
        // Names and the index may come after the last blob: then what is too much is leaving.
        while in_blocks(mirror.store()) > BUDGET + 30 * BLOCK {
            tokio::task::yield_now().await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(60), within).await;
    assert!(within.is_ok(), "{} of {BUDGET}: {}", in_blocks(mirror.store()), mirror.metrics().await);
    let used = || mirror.mirror.status().store.used_bytes;
    loop {
        let (before, metrics) = (used(), mirror.metrics().await);
        // Something may be leaving still.
        if before == used() {
            assert!(metrics.contains(&format!("\nmirror_store_used_bytes {before}\n")), "as of now: {before}");
            break;
        }
    }
    assert!(used() > BUDGET / 2, "{}", used());
}

#[tokio::test]
async fn names_count_towards_the_store_and_leave_with_the_images_they_belong_to() {
    const BUDGET: u64 = 1_000_000;
    let registry = Registry::start().await;
    let mut mirror = limited(&registry, BUDGET).await;
    let deep = "a/".repeat(40);
    let images: Vec<_> = (0..40)
        .map(|number| registry.add_image(&format!("r{number}/{deep}z"), "1", &[noise(700 + number, 500)]))
        .collect();
    for (number, image) in images.iter().enumerate() {
        if number == 20 {
            mirror = mirror.restart().await;
            mirror.settled().await;
        }
        pull(&mirror, image).await;
        let within = async {
            // Names may come after the last blob: then what is too much is leaving.
            while names(&mirror).0 + on_disk(&mirror.store().join("blobs")).0 > BUDGET + 30 * BLOCK {
                tokio::task::yield_now().await;
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(30), within).await;
        assert!(within.is_ok(), "{} bytes of names after {number}", names(&mirror).0);
    }
    assert!(is_stored(&mirror, &images[39]), "it is not full of names for ever");
    let count = || {
        let left = images.iter().filter(|image| folder(&mirror, image).exists()).count();
        (left, images.iter().filter(|image| is_stored(&mirror, image)).count())
    };
    let stored = async {
        loop {
            // What was too much a moment ago may be leaving.
            match count() {
                (left, stored) if left == stored => return stored,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let stored = tokio::time::timeout(Duration::from_secs(30), stored).await.expect("folders leave, too");
    assert!((3..20).contains(&stored), "{stored}");
}

#[tokio::test]
async fn a_history_leaves_with_the_last_stored_digest_of_its_tag_unless_somebody_holds_on_to_it() {
    let registry = Registry::start().await;
    let mirror = limited(&registry, 1_000_000).await;
    let held = registry.add_image("library/held", "1", &[noise(750, 1000)]);
    let moving = registry.add_image("library/moving", "1", &[noise(751, 400_000)]);
    for image in [&held, &moving] {
        pull(&mirror, image).await;
    }
    mirror.mirror.freeze(&"library/held:1".parse().unwrap(), None).await.unwrap();
    let moved = registry.add_image("library/moving", "1", &[noise(752, 100_000)]);
    pull(&mirror, &moved).await;
    let history = |image: &Image| folder(&mirror, image).join("_tags/1/history");
    let mut number = 0;
    while is_stored(&mirror, &moving) {
        pull(&mirror, &registry.add_image(&format!("library/a{number}"), "1", &[noise(760 + number, 100_000)])).await;
        number += 1;
    }
    assert!(is_stored(&mirror, &moved) && history(&moved).exists(), "one of its digests is stored");
    while is_stored(&mirror, &moved) {
        pull(&mirror, &registry.add_image(&format!("library/a{number}"), "1", &[noise(760 + number, 100_000)])).await;
        number += 1;
    }
    assert!(!folder(&mirror, &moved).exists());
    assert!(history(&held).exists());
}

#[tokio::test]
async fn what_is_collected_takes_its_names_along() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let image = registry.add_image("library/app", "1", &[noise(790, 1000)]);
    pull(&mirror, &image).await;
    mirror.mirror.forget(&"library/app:1".parse().unwrap()).await.unwrap();
    mirror.mirror.collect_garbage(false).await.unwrap();
    assert_eq!(names(&mirror).1, 1, "what is half written has its folder for ever");
}

#[tokio::test]
async fn lists_make_way_for_images() {
    let registry = Registry::start().await;
    let mirror = limited(&registry, 1_000_000).await;
    let deep = "b/".repeat(30);
    for number in 0..30 {
        registry.add_blob(&format!("q{number}/{deep}z"), noise(1, 10));
        assert_eq!(mirror.get(&format!("/v2/q{number}/{deep}z/tags/list")).await.status, 200);
    }
    let image = registry.add_image("library/app", "1", &[noise(791, 700_000)]);
    // Lists are written behind the answers: some may come between.
    let stored = async {
        while !is_stored(&mirror, &image) {
            pull(&mirror, &image).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(60), stored).await;
    assert!(in_time.is_ok(), "{} bytes of names", names(&mirror).0);
    assert!(names(&mirror).0 < 300_000);
}

#[tokio::test]
async fn names_of_what_is_not_kept_fill_no_disk() {
    let registry = Registry::start().await;
    let mirror = limited(&registry, 1).await;
    for number in 0..5 {
        let image = registry.add_image(&format!("library/app{number}"), "1", &[noise(792, 1000)]);
        pull(&mirror, &image).await;
    }
    assert!(names(&mirror).1 <= 1);
}

#[tokio::test]
async fn a_deleted_blob_counts_until_its_last_reader_has_left() {
    let registry = Registry::start().await;
    let mirror = limited(&registry, 7_000_000).await;
    let [large, other] = [800, 801].map(|seed| registry.add_blob("library/large", noise(seed, 6_000_000)));
    let paths = [&large, &other].map(|digest| format!("/v2/library/large/blobs/{digest}"));
    assert!(mirror.get(&paths[0]).await.complete);
    mirror.settled().await;
    let slow = Connection::open_narrow(mirror.address, 4096).await.send("GET", &paths[0], &[]).await;
    let mut slow = slow.expect("an answer");
    slow.read_exactly(1000).await;

    let there = |digest: &scripted_registry::Digest| mirror.store().join("blobs/sha256").join(digest.hex()).exists();
    assert!(mirror.get(&paths[1]).await.complete, "it is passed on");
    mirror.settled().await;
    assert!(there(&large) && !there(&other), "to delete what is read frees nothing");
    mirror.advance(Duration::from_secs(100 * 3600));
    mirror.mirror.collect_garbage(false).await.unwrap();
    assert!(!there(&large));
    assert!(mirror.get(&paths[1]).await.complete);
    mirror.settled().await;
    assert!(!there(&other), "the disk has the deleted one still");

    let rest = slow.finish().await;
    assert!(rest.complete);
    drop(rest);
    // The connection lets go of it in a moment.
    while !there(&other) {
        assert!(mirror.get(&paths[1]).await.complete);
        mirror.settled().await;
    }
}
