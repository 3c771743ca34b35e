//! Damage done to stored files behind our back: found, never served, healed.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scripted_registry::{Digest, Image, Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

fn file_of(store: &Path, digest: &Digest) -> PathBuf {
    store.join("blobs/sha256").join(digest.hex())
}

/// Flips one bit and leaves everything else as it was.
fn flip(file: &Path, at: u64) {
    let mut permissions = std::fs::metadata(file).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    std::fs::set_permissions(file, permissions).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

async fn with_blobs(count: u64) -> (Registry, Vec<(Digest, bytes::Bytes)>) {
    let registry = Registry::start().await;
    let blobs = (0..count).map(|number| {
        let bytes = noise(900 + number, 200_000);
        (registry.add_blob("library/app", bytes.clone()), bytes)
    });
    let blobs = blobs.collect();
    (registry, blobs)
}

async fn get(mirror: &TestMirror, digest: &Digest) -> scripted_registry::client::Response {
    mirror.get(&format!("/v2/library/app/blobs/{digest}")).await
}

#[tokio::test]
async fn with_verify_on_read_no_flipped_bit_is_ever_served() {
    let (registry, blobs) = with_blobs(1).await;
    let (digest, bytes) = &blobs[0];
    let mirror = Settings::of(&registry).config("store.verify_on_read = true").start().await;
    get(&mirror, digest).await;
    mirror.settled().await;
    for at in [0, 1, 99_999, 199_999] {
        flip(&file_of(mirror.store(), digest), at);
        let response = get(&mirror, digest).await;
        assert!(response.complete && response.body == *bytes, "flipped at {at}");
        mirror.settled().await;
    }
    assert_eq!(registry.gets_of(digest), 5, "each flip cost one download");
    assert!(mirror.metrics().await.contains("mirror_damaged_blobs_total 4"));
}

#[tokio::test]
async fn what_was_checked_a_moment_ago_is_checked_again_when_its_file_is_another() {
    let (registry, blobs) = with_blobs(1).await;
    let (digest, bytes) = &blobs[0];
    let mirror = Settings::of(&registry).config("store.verify_on_read = true").start().await;
    get(&mirror, digest).await;
    mirror.settled().await;
    assert!(get(&mirror, digest).await.complete, "checked, and remembered");
    let file = file_of(mirror.store(), digest);
    let other = file.with_extension("other");
    std::fs::write(&other, vec![b'q'; bytes.len()]).expect("written");
    std::fs::rename(&other, &file).expect("in its place");
    let response = get(&mirror, digest).await;
    assert!(response.complete && response.body == *bytes);
    assert_eq!(registry.gets_of(digest), 2, "it cost one download");
}

#[tokio::test]
async fn the_scrub_finds_every_flipped_bit_and_fetches_the_blobs_again() {
    let (registry, blobs) = with_blobs(20).await;
    let image = registry.add_image("library/other", "1", &[noise(1, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    for (digest, _) in &blobs {
        get(&mirror, digest).await;
    }
    mirror.get("/v2/library/other/manifests/1").await;
    mirror.settled().await;
    let mut flipped: Vec<&Digest> = blobs.iter().step_by(2).map(|(digest, _)| digest).collect();
    flipped.push(&image.manifest.digest);
    for (number, digest) in flipped.iter().enumerate() {
        flip(&file_of(mirror.store(), digest), number as u64 * 17);
    }
    assert_eq!(mirror.mirror.scrub_once(0).await, flipped.len() as u64);
    assert_eq!(mirror.mirror.scrub_once(0).await, 0, "all of them are sound again");
    registry.forget_requests();
    for (digest, bytes) in &blobs {
        let response = get(&mirror, digest).await;
        assert!(response.complete && response.body == *bytes);
    }
    assert!(registry.requests().is_empty(), "healed without waiting for a client");
    assert!(mirror.store().join("quarantine").read_dir().unwrap().count() >= 11);
}

#[tokio::test]
async fn the_scrub_keeps_to_its_rate() {
    let (registry, blobs) = with_blobs(5).await;
    let mirror = TestMirror::of(&registry).await;
    for (digest, _) in &blobs {
        get(&mirror, digest).await;
    }
    mirror.settled().await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    mirror.mirror.scrub_once(100_000).await;
    assert!(start.elapsed() >= Duration::from_secs(10), "a million bytes, a hundred thousand a second");
}

#[tokio::test]
async fn a_file_that_was_cut_while_we_were_stopped_and_the_index_lost_is_a_miss() {
    let (registry, blobs) = with_blobs(1).await;
    let (digest, bytes) = &blobs[0];
    let mirror = TestMirror::of(&registry).await;
    get(&mirror, digest).await;
    mirror.settled().await;
    let settings = mirror.stop().await;
    std::fs::remove_dir_all(settings.store().join("metadata")).unwrap();
    let file = file_of(settings.store(), digest);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes[..150_000]).unwrap();
    let mirror = settings.start().await;
    let response = get(&mirror, digest).await;
    assert!(response.complete && response.body == *bytes);
    mirror.settled().await;
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 200_000);
}

#[tokio::test]
async fn what_was_set_aside_counts_against_the_budget_and_is_the_first_to_go() {
    let (registry, blobs) = with_blobs(3).await;
    let lines = "store.max_size = \"700kB\"\nstore.verify_on_read = true";
    let mirror = Settings::of(&registry).config(lines).start().await;
    for (digest, _) in &blobs {
        get(&mirror, digest).await;
        mirror.settled().await;
    }
    flip(&file_of(mirror.store(), &blobs[0].0), 5);
    let response = get(&mirror, &blobs[0].0).await;
    assert!(response.complete && response.body == blobs[0].1);
    mirror.settled().await;
    assert!(blobs.iter().all(|(digest, _)| file_of(mirror.store(), digest).exists()), "nothing sound had to leave");
    assert_eq!(mirror.store().join("quarantine").read_dir().unwrap().count(), 0, "together they were too much");
}

/// An image that was pulled, and then its manifest damaged.
async fn with_a_damaged_manifest(registry: &Registry, config: &str) -> (TestMirror, Image) {
    let image = registry.add_image("library/app", "1", &[noise(1, 100_000)]);
    let mirror = Settings::of(registry).config(config).start().await;
    mirror.get("/v2/library/app/manifests/1").await;
    for blob in image.blobs() {
        get(&mirror, &blob.digest).await;
    }
    mirror.settled().await;
    mirror.advance(Duration::from_secs(3 * 86_400));
    flip(&file_of(mirror.store(), &image.manifest.digest), 20);
    (mirror, image)
}

#[tokio::test]
async fn gc_deletes_nothing_that_an_unreadable_manifest_may_need() {
    let registry = Registry::start().await;
    let (mirror, image) = with_a_damaged_manifest(&registry, "").await;
    let garbage = mirror.mirror.collect_garbage(false).await.expect("collects");
    assert_eq!((garbage.blobs, garbage.unreadable), (0, 1));
    std::fs::remove_file(file_of(mirror.store(), &image.manifest.digest)).unwrap();
    let garbage = mirror.mirror.collect_garbage(false).await.expect("collects");
    assert_eq!(
        (garbage.unreadable, image.blobs().all(|blob| file_of(mirror.store(), &blob.digest).exists())),
        (1, true)
    );
    // Once it is there again it is known what it needs.
    mirror.get("/v2/library/app/manifests/1").await;
    mirror.settled().await;
    let garbage = mirror.mirror.collect_garbage(false).await.expect("collects");
    assert_eq!((garbage.blobs, garbage.unreadable), (0, 0));
}

#[tokio::test]
async fn a_pinned_image_keeps_its_layers_also_while_its_manifest_cannot_be_read() {
    let registry = Registry::start().await;
    let (mirror, image) = with_a_damaged_manifest(&registry, "store.max_size = \"300kB\"").await;
    mirror.mirror.pin(&"docker.io/library/app:1".parse().expect("a name")).await.expect("pins");
    for number in 0..4 {
        let digest = registry.add_blob("library/other", noise(50 + number, 100_000));
        assert!(mirror.get(&format!("/v2/library/other/blobs/{digest}")).await.complete);
        mirror.settled().await;
    }
    assert!(image.blobs().all(|blob| file_of(mirror.store(), &blob.digest).exists()));
}

#[tokio::test]
async fn a_newer_store_is_refused_with_a_way_out() {
    let registry = Registry::start().await;
    let settings = Settings::of(&registry);
    std::fs::write(settings.store().join("format"), "registry-mirror store format 99\n").unwrap();
    let overrides = registry_mirror::config::Overrides {
        store: Some(settings.store().display().to_string()),
        ..Default::default()
    };
    let config = registry_mirror::config::Config::parse("x".as_ref(), "", [], overrides).unwrap();
    let error = registry_mirror::daemon::Daemon::open(config).expect_err("refused");
    let error = registry_mirror::documents::Error::from(error);
    let hint = error.hint.as_deref().unwrap_or_default();
    assert!(error.message.contains("format 99") && hint.contains("choose another store"), "{error:?}");
    assert!(!settings.store().join("blobs").exists(), "nothing was touched");
}
