//! Traps 20 to 25 and 27: what is answered from memory, to whom, and under which name.

use std::time::Duration;

use scripted_registry::{Match, Registry, Rule, TokenPolicy, client, noise};

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const NEGATIVE_TTL: Duration = Duration::from_secs(31);

#[tokio::test]
async fn trap_20_only_an_outage_is_covered_for_with_an_old_tag() {
    type Misbehaviour = fn(Rule) -> Rule;
    let misbehaviours: [(&str, Misbehaviour, u16); 7] = [
        ("gone", |rule| rule.refuse(404), 404),
        ("wants credentials", |rule| rule.refuse(401), 404),
        ("denied", |rule| rule.refuse(403), 404),
        ("broken", |rule| rule.refuse(500), 200),
        ("limited", |rule| rule.refuse(429), 200),
        ("hangs up", Rule::close_at_once, 200),
        ("resets", Rule::reset_at_once, 200),
    ];
    for (what, misbehave, expected) in misbehaviours {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(111, 100)]);
        let mirror = TestMirror::of(&registry).await;
        mirror.get(TAG).await;
        registry.rule(misbehave(Rule::on(Match::any())));
        mirror.advance(Duration::from_secs(301));
        let answer = mirror.get(TAG).await;
        assert_eq!(answer.status, expected, "{what}");
        assert_eq!(answer.header("warning").is_some(), expected == 200, "{what}: stale says so");
        let digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
        if expected == 200 {
            assert_eq!(mirror.get(&digest).await.status, 200, "{what}: a digest is not in need of upstream");
        }
    }
}

#[tokio::test]
async fn trap_21_not_found_is_believed_for_seconds_and_nothing_else_is() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "other", &[noise(112, 100)]);
    let mirror = TestMirror::of(&registry).await;
    let late = noise(113, 1000);
    let digest = scripted_registry::Digest::of(scripted_registry::Algorithm::Sha256, &late);
    let paths = [
        TAG.to_owned(),
        format!("/v2/library/app/manifests/{digest}"),
        format!("/v2/library/app/blobs/{digest}"),
        "/v2/library/app/manifests/sha256-abc.sig".to_owned(),
    ];
    for path in &paths {
        for _ in 0..3 {
            assert_eq!(mirror.get(path).await.status, 404, "{path}");
            mirror.settled().await;
        }
        // By HEAD, too, where it is a tag: what that is told is no word on what GET would get.
        assert_eq!(registry.count_of(&Match::path(path).get()), 1, "{path}");
        assert!(registry.count_of(&Match::path(path)) <= 2, "{path}");
    }
    registry.add_image("library/app", "1", &[noise(114, 100)]);
    registry.add_blob("library/app", late);
    mirror.advance(NEGATIVE_TTL);
    assert_eq!(mirror.get(&paths[0]).await.status, 200);
    assert_eq!(mirror.get(&paths[2]).await.status, 200);

    registry.rule(Rule::on(Match::repository("library/private")).refuse(403));
    let denied = "/v2/library/private/manifests/1";
    for times in 1..3 {
        assert_eq!(mirror.get(denied).await.status, 404);
        assert!(registry.count_of(&Match::path(denied)) >= times, "a refusal is asked about again");
    }
}

#[tokio::test]
async fn trap_21_a_digest_that_was_missing_is_found_when_a_tag_leads_there() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let elsewhere = Registry::start().await;
    let image = elsewhere.add_image("library/app", "1", &[noise(115, 100)]);
    let path = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    assert_eq!(mirror.get(&path).await.status, 404);
    registry.add_image("library/app", "1", &[noise(115, 100)]);
    assert_eq!(mirror.get(TAG).await.status, 200, "upstream has just said that it is there");
    assert_eq!(mirror.get(&path).await.status, 200);
}

#[tokio::test]
async fn trap_22_content_is_served_where_upstream_has_it_and_nowhere_else() {
    let registry = Registry::start().await;
    let bytes = noise(116, 10_000);
    let secret = registry.add_blob("private/a", bytes.clone());
    let manifest = registry.add_image("private/a", "1", &[noise(117, 100)]).manifest.digest;
    let mirror = TestMirror::of(&registry).await;
    mirror.get(&format!("/v2/private/a/blobs/{secret}")).await;
    mirror.get(&format!("/v2/private/a/manifests/{manifest}")).await;
    mirror.settled().await;
    let stranger = format!("/v2/public/b/blobs/{secret}");
    for path in [&stranger, &format!("/v2/public/b/manifests/{manifest}"), &format!("/v2/public/b/blobs/{manifest}")] {
        assert_eq!(mirror.get(path).await.status, 404, "{path}");
        assert_eq!(mirror.head(path).await.status, 404, "{path}");
        assert!(registry.count_of(&Match::path(path)) > 0, "upstream was asked for {path}");
    }
    registry.add_blob("public/b", bytes.clone());
    registry.forget_requests();
    mirror.advance(NEGATIVE_TTL);
    assert_eq!(mirror.get(&stranger).await.body, bytes);
    assert_eq!(registry.requests().len(), 1, "one HEAD");
    assert_eq!(registry.body_bytes_sent(&secret), 0, "and no byte of body");
}

