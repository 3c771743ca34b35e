//! Forms of HTTP that clients may use, and those that nobody may.

use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::mirror::{Settings, TestMirror};

async fn raw(mirror: &TestMirror, request: &str) -> String {
    String::from_utf8_lossy(&client::raw(mirror.address, request.as_bytes()).await).into_owned()
}

#[tokio::test]
async fn who_has_shut_down_its_writing_side_gets_its_answer_at_once_and_late() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(61, 100_000)]);
    let mirror = TestMirror::of(&registry).await;
    let blob = image.blobs().last().unwrap().digest;
    for path in ["/v2/".to_owned(), "/v2/library/app/manifests/1".to_owned(), format!("/v2/library/app/blobs/{blob}")] {
        for state in ["cold", "warm"] {
            let reply = client::raw(mirror.address, format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes()).await;
            assert!(reply.starts_with(b"HTTP/1.1 200"), "{path}, {state}: {reply:?}");
            mirror.settled().await;
        }
    }
    let slow = registry.add_blob("library/app", noise(62, 100_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&slow).get()).stall_before_headers(&gate));
    let mut stream = TcpStream::connect(mirror.address).await.unwrap();
    let request = format!("GET /v2/library/app/blobs/{slow} HTTP/1.1\r\nHost: m\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    gate.reached().await;
    gate.open();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200") && reply.len() > 100_000, "{} bytes", reply.len());
}

#[tokio::test]
async fn the_absolute_form_is_the_same_request() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(63, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let address = mirror.address;
    for path in ["/v2/", "/v2/library/app/manifests/1", "/v2/library/app/tags/list"] {
        for _ in 0..2 {
            let request = format!("GET http://{address}{path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
            let reply = raw(&mirror, &request).await;
            assert!(reply.starts_with("HTTP/1.1 200"), "{path}: {reply}");
        }
    }
    let proxied = raw(&mirror, "GET http://example.test/index.html HTTP/1.1\r\nHost: example.test\r\n\r\n").await;
    assert!(proxied.contains("this is not a proxy"), "{proxied}");
    assert_eq!(registry.count(|request| request.path.contains("index.html")), 0);
}

#[tokio::test]
async fn two_hosts_are_refused_whatever_is_asked_for() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(64, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    for path in ["/v2/", "/v2/library/app/manifests/1", "/nothing"] {
        // At hand, too.
        mirror.get(path).await;
        mirror.get(path).await;
        let reply = raw(&mirror, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{path}: {reply}");
        let lower = reply.to_lowercase();
        assert!(lower.contains("connection: close") && lower.contains("host header"), "{reply}");
    }
}

#[tokio::test]
async fn conditions_hold_for_manifests_and_blobs_and_both_methods() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(65, 1000)]);
    let blob = image.blobs().last().unwrap().digest;
    let mirror = TestMirror::of(&registry).await;
    let address = mirror.address;
    for (path, digest) in [
        ("/v2/library/app/manifests/1".to_owned(), image.manifest.digest),
        (format!("/v2/library/app/blobs/{blob}"), blob),
    ] {
        for method in ["GET", "HEAD"] {
            for (tag, status) in [("*", 304), (&*format!("W/\"{digest}\""), 304), ("\"other\"", 200)] {
                let answer = client::request(address, method, &path, &[("If-None-Match", tag)]).await;
                assert_eq!(answer.status, status, "{method} {path} with {tag}");
            }
        }
    }
    for absent in ["/v2/library/app/manifests/2".to_owned(), format!("/v2/library/app/blobs/sha256:{:064}", 1)] {
        let answer = client::request(address, "GET", &absent, &[("If-None-Match", "*")]).await;
        assert_eq!(answer.status, 404, "{absent}");
    }
    let path = format!("/v2/library/app/blobs/{blob}");
    for (tag, status) in [(format!("\"{blob}\""), 206), (format!("W/\"{blob}\""), 200), ("\"x\"".to_owned(), 200)] {
        let answer = mirror.get_with(&path, &[("Range", "bytes=0-9"), ("If-Range", &tag)]).await;
        assert_eq!(answer.status, status, "If-Range: {tag}");
    }
}

