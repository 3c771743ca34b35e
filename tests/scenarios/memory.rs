//! Answers from memory: the same as from the store, no longer than they hold, and counted.

use std::time::Duration;

use registry_mirror::oci::ImageName;
use scripted_registry::client::Response;
use scripted_registry::{Digest, Image, Registry, noise};

use crate::support::known;
use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";

async fn hits(mirror: &TestMirror) -> u64 {
    let metrics = mirror.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("mirror_memory_hits_total "));
    line.and_then(|count| count.parse().ok()).expect("the series is there")
}

fn blob(digest: &Digest) -> String {
    format!("/v2/library/app/blobs/{digest}")
}

fn name(image: &str) -> ImageName {
    image.parse().expect("a name")
}

/// A mirror that has an image, with everything of it in memory: asked for once to be stored, once
/// to be found, and a third time to prove it.
async fn remembered(registry: &Registry, settings: Settings) -> (TestMirror, Image, Vec<String>) {
    let image = registry.add_image("library/app", "1", &[noise(1, 20_000)]);
    let mirror = settings.start().await;
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let mut paths = vec![TAG.to_owned(), by_digest];
    paths.extend(image.blobs().map(|part| blob(&part.digest)));
    for _ in 0..2 {
        for path in &paths {
            assert_eq!(mirror.get(path).await.status, 200, "{path}");
        }
        mirror.settled().await;
    }
    let before = hits(&mirror).await;
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
    assert_eq!(hits(&mirror).await - before, paths.len() as u64, "all of them are in memory");
    (mirror, image, paths)
}

fn told(response: &Response) -> Vec<(String, Option<String>)> {
    let names = [
        "cache-status",
        "content-length",
        "content-type",
        "docker-content-digest",
        "docker-distribution-api-version",
        "etag",
        "accept-ranges",
        "oci-namespace",
    ];
    names.into_iter().map(|name| (name.to_owned(), response.header(name).map(str::to_owned))).collect()
}

#[tokio::test]
async fn an_answer_from_memory_is_the_one_from_the_store() {
    let registry = Registry::start().await;
    let (mirror, _, paths) = remembered(&registry, Settings::of(&registry)).await;
    let mut from_memory = Vec::new();
    for path in &paths {
        let named = format!("{path}?ns=docker.io");
        from_memory.push((mirror.get(path).await, mirror.head(path).await, mirror.get(&named).await));
    }
    let bodies = mirror.metrics().await;
    assert!(bodies.contains("mirror_bodies_total{path=\"copy\"} 0"), "{bodies}");
    let settings = mirror.stop().await;
    let mirror = settings.reconfigured("cache.memory = \"0\"").start().await;
    for (path, (got, head, named)) in paths.iter().zip(&from_memory) {
        let (get, namespaced) = (mirror.get(path).await, mirror.get(&format!("{path}?ns=docker.io")).await);
        assert_eq!((told(got), &got.body), (told(&get), &get.body), "{path}");
        assert_eq!((told(head), head.body.len()), (told(&mirror.head(path).await), 0), "{path}");
        assert_eq!(told(named), told(&namespaced), "{path}");
        assert_eq!(named.header("oci-namespace"), Some("docker.io"));
    }
    assert_eq!(hits(&mirror).await, 0, "without memory nothing comes from it");
}

#[tokio::test]
async fn parts_and_conditional_requests_of_what_is_in_memory_are_answered_as_ever() {
    let registry = Registry::start().await;
    let (mirror, image, _) = remembered(&registry, Settings::of(&registry)).await;
    let layer = image.layers[0].digest;
    let whole = mirror.get(&blob(&layer)).await.body;
    let part = mirror.get_with(&blob(&layer), &[("Range", "bytes=10-19")]).await;
    assert_eq!((part.status, part.body), (206, whole.slice(10..20)));
    let beyond = mirror.get_with(&blob(&layer), &[("Range", "bytes=90000-")]).await;
    assert_eq!(beyond.status, 416);
    let etag = format!("\"{}\"", image.manifest.digest);
    assert_eq!(mirror.get_with(TAG, &[("If-None-Match", &etag)]).await.status, 304);
}

#[tokio::test]
async fn a_tag_in_memory_grows_stale_as_any_other() {
    let registry = Registry::start().await;
    let (mirror, image, _) = remembered(&registry, Settings::of(&registry)).await;
    let newer = registry.add_image("library/app", "1", &[noise(2, 3_000)]);
    assert_eq!(mirror.get(TAG).await.body, mirror.get(&blob(&image.manifest.digest)).await.body, "still fresh");
    mirror.advance(Duration::from_secs(301));
    let now = mirror.get(TAG).await;
    assert_eq!(now.header("docker-content-digest"), Some(newer.manifest.digest.to_string().as_str()));
}

