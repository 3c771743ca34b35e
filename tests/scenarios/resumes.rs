//! What broke goes on: from where it was if it can, from the start if it must, and never with doubtful bytes.

use bytes::Bytes;
use scripted_registry::{Digest, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const SIZE: usize = 1_000_000;

async fn scene() -> (Registry, Digest, Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(51, SIZE);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

#[tokio::test]
async fn a_resume_that_is_refused_in_whatever_way_becomes_a_whole_download() {
    let half = (SIZE / 2) as u64;
    for refusal in [400, 403, 404, 412, 416, 451, 501, 200, 206] {
        let (registry, digest, bytes, path) = scene().await;
        registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(half));
        let ranged = Rule::on(Match::blob(&digest).get().with_header("range"));
        registry.rule(match refusal {
            200 => ranged.ignore_range(),
            206 => ranged.without_header("content-range"),
            status => ranged.refuse(status),
        });
        let mirror = TestMirror::of(&registry).await;
        let answer = mirror.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "{refusal} to the question with a range");
        mirror.settled().await;
        assert_eq!(mirror.get(&path).await.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
    }
    let (registry, digest, bytes, path) = scene().await;
    registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(half));
    let whole = format!("bytes 0-{}/{SIZE}", SIZE - 1);
    let ranged = Rule::on(Match::blob(&digest).get().with_header("range"));
    registry.rule(ranged.ignore_range().status(206).header("content-range", &whole));
    let answer = TestMirror::of(&registry).await.get(&path).await;
    assert!(answer.complete && answer.body == bytes, "206 of the whole");
}

#[tokio::test]
async fn pieces_that_are_refused_become_a_whole_download() {
    for refusal in [400, 403, 404, 412, 416, 501] {
        let (registry, digest, bytes, path) = scene().await;
        registry.rule(Rule::on(Match::blob(&digest).get().with_header("range")).refuse(refusal));
        let mirror = Settings::of(&registry).upstream("parallel = 4").start().await;
        let answer = mirror.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "{refusal} to the question with a range");
    }
}

async fn a_left_over_is_gone_on_with(wrong: bool, restart: bool) {
    let (registry, digest, bytes, path) = scene().await;
    let cut = Rule::on(Match::blob(&digest).get()).once().close_after(600_000);
    registry.rule(if wrong { cut.flip_bit_at(1000) } else { cut });
    registry.rule(Rule::on(Match::blob(&digest).get()).close_at_once());
    let mut mirror = TestMirror::of(&registry).await;
    assert!(!mirror.get(&path).await.complete, "the trouble");
    mirror.settled().await;
    registry.clear_rules();
    if restart {
        mirror = mirror.restart().await;
    }
    // The breaker lets one ask again.
    mirror.advance(std::time::Duration::from_secs(3600));
    let sent = registry.body_bytes_sent(&digest);
    let answer = mirror.get(&path).await;
    assert!(answer.complete && answer.body == bytes, "wrong: {wrong}, restart: {restart}");
    let sent = registry.body_bytes_sent(&digest) - sent;
    assert_eq!(sent < SIZE as u64, !wrong, "{sent} bytes, wrong: {wrong}, restart: {restart}");
}

#[tokio::test]
async fn a_left_over_of_an_upstream_in_trouble_is_gone_on_with_and_doubted() {
    // Together, because giving up takes its time.
    tokio::join!(
        a_left_over_is_gone_on_with(false, false),
        a_left_over_is_gone_on_with(false, true),
        a_left_over_is_gone_on_with(true, false),
        a_left_over_is_gone_on_with(true, true),
    );
}

#[tokio::test]
async fn help_never_breaks_a_fill_of_an_upstream_that_grants_one_connection_at_a_time() {
    const LARGE: usize = 40_000_000;
    let registry = Registry::start().await;
    let bytes = noise(52, LARGE);
    let digest = registry.add_blob("library/app", bytes.clone());
    let small = registry.add_blob("library/other", noise(53, 1000));
    registry.options(|options| options.one_blob_at_a_time = true);
    let mirror = Settings::of(&registry).upstream("parallel = 4").start().await;
    let answer = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
    assert!(answer.complete && answer.body == bytes, "{} bytes", answer.body.len());
    let other = mirror.get(&format!("/v2/library/other/blobs/{small}")).await;
    assert_eq!(other.status, 200, "what was said to those who help limits nobody else");
}
