//! An upstream that does not answer: what it costs, and how it comes back.

use std::time::Duration;

use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use serde_json::{Value, json};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";

fn up(registry: &Registry, value: u8) -> String {
    format!("mirror_upstream_up{{upstream=\"docker.io\",endpoint=\"{}\"}} {value}", registry.authority())
}

async fn assert_metric(mirror: &TestMirror, line: &str) {
    let text = mirror.metrics().await;
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn a_silent_upstream_costs_a_few_time_outs_until_it_is_back() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(201, 1000)]);
    registry.add_image("library/app", "2", &[noise(202, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    assert_metric(&mirror, &up(&registry, 1)).await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
    tokio::time::pause();
    for path in ["app/manifests/2", "app/manifests/3", "other/manifests/1"] {
        assert_metric(&mirror, &up(&registry, 1)).await;
        assert_eq!(mirror.get(&format!("/v2/library/{path}")).await.status, 503);
    }
    assert_metric(&mirror, &up(&registry, 0)).await;
    // Somebody else may find out at once; after that there is a pause for all.
    assert_eq!(mirror.get("/v2/library/another/manifests/1").await.status, 503);
    tokio::time::resume();
    registry.forget_requests();
    for n in 0..20 {
        let response = mirror.get(&format!("/v2/library/app/manifests/{}", n % 5 + 2)).await;
        assert_eq!(response.status, 503);
        assert!(String::from_utf8_lossy(&response.body).contains("did not answer"));
    }
    assert!(registry.requests().is_empty(), "nobody is asked");
    assert_eq!(mirror.get(PATH).await.status, 200, "what is cached is served");
    registry.clear_rules();
    gate.open();
    mirror.advance(Duration::from_secs(1));
    assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 200, "the probe is an ordinary request");
    assert_metric(&mirror, &up(&registry, 1)).await;
}

#[tokio::test]
async fn what_was_silent_is_not_asked_for_again_at_once() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
    tokio::time::pause();
    for _ in 0..20 {
        assert_eq!(mirror.get(PATH).await.status, 503);
    }
    assert_eq!(registry.requests().len(), 1);
    gate.open();
}

#[tokio::test]
async fn a_probe_that_fails_doubles_the_pause() {
    let mut registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(203, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    registry.stop().await;
    assert_eq!(mirror.get(PATH).await.status, 503);
    mirror.advance(Duration::from_secs(1));
    assert_eq!(mirror.get(PATH).await.status, 503);
    registry.restart_on_same_port().await;
    mirror.advance(Duration::from_secs(1));
    assert_eq!(mirror.get(PATH).await.status, 503, "two seconds this time");
    assert!(registry.requests().is_empty());
    mirror.advance(Duration::from_secs(1));
    assert_eq!(mirror.get(PATH).await.status, 200);
}

#[tokio::test]
async fn errors_about_one_image_keep_no_other_from_being_pulled() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(204, 1000)]);
    registry.rule(Rule::on(Match::repository("library/broken")).refuse(500));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/broken/manifests/1").await.status, 503);
    assert_eq!(mirror.get(PATH).await.status, 200);
}

#[tokio::test]
async fn a_dead_first_address_is_tried_once_and_the_second_serves() {
    let (first, second) = (Registry::start().await, Registry::start().await);
    first.rule(Rule::on(Match::any()).close_at_once());
    let image = second.add_image("app", "1", &[noise(205, 100_000)]);
    let urls = format!("[[upstream]]\nhost = \"two.example\"\nurl = [\"{}\", \"{}\"]", first.url(), second.url());
    let mirror = Settings::of(&first).upstream(&urls).start().await;
    assert_eq!(mirror.get("/v2/two.example/app/manifests/1").await.status, 200);
    for blob in image.blobs() {
        let response = mirror.get(&format!("/v2/two.example/app/blobs/{}", blob.digest)).await;
        assert!(response.complete && response.status == 200);
    }
    assert_eq!(first.requests().len(), 1, "then it is left alone");
    let line = |registry: &Registry, value: u8| up(registry, value).replace("docker.io", "two.example");
    assert_metric(&mirror, &line(&first, 0)).await;
    assert_metric(&mirror, &line(&second, 1)).await;
}

