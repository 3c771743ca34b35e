//! Tags: fresh, stale, gone, moved; different clients; names of upstreams.

use std::time::Duration;

use scripted_registry::{Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";

async fn pulled() -> (Registry, TestMirror, String) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(31, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    registry.forget_requests();
    (registry, mirror, image.manifest.digest.to_string())
}

#[tokio::test]
async fn a_fresh_tag_is_served_without_asking_and_an_old_one_after_one_head() {
    let (registry, mirror, digest) = pulled().await;
    let fresh = mirror.get(PATH).await;
    assert_eq!(fresh.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
    assert!(registry.requests().is_empty());
    mirror.advance(Duration::from_secs(301));
    let revalidated = mirror.get(PATH).await;
    assert_eq!(revalidated.header("docker-content-digest"), Some(digest.as_str()));
    assert!(revalidated.header("cache-status").unwrap().contains("revalidated"));
    let requests = registry.requests();
    assert_eq!(requests.iter().map(|r| r.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
    mirror.get(PATH).await;
    assert_eq!(registry.requests().len(), 1, "fresh again");
}

#[tokio::test]
async fn a_moved_tag_is_fetched_once_and_by_digest() {
    let (registry, mirror, old) = pulled().await;
    let image = registry.add_image("library/app", "1", &[noise(32, 1000)]);
    assert_eq!(mirror.get(PATH).await.header("docker-content-digest"), Some(old.as_str()));
    mirror.advance(Duration::from_secs(301));
    let new = image.manifest.digest.to_string();
    assert_eq!(mirror.get(PATH).await.header("docker-content-digest"), Some(new.as_str()));
    assert_eq!(registry.count_of(&Match::manifest("library/app", "1").get()), 0);
    assert_eq!(registry.gets_of(&image.manifest.digest), 1);
}

#[tokio::test]
async fn only_an_upstream_that_cannot_answer_is_covered_for() {
    for (status, expected) in [(500, 200), (502, 200), (503, 200), (429, 200), (404, 404), (401, 404), (403, 404)] {
        let (registry, mirror, digest) = pulled().await;
        registry.rule(Rule::on(Match::manifests()).refuse(status));
        mirror.advance(Duration::from_secs(301));
        let response = mirror.get(PATH).await;
        assert_eq!(response.status, expected, "upstream said {status}");
        if expected == 200 {
            assert_eq!(response.header("docker-content-digest"), Some(digest.as_str()));
            assert!(response.header("cache-status").unwrap().contains("stale"), "upstream said {status}");
            assert!(response.header("warning").unwrap().starts_with("299 - "), "upstream said {status}");
        } else {
            assert_eq!(response.header("warning"), None);
        }
    }
}

#[tokio::test]
async fn a_tag_that_upstream_took_back_stays_gone_when_upstream_goes_away() {
    let (mut registry, mirror, _) = pulled().await;
    registry.remove_tag("library/app", "1");
    mirror.advance(Duration::from_secs(301));
    assert_eq!(mirror.get(PATH).await.status, 404);
    registry.stop().await;
    mirror.advance(Duration::from_secs(301));
    assert_eq!(mirror.get(PATH).await.status, 503, "it is not known whether it is back");
}

#[tokio::test]
async fn an_unreachable_upstream_is_covered_for_as_long_as_the_setting_says() {
    let (mut registry, mirror, _) = pulled().await;
    registry.stop().await;
    mirror.advance(Duration::from_secs(29 * 86_400));
    assert_eq!(mirror.get(PATH).await.status, 200);
    mirror.advance(Duration::from_secs(2 * 86_400));
    let response = mirror.get(PATH).await;
    assert_eq!(response.status, 503);
    assert!(String::from_utf8_lossy(&response.body).contains("UNAVAILABLE"));
}

#[tokio::test]
async fn a_tag_that_was_not_found_is_asked_for_again_soon() {
    let registry = Registry::start().await;
    let mirror = TestMirror::that_heard(&registry).await;
    for _ in 0..3 {
        assert_eq!(mirror.get(PATH).await.status, 404);
    }
    let asked = registry.requests().into_iter().filter(|r| r.path.contains("/manifests/"));
    assert_eq!(asked.map(|r| r.method).collect::<Vec<_>>(), ["HEAD", "GET"], "once, and by both methods");
    registry.add_image("library/app", "1", &[noise(33, 1000)]);
    mirror.advance(Duration::from_secs(31));
    assert_eq!(mirror.get(PATH).await.status, 200);
}

#[tokio::test]
async fn clients_that_accept_different_types_get_different_manifests() {
    let registry = Registry::start().await;
    let oci = registry.add_image("library/app", "oci", &[noise(34, 1000)]);
    let docker = registry.add_docker_image("library/app", "docker", &[noise(34, 1000)]);
    registry.negotiate_tag("library/app", "1", &[oci.manifest.digest, docker.manifest.digest]);
    let mirror = TestMirror::of(&registry).await;
    for _ in 0..2 {
        for image in [&docker, &oci] {
            let accept = image.manifest.media_type.to_string();
            let response = mirror.get_with(PATH, &[("Accept", &accept)]).await;
            let digest = image.manifest.digest.to_string();
            assert_eq!(response.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(response.header("content-type"), Some(accept.as_str()));
        }
    }
}

#[tokio::test]
async fn upstreams_share_no_names() {
    let (one, other) = (Registry::start().await, Registry::start().await);
    let here = one.add_image("library/app", "1", &[noise(35, 1000)]);
    let there = other.add_image("library/app", "1", &[noise(36, 1000)]);
    let mirror = Settings::of(&one).and("other.example:5000", &other).start().await;
    for (path, image) in [
        (PATH, &here),
        ("/v2/app/manifests/1", &here),
        ("/v2/library/app/manifests/1?ns=docker.io", &here),
        ("/v2/library/app/manifests/1?ns=other.example%3A5000", &there),
        ("/v2/other.example:5000/library/app/manifests/1", &there),
        ("/other.example:5000/v2/library/app/manifests/1", &there),
    ] {
        let response = mirror.get(path).await;
        let digest = image.manifest.digest.to_string();
        assert_eq!(response.header("docker-content-digest"), Some(digest.as_str()), "{path}");
    }
    let echoed = mirror.get("/v2/library/app/manifests/1?ns=docker.io").await;
    assert_eq!(echoed.header("oci-namespace"), Some("docker.io"));
    for (path, status) in [
        ("/v2/library/app/manifests/1?ns=unknown.example", 404),
        ("/v2/library/app/manifests/1?ns=docker.io&ns=docker.io", 400),
        ("/other.example:5000/v2/library/app/manifests/1?ns=docker.io", 400),
    ] {
        assert_eq!(mirror.get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn offline_everything_that_was_pulled_keeps_pulling_and_nobody_is_asked() {
    let (registry, mirror, digest) = pulled().await;
    mirror.settled().await;
    let settings = mirror.stop().await;
    let mirror = settings.config("cache.mode = \"offline\"").start().await;
    mirror.advance(Duration::from_secs(400 * 86_400));
    let response = mirror.get(PATH).await;
    assert_eq!((response.status, response.header("docker-content-digest")), (200, Some(digest.as_str())));
    let missing = mirror.get("/v2/library/other/manifests/1").await;
    assert_eq!(missing.status, 503);
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_listener_with_an_upstream_of_its_own_answers_for_that_one() {
    let (hub, other) = (Registry::start().await, Registry::start().await);
    let here = hub.add_image("library/app", "1", &[noise(37, 1000)]);
    let there = other.add_image("app", "1", &[noise(38, 1000)]);
    let listen = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=other.example\"]";
    let mirror = Settings::of(&hub).config(listen).and("other.example", &other).start().await;
    for (listener, path, image) in [
        (0, "/v2/app/manifests/1", &here),
        (1, "/v2/app/manifests/1", &there),
        (1, "/v2/app/manifests/1?ns=docker.io", &here),
        (1, "/v2/docker.io/app/manifests/1", &here),
        (0, "/v2/other.example/app/manifests/1", &there),
    ] {
        let answer = scripted_registry::client::get(mirror.addresses[listener], path, &[]).await;
        let digest = image.manifest.digest.to_string();
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{listener} {path}");
    }
}
