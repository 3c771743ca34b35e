//! The form in which a client is told that he wants too much, whatever he asks for and however.

use scripted_registry::client::{Connection, Response};
use scripted_registry::{Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

const GREEDY: [u8; 4] = [127, 0, 0, 21];
const HONEST: [u8; 4] = [127, 0, 0, 22];

async fn ask(mirror: &TestMirror, from: [u8; 4], method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let connection = Connection::open_from(from, mirror.address).await;
    connection.send(method, path, headers).await.expect("an answer").finish().await
}

fn is_told(response: &Response, method: &str, limit: &str) {
    let wait = response.header("retry-after").and_then(|wait| wait.parse::<u64>().ok()).unwrap_or_default();
    assert!(response.status == 429 && (1..=60).contains(&wait), "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert!(response.header("cache-status").is_some_and(|status| status.contains("detail=local")), "{response:?}");
    assert_eq!(response.header("docker-distribution-api-version"), Some("registry/2.0"));
    if method == "HEAD" {
        assert!(response.body.is_empty() && response.header("content-length") != Some("0"), "{response:?}");
        return;
    }
    let error: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(error["errors"][0]["code"], "TOOMANYREQUESTS");
    assert!(error["errors"][0]["message"].as_str().is_some_and(|message| message.contains(limit)), "{error}");
}

/// Every request that is counted is refused in the same form: each way to ask, warm and cold, good and bad.
#[tokio::test]
async fn every_request_beyond_a_limit_is_refused_in_one_form_whatever_it_is() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 100_000)]);
    let (manifest, layer) = (image.manifest.digest, image.layers[0].digest);
    // A request a second: the first one is his.
    let mirror = Settings::of(&registry).config("limits.requests_per_client = 1").start().await;
    let warm = format!("/v2/library/app/manifests/{manifest}");
    for path in ["/v2/library/app/manifests/1", &warm, &format!("/v2/library/app/blobs/{layer}")] {
        let from = [127, 0, 1, u8::try_from(path.len() % 200).expect("small")];
        assert_eq!(ask(&mirror, from, "GET", path, &[]).await.status, 200);
        mirror.settled().await;
    }
    registry.forget_requests();
    let paths = [
        "/v2/".to_owned(),
        "/v2/library/app/manifests/1".to_owned(),
        warm,
        format!("/v2/library/app/blobs/{layer}"),
        "/v2/library/other/manifests/1".to_owned(),
        format!("/v2/library/other/blobs/{layer}"),
        "/v2/library/app/tags/list".to_owned(),
        format!("/v2/library/app/referrers/{manifest}"),
        "/v2/_catalog".to_owned(),
        "/nothing".to_owned(),
        "/v2/Not/A/Name/manifests/1".to_owned(),
    ];
    let mut refused = 0;
    for path in &paths {
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            for headers in
                [&[][..], &[("Range", "bytes=0-9")], &[("If-None-Match", "*"), ("Authorization", "Bearer x")]]
            {
                let answer = ask(&mirror, GREEDY, method, path, headers).await;
                // One a second is his.
                if answer.status == 429 {
                    is_told(&answer, method, "limits.requests_per_client");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused} of 132");
    assert_eq!(ask(&mirror, HONEST, "GET", "/v2/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_head_beyond_the_limit_of_questions_is_told_so_and_upstream_hears_nothing() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 100_000)]);
    let (manifest, layer) = (image.manifest.digest, image.layers[0].digest);
    let mirror = Settings::of(&registry).config("limits.cold_per_client = 1").start().await;
    assert_eq!(ask(&mirror, GREEDY, "HEAD", "/v2/library/app/manifests/1", &[]).await.status, 200);
    registry.forget_requests();
    for path in [
        "/v2/library/app/manifests/2".to_owned(),
        format!("/v2/library/app/manifests/{manifest}"),
        format!("/v2/library/app/blobs/{layer}"),
        format!("/v2/library/app/referrers/{manifest}"),
        "/v2/library/app/tags/list".to_owned(),
        format!("/library/v2/app/blobs/{layer}?ns=docker.io"),
    ] {
        for method in ["HEAD", "GET"] {
            let answer = ask(&mirror, GREEDY, method, &path, &[]).await;
            assert!(answer.status != 200, "{method} {path}: {answer:?}");
            if !path.starts_with("/library") {
                is_told(&answer, method, "limits.cold_per_client");
            }
        }
        let parts = ask(&mirror, GREEDY, "GET", &path, &[("Range", "bytes=0-9,20-29")]).await;
        assert!(parts.status != 200 && parts.status != 206, "{path}: {parts:?}");
    }
    assert_eq!(registry.requests().len(), 0, "{:?}", registry.requests());
    assert_eq!(ask(&mirror, HONEST, "HEAD", "/v2/library/app/manifests/1", &[]).await.status, 200);
}
