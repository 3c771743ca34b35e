//! Large answers: served whole, and in memory once however many clients read them slowly.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use registry_mirror::oci::{AcceptSet, Reference, Request};
use scripted_registry::client::Connection;
use scripted_registry::{Match, Registry, Rule};

use crate::support::mirror::TestMirror;

const TAGS: &str = "/v2/library/app/tags/list";

#[tokio::test]
async fn a_list_of_eleven_megabytes_of_tags_is_served_to_fast_and_slow_clients() {
    let registry = Registry::start().await;
    let tags: Vec<String> = (0..400_000).map(|number| format!("build-{number:020}")).collect();
    let body = serde_json::to_vec(&serde_json::json!({"name": "library/app", "tags": tags})).unwrap();
    assert!(body.len() > 11_000_000);
    let path = "/v2/library/app/tags/list";
    registry.rule(Rule::on(Match::path(path)).answer(200, "application/json", body.clone()));
    let mirror = TestMirror::of(&registry).await;
    let slow = Connection::open_narrow(mirror.address, 4096).await.send("GET", path, &[]).await.expect("an answer");
    let whole = mirror.get(path).await;
    assert_eq!((whole.status, whole.complete), (200, true));
    assert_eq!(whole.header("content-length"), Some(&*body.len().to_string()));
    let list: serde_json::Value = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!(list["tags"].as_array().unwrap().len(), tags.len());
    let slow = slow.finish().await;
    assert!(slow.complete && slow.body == whole.body);
    let part = mirror.get(&format!("{path}?n=2&last=build-{:020}", 399_990)).await;
    let part: serde_json::Value = serde_json::from_slice(&part.body).unwrap();
    assert_eq!(part["tags"], serde_json::json!(tags[399_991..399_993]));
}

#[tokio::test]
async fn a_large_manifest_that_somebody_has_in_hand_is_in_memory_once() {
    let registry = Registry::start().await;
    let padding = "x".repeat(4_000_000);
    let kind = "application/vnd.oci.image.index.v1+json";
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[],"annotations":{{"x":"{padding}"}}}}"#);
    let digest = registry.add_manifest("library/app", &["1"], Bytes::from(index), kind);
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/manifests/{digest}");
    assert_eq!(mirror.get(&path).await.body.len(), mirror.get(&path).await.body.len());
    let request = Request::parse(&http::Method::GET, &path, None).unwrap();
    let route = mirror.mirror.route(request.target().unwrap()).unwrap().for_operator();
    let reference = Reference::Digest(digest.to_string().parse().unwrap());
    let ask = || mirror.mirror.manifest(&route, &reference, AcceptSet::everything());
    let (one, other) = (ask().await.unwrap(), ask().await.unwrap());
    assert!(Arc::ptr_eq(&one.manifest, &other.manifest));
    // A client who reads slowly is sent it from its file.
    drop((one, other));
    let slow = Connection::open_narrow(mirror.address, 4096).await.send("GET", &path, &[]).await.expect("an answer");
    let (one, other) = (ask().await.unwrap(), ask().await.unwrap());
    assert!(Arc::ptr_eq(&one.manifest, &other.manifest) && Arc::strong_count(&one.manifest) == 2);
    assert!(slow.finish().await.complete);
}

#[tokio::test]
async fn a_large_list_comes_in_pages_too_and_when_it_is_stale() {
    let mut registry = Registry::start().await;
    let tags: Vec<String> = (0..200_000).map(|tag| format!("\"{}-{tag:06}\"", "x".repeat(30))).collect();
    let list = format!(r#"{{"name":"library/app","tags":[{}]}}"#, tags.join(","));
    registry.rule(Rule::on(Match::lists()).answer(200, "application/json", list));
    let mirror = TestMirror::of(&registry).await;
    let whole = mirror.get(TAGS).await;
    assert!(whole.complete && whole.status == 200);
    assert_eq!(whole.body.iter().filter(|byte| **byte == b',').count(), 200_000);
    let page = mirror.get(&format!("{TAGS}?n=5")).await;
    assert!(page.header("link").is_some());
    let head = mirror.head(TAGS).await;
    assert_eq!(head.header("content-length"), whole.header("content-length"));
    registry.stop().await;
    mirror.advance(Duration::from_secs(31));
    let stale = mirror.get(TAGS).await;
    assert!(stale.status == 200 && stale.body == whole.body && stale.header("warning").is_some());
}
