//! The smaller traps.

use registry_mirror::clock::{Clock as _, Timestamp};
use scripted_registry::{Algorithm, Match, Registry, Rule, TokenPolicy, client, noise};
use serde_json::json;

use crate::support::mirror::TestMirror;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[tokio::test]
async fn trap_extra_names_may_be_made_of_keywords_and_stand_on_either_side_of_v2() {
    let registry = Registry::start().await;
    let image = registry.add_image("manifests/blobs/manifests/tags/list", "latest", &[noise(131, 100)]);
    let mirror = TestMirror::of(&registry).await;
    for path in [
        "/v2/manifests/blobs/manifests/tags/list/manifests/latest",
        "/v2/docker.io/manifests/blobs/manifests/tags/list/manifests/latest",
        "/docker.io/v2/manifests/blobs/manifests/tags/list/manifests/latest",
    ] {
        let answer = mirror.get(path).await;
        let digest = image.manifest.digest.to_string();
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{path}");
    }
    for path in ["/v2/a%2Fb/manifests/1", "/v2/a/../b/manifests/1", "/v2/%2e%2e/manifests/1"] {
        assert_eq!(mirror.get(path).await.status, 400, "{path}");
    }
}

#[tokio::test]
async fn trap_extra_writes_are_refused_and_go_nowhere() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = client::request(mirror.address, method, "/v2/library/app/blobs/uploads/", &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        assert!(String::from_utf8_lossy(&answer.body).contains("UNSUPPORTED"));
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn trap_extra_headers_of_the_upstream_are_not_ours() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(132, 100)]);
    let headers = [
        "set-cookie",
        "strict-transport-security",
        "server",
        "alt-svc",
        "x-registry-supports-signatures",
        "ratelimit-remaining",
        "docker-ratelimit-source",
        "via",
    ];
    let rule = headers.iter().fold(Rule::on(Match::any()), |rule, name| rule.header(name, "1;w=21600"));
    registry.rule(rule);
    let mirror = TestMirror::of(&registry).await;
    let digest = image.manifest.digest;
    for path in [
        "/v2/library/app/manifests/1".to_owned(),
        format!("/v2/library/app/blobs/{}", image.config.digest),
        "/v2/library/app/tags/list".to_owned(),
        format!("/v2/library/app/referrers/{digest}"),
    ] {
        let answer = mirror.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        for name in headers {
            assert_eq!(answer.header(name), None, "{path} {name}");
        }
    }
}

#[tokio::test]
async fn trap_extra_sha512_is_verified_as_such_and_unknown_algorithms_are_refused() {
    let registry = Registry::start().await;
    let long = registry.add_blob_with("library/app", Algorithm::Sha512, noise(133, 5000));
    let wrong = registry.add_blob_with("library/app", Algorithm::Sha512, noise(134, 5000));
    registry.rule(Rule::on(Match::blob(&wrong)).flip_last_byte());
    let mirror = TestMirror::of(&registry).await;
    assert!(mirror.get(&format!("/v2/library/app/blobs/{long}")).await.complete);
    mirror.settled().await;
    assert!(mirror.store().join("blobs/sha512").join(long.hex()).exists());
    let answer = mirror.get(&format!("/v2/library/app/blobs/{wrong}")).await;
    assert!(!answer.complete || answer.status >= 500);
    mirror.settled().await;
    assert!(!mirror.store().join("blobs/sha512").join(wrong.hex()).exists());
    let blake = format!("/v2/library/app/blobs/blake3:{}", "a".repeat(64));
    assert_eq!(mirror.get(&blake).await.status, 400);
}

#[tokio::test]
async fn trap_extra_tiny_blobs_are_blobs() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for bytes in ["", "{}"] {
        let digest = registry.add_blob("library/app", bytes);
        for _ in 0..2 {
            let answer = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
            assert_eq!((answer.status, answer.complete, &answer.body[..]), (200, true, bytes.as_bytes()));
            assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
            mirror.settled().await;
        }
        assert_eq!(registry.gets_of(&digest), 1);
    }
}