#[tokio::test]
async fn digests_and_tags_may_be_percent_encoded() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1.0", &[noise(66, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let encoded = image.manifest.digest.to_string().replace(':', "%3A");
    let blob = image.blobs().last().unwrap().digest.to_string().replace(':', "%3a");
    for path in [format!("manifests/{encoded}"), "manifests/1%2E0".to_owned(), format!("blobs/{blob}")] {
        for _ in 0..2 {
            assert_eq!(mirror.get(&format!("/v2/library/app/{path}")).await.status, 200, "{path}");
            mirror.settled().await;
        }
        assert_eq!(mirror.head(&format!("/v2/library/app/{path}")).await.status, 200, "HEAD {path}");
    }
    assert_eq!(mirror.get("/v2/library%2Fapp/manifests/1.0").await.status, 400);
    assert_eq!(registry.count(|request| request.path.contains('%')), 0);
}

#[tokio::test]
async fn an_upstream_is_named_in_any_case_and_with_the_port_that_it_has_anyway() {
    let (registry, quay) = (Registry::start().await, Registry::start().await);
    quay.add_image("owner/app", "1", &[noise(67, 1000)]);
    let mirror = Settings::of(&registry).and("quay.io", &quay).start().await;
    for path in [
        "/v2/owner/app/manifests/1?ns=quay.io:443",
        "/v2/owner/app/manifests/1?ns=quay.io%3A443",
        "/v2/owner/app/manifests/1?ns=QUAY.IO",
        "/v2/owner/app/manifests/1?ns=Quay.io:443",
        "/v2/quay.io:443/owner/app/manifests/1",
        "/v2/QUAY.IO/owner/app/manifests/1",
        "/quay.io:443/v2/owner/app/manifests/1",
        "/Quay.IO/v2/owner/app/manifests/1",
    ] {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
    assert_eq!(quay.count_of(&Match::manifests().get()), 1, "one image has one name");
    assert_eq!(mirror.get("/v2/owner/app/manifests/1?ns=quay.io:5000").await.status, 404);
}

#[tokio::test]
async fn a_doubled_v2_is_asked_for_and_what_is_not_there_is_explained() {
    let registry = Registry::start().await;
    registry.add_image("v2/app", "1", &[noise(68, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/v2/app/manifests/1").await.status, 200, "it is a name");
    for path in [
        "/v2/v2/library/app/manifests/1",
        "/v2/v2/library/app/tags/list",
        "/v2/docker.io/v2/app/manifests/9",
        "/v2/v2/",
    ] {
        let answer = mirror.get(path).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 404, "{path}");
        assert!(text.contains("says /v2/ twice"), "{path}: {text}");
    }
    let plain = mirror.get("/v2/library/app/manifests/1").await;
    assert!(!String::from_utf8_lossy(&plain.body).contains("twice"));
}

#[tokio::test]
async fn a_catalog_is_not_there_and_says_so() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for path in ["/v2/_catalog", "/v2/_catalog?n=10", "/v2/docker.io/_catalog"] {
        let answer = mirror.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(String::from_utf8_lossy(&answer.body).contains("this mirror lists nothing"), "{path}");
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn requests_of_any_length_are_remembered_in_bounded_memory() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(69, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let long = "x".repeat(20_000);
    let accept = format!("application/vnd.oci.image.manifest.v1+json, {long}/y");
    for number in 0..20 {
        let path = format!("/v2/library/app/manifests/1?x={number}{long}");
        assert_eq!(mirror.get(&path).await.status, 200);
        let path = format!("/v2/library/app/manifests/1?x={number}");
        assert_eq!(mirror.get_with(&path, &[("Accept", &accept)]).await.status, 200);
        assert_eq!(mirror.get(&path).await.status, 200);
        assert_eq!(mirror.get(&path).await.status, 200, "again");
    }
    let metrics = mirror.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with("mirror_shortcuts_bytes ")).expect(&metrics);
    let bytes: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1..20 * 200).contains(&bytes), "{line}");
}
