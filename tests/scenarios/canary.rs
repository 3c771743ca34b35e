//! The mirror's own image: it is there for every caller and every registry, and nobody is asked for it.

use std::io::Read as _;

use registry_mirror::documents::{self, Canary};
use registry_mirror::oci::{Algorithm, Digest};
use scripted_registry::Registry;
use scripted_registry::client::{self, Response};
use serde_json::Value;

use crate::access_mapped::users;
use crate::support::mirror::{Settings, TestMirror};

const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const NAME: &str = "library/registry-mirror-canary";

async fn ask(mirror: &TestMirror, method: &str, path: &str, accept: &str) -> Response {
    let response = client::request(mirror.address, method, path, &[("Accept", accept)]).await;
    if response.status == 200 {
        assert_eq!(response.header("cache-status"), Some("registry-mirror; detail=local"), "{method} {path}");
        assert_eq!(response.header("cache-control"), None, "it depends on nobody");
    }
    response
}

/// Gets it by tag or digest, with GET and HEAD alike; its bytes are what their digest says.
async fn got(mirror: &TestMirror, path: &str, accept: &str) -> Response {
    let whole = ask(mirror, "GET", path, accept).await;
    assert_eq!((whole.status, whole.complete), (200, true), "GET {path}");
    let digest = Digest::of(Algorithm::Sha256, &whole.body).to_string();
    let head = ask(mirror, "HEAD", path, accept).await;
    for answer in [&whole, &head] {
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{path}");
        assert_eq!(answer.header("content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
        assert_eq!(answer.header("content-type"), whole.header("content-type"), "{path}");
    }
    assert!(head.body.is_empty());
    let known = format!("\"{digest}\"");
    assert_eq!(
        client::get(mirror.address, path, &[("Accept", accept), ("If-None-Match", &known)]).await.status,
        304,
        "{path}"
    );
    whole
}

fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).expect("JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("text")
}

/// Pulls the image of every platform as a client does.
async fn pulled(mirror: &TestMirror, repository: &str) {
    let both = format!("{LIST}, {IMAGE}");
    let index = got(mirror, &format!("/v2/{repository}/manifests/latest"), &both).await;
    assert_eq!(index.header("content-type"), Some(LIST));
    let entries = json(&index)["manifests"].as_array().expect("a list").clone();
    assert!(entries.len() > 5);
    for entry in entries {
        let image = got(mirror, &format!("/v2/{repository}/manifests/{}", text(&entry, "digest")), &both).await;
        assert_eq!(image.header("content-type"), Some(IMAGE));
        assert_eq!(entry["size"], image.body.len());
        let image = json(&image);
        let config = got(mirror, &format!("/v2/{repository}/blobs/{}", text(&image["config"], "digest")), "*/*").await;
        let config = json(&config);
        assert_eq!(config["architecture"], entry["platform"]["architecture"]);
        assert_eq!(config["variant"], entry["platform"]["variant"]);
        let layer =
            got(mirror, &format!("/v2/{repository}/blobs/{}", text(&image["layers"][0], "digest")), "*/*").await;
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&layer.body[..]).read_to_end(&mut tar).expect("gzip");
        assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(Algorithm::Sha256, &tar).to_string());
    }
}

async fn record(mirror: &TestMirror) -> Canary {
    let socket = mirror.socket();
    let answer = client::request(socket, "GET", "/api/v1/canary", &[]).await;
    documents::read(&answer.body).expect("a document").expect("no error")
}

#[tokio::test]
async fn the_canary_is_pulled_for_every_registry_without_asking_anybody_and_is_seen_to_come() {
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).and("a.example", &registry).start().await;
    let address = mirror.address;
    let (mirrors, upstreams) = (vec![format!("http://{address}")], vec!["docker.io".to_owned()]);
    let said = record(&mirror).await;
    let registries = said.registries.clone();
    assert!(registries.is_sorted() && registries.iter().any(|registry| registry.as_str() == "a.example"), "{said:?}");
    assert_eq!(said, Canary { mirrors, upstreams, registries, pulls: Vec::new() });
    for repository in [NAME.to_owned(), "registry-mirror-canary".to_owned(), format!("a.example/{NAME}")] {
        pulled(&mirror, &repository).await;
    }
    assert!(registry.requests().is_empty(), "nobody is asked for it");
    let pulls = record(&mirror).await.pulls;
    let counted: Vec<_> = pulls.iter().map(|pulls| (pulls.upstream.as_str(), pulls.count)).collect();
    // With GET, with HEAD, and once more to see that it is the same.
    assert_eq!(counted, [("a.example", 3), ("docker.io", 6)]);
    assert!(pulls.iter().all(|pulls| pulls.client.starts_with("127.0.0.1:")), "{pulls:?}");
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("outcome=\"local\""), "{metrics}");
}

#[tokio::test]
async fn the_canary_is_for_callers_whom_everything_else_is_refused() {
    let registry = Registry::start().await;
    let (_folder, users) = users(&["ann"]);
    let lines = format!("access.htpasswd = \"{}\"", users.display());
    let mirror = Settings::of(&registry).config(&lines).upstream("access = \"mapped\"").start().await;
    assert_eq!(mirror.get("/v2/library/redis/manifests/7").await.status, 401);
    pulled(&mirror, NAME).await;
    let wrong = [("Authorization", "Basic YW5uOmJvYg==")];
    assert_eq!(mirror.get_with(&format!("/v2/{NAME}/manifests/latest"), &wrong).await.status, 200);
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn the_canary_is_there_offline_and_what_it_has_not_is_404() {
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).config("cache.mode = \"offline\"").start().await;
    pulled(&mirror, NAME).await;
    let one = got(&mirror, &format!("/v2/{NAME}/manifests/latest"), IMAGE).await;
    assert_eq!(one.header("content-type"), Some(IMAGE), "who takes no index gets an image");
    let digest = Digest::of(Algorithm::Sha256, b"something else");
    for (path, code) in [
        ("manifests/1".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("manifests/{digest}"), "MANIFEST_UNKNOWN"),
        (format!("blobs/{digest}"), "BLOB_UNKNOWN"),
        ("tags/list".to_owned(), "MANIFEST_UNKNOWN"),
    ] {
        let answer = ask(&mirror, "GET", &format!("/v2/{NAME}/{path}"), "*/*").await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(String::from_utf8_lossy(&answer.body).contains(code), "{path}");
    }
    assert!(registry.requests().is_empty());
    assert_eq!(record(&mirror).await.pulls.len(), 1);
}