#[tokio::test]
async fn trap_extra_foreign_layers_are_not_fetched_from_elsewhere_and_sparse_indexes_are_served() {
    let (registry, elsewhere) = (Registry::start().await, Registry::start().await);
    let zeros = "0".repeat(64);
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "size": 3,
        "digest": format!("sha256:{zeros}"), "urls": [format!("{}/layer", elsewhere.url())]});
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": OCI_MANIFEST, "size": 3, "digest": format!("sha256:{zeros}")}]});
    registry.add_manifest("library/app", &["1"], manifest.to_string(), OCI_MANIFEST);
    registry.add_manifest("library/app", &["sparse"], index.to_string(), OCI_INDEX);
    let mirror = TestMirror::of(&registry).await;
    for tag in ["1", "sparse"] {
        assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{tag}")).await.status, 200, "{tag}");
    }
    for keyword in ["blobs", "manifests"] {
        assert_eq!(mirror.get(&format!("/v2/library/app/{keyword}/sha256:{zeros}")).await.status, 404, "{keyword}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn trap_extra_signature_tags_are_tags_like_any_other() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for name in ["sha256-0000.sig", "sha256-0000.att", "sha256-0000"] {
        let path = format!("/v2/library/app/manifests/{name}");
        assert_eq!(mirror.get(&path).await.status, 404);
        let image = |a: u8| {
            let config = format!("{{\"digest\":\"sha256:{}\"}}", "0".repeat(64));
            format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[],\"a\":{a}}}")
        };
        let before = registry.add_manifest("library/app", &[name], image(1), OCI_MANIFEST);
        mirror.advance(std::time::Duration::from_secs(31));
        let first = mirror.get(&path).await;
        assert_eq!(first.header("docker-content-digest"), Some(before.to_string().as_str()));
        let after = registry.add_manifest("library/app", &[name], image(2), OCI_MANIFEST);
        mirror.advance(std::time::Duration::from_secs(301));
        let second = mirror.get(&path).await;
        assert_eq!(second.header("docker-content-digest"), Some(after.to_string().as_str()), "it moves");
    }
}

#[tokio::test]
async fn trap_extra_a_manifest_among_the_blobs_is_what_upstream_says_and_stays_a_manifest() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(135, 100)]);
    let digest = image.manifest.digest;
    let (as_blob, as_manifest) =
        (format!("/v2/library/app/blobs/{digest}"), format!("/v2/library/app/manifests/{digest}"));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(&as_blob).await.status, 404, "this registry keeps them apart");
    assert_eq!(mirror.get(&as_manifest).await.status, 200, "what is missing there is not missing here");

    let manifest = registry.content(|content| content.repository("library/app").manifests[&digest].bytes.clone());
    registry.add_blob("library/app", manifest.clone());
    let mirror = TestMirror::of(&registry).await;
    for _ in 0..2 {
        let answer = mirror.get(&as_blob).await;
        assert_eq!((answer.status, &answer.body), (200, &manifest));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        mirror.settled().await;
        let answer = mirror.get(&as_manifest).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCI_MANIFEST)));
    }
    registry.stop().await;
    let answer = mirror.get(&as_manifest).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCI_MANIFEST)));
}

#[tokio::test]
async fn trap_extra_redirected_manifests_get_their_digest_from_their_bytes() {
    let (registry, regional) = (Registry::start().await, Registry::start().await);
    let image = registry.add_image("library/app", "1", &[noise(136, 100)]);
    regional.add_image("library/app", "1", &[noise(136, 100)]);
    registry.rule(Rule::on(Match::manifests()).redirect_to_host(&regional.url()));
    regional.rule(Rule::on(Match::manifests()).without_header("docker-content-digest"));
    let mirror = TestMirror::of(&registry).await;
    let digest = image.manifest.digest.to_string();
    for path in ["/v2/library/app/manifests/1", &format!("/v2/library/app/manifests/{digest}")] {
        let answer = mirror.get(path).await;
        assert_eq!((answer.status, answer.header("docker-content-digest")), (200, Some(digest.as_str())), "{path}");
    }
}

