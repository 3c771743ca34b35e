//! An upstream that wants rest: trap 18, and what a limit must not break.

use std::time::Duration;

use scripted_registry::client::Response;
use scripted_registry::{Image, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

const PATH: &str = "/v2/library/app/manifests/1";
const UNKNOWN: &str = "/v2/library/app/manifests/2";

/// A tag that was pulled and is not fresh any more.
async fn pulled() -> (Registry, TestMirror, Image) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(211, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    mirror.advance(Duration::from_secs(301));
    registry.forget_requests();
    (registry, mirror, image)
}

fn assert_stale(response: &Response, why: &str) {
    assert_eq!(response.status, 200, "{why}");
    assert!(response.header("warning").is_some_and(|warning| warning.starts_with("299 - ")), "{why}");
}

#[tokio::test]
async fn trap_18_a_limit_is_kept_by_everybody_for_as_long_as_upstream_asks() {
    // The clock of the mirror shows 2023-11-14 22:18:21.
    let limited = || Rule::on(Match::manifests());
    for (what, rule, seconds) in [
        ("seconds", limited().too_many_requests(Some("5")), 5),
        ("a date", limited().too_many_requests(Some("Tue, 14 Nov 2023 22:18:41 GMT")), 20),
        ("a stamp far away", limited().too_many_requests(Some("1746136938")), 900),
        ("too long", limited().too_many_requests(Some("86400")), 900),
        ("nothing", limited().too_many_requests(None), 60),
        (
            "text and bare line feeds",
            limited().answer(429, "text/plain", "Too Many Requests\n").header("retry-after", "60").bare_lf(),
            60,
        ),
    ] {
        let (registry, mirror, _) = pulled().await;
        registry.rule(rule);
        assert_stale(&mirror.get(PATH).await, what);
        // Five clients that come back at once, and another tag.
        for _ in 0..5 {
            assert_stale(&mirror.get(PATH).await, what);
            let response = mirror.get(UNKNOWN).await;
            assert_eq!(response.status, 503, "{what}");
            assert_eq!(response.header("retry-after"), Some(seconds.to_string().as_str()), "{what}");
        }
        mirror.advance(Duration::from_secs(seconds) - Duration::from_millis(1));
        assert_stale(&mirror.get(PATH).await, what);
        assert_eq!(registry.requests().len(), 1, "{what}");
        mirror.advance(Duration::from_millis(1));
        registry.clear_rules();
        assert_eq!(mirror.get(PATH).await.header("warning"), None, "{what}: the wait is over");
        assert_eq!(registry.requests().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_limit_on_manifests_leaves_the_layers_of_a_running_pull_alone() {
    let (registry, mirror, image) = pulled().await;
    registry.rule(Rule::on(Match::manifests()).too_many_requests(Some("60")));
    assert_eq!(mirror.get(UNKNOWN).await.status, 503);
    for blob in image.blobs() {
        assert_eq!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.status, 200);
    }
}

#[tokio::test]
async fn a_limit_on_blobs_is_a_limit_on_everything() {
    let (registry, mirror, _) = pulled().await;
    let digest = registry.add_blob("library/app", noise(212, 1000));
    registry.rule(Rule::on(Match::blobs()).too_many_requests(Some("60")));
    let path = format!("/v2/library/app/blobs/{digest}");
    for _ in 0..3 {
        let response = mirror.get(&path).await;
        assert_eq!((response.status, response.header("retry-after")), (503, Some("60")));
    }
    assert_stale(&mirror.get(PATH).await, "limited");
    assert_eq!(registry.requests().len(), 1);
}
