//! Forms of HTTP that clients may use, and those that nobody may.

use bytes::Bytes;
use scripted_registry::client::Connection;
use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const TAGS: &str = "/v2/library/app/tags/list";

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
async fn who_has_sent_a_body_that_nobody_wants_and_shut_down_is_told() {
    let mirror = TestMirror::of(&Registry::start().await).await;
    for round in 0..400 {
        let method = ["GET", "POST", "PUT"][round % 3];
        let body = "x".repeat([5, 1000][round % 2]);
        let request = format!("{method} {TAG} HTTP/1.1\r\nHost: m\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let reply = raw(&mirror, &request).await;
        assert!(reply.starts_with("HTTP/1.1 405"), "{method}, round {round}: {reply}");
    }
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
        for hosts in ["Host: a\r\nHost: b\r\n", ""] {
            let reply = raw(&mirror, &format!("GET {path} HTTP/1.1\r\n{hosts}\r\n")).await;
            assert!(reply.starts_with("HTTP/1.1 400"), "{path}: {reply}");
            let lower = reply.to_lowercase();
            assert!(lower.contains("connection: close") && lower.contains("host header"), "{reply}");
        }
    }
    let old = raw(&mirror, "GET /v2/ HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.split(' ').nth(1), Some("200"), "{old}");
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
        for warm in [false, true] {
            let (strong, weak) = (format!("\"{digest}\""), format!("W/\"{digest}\""));
            for (tag, status) in [(&*strong, 200), ("*", 200), (&*weak, 412), ("\"other\"", 412)] {
                for method in ["HEAD", "GET"] {
                    let mirror = TestMirror::of(&registry).await;
                    if warm {
                        mirror.get(&path).await;
                        mirror.settled().await;
                        mirror.get(&path).await;
                    }
                    let answer = client::request(mirror.address, method, &path, &[("If-Match", tag)]).await;
                    assert_eq!(answer.status, status, "{method} {path} with {tag}, warm: {warm}");
                    assert!(answer.complete, "{method} {path} with {tag}, warm: {warm}");
                }
            }
        }
    }
    for absent in ["/v2/library/app/manifests/2".to_owned(), format!("/v2/library/app/blobs/sha256:{:064}", 1)] {
        for condition in ["If-None-Match", "If-Match"] {
            let answer = client::request(address, "GET", &absent, &[(condition, "*")]).await;
            assert_eq!(answer.status, 404, "{absent}");
        }
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

#[tokio::test]
async fn digests_may_be_percent_encoded_wherever_they_stand_and_nothing_is_decoded_twice() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(3, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let layer = image.layers[0].digest;
    for colon in ["%3A", "%3a"] {
        let manifest = image.manifest.digest.to_string().replace(':', colon);
        let blob = layer.to_string().replace(':', colon);
        for (path, status) in [
            (format!("/v2/library/app/referrers/{manifest}"), 200),
            (format!("/v2/library/app/manifests/{manifest}"), 200),
            (format!("/v2/library/app/blobs/{blob}"), 200),
            (format!("/v2/docker.io/library/app/blobs/{blob}"), 200),
            (format!("/v2/library/app/blobs/{}", blob.replace('%', "%25")), 400),
            (format!("/v2/library/app/blobs/{}", blob.replace("sha256", "SHA256")), 400),
            (format!("/v2/library/app/blobs/{}", blob.to_uppercase()), 400),
        ] {
            for method in ["HEAD", "GET"] {
                assert_eq!(client::request(mirror.address, method, &path, &[]).await.status, status, "{method} {path}");
            }
        }
    }
    for path in [
        "/v2/library/app/manifests/1%2f2",
        "/v2/library/app/manifests/%2e%2e",
        "/v2/library/app/manifests/1%00",
        "/v2/library/app/manifests/%",
        "/v2/library/app/manifests/%zz",
    ] {
        let answer = mirror.get(path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
    }
}

async fn http_1_0(mirror: &TestMirror, head: &str) -> Bytes {
    client::raw(mirror.address, format!("{head}\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn old_clients_get_every_kind_of_answer_framed() {
    for rule in [None, Some(Rule::without_length as fn(Rule) -> Rule), Some(Rule::chunked)] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(10, 300_000)]);
        if let Some(rule) = rule {
            registry.rule(rule(Rule::on(Match::any())));
        }
        let layer = image.layers[0].digest;
        for (path, headers) in [
            (TAG.to_owned(), ""),
            (TAGS.to_owned(), ""),
            (format!("/v2/library/app/referrers/{}", image.manifest.digest), ""),
            (format!("/v2/library/app/blobs/{layer}"), ""),
            (format!("/v2/library/app/blobs/{layer}"), "\r\nRange: bytes=5-9"),
            (format!("/v2/library/app/blobs/{layer}"), "\r\nRange: bytes=5-9,20-29"),
            (format!("/v2/library/app/blobs/{layer}"), "\r\nRange: bytes=100-"),
            ("/v2/".to_owned(), ""),
        ] {
            let mirror = TestMirror::of(&registry).await;
            for round in ["cold", "warm"] {
                let answer = http_1_0(&mirror, &format!("GET {path} HTTP/1.0\r\nHost: x{headers}")).await;
                let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
                let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
                assert!(
                    head.starts_with("http/1.0 20") || head.starts_with("http/1.1 20"),
                    "{round} {path} {headers}: {head}"
                );
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect(&head);
                assert_eq!(length, (answer.len() - end - 4).to_string(), "{round} {path} {headers}");
                assert!(!head.contains("transfer-encoding"), "{head}");
                mirror.settled().await;
            }
        }
    }
}

#[tokio::test]
async fn conditions_come_before_ranges_for_both_methods() {
    let registry = Registry::start().await;
    let bytes = noise(11, 10_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    for warm in [false, true] {
        let mirror = TestMirror::of(&registry).await;
        if warm {
            mirror.get(&path).await;
            mirror.settled().await;
        }
        let etag = format!("\"{digest}\"");
        for (headers, status) in [
            (vec![("If-None-Match", etag.as_str()), ("Range", "bytes=0-9")], 304),
            (vec![("If-None-Match", "*"), ("Range", "bytes=0-9")], 304),
            (vec![("If-None-Match", "\"other\""), ("Range", "bytes=0-9")], 206),
            (vec![("If-Range", etag.as_str()), ("Range", "bytes=0-9,20-29")], 206),
            (vec![("If-Range", "\"other\""), ("Range", "bytes=0-9,20-29")], 200),
            (vec![("If-Range", "\"other\""), ("Range", "bytes=99999-")], 200),
            (vec![("If-Match", etag.as_str())], 200),
            (vec![("If-Match", "*")], 200),
            (vec![("Range", "bytes=0-9"), ("Range", "bytes=20-29")], 200),
            (vec![("range", "BYTES=0-9")], 206),
            (vec![("Range", "items=0-9")], 200),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = client::request(mirror.address, method, &path, &headers).await;
                let expected = if method == "HEAD" && status == 206 { 200 } else { status };
                assert_eq!(answer.status, expected, "{warm} {method} {headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_kept_connection_serves_on_after_every_kind_of_answer() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(12, 300_000)]);
    let mirror = TestMirror::of(&registry).await;
    let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    let mut connection = Connection::open(mirror.address).await;
    for (method, path, headers) in [
        ("GET", TAG, vec![]),
        ("GET", layer.as_str(), vec![("Range", "bytes=0-9,20-29")]),
        ("HEAD", layer.as_str(), vec![]),
        ("GET", layer.as_str(), vec![("Range", "bytes=999999-")]),
        ("GET", TAGS, vec![]),
        ("HEAD", TAGS, vec![]),
        ("GET", "/v2/library/app/manifests/none", vec![]),
        ("GET", "/v2/library/app/blobs/sha256:x", vec![]),
        ("HEAD", "/v2/library/app/manifests/none", vec![]),
        ("GET", "/v2/_catalog", vec![]),
        ("DELETE", TAG, vec![]),
        ("GET", layer.as_str(), vec![]),
    ] {
        let stream = connection.send(method, path, &headers).await.expect("an answer");
        connection = stream.done().await.unwrap_or_else(|| panic!("{method} {path}"));
    }
}

#[tokio::test]
async fn odd_ways_to_ask_are_answered_or_refused_and_never_an_error_of_ours() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(3, 1000)]);
    let quay = Registry::start().await;
    quay.add_image("owner/app", "1", &[noise(4, 1000)]);
    let mirror = Settings::of(&registry).and("quay.io", &quay).start().await;
    let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    for (path, statuses) in [
        (format!("{TAG}?ns="), &[200, 400, 404][..]),
        (format!("{TAG}?ns=docker.io:443"), &[200]),
        (format!("{TAG}?ns=index.docker.io"), &[200]),
        (format!("{TAG}?ns=registry-1.docker.io:443"), &[200]),
        (format!("{TAG}?ns=docker.io&ns=docker.io"), &[200, 400]),
        (format!("{TAG}?ns=docker.io&ns=quay.io"), &[400]),
        (format!("{TAG}?ns=https://docker.io"), &[400, 404]),
        ("/v2/owner/app/manifests/1?ns=quay.io.".to_owned(), &[200, 400, 404]),
        ("/v2/quay.io/owner/app/manifests/1?ns=docker.io".to_owned(), &[200, 400]),
        (format!("{TAGS}?n=-1"), &[400]),
        (format!("{TAGS}?n=x"), &[400]),
        (format!("{TAGS}?n=99999999999999999999"), &[200, 400]),
        (format!("{TAGS}?n="), &[200, 400]),
        (format!("{TAGS}?last=%00"), &[200, 400]),
        (format!("{TAGS}?last=zzz"), &[200]),
        ("/v2/library/app/tags/list/".to_owned(), &[400, 404]),
        ("/v2//library/app/tags/list".to_owned(), &[400, 404]),
        ("/v2/library/app/manifests/".to_owned(), &[400, 404]),
        ("/v2/library/app/blobs/".to_owned(), &[400, 404]),
        ("/v2/library/app/referrers/x".to_owned(), &[400, 404]),
    ] {
        for method in ["GET", "HEAD"] {
            let status = client::request(mirror.address, method, &path, &[]).await.status;
            assert!(statuses.contains(&status), "{method} {path}: {status}");
        }
    }
    for headers in [
        vec![("Accept-Encoding", "gzip, br, zstd")],
        vec![("Accept-Encoding", "gzip;q=1.0, identity;q=0")],
        vec![("Connection", "close")],
        vec![("TE", "trailers")],
        vec![("Cache-Control", "no-cache")],
        vec![("Pragma", "no-cache")],
        vec![("If-Modified-Since", "Sat, 28 Nov 2026 12:00:00 GMT")],
        vec![("If-Unmodified-Since", "Sat, 28 Nov 2020 12:00:00 GMT")],
        vec![("Upgrade", "h2c"), ("Connection", "Upgrade")],
        vec![("Range", "bytes=")],
        vec![("Range", "bytes=-")],
        vec![("Range", "")],
    ] {
        for path in [TAG, TAGS, &layer] {
            let answer = client::request(mirror.address, "GET", path, &headers).await;
            assert_eq!((answer.status, answer.complete), (200, true), "{headers:?} {path}");
            assert_eq!(answer.header("content-encoding"), None);
        }
    }
}
