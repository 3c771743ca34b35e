//! What broke goes on: from where it was if it can, from the start if it must, and never with doubtful bytes.

use bytes::Bytes;
use futures_util::future::join_all;
use scripted_registry::{Digest, Gate, Match, Registry, Rule, TokenPolicy, client, noise};
use serde_json::Value;

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
    // Nor is it held against the whole that a part is of something else.
    for portal in [true, false] {
        let (registry, digest, bytes, path) = scene().await;
        registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(half));
        let ranged = Rule::on(Match::blob(&digest).get().with_header("range"));
        registry.rule(match portal {
            true => ranged.answer(200, "text/html", "<html>Please log in</html>"),
            false => ranged.header("content-range", &format!("bytes {half}-{}/{}", SIZE - 1, SIZE + 5)),
        });
        let answer = TestMirror::of(&registry).await.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "portal: {portal}");
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
async fn a_refused_or_empty_resume_becomes_a_whole_download_soon_also_where_nothing_can_be_kept() {
    let half = (SIZE / 2) as u64;
    let range = format!("bytes {half}-{}/{SIZE}", SIZE - 1);
    for lines in ["", "store.max_size = \"50000B\"\nstore.min_free = \"0\""] {
        for (refusal, empty) in [400, 403, 404, 412, 416, 501].map(|status| (status, false)).into_iter().chain([
            (200, true),
            (204, true),
            (206, true),
        ]) {
            let (registry, digest, bytes, path) = scene().await;
            registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(half));
            let ranged = Rule::on(Match::blob(&digest).get().with_header("range"));
            registry.rule(match (refusal, empty) {
                (206, _) => ranged.answer(206, "application/octet-stream", "").header("content-range", &range),
                (status, true) => ranged.answer(status, "application/octet-stream", ""),
                (status, false) => ranged.refuse(status),
            });
            let mirror = Settings::of(&registry).config(lines).start().await;
            let answer = mirror.get(&path).await;
            assert!(answer.complete && answer.body == bytes, "{refusal}, empty: {empty}, {lines}");
            // The one that is cut, those that are refused, and the whole.
            assert!(registry.gets_of(&digest) <= 4, "{refusal}, empty: {empty}, {lines}");
        }
    }
}

type Fail = fn(Rule) -> Rule;

/// What is done to a question in place of an answer, in ways that may be an outage.
const OUTAGES: [(&str, Fail); 7] = [
    ("429", |rule| rule.too_many_requests(None)),
    ("429 for a while", |rule| rule.too_many_requests(Some("600"))),
    ("503 for a while", |rule| rule.refuse(503).header("retry-after", "600")),
    ("500", |rule| rule.refuse(500)),
    ("an end", Rule::close_at_once),
    ("a reset", Rule::reset_at_once),
    ("a way to nobody", |rule| rule.redirect("http://127.0.0.1:1/")),
];

#[tokio::test]
async fn a_resume_that_fails_each_time_becomes_a_whole_download() {
    join_all(OUTAGES.map(async |(name, fail)| {
        let (registry, digest, bytes, path) = scene().await;
        registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after((SIZE / 2) as u64));
        registry.rule(fail(Rule::on(Match::blob(&digest).get().with_header("range"))));
        let answer = TestMirror::of(&registry).await.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "{name} to each question with a range");
    }))
    .await;
}

#[tokio::test]
async fn what_is_left_over_is_never_in_the_way_of_what_upstream_gives() {
    // Together, because giving up takes its time.
    join_all(OUTAGES.map(async |(name, fail)| {
        let (registry, digest, bytes, path) = scene().await;
        registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(600_000));
        registry.rule(Rule::on(Match::blob(&digest).get()).close_at_once());
        let mirror = TestMirror::of(&registry).await;
        assert!(!mirror.get(&path).await.complete, "the trouble");
        mirror.settled().await;
        registry.clear_rules();
        // The breaker lets one ask again.
        mirror.advance(std::time::Duration::from_secs(3600));
        registry.rule(fail(Rule::on(Match::blob(&digest).get().with_header("range"))));
        let answer = mirror.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "{name} to each question with a range");
    }))
    .await;
}

#[tokio::test]
async fn what_is_left_over_and_waited_for_in_vain_is_asked_for_in_the_other_way() {
    let (registry, digest, bytes, path) = scene().await;
    registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(600_000));
    registry.rule(Rule::on(Match::blob(&digest).get()).close_at_once());
    let mirror = TestMirror::of(&registry).await;
    assert!(!mirror.get(&path).await.complete, "the trouble");
    mirror.settled().await;
    registry.clear_rules();
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get().with_header("range")).stall_before_headers(&gate));
    mirror.advance(std::time::Duration::from_secs(3600));
    tokio::time::pause();
    assert_eq!(mirror.get(&path).await.status, 503, "silence is not asked again");
    tokio::time::resume();
    mirror.settled().await;
    mirror.advance(std::time::Duration::from_secs(3600));
    let answer = mirror.get(&path).await;
    assert!(answer.complete && answer.body == bytes);
    gate.open();
}

