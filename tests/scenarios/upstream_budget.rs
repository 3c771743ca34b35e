//! Docker Hub's budget of pulls: shown, and spared.

use std::time::Duration;

use scripted_registry::{Match, Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";
const HOUR: Duration = Duration::from_secs(3600);

/// A tag that was pulled when so many of 100 pulls were left, and is not fresh any more.
async fn pulled(left: u64, settings: &str) -> (Registry, TestMirror) {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(221, 1000)]);
    registry.add_image("library/app", "2", &[noise(222, 1000)]);
    registry.limit_pulls(100, left);
    let mirror = Settings::of(&registry).upstream(settings).start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    mirror.advance(Duration::from_secs(301));
    registry.forget_requests();
    (registry, mirror)
}

async fn assert_gauge((registry, mirror): (&Registry, &TestMirror), name: &str, value: u64) {
    let endpoint = registry.authority();
    let line = format!("mirror_upstream_budget_{name}{{upstream=\"docker.io\",endpoint=\"{endpoint}\"}} {value}");
    let text = mirror.metrics().await;
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn trap_19_a_tag_is_revalidated_with_head_and_costs_no_pull() {
    let (registry, mirror) = pulled(50, "").await;
    assert_gauge((&registry, &mirror), "limit", 100).await;
    assert_gauge((&registry, &mirror), "left", 49).await;
    assert_gauge((&registry, &mirror), "reset_timestamp_seconds", 1_700_000_000 + 6 * 3600).await;
    assert!(mirror.get(PATH).await.header("cache-status").unwrap().contains("revalidated"));
    assert_eq!(registry.requests().len(), 1);
    assert_eq!(registry.count_of(&Match::manifests().head()), 1);
    assert_gauge((&registry, &mirror), "left", 49).await;
}

#[tokio::test]
async fn below_the_floor_cached_tags_are_served_without_asking() {
    let (registry, mirror) = pulled(10, "").await;
    let response = mirror.get(PATH).await;
    assert_eq!(response.status, 200);
    assert!(response.header("cache-status").unwrap().contains("stale"));
    assert!(response.header("warning").is_some());
    assert!(registry.requests().is_empty());
    // What is not cached is asked for all the same.
    assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 200);
    assert_gauge((&registry, &mirror), "left", 8).await;
}

#[tokio::test]
async fn the_floor_is_a_setting() {
    let (registry, mirror) = pulled(10, "budget_floor = \"5%\"").await;
    assert!(mirror.get(PATH).await.header("cache-status").unwrap().contains("revalidated"));
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn with_nothing_left_stale_goes_on_until_the_window_passes() {
    let (registry, mirror) = pulled(1, "budget_floor = \"0%\"").await;
    assert_gauge((&registry, &mirror), "left", 0).await;
    for _ in 0..5 {
        mirror.advance(HOUR);
        let response = mirror.get(PATH).await;
        assert_eq!(response.status, 200);
        assert!(response.header("cache-status").unwrap().contains("stale"));
    }
    assert!(registry.requests().is_empty());
    registry.limit_pulls(100, 100);
    mirror.advance(HOUR);
    assert!(mirror.get(PATH).await.header("cache-status").unwrap().contains("revalidated"));
    assert_gauge((&registry, &mirror), "left", 100).await;
}

#[tokio::test]
async fn a_pull_beyond_the_budget_is_a_503_and_asked_once() {
    let (registry, mirror) = pulled(1, "").await;
    for _ in 0..5 {
        let response = mirror.get("/v2/library/app/manifests/2").await;
        assert_eq!((response.status, response.header("retry-after").is_some()), (503, true));
    }
    assert_eq!(registry.count_of(&Match::manifests().get()), 1);
}
