//! Whatever upstream sends: no client completes a wrong body, nothing wrong is stored, and what
//! broke is resumed.

use scripted_registry::{Digest, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

async fn registry_with_blob(size: usize) -> (Registry, Digest, bytes::Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(21, size);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

/// The client must see a cut or an error, the store must hold nothing, and once upstream behaves the
/// next request must succeed.
async fn never_completes(behaviour: impl Fn(Rule) -> Rule, size: usize) {
    let (registry, digest, bytes, path) = registry_with_blob(size).await;
    registry.rule(behaviour(Rule::on(Match::blob(&digest).get())));
    let mirror = TestMirror::of(&registry).await;
    let whole = [&[][..], &[("Range", "bytes=10-")]];
    // Of what is held back as a whole, a part that ends before it does is held back, too.
    let parts = [&[("Range", "bytes=0-0")][..], &[("Range", "bytes=0-99")], &[("Range", "bytes=0-0,20-29")]];
    for headers in whole.into_iter().chain(parts.into_iter().filter(|_| size <= 64 << 10)) {
        let response = mirror.get_with(&path, headers).await;
        let cut = matches!(response.status, 200 | 206) && !response.complete;
        assert!(cut || response.status >= 500, "{} complete: {}", response.status, response.complete);
        mirror.settled().await;
    }
    let stored = mirror.store().join("blobs/sha256").join(digest.hex());
    assert!(!stored.exists(), "wrong bytes were stored");
    assert_eq!(std::fs::read_dir(mirror.store().join("ingest")).unwrap().count(), 0, "an ingest was left behind");
    registry.clear_rules();
    let response = mirror.get(&path).await;
    assert!(response.complete && response.body == bytes);
}

#[tokio::test]
async fn a_flipped_last_byte_never_completes() {
    never_completes(Rule::flip_last_byte, 300_000).await;
}

#[tokio::test]
async fn a_flipped_byte_in_a_blob_smaller_than_the_held_back_tail_never_completes() {
    never_completes(Rule::flip_last_byte, 300).await;
    never_completes(|rule| rule.flip_bit_at(0), 300).await;
    never_completes(|rule| rule.flip_bit_at(0), 60_000).await;
}

#[tokio::test]
async fn a_flipped_first_byte_never_completes() {
    never_completes(|rule| rule.flip_bit_at(0), 300_000).await;
}

#[tokio::test]
async fn a_blob_of_unknown_length_with_a_flipped_byte_never_completes() {
    never_completes(|rule| rule.chunked().flip_last_byte(), 300_000).await;
}

#[tokio::test]
async fn more_bytes_than_the_digest_covers_never_complete() {
    never_completes(|rule| rule.extra("surplus").declare_length(300_007), 300_000).await;
}

#[tokio::test]
async fn fewer_bytes_than_the_digest_covers_never_complete() {
    never_completes(|rule| rule.declare_length(299_000), 300_000).await;
}

#[tokio::test]
async fn an_encoded_answer_is_refused() {
    never_completes(Rule::gzip, 300_000).await;
}

#[tokio::test]
async fn bytes_behind_the_announced_end_are_not_part_of_the_blob() {
    let (registry, digest, bytes, path) = registry_with_blob(300_000).await;
    registry.rule(Rule::on(Match::blob(&digest).get()).extra("surplus").declare_length(300_000));
    let mirror = TestMirror::of(&registry).await;
    let response = mirror.get(&path).await;
    assert!(response.complete && response.body == bytes);
}

#[tokio::test]
async fn a_cut_connection_is_resumed_and_clients_do_not_notice() {
    for cut in [0.3, 0.7] {
        for reset in [false, true] {
            let (registry, digest, bytes, path) = registry_with_blob(1_000_000).await;
            let after = (cut * 1_000_000.0) as u64;
            let rule = Rule::on(Match::blob(&digest).get()).once();
            registry.rule(if reset { rule.reset_after(after) } else { rule.close_after(after) });
            let mirror = TestMirror::of(&registry).await;
            let response = mirror.get(&path).await;
            assert!(response.complete && response.body == bytes, "cut at {cut}, reset: {reset}");
            let requests = registry.requests();
            let resumed = requests.iter().filter(|r| r.path.contains("/blobs/") && r.header("range").is_some()).count();
            assert_eq!(resumed, 1, "cut at {cut}, reset: {reset}");
            mirror.settled().await;
            assert_eq!(mirror.get(&path).await.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
        }
    }
}

#[tokio::test]
async fn an_upstream_without_ranges_is_resumed_from_the_start() {
    let (registry, digest, bytes, path) = registry_with_blob(1_000_000).await;
    registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(600_000));
    registry.rule(Rule::on(Match::blob(&digest).get().with_header("range")).ignore_range());
    let mirror = TestMirror::of(&registry).await;
    let response = mirror.get(&path).await;
    assert!(response.complete && response.body == bytes);
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_not_served() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(22, 1000)]);
    registry.rule(Rule::on(Match::manifests().get()).flip_bit_at(5));
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let response = mirror.get(&path).await;
    assert_eq!(response.status, 502);
    registry.clear_rules();
    assert_eq!(mirror.get(&path).await.status, 200);
}

#[tokio::test]
async fn an_upstream_error_before_the_first_byte_has_its_status() {
    for (status, expected) in [(404, 404), (403, 404), (500, 503), (429, 503)] {
        let (registry, digest, _, path) = registry_with_blob(1000).await;
        registry.rule(Rule::on(Match::blob(&digest)).refuse(status));
        let mirror = TestMirror::of(&registry).await;
        let response = mirror.get(&path).await;
        assert_eq!(response.status, expected, "upstream said {status}");
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
}
