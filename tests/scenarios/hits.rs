//! What is stored is served without upstream: whole, in parts, by HEAD, after a restart.

use scripted_registry::{Match, Registry, noise};

use crate::support::mirror::TestMirror;

#[tokio::test]
async fn a_cold_pull_is_a_fill_and_a_warm_one_a_hit_without_upstream() {
    let registry = Registry::start().await;
    let bytes = noise(1, 300_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");

    let cold = mirror.get(&path).await;
    assert_eq!((cold.status, cold.complete, &cold.body), (200, true, &bytes));
    assert_eq!(cold.header("cache-status"), Some("registry-mirror; fwd=miss; stored; detail=fill"));
    mirror.settled().await;
    let warm = mirror.get(&path).await;
    assert_eq!((warm.status, warm.complete, &warm.body), (200, true, &bytes));
    assert_eq!(warm.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
    for response in [&cold, &warm] {
        assert_eq!(response.header("content-length"), Some("300000"));
        assert_eq!(response.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(response.header("etag"), Some(format!("\"{digest}\"").as_str()));
        assert_eq!(response.header("accept-ranges"), Some("bytes"));
        assert_eq!(response.header("content-type"), Some("application/octet-stream"));
        assert_eq!(response.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(response.header("content-encoding"), None);
    }
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn an_image_is_pulled_again_after_a_restart_without_upstream() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(2, 100_000), noise(3, 70_000), noise(4, 10)]);
    let mirror = TestMirror::of(&registry).await;
    let paths: Vec<String> = std::iter::once("/v2/library/app/manifests/1".to_owned())
        .chain(image.blobs().map(|blob| format!("/v2/library/app/blobs/{}", blob.digest)))
        .collect();
    let mut cold = Vec::new();
    for path in &paths {
        cold.push(mirror.get(path).await);
    }
    mirror.settled().await;
    registry.stop().await;
    let mirror = mirror.restart().await;
    for (path, cold) in paths.iter().zip(&cold) {
        let again = mirror.get(path).await;
        assert_eq!((again.status, &again.body), (200, &cold.body), "{path}");
        assert_eq!(again.header("content-type"), cold.header("content-type"), "{path}");
    }
}

#[tokio::test]
async fn ranges_of_stored_blobs_follow_the_specification() {
    let registry = Registry::start().await;
    let bytes = noise(5, 5_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    mirror.get(&path).await;
    mirror.settled().await;
    for (range, part) in [
        ("bytes=500-1499", 500..1500),
        ("bytes=500-", 500..5000),
        ("bytes=-500", 4500..5000),
        ("bytes=2000-9000", 2000..5000),
        ("bytes=0-0", 0..1),
    ] {
        let response = mirror.get_with(&path, &[("Range", range)]).await;
        assert_eq!((response.status, response.complete), (206, true), "{range}");
        assert_eq!(response.body, bytes.slice(part.clone()), "{range}");
        let content_range = format!("bytes {}-{}/5000", part.start, part.end - 1);
        assert_eq!(response.header("content-range"), Some(content_range.as_str()), "{range}");
    }
    for range in ["bytes=500-0", "bytes=5000-10000"] {
        let response = mirror.get_with(&path, &[("Range", range)]).await;
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(response.header("content-range"), Some("bytes */5000"), "{range}");
    }
    let other = mirror.get_with(&path, &[("Range", "bytes=0-9"), ("If-Range", "\"other\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, 5000));
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn head_has_the_headers_of_get_cold_and_warm_and_downloads_nothing() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(6, 20_000)]);
    let mirror = TestMirror::of(&registry).await;
    let layer = &image.layers[0];
    let (blob, manifest) = (format!("/v2/library/app/blobs/{}", layer.digest), "/v2/library/app/manifests/1");
    let cold = mirror.head(&blob).await;
    assert_eq!(cold.status, 200);
    assert_eq!(registry.gets_of(&layer.digest), 0);
    let cold_manifest = mirror.head(manifest).await;
    let got = (mirror.get(&blob).await, mirror.get(manifest).await);
    mirror.settled().await;
    let warm = (mirror.head(&blob).await, mirror.head(manifest).await);
    for header in ["content-length", "content-type", "docker-content-digest", "etag"] {
        assert!(got.0.header(header).is_some() && got.1.header(header).is_some(), "{header}");
        assert_eq!(cold.header(header), got.0.header(header), "{header}");
        assert_eq!(warm.0.header(header), got.0.header(header), "{header}");
        assert_eq!(cold_manifest.header(header), got.1.header(header), "{header}");
        assert_eq!(warm.1.header(header), got.1.header(header), "{header}");
    }
    assert!(cold.body.is_empty() && warm.0.body.is_empty() && warm.1.body.is_empty());
}

#[tokio::test]
async fn a_client_that_has_the_content_is_told_so() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(7, 2_000)]);
    let mirror = TestMirror::of(&registry).await;
    let etag = format!("W/\"{}\"", image.manifest.digest);
    let response = mirror.get_with("/v2/library/app/manifests/1", &[("If-None-Match", &etag)]).await;
    assert_eq!((response.status, response.body.len()), (304, 0));
}

#[tokio::test]
async fn empty_blobs_and_sha512_are_content_like_any_other() {
    let registry = Registry::start().await;
    let empty = registry.add_blob("library/app", "");
    let long = registry.add_blob_with("library/app", scripted_registry::Algorithm::Sha512, noise(8, 90_000));
    let mirror = TestMirror::of(&registry).await;
    for (digest, length) in [(empty, 0), (long, 90_000)] {
        let path = format!("/v2/library/app/blobs/{digest}");
        for _ in 0..2 {
            let response = mirror.get(&path).await;
            assert_eq!((response.status, response.complete, response.body.len()), (200, true, length));
            mirror.settled().await;
        }
        let ranged = mirror.get_with(&path, &[("Range", "bytes=0-")]).await;
        assert_eq!(ranged.status, if length == 0 { 416 } else { 206 });
        assert_eq!(registry.gets_of(&digest), 1);
    }
}

#[tokio::test]
async fn a_blob_in_the_store_is_not_a_permission() {
    let registry = Registry::start().await;
    let bytes = noise(9, 50_000);
    let secret = registry.add_blob("private/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(&format!("/v2/private/app/blobs/{secret}")).await.status, 200);
    mirror.settled().await;

    let stranger = format!("/v2/public/app/blobs/{secret}");
    assert_eq!(mirror.get(&stranger).await.status, 404);
    assert_eq!(mirror.head(&stranger).await.status, 404);

    registry.add_blob("public/app", bytes.clone());
    registry.forget_requests();
    mirror.advance(std::time::Duration::from_secs(31));
    let shared = mirror.get(&stranger).await;
    assert_eq!((shared.status, &shared.body), (200, &bytes));
    assert_eq!(registry.count_of(&Match::blob(&secret).head()), 1, "one HEAD is the proof");
    assert_eq!(registry.gets_of(&secret), 0, "and no byte is fetched again");
    assert_eq!(mirror.get(&stranger).await.status, 200);
    assert_eq!(registry.requests().len(), 1, "the proof is remembered");
}