#[tokio::test]
async fn what_is_in_memory_is_no_permission_for_another_repository() {
    let registry = Registry::start().await;
    let (mirror, image, _) = remembered(&registry, Settings::of(&registry)).await;
    registry.add_image("library/other", "1", &[noise(3, 10)]);
    let digest = image.manifest.digest;
    assert_eq!(mirror.get(&format!("/v2/library/other/manifests/{digest}")).await.status, 404);
    let layer = image.layers[0].digest;
    assert_eq!(mirror.get(&format!("/v2/library/other/blobs/{layer}")).await.status, 404);
}

#[tokio::test]
async fn a_forgotten_image_is_not_answered_from_memory() {
    let mut registry = Registry::start().await;
    let (mirror, _, paths) = remembered(&registry, Settings::of(&registry)).await;
    registry.stop().await;
    assert!(mirror.mirror.forget(&name("app:1")).await.expect("forgotten").changed);
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 503, "{path}");
    }
}

#[tokio::test]
async fn what_was_deleted_is_not_answered_from_memory() {
    let mut registry = Registry::start().await;
    let (mirror, image, _) = remembered(&registry, Settings::of(&registry)).await;
    registry.stop().await;
    // Damaged, found to be, and with nobody to get it from again: gone.
    for part in image.blobs().map(|part| part.digest).chain([image.manifest.digest]) {
        let file = mirror.store().join("blobs/sha256").join(part.hex());
        std::fs::remove_file(&file).expect("removed");
        std::fs::write(&file, noise(9, usize::try_from(image.manifest.size).expect("small"))).expect("written");
    }
    let damaged = mirror.mirror.scrub_once(0).await;
    assert!(damaged > 0, "the scrub looks at the files, not at what is in memory");
    assert_eq!(mirror.get(TAG).await.status, 503);
    for part in image.blobs() {
        assert_eq!(mirror.get(&blob(&part.digest)).await.status, 503);
    }
}

#[tokio::test]
async fn freezing_a_tag_holds_at_once_and_so_does_its_end() {
    let registry = Registry::start().await;
    let (mirror, old, _) = remembered(&registry, Settings::of(&registry).config("cache.tag_ttl = \"1h\"")).await;
    let newer = registry.add_image("library/app", "2", &[noise(4, 3_000)]);
    mirror.get("/v2/library/app/manifests/2").await;
    mirror.mirror.freeze(&name("app:1"), Some(known(&newer.manifest.digest))).await.expect("frozen");
    let answered = |response: Response| response.header("docker-content-digest").map(str::to_owned);
    let before = hits(&mirror).await;
    for _ in 0..3 {
        assert_eq!(answered(mirror.get(TAG).await), Some(newer.manifest.digest.to_string()));
    }
    assert!(hits(&mirror).await > before, "a frozen tag comes from memory too");
    mirror.mirror.unfreeze(&name("app:1")).await.expect("unfrozen");
    assert_eq!(answered(mirror.get(TAG).await), Some(old.manifest.digest.to_string()));
}

#[tokio::test]
async fn offline_half_an_image_is_refused_although_its_manifest_is_in_memory() {
    let registry = Registry::start().await;
    let (mirror, image, _) = remembered(&registry, Settings::of(&registry)).await;
    let settings = mirror.stop().await;
    let mirror = settings.reconfigured("cache.mode = \"offline\"\ncache.complete_only = true").start().await;
    for _ in 0..3 {
        assert_eq!(mirror.get(TAG).await.status, 200);
    }
    std::fs::remove_file(mirror.store().join("blobs/sha256").join(image.layers[0].digest.hex())).expect("removed");
    assert_eq!(mirror.get(TAG).await.status, 503);
}

#[tokio::test]
async fn what_is_served_from_memory_counts_as_used() {
    let registry = Registry::start().await;
    let (mirror, image, _) = remembered(&registry, Settings::of(&registry).config("cache.tag_ttl = \"10h\"")).await;
    mirror.advance(Duration::from_secs(3600));
    let before = hits(&mirror).await;
    mirror.get(TAG).await;
    assert_eq!(hits(&mirror).await, before + 1);
    let mirror = mirror.restart().await;
    let listed = mirror.mirror.images().await.expect("listed");
    let used_at = listed
        .iter()
        .find(|listed| listed.digest == Some(known(&image.manifest.digest)))
        .and_then(|listed| listed.used_at);
    assert_eq!(used_at.map(|used_at| used_at.millis()), Some(1_700_000_000_000 + 3_600_000));
}

#[tokio::test]
async fn a_small_blob_that_is_damaged_is_found_out_before_it_gets_to_memory() {
    let registry = Registry::start().await;
    let bytes = noise(5, 20_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    mirror.get(&blob(&digest)).await;
    mirror.settled().await;
    let file = mirror.store().join("blobs/sha256").join(digest.hex());
    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, noise(6, 20_000)).expect("written");
    let response = mirror.get(&blob(&digest)).await;
    assert_eq!((response.status, response.body), (200, bytes), "fetched again");
    assert_eq!(registry.gets_of(&digest), 2);
}