#[tokio::test]
async fn who_finds_out_whether_it_is_back_need_not_wait_for_it_where_something_stored_stands_in() {
    const TAGS: &str = "/v2/library/app/tags/list";
    for path in [PATH, TAGS] {
        let mut registry = Registry::start().await;
        registry.add_image("library/app", "1", &[noise(206, 1000)]);
        // So patient that nobody who waits for it sees the end of this test.
        let mirror = Settings::of(&registry).upstream("first_byte_timeout = \"1h\"").start().await;
        assert_eq!(mirror.get(path).await.status, 200);
        registry.stop().await;
        mirror.advance(Duration::from_secs(301));
        assert_eq!(mirror.get(path).await.status, 200, "stale");
        assert_metric(&mirror, &up(&registry, 0)).await;
        registry.restart_on_same_port().await;
        let gate = Gate::new();
        registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
        mirror.advance(Duration::from_secs(301));
        registry.forget_requests();
        for _ in 0..3 {
            let stale = mirror.get(path).await;
            assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{path}");
        }
        assert_eq!(registry.requests().len(), 1, "one of them has asked, for {path}");
        gate.open();
        while !mirror.metrics().await.contains(&up(&registry, 1)) {
            tokio::task::yield_now().await;
        }
        assert_eq!(mirror.get(path).await.header("warning"), None, "the probe was heard out");
    }
}

#[tokio::test]
async fn each_address_shows_its_own_state_and_the_one_that_is_asked_says_what_may_be_spent() {
    let (first, second) = (Registry::start().await, Registry::start().await);
    first.rule(Rule::on(Match::any()).close_at_once());
    second.limit_pulls(100, 8);
    second.add_image("app", "1", &[noise(206, 1000)]);
    second.add_image("app", "2", &[noise(207, 1000)]);
    let urls = format!("[[upstream]]\nhost = \"two.example\"\nurl = [\"{}\", \"{}\"]", first.url(), second.url());
    let mirror = Settings::of(&first).upstream(&urls).start().await;
    assert_eq!(mirror.get("/v2/two.example/app/manifests/1").await.status, 200);
    mirror.advance(Duration::from_secs(301));
    // Finds the first dead once more and makes it be left alone for two seconds.
    assert_eq!(mirror.get("/v2/two.example/app/manifests/2").await.status, 200);

    let status = client::get(mirror.admin, "/api/v1/status", &[("Host", "localhost")]).await;
    let status: Value = serde_json::from_slice(&status.body).expect("JSON");
    let upstreams = status["upstreams"].as_array().expect("a list");
    let two = upstreams.iter().find(|upstream| upstream["host"] == "two.example").expect("is there");
    let error = json!({ "class": "unavailable", "failed_at": "2023-11-14T22:18:21.000Z" });
    let [dead, alive] = [&two["endpoints"][0], &two["endpoints"][1]];
    assert_eq!(dead["url"].as_str().map(|url| url.trim_end_matches('/')), Some(first.url().as_str()));
    assert_eq!([&dead["state"], &dead["asked_again_at"]], ["down", "2023-11-14T22:18:23.000Z"]);
    assert_eq!([&dead["last_error"], &dead["pulls"]], [&error, &Value::Null]);
    assert_eq!([&alive["state"], &alive["last_error"]], [&json!("up"), &Value::Null]);
    // Six hours from where the clock began.
    let resets_at = "2023-11-15T04:13:20.000Z";
    assert_eq!(alive["pulls"], json!({ "limit": 100, "left": 6, "resets_at": resets_at }));
    assert_eq!([&two["filling"], &two["waiting"]], [0, 0]);
    let endpoint = second.authority();
    let gauge = format!("mirror_upstream_budget_left{{upstream=\"two.example\",endpoint=\"{endpoint}\"}} 6");
    assert_metric(&mirror, &gauge).await;

    // Few pulls are left where we would ask: what is cached is served without.
    second.forget_requests();
    let response = mirror.get("/v2/two.example/app/manifests/1").await;
    assert!(response.status == 200 && response.header("cache-status").unwrap().contains("stale"));
    assert!(second.requests().is_empty());
}
