//! What clients and operators are told where an upstream does not give something: enough to go on with, and
//! nothing of what others asked for or of what is stored.

use scripted_registry::{Match, Registry, Rule, noise};
use serde_json::Value;

use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

/// What the answer to this says, which has to be no success.
async fn told(mirror: &TestMirror, path: &str) -> (u16, String) {
    let response = mirror.get(&format!("/v2/library/{path}")).await;
    assert!(response.status >= 400, "{path}: {}", response.status);
    let said: Value = serde_json::from_slice(&response.body).expect("JSON");
    (response.status, said["errors"][0]["message"].as_str().expect("a message").to_owned())
}

#[tokio::test]
async fn the_text_of_an_error_does_not_tell_whether_the_blob_is_stored() {
    let registry = Registry::start().await;
    let stored = registry.add_blob("library/one", noise(1, 1000)).to_string();
    let unknown = format!("sha256:{}", "1".repeat(64));
    for status in [404, 401, 403, 500, 503] {
        let mut said = Vec::new();
        for digest in [&stored, &unknown] {
            let mirror = Settings::of(&registry).start().await;
            assert!(mirror.get(&format!("/v2/library/one/blobs/{stored}")).await.complete);
            mirror.settled().await;
            registry.rule(Rule::on(Match::blobs()).refuse(status));
            let (status, text) = told(&mirror, &format!("two/blobs/{digest}")).await;
            said.push((status, text.replace(digest, "DIGEST")));
            registry.clear_rules();
        }
        assert_eq!(said[0], said[1], "{status}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_told_without_what_others_asked_for() {
    let mut registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    registry.stop().await;
    let (status, first) = told(&mirror, "secret/manifests/1").await;
    assert!(status == 503 && first.contains("secret"), "{status} {first}");
    let digest = format!("sha256:{}", "1".repeat(64));
    for path in ["other/manifests/1", &format!("other/blobs/{digest}"), "other/tags/list"] {
        let (status, next) = told(&mirror, path).await;
        assert!(status == 503 && !next.contains("secret"), "{path}: {status} {next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_now_is_named_with_what_to_do() {
    for mode in ["online", "prefer-cache"] {
        let mut registry = Registry::start().await;
        let mirror = Settings::of(&registry).config(&format!("cache.mode = \"{mode}\"")).start().await;
        registry.stop().await;
        let advice = "pull it again when docker.io answers, or bring it with: registry-mirror import FILE";
        let host = registry.url().strip_prefix("http://").unwrap().to_owned();
        // The second time it is left alone.
        for time in ["first", "second"] {
            let (status, said) = told(&mirror, "app/manifests/1").await;
            assert_eq!(status, 503);
            assert!(said.contains("docker.io/library/app:1") && said.ends_with(advice), "{mode}, {time}: {said}");
            assert!(said.contains(&host) && said.matches("127.0.0.1").count() == 1, "{mode}, {time}: {said}");
        }
        let (_, said) = told(&mirror, "app/tags/list").await;
        assert!(!said.contains("pull it again"), "a list is no image: {said}");
        let admin = format!("unix:{}", mirror.socket().display());
        let pulled = move || command::run(&["pull", "app:1", "--admin", &admin], b"");
        let (code, _, err) = tokio::task::spawn_blocking(pulled).await.expect("ends");
        assert!(code == 1 && err.contains("error: docker.io/library/app:1: ") && err.contains(advice), "{code} {err}");
        assert_eq!(err.matches("127.0.0.1").count(), 1, "{err}");
    }
}
