//! What HEAD does not tell is seen by GET, and what has all its bytes is whole, however the answer ended.

use std::time::Duration;

use scripted_registry::{Gate, Match, Registry, Rule, client, noise};

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const EXPIRED: Duration = Duration::from_secs(301);

#[tokio::test]
async fn a_tag_that_moves_is_seen_to_move_where_head_is_answered_with_trouble() {
    for status in [500, 502, 503, 504] {
        for method in ["GET", "HEAD"] {
            let registry = Registry::start().await;
            registry.rule(Rule::on(Match::any().head()).refuse(status));
            let mirror = TestMirror::of(&registry).await;
            for seed in 1..=3 {
                let image = registry.add_image("library/app", "1", &[noise(seed, 1000)]);
                registry.forget_requests();
                let answer = client::request(mirror.address, method, TAG, &[]).await;
                let told = (answer.status, answer.header("docker-content-digest"), answer.header("warning"));
                let digest = image.manifest.digest.to_string();
                assert_eq!(told, (200, Some(digest.as_str()), None), "{status} to HEAD, {method}");
                assert_eq!(registry.count_of(&Match::manifests().get()), 1);
                mirror.advance(EXPIRED);
            }
        }
    }
}

#[tokio::test]
async fn one_question_by_get_and_no_more_is_put_before_what_is_stored_stands_in() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    mirror.advance(EXPIRED);
    registry.forget_requests();
    registry.rule(Rule::on(Match::manifests()).refuse(500));
    let stale = mirror.get(TAG).await;
    assert!(stale.status == 200 && stale.header("warning").is_some());
    assert_eq!(registry.count_of(&Match::manifests().get()), 1);

    // It is waited for like any question.
    let (registry, gate) = (Registry::start().await, Gate::new());
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = Settings::of(&registry).config("cache.patience = \"100ms\"").start().await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    mirror.advance(EXPIRED);
    registry.rule(Rule::on(Match::manifests().head()).refuse(500));
    registry.rule(Rule::on(Match::manifests().get()).stall_before_headers(&gate));
    let stale = mirror.get(TAG).await;
    assert!(stale.status == 200 && stale.header("warning").is_some());
    gate.open();
}

#[tokio::test]
async fn what_has_its_digest_is_whole_although_its_last_chunk_is_missing() {
    for size in [1000, 300_000] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(1, size)]);
        let of = |bytes: u64| Rule::on(Match::any().get()).chunked().close_after(bytes);
        registry.rule(of(image.manifest.size).once());
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get(TAG).await.status, 200);
        for blob in image.blobs() {
            registry.clear_rules();
            registry.forget_requests();
            registry.rule(of(blob.size).ignore_range());
            let answer = mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await;
            assert!(answer.status == 200 && answer.complete);
            assert_eq!(registry.gets_of(&blob.digest), 1, "it was not asked for again");
        }
        // Of what is not whole nothing is made.
        registry.clear_rules();
        let image = registry.add_image("library/app", "2", &[noise(2, size)]);
        registry.rule(of(image.manifest.size - 1));
        assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 503);
    }
}

#[tokio::test]
async fn a_blob_of_which_never_a_byte_comes_is_given_up_soon() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(1, 300_000));
    registry.rule(Rule::on(Match::blobs()).close_after(0));
    let mirror = TestMirror::of(&registry).await;
    let answer = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
    assert!(answer.status >= 500 || !answer.complete);
    assert_eq!(registry.gets_of(&digest), 4, "within a bit more than a second");
}

#[tokio::test]
async fn a_user_name_in_a_redirect_is_dropped_and_shown_to_nobody() {
    let (registry, storage) = (Registry::start().await, Registry::start().await);
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    storage.add_image("library/app", "1", &[noise(1, 1000)]);
    registry.rule(Rule::on(Match::blobs()).redirect_to_host(&storage.url().replace("://", "://user:word@")));
    let mirror = TestMirror::of(&registry).await;
    for blob in image.blobs() {
        assert_eq!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.status, 200);
    }
    let requests = storage.requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.header("authorization").is_none()));
}
