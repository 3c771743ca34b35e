//! What clients should not send: a clear 4xx in the JSON of the specification, and nobody is asked.

use scripted_registry::{Registry, client};

use crate::support::mirror::TestMirror;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test]
async fn odd_requests_are_refused_in_json_before_anything_is_touched() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let upper = DIGEST.to_uppercase().replace("SHA256", "sha256");
    let long = "a/".repeat(5_000);
    for (path, status, code) in [
        ("/v2/library/app/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/app/manifests/sha256:totallywrong", 404, "MANIFEST_UNKNOWN"),
        (&format!("/v2/library/app/blobs/{upper}"), 400, "DIGEST_INVALID"),
        ("/v2/library/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        (&format!("/v2/../../etc/passwd/blobs/{DIGEST}"), 400, "NAME_INVALID"),
        (&format!("/v2/library/..%2f..%2fetc/blobs/{DIGEST}"), 400, "NAME_INVALID"),
        (&format!("/v2/library%2Fapp/blobs/{DIGEST}"), 400, "NAME_INVALID"),
        (&format!("/v2//app/blobs/{DIGEST}"), 400, "NAME_INVALID"),
        (&format!("/v2/Library/app/blobs/{DIGEST}"), 400, "NAME_INVALID"),
        (&format!("/v2/library\\app/blobs/{DIGEST}"), 400, "NAME_INVALID"),
        (&format!("/v2/{long}blobs/{DIGEST}"), 400, "NAME_INVALID"),
        ("/v2/library/app/uploads/x", 404, "NAME_UNKNOWN"),
        ("/v2/library/app", 404, "NAME_UNKNOWN"),
        ("/etc/passwd", 404, "NAME_UNKNOWN"),
        ("/v2/library/app/manifests/1?ns=169.254.169.254", 404, "NAME_UNKNOWN"),
        ("/v2/library/app/manifests/1?ns=http://x/", 400, "NAME_INVALID"),
    ] {
        let response = mirror.get(path).await;
        let body: serde_json::Value = serde_json::from_slice(&response.body).expect(path);
        assert_eq!((response.status, body["errors"][0]["code"].as_str()), (status, Some(code)), "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(response.header("www-authenticate"), None, "{path}");
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn writes_are_405_and_go_nowhere() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"] {
        let path = format!("/v2/library/app/blobs/{DIGEST}");
        let response = client::request(mirror.address, method, &path, &[]).await;
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("GET, HEAD"), "{method}");
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn bodies_proxy_requests_and_huge_headers_are_refused() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let text = |reply: bytes::Bytes| String::from_utf8_lossy(&reply).into_owned();
    let with_body =
        b"GET /v2/library/app/manifests/sha256:totallywrong HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\nblablabla";
    let reply = text(client::raw(mirror.address, with_body).await);
    assert!(reply.starts_with("HTTP/1.1 404") && reply.contains("MANIFEST_UNKNOWN"), "{reply}");
    let with_body =
        b"GET /v2/library/app/manifests/1 HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let reply = text(client::raw(mirror.address, with_body).await);
    assert!(reply.starts_with("HTTP/1.1 405") && reply.contains("UNSUPPORTED"), "{reply}");
    let absolute = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let reply = text(client::raw(mirror.address, absolute).await);
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("not a proxy"), "{reply}");
    let huge = "x".repeat(60_000);
    let reply = mirror.get_with("/v2/library/app/manifests/1", &[("X-Huge", &huge)]).await;
    assert_eq!(reply.status, 431);
    assert!(String::from_utf8_lossy(&reply.body).contains("errors"));
    let garbage = client::raw(mirror.address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert!(garbage.is_empty() || text(garbage).starts_with("HTTP/1.1 400"));
    assert!(registry.requests().is_empty());
    assert_eq!(mirror.get("/v2/").await.status, 200, "and it still serves");
}

#[tokio::test]
async fn the_ping_is_local_and_asks_for_no_credentials() {
    let mut registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    registry.stop().await;
    for path in ["/v2/", "/v2", "/docker.io/v2/"] {
        let response = mirror.get(path).await;
        assert_eq!((response.status, &response.body[..]), (200, &b"{}"[..]), "{path}");
        assert_eq!(response.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(response.header("www-authenticate"), None);
        assert_eq!(mirror.head(path).await.status, 200);
    }
}

#[tokio::test]
async fn credentials_of_clients_go_nowhere() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[bytes::Bytes::from_static(b"x")]);
    let mirror = TestMirror::of(&registry).await;
    let headers =
        [("Authorization", "Basic Y2FuYXJ5OmNhbmFyeQ=="), ("Cookie", "canary"), ("Accept-Encoding", "zstd, gzip")];
    assert_eq!(mirror.get_with("/v2/library/app/manifests/1", &headers).await.status, 200);
    for request in registry.requests() {
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}