#[tokio::test]
async fn trap_extra_a_length_that_upstream_does_not_say_is_not_made_up() {
    let registry = Registry::start().await;
    let bytes = noise(137, 300_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    registry.rule(Rule::on(Match::blob(&digest).get()).chunked());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let cold = mirror.get(&path).await;
    assert_eq!((cold.status, cold.complete, cold.header("content-length")), (200, true, None));
    assert!(cold.body == bytes);
    mirror.settled().await;
    assert_eq!(mirror.get(&path).await.header("content-length"), Some("300000"), "known now");
}

#[tokio::test]
async fn trap_extra_a_client_that_has_it_is_told_so_whatever_the_form_of_its_tag() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(138, 100)]);
    let mirror = TestMirror::of(&registry).await;
    let digest = image.manifest.digest;
    for (tag, status) in [
        (format!("\"{digest}\""), 304),
        (format!("W/\"{digest}\""), 304),
        (format!("\"x\", \"{digest}\""), 304),
        ("\"x\"".to_owned(), 200),
    ] {
        let answer = mirror.get_with("/v2/library/app/manifests/1", &[("If-None-Match", &tag)]).await;
        assert_eq!(answer.status, status, "{tag}");
    }
}

#[tokio::test]
async fn trap_extra_parameters_that_nobody_knows_are_part_of_no_key() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(139, 100)]);
    let mirror = TestMirror::of(&registry).await;
    for query in ["", "?x=1", "?x=2&y=%00", "?rid=7"] {
        assert_eq!(mirror.get(&format!("/v2/library/app/manifests/1{query}")).await.status, 200, "{query}");
    }
    assert_eq!(registry.count_of(&Match::manifests()), 1, "one GET");
    assert!(registry.requests().iter().all(|request| request.query.is_empty()));
}

#[tokio::test]
async fn trap_extra_one_digest_may_have_another_type_in_another_repository() {
    let registry = Registry::start().await;
    let config = format!("{{\"digest\":\"sha256:{}\"}}", "0".repeat(64));
    let text = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[]}}");
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let digest = registry.add_manifest("library/one", &["1"], text.clone(), OCI_MANIFEST);
    registry.add_manifest("library/other", &["1"], text, docker);
    let mirror = TestMirror::of(&registry).await;
    for _ in 0..2 {
        for (repository, media_type) in [("one", OCI_MANIFEST), ("other", docker)] {
            let answer = mirror.get(&format!("/v2/library/{repository}/manifests/{digest}")).await;
            assert_eq!(answer.header("content-type"), Some(media_type), "{repository}");
        }
    }
}

#[tokio::test]
async fn trap_extra_a_warning_is_short_and_by_nobody() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(140, 100)]);
    let mirror = TestMirror::of(&registry).await;
    mirror.get("/v2/library/app/manifests/1").await;
    registry.rule(Rule::on(Match::any()).refuse(503));
    mirror.advance(std::time::Duration::from_secs(1000));
    let answer = mirror.get("/v2/library/app/manifests/1").await;
    let warning = answer.header("warning").expect("it is stale");
    assert!(warning.starts_with("299 - \"") && warning.ends_with('"') && warning.len() < 200, "{warning}");
}

#[tokio::test]
async fn trap_extra_a_token_that_is_still_good_outlives_its_token_service() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(141, 100)]);
    registry.require_tokens(TokenPolicy::bearer());
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    registry.rule(Rule::on(Match::token()).refuse(500));
    for blob in image.blobs() {
        assert_eq!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.status, 200);
    }
}

#[tokio::test]
async fn trap_extra_a_clock_that_is_set_makes_nothing_fresh_for_ever() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(142, 100)]);
    let mirror = TestMirror::of(&registry).await;
    let (tag, list) = ("/v2/library/app/manifests/1", "/v2/library/app/tags/list");
    let missing = "/v2/library/app/manifests/missing";
    let now = mirror.clock.now();
    for path in [tag, list, missing] {
        mirror.get(path).await;
    }
    registry.forget_requests();
    mirror.clock.set(Timestamp(now.0 - 3_600_000));
    for path in [tag, list, missing] {
        mirror.get(path).await;
        let asked = if path == missing { Match::path(path).get() } else { Match::path(path) };
        assert_eq!(registry.count_of(&asked), 1, "{path}: of what lies in the future nothing is known");
    }
    for path in [tag, list, missing] {
        mirror.get(path).await;
        let asked = if path == missing { Match::path(path).get() } else { Match::path(path) };
        assert_eq!(registry.count_of(&asked), 1, "{path}: and asking once is enough");
    }
}