#[tokio::test]
async fn a_blob_that_is_cut_each_time_is_given_up_soon_whatever_came_of_it() {
    let registry = Registry::start().await;
    for size in [1000, 8190, 8192, 60_000, 300_000] {
        let digest = registry.add_blob("library/app", noise(54, size));
        for framed in [|rule: Rule| rule, |rule: Rule| rule.chunked()] {
            registry.clear_rules();
            registry.rule(framed(Rule::on(Match::blob(&digest)).ignore_range().close_after(size as u64 / 2)));
            registry.forget_requests();
            let mirror = TestMirror::of(&registry).await;
            let answer = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
            assert!(answer.status == 503 || size > 64 << 10 && !answer.complete, "{size}: {}", answer.status);
            assert_eq!(registry.gets_of(&digest), 4, "{size}");
        }
    }
}

#[tokio::test]
async fn a_blob_of_which_each_connection_brings_something_is_brought_to_its_end() {
    let (registry, digest, bytes, path) = scene().await;
    registry.rule(Rule::on(Match::blob(&digest).get()).close_after(50_000));
    let answer = TestMirror::of(&registry).await.get(&path).await;
    assert!(answer.complete && answer.body == bytes, "{} bytes", answer.body.len());
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

async fn why(mirror: &TestMirror, image: &str) -> Value {
    let answer = client::get(mirror.socket(), &format!("/api/v1/why?image={image}"), &[]).await;
    serde_json::from_slice(&answer.body).expect("a document")
}

#[tokio::test]
async fn what_is_there_of_a_fill_that_did_not_end_is_told_also_after_a_restart() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(55, SIZE)]);
    let layer = image.layers[0].digest;
    registry.rule(Rule::on(Match::blob(&layer).get()).once().close_after(600_000));
    registry.rule(Rule::on(Match::blob(&layer).get()).close_at_once());
    let mirror = TestMirror::of(&registry).await;
    mirror.get("/v2/library/app/manifests/1").await;
    mirror.get(&format!("/v2/library/app/blobs/{}", image.config.digest)).await;
    assert_eq!(why(&mirror, "app:1").await["begun_bytes"], 0);
    assert!(!mirror.get(&format!("/v2/library/app/blobs/{layer}")).await.complete, "the trouble");
    mirror.settled().await;
    assert_eq!(why(&mirror, "app:1").await["begun_bytes"], 600_000);
    let mirror = mirror.restart().await;
    assert_eq!(why(&mirror, "app:1").await["begun_bytes"], 600_000);
    registry.clear_rules();
    assert!(mirror.get(&format!("/v2/library/app/blobs/{layer}")).await.complete);
    mirror.settled().await;
    assert_eq!(why(&mirror, "app:1").await["begun_bytes"], 0);
}

#[tokio::test]
async fn that_our_credential_is_not_there_is_why_nothing_comes() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(56, 100)]);
    registry.require_tokens(TokenPolicy::bearer().user("me", "word").private("library/app"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("login");
    let login = format!("auth = \"file:{}\"", file.display());
    let mirror = Settings::of(&registry).upstream(&login).start().await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 503);
    let said = why(&mirror, "app:1").await;
    let reason = said["reason"].as_str().expect("a reason");
    let words =
        format!("our credential for upstream cannot be had: cannot read the credential file {}", file.display());
    assert!(said["succeeds"] == false && reason.contains(&words), "{reason}");
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
async fn who_comes_while_a_wrong_left_over_is_fetched_anew_gets_nothing_of_it() {
    let (registry, digest, bytes, path) = scene().await;
    registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(600_000).flip_bit_at(1000));
    registry.rule(Rule::on(Match::blob(&digest).get()).close_at_once());
    let mirror = TestMirror::of(&registry).await;
    assert!(!mirror.get(&path).await.complete, "the trouble");
    mirror.settled().await;
    registry.clear_rules();
    mirror.advance(std::time::Duration::from_secs(3600));
    let anew = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get().without_header("range")).stall_before_headers(&anew));
    let late = async {
        anew.reached().await;
        // It is asked and answered meanwhile, and may give this one what it has of the blob.
        let looks = async {
            for _ in 0..20 {
                mirror.metrics().await;
            }
            anew.open();
        };
        tokio::join!(mirror.get(&path), looks).0
    };
    let (first, late) = tokio::join!(mirror.get(&path), late);
    assert!(first.complete && first.body == bytes, "who was there before");
    assert!(late.complete && late.body == bytes, "who came between: {} bytes", late.body.len());
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
