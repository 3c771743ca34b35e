//! Answers that are not quite what the specification says, and that real registries give.

use bytes::Bytes;
use scripted_registry::{Gate, Match, Registry, Rule, TokenPolicy, noise};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";

#[tokio::test]
async fn a_blob_without_a_length_comes_through_and_is_kept() {
    for (what, rule) in
        [("until close", Rule::on(Match::blobs()).without_length()), ("in chunks", Rule::on(Match::blobs()).chunked())]
    {
        let registry = Registry::start().await;
        let bytes = noise(231, 300_000);
        let digest = registry.add_blob("library/app", bytes.clone());
        registry.rule(rule);
        let mirror = TestMirror::of(&registry).await;
        let path = format!("/v2/library/app/blobs/{digest}");
        let response = mirror.get(&path).await;
        assert!(response.complete && response.body == bytes, "{what}");
        mirror.settled().await;
        let kept = mirror.get(&path).await;
        assert_eq!(kept.header("content-length"), Some("300000"), "{what}");
        assert_eq!(registry.gets_of(&digest), 1, "{what}");
    }
}

#[tokio::test]
async fn a_manifest_without_a_digest_header_is_hashed() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(232, 1000)]);
    registry.rule(Rule::on(Match::manifests()).without_header("docker-content-digest").without_header("etag"));
    let mirror = TestMirror::that_heard(&registry).await;
    let digest = image.manifest.digest.to_string();
    for path in [PATH.to_owned(), format!("/v2/library/app/manifests/{digest}")] {
        let response = mirror.get(&path).await;
        assert_eq!((response.status, response.header("docker-content-digest")), (200, Some(digest.as_str())), "{path}");
    }
    assert_eq!(registry.count_of(&Match::manifests()), 2, "one HEAD that does not tell, one GET that is enough");
    assert_eq!(registry.count_of(&Match::manifests().get()), 1);
    // Nor does it take more when the tag has moved.
    let moved = registry.add_image("library/app", "1", &[noise(235, 1000)]);
    mirror.advance(std::time::Duration::from_secs(301));
    let response = mirror.get(PATH).await;
    assert_eq!(response.header("docker-content-digest"), Some(moved.manifest.digest.to_string().as_str()));
    assert_eq!(registry.count_of(&Match::manifests()), 4);
}

#[tokio::test]
async fn manifests_may_be_redirected_to_a_host_that_says_less() {
    let (front, back) = (Registry::start().await, Registry::start().await);
    let image = back.add_image("library/app", "1", &[noise(233, 1000)]);
    front.rule(Rule::on(Match::any()).redirect_to_host(&back.url()));
    back.rule(
        Rule::on(Match::manifests())
            .without_header("docker-content-digest")
            .header("content-type", "application/octet-stream"),
    );
    let mirror = TestMirror::of(&front).await;
    let response = mirror.get(PATH).await;
    let Some(media_type) = response.header("content-type") else { panic!("a type") };
    assert_eq!(media_type, image.manifest.media_type);
    assert_eq!(response.header("docker-content-digest"), Some(image.manifest.digest.to_string().as_str()));
    for blob in image.blobs() {
        assert!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.complete);
    }
}

#[tokio::test]
async fn a_type_that_says_nothing_is_replaced_by_what_the_bytes_say() {
    for wrong in ["text/plain", "application/octet-stream", "application/json; charset=utf-8"] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(234, 1000)]);
        registry.rule(Rule::on(Match::manifests()).header("content-type", wrong));
        let mirror = TestMirror::of(&registry).await;
        let response = mirror.get(PATH).await;
        assert_eq!(response.header("content-type"), Some(image.manifest.media_type.as_str()), "{wrong}");
    }
}

#[tokio::test]
async fn a_body_of_an_error_is_not_waited_for() {
    let registry = Registry::start().await;
    let never = Gate::new();
    let endless = Bytes::from(vec![b'x'; 1 << 20]);
    for status in [404, 500] {
        registry.clear_rules();
        let rule = Rule::on(Match::manifests()).answer(status, "text/plain", endless.clone());
        registry.rule(rule.without_length().stall_after(100_000, &never));
        let mirror = TestMirror::of(&registry).await;
        let response = mirror.get(PATH).await;
        assert_eq!(response.status, if status == 404 { 404 } else { 503 });
        assert!(response.body.len() < 1000, "and none of it is passed on");
    }
}

#[tokio::test]
async fn manifests_and_tokens_that_are_too_long_are_refused() {
    let registry = Registry::start().await;
    let long = Bytes::from(vec![b' '; (8 << 20) + 1]);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry.rule(Rule::on(Match::manifests()).answer(200, media_type, long).chunked());
    let mirror = TestMirror::of(&registry).await;
    let response = mirror.get(PATH).await;
    assert_eq!(response.status, 502);
    assert!(String::from_utf8_lossy(&response.body).contains("longer than 8388608 bytes"));

    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(235, 1000)]);
    registry.require_tokens(TokenPolicy::bearer());
    let token = format!("{{\"token\":\"{}\"}}", "t".repeat(1 << 20));
    registry.rule(Rule::on(Match::token()).answer(200, "application/json", token).chunked());
    let mirror = TestMirror::of(&registry).await;
    let response = mirror.get(PATH).await;
    assert_eq!(response.status, 502);
    assert!(String::from_utf8_lossy(&response.body).contains("longer than 1048576 bytes"));
}

#[tokio::test]
async fn a_manifest_of_the_first_schema_is_a_404_that_says_why_and_is_not_kept() {
    let signed = r#"{"schemaVersion":1,"name":"library/app","tag":"1","fsLayers":[],"signatures":[]}"#;
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/json",
    ] {
        let registry = Registry::start().await;
        registry.add_manifest("library/app", &["1"], signed, media_type);
        let mirror = Settings::of(&registry).config("cache.negative_ttl = \"0s\"").start().await;
        mirror.get("/v2/library/app/tags/list").await;
        for asked in 1..=2 {
            let response = mirror.get(PATH).await;
            let body = String::from_utf8_lossy(&response.body);
            assert_eq!(response.status, 404, "{media_type}");
            assert!(body.contains("MANIFEST_UNKNOWN") && body.contains("schema 1"), "{body}");
            assert_eq!(registry.count_of(&Match::manifests().head()), asked, "{media_type}");
        }
    }
}
