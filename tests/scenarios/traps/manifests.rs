//! Traps 1 to 4: which manifest, in which bytes, with which headers.

use scripted_registry::client::{self, Response};
use scripted_registry::{Algorithm, Digest, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

const TAG: &str = "/v2/library/app/manifests/1";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONTAINERD: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

fn digest_of(response: &Response) -> String {
    assert_eq!(response.status, 200);
    let digest = Digest::of(Algorithm::Sha256, &response.body).to_string();
    assert_eq!(response.header("docker-content-digest"), Some(digest.as_str()));
    digest
}

#[tokio::test]
async fn trap_01_a_tag_is_remembered_for_the_types_that_were_accepted() {
    let registry = Registry::start().await;
    let child = registry.add_docker_image("library/app", "child", &[noise(81, 1000)]);
    let list = registry.add_docker_list("library/app", "list", &[(&child, "amd64")]);
    registry.negotiate_tag("library/app", "1", &[list.digest, child.manifest.digest]);
    let mirror = TestMirror::of(&registry).await;
    let old = mirror.get_with(TAG, &[("Accept", DOCKER)]).await;
    assert_eq!(digest_of(&old), child.manifest.digest.to_string());
    let new = mirror.get_with(TAG, &[("Accept", CONTAINERD)]).await;
    assert_eq!(digest_of(&new), list.digest.to_string());

    let asked = registry.count_of(&Match::manifest("library/app", "1"));
    let mut types: Vec<&str> = CONTAINERD.split(", ").collect();
    types.reverse();
    let lines: Vec<(&str, &str)> = types.iter().map(|media_type| ("Accept", *media_type)).collect();
    assert_eq!(digest_of(&mirror.get_with(TAG, &lines).await), list.digest.to_string());
    assert_eq!(registry.count_of(&Match::manifest("library/app", "1")), asked, "order and lines do not count");

    let by_digest = format!("/v2/library/app/manifests/{}", list.digest);
    let unconditional = mirror.get_with(&by_digest, &[("Accept", DOCKER)]).await;
    assert_eq!(digest_of(&unconditional), list.digest.to_string());
}

#[tokio::test]
async fn trap_02_manifests_are_the_bytes_that_upstream_sent() {
    let registry = Registry::start().await;
    let odd = "{ \"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\n\t\"schemaVersion\" : 2, \
               \"unknown\":[1, 2 ],\"config\":{\"mediaType\":\"a/b\",\"size\":2,\"digest\":\
               \"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\"},\"layers\":[]}\n\n";
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let digest = registry.add_manifest("library/app", &["1"], odd, media_type);
    for content_type in [&format!("{media_type}; charset=utf-8"), "text/plain", "application/json"] {
        registry.clear_rules();
        registry.rule(Rule::on(Match::manifests()).header("content-type", content_type));
        let mirror = TestMirror::of(&registry).await;
        for path in [TAG.to_owned(), format!("/v2/library/app/manifests/{digest}"), TAG.to_owned()] {
            let answer = mirror.get(&path).await;
            assert_eq!((digest_of(&answer), &answer.body[..]), (digest.to_string(), odd.as_bytes()));
            assert_eq!(answer.header("content-type"), Some(media_type), "{content_type}");
            assert_eq!(answer.header("content-length"), Some(odd.len().to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn trap_03_head_has_the_headers_of_get_cold_and_warm() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(82, 1000)]);
    for path in [
        TAG.to_owned(),
        format!("/v2/library/app/manifests/{}", image.manifest.digest),
        format!("/v2/library/app/blobs/{}", image.layers[0].digest),
    ] {
        let mirror = TestMirror::of(&registry).await;
        let cold = mirror.head(&path).await;
        let get = mirror.get(&path).await;
        mirror.settled().await;
        let warm = mirror.head(&path).await;
        for head in [&cold, &warm] {
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
            for header in ["content-type", "content-length", "docker-content-digest", "etag"] {
                assert!(get.header(header).is_some(), "{path} {header}");
                assert_eq!(head.header(header), get.header(header), "{path} {header}");
            }
        }
    }
}

#[tokio::test]
async fn trap_04_an_illegal_reference_is_404_and_nobody_is_asked() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let tag = mirror.get("/v2/library/app/manifests/.INVALID_MANIFEST_NAME").await;
    assert_eq!(tag.status, 404);
    let with_body = b"GET /v2/library/app/manifests/sha256:totallywrong HTTP/1.1\r\nHost: m\r\n\
                      Content-Type: text/plain\r\nContent-Length: 9\r\n\r\nblablabla";
    let digest = client::raw(mirror.address, with_body).await;
    let digest = String::from_utf8_lossy(&digest);
    assert!(digest.starts_with("HTTP/1.1 404") && digest.contains("MANIFEST_UNKNOWN"), "{digest}");
    for body in [String::from_utf8_lossy(&tag.body), digest] {
        assert!(body.contains("\"errors\""), "{body}");
    }
    assert!(registry.requests().is_empty());
}