#[tokio::test]
async fn trap_23_clients_are_not_challenged_and_their_credentials_go_nowhere() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(118, 100)]);
    registry.require_tokens(TokenPolicy::bearer());
    let mirror = TestMirror::of(&registry).await;
    for secret in ["Basic Y2FuYXJ5LXNlY3JldA==", "Bearer canary-secret"] {
        let headers = [("Authorization", secret), ("Cookie", "canary-secret"), ("X-Registry-Auth", "canary-secret")];
        for path in ["/v2/", TAG, "/v2/library/none/manifests/1", "/v2/library/app/tags/list"] {
            let answer = mirror.get_with(path, &headers).await;
            assert_eq!(answer.header("www-authenticate"), None, "{path}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "{path}");
        }
    }
    for request in registry.requests() {
        let headers = format!("{:?} {}", request.headers, request.query);
        assert!(!headers.contains("canary") && !headers.contains("Y2FuYXJ5"), "{headers}");
    }
    assert!(!mirror.metrics().await.contains("canary"));
}

#[tokio::test]
async fn trap_24_ns_chooses_among_our_upstreams_and_nothing_else() {
    let (one, other) = (Registry::start().await, Registry::start().await);
    let here = one.add_image("library/app", "1", &[noise(119, 100)]).manifest.digest.to_string();
    let there = other.add_image("library/app", "1", &[noise(120, 100)]).manifest.digest.to_string();
    let mirror = Settings::of(&one).and("other.example:5000", &other).start().await;
    for (ns, digest) in [
        ("docker.io", &here),
        ("registry-1.docker.io", &here),
        ("other.example:5000", &there),
        ("other.example%3A5000", &there),
    ] {
        let answer = mirror.get(&format!("{TAG}?ns={ns}")).await;
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{ns}");
        assert_eq!(answer.header("oci-namespace"), Some(ns.replace("%3A", ":").as_str()));
    }
    let asked = (one.requests().len(), other.requests().len());
    for (ns, status, code) in [
        ("169.254.169.254", 404, "NAME_UNKNOWN"),
        ("localhost:22", 404, "NAME_UNKNOWN"),
        ("other.example", 404, "NAME_UNKNOWN"),
        ("other.example:5001", 404, "NAME_UNKNOWN"),
        ("docker.io&ns=other.example:5000", 400, "NAME_INVALID"),
        ("http://127.0.0.1/", 400, "NAME_INVALID"),
        ("", 400, "NAME_INVALID"),
    ] {
        let answer = mirror.get(&format!("{TAG}?ns={ns}")).await;
        assert_eq!(answer.status, status, "{ns}");
        assert!(String::from_utf8_lossy(&answer.body).contains(code), "{ns}");
        assert_eq!(answer.header("oci-namespace"), None, "{ns}");
    }
    assert_eq!((one.requests().len(), other.requests().len()), asked, "nobody was asked");
}

#[tokio::test]
async fn trap_25_every_name_of_an_image_is_one_image() {
    let (hub, other) = (Registry::start().await, Registry::start().await);
    let image = hub.add_image("library/nginx", "1", &[noise(121, 100)]);
    let single = other.add_image("foo", "1", &[noise(122, 100)]);
    let mirror = Settings::of(&hub).and("ghcr.io", &other).start().await;
    for path in [
        "/v2/nginx/manifests/1",
        "/v2/library/nginx/manifests/1",
        "/v2/docker.io/nginx/manifests/1",
        "/v2/index.docker.io/library/nginx/manifests/1",
        "/registry-1.docker.io/v2/nginx/manifests/1",
        "/v2/nginx/manifests/1?ns=docker.io",
        "/v2/nginx/manifests/1?ns=registry-1.docker.io",
    ] {
        let answer = mirror.get(path).await;
        let digest = image.manifest.digest.to_string();
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{path}");
    }
    assert_eq!(hub.count_of(&Match::manifests()), 1, "one GET");
    let answer = mirror.get("/v2/ghcr.io/foo/manifests/1").await;
    let digest = single.manifest.digest.to_string();
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "library/ is Docker Hub's alone");
}

#[tokio::test]
async fn trap_27_the_ping_is_ours_alone() {
    let mut registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer());
    let mirror = TestMirror::of(&registry).await;
    registry.stop().await;
    let mut connection = client::Connection::open(mirror.address).await;
    for number in 0..1000 {
        let (method, path) =
            [("GET", "/v2/"), ("HEAD", "/v2/"), ("GET", "/v2"), ("GET", "/v2/?ns=docker.io")][number % 4];
        let mut answer = connection.send(method, path, &[]).await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!((answer.header("www-authenticate"), answer.header("x-registry-supports-signatures")), (None, None));
        let body = answer.read(100).await;
        assert_eq!(body, if method == "GET" { "{}" } else { "" });
        connection = answer.done().await.expect("the connection stays open");
    }
    assert!(registry.requests().is_empty());
}
