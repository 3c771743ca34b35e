//! Fetching ahead of a client that got a manifest: once, within bounds, and never in anybody's way.

use scripted_registry::{Gate, Image, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

async fn registry_with_image() -> (Registry, Image) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 300_000), noise(2, 200_000), noise(3, 100_000)]);
    (registry, image)
}

fn blob_requests(registry: &Registry) -> usize {
    registry.count_of(&Match::blobs())
}

/// Waits until all blobs of the image have been asked for and are stored.
async fn fetched(registry: &Registry, mirror: &TestMirror, image: &Image) {
    for blob in image.blobs() {
        registry.seen(&Match::blob(&blob.digest).get(), 1).await;
    }
    mirror.settled().await;
}

#[tokio::test]
async fn configuration_and_first_layers_are_there_before_the_client_asks() {
    let (registry, image) = registry_with_image().await;
    let mirror = Settings::of(&registry).config("cache.prefetch = \"64MiB\"").start().await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    fetched(&registry, &mirror, &image).await;
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("mirror_prefetched_blobs_total 4"), "{metrics}");
    for blob in image.blobs() {
        let response = mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await;
        assert_eq!(
            (response.header("cache-status"), response.complete),
            (Some("registry-mirror; hit; detail=hit"), true)
        );
        assert_eq!(registry.gets_of(&blob.digest), 1);
    }
}

#[tokio::test]
async fn a_client_that_asks_meanwhile_reads_along() {
    let (registry, image) = registry_with_image().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blobs().get()).stall_after(100, &gate));
    let mirror = Settings::of(&registry).config("cache.prefetch = \"64MiB\"").start().await;
    mirror.get("/v2/library/app/manifests/1").await;
    let layer = &image.layers[0];
    registry.seen(&Match::blob(&layer.digest).get(), 1).await;
    let stream = mirror.stream(&format!("/v2/library/app/blobs/{}", layer.digest)).await;
    assert!(stream.header("cache-status").is_some_and(|status| status.contains("detail=join")));
    gate.open();
    assert!(stream.finish().await.complete);
    mirror.settled().await;
    assert_eq!(registry.gets_of(&layer.digest), 1);
}

#[tokio::test]
async fn no_more_is_fetched_ahead_than_the_budget_in_the_order_of_the_manifest() {
    let (registry, image) = registry_with_image().await;
    // The configuration and the first two layers.
    let most: u64 = image.blobs().take(3).map(|blob| blob.size).sum();
    let mirror = Settings::of(&registry).config(&format!("cache.prefetch = \"{most}B\"")).start().await;
    mirror.get("/v2/library/app/manifests/1").await;
    for blob in image.blobs().take(3) {
        registry.seen(&Match::blob(&blob.digest).get(), 1).await;
    }
    mirror.stop().await;
    assert_eq!(blob_requests(&registry), 3);
    assert_eq!(registry.gets_of(&image.layers[2].digest), 0);
}

#[tokio::test]
async fn nothing_is_fetched_ahead_for_a_head_nor_for_a_client_that_has_the_manifest() {
    let (registry, image) = registry_with_image().await;
    let other = registry.add_image("library/other", "1", &[noise(4, 1000)]);
    let mirror = Settings::of(&registry).config("cache.prefetch = \"64MiB\"").start().await;
    let path = "/v2/library/app/manifests/1";
    assert_eq!(mirror.head(path).await.status, 200);
    let etag = format!("\"{}\"", image.manifest.digest);
    assert_eq!(mirror.get_with(path, &[("If-None-Match", &etag)]).await.status, 304);
    // What was begun for those would be seen by the time that this is there.
    mirror.get("/v2/library/other/manifests/1").await;
    fetched(&registry, &mirror, &other).await;
    mirror.stop().await;
    assert_eq!(blob_requests(&registry), 2);
}

#[tokio::test]
async fn nothing_is_fetched_ahead_unless_it_was_asked_for() {
    let (registry, image) = registry_with_image().await;
    let mirror = TestMirror::of(&registry).await;
    mirror.get("/v2/library/app/manifests/1").await;
    let config = format!("/v2/library/app/blobs/{}", image.config.digest);
    assert!(mirror.get(&config).await.complete);
    mirror.stop().await;
    assert_eq!(blob_requests(&registry), 1);
}

#[tokio::test]
async fn nothing_is_fetched_ahead_with_what_a_caller_shows() {
    let (registry, image, mirror) = crate::access_passing::scene("cache.prefetch = \"64MB\"").await;
    let shown = crate::access_mapped::basic("ann", "ann");
    let manifest = "/v2/team/private/manifests/1?ns=a.example";
    assert_eq!(crate::access_passing::ask(&mirror, "GET", manifest, &shown).await.status, 200);
    mirror.settled().await;
    assert_eq!(blob_requests(&registry), 0);
    let config = format!("/v2/team/private/blobs/{}?ns=a.example", image.config.digest);
    assert_eq!(crate::access_passing::ask(&mirror, "GET", &config, &shown).await.status, 200);
}

#[tokio::test]
async fn what_would_take_the_last_places_or_drive_something_out_is_not_fetched_ahead() {
    let (registry, image) = registry_with_image().await;
    for config in ["limits.fills = 1", "store.max_size = \"100KB\""] {
        let mirror = Settings::of(&registry).config("cache.prefetch = \"64MiB\"").config(config).start().await;
        mirror.get("/v2/library/app/manifests/1").await;
        while !mirror.metrics().await.contains("mirror_prefetches_dropped_total 3")
            && !mirror.metrics().await.contains("mirror_prefetches_dropped_total 4")
        {
            tokio::task::yield_now().await;
        }
        mirror.stop().await;
        for layer in &image.layers {
            assert_eq!(registry.gets_of(&layer.digest), 0, "{config}");
        }
    }
}

#[tokio::test]
async fn a_blob_that_another_repository_brought_is_not_fetched_again() {
    let (registry, image) = registry_with_image().await;
    let copy = registry.add_image("library/copy", "1", &[noise(1, 300_000), noise(2, 200_000), noise(3, 100_000)]);
    assert_eq!(copy.layers[0].digest, image.layers[0].digest);
    let mirror = Settings::of(&registry).config("cache.prefetch = \"64MiB\"").start().await;
    mirror.get("/v2/library/app/manifests/1").await;
    fetched(&registry, &mirror, &image).await;
    mirror.get("/v2/library/copy/manifests/1").await;
    mirror.stop().await;
    for layer in &image.layers {
        assert_eq!(registry.gets_of(&layer.digest), 1);
    }
}
