//! Messages that two readers of one connection could take for different requests: none of them smuggles
//! one in, and what upstream hears is what we wrote.

use std::fmt::Write as _;

use scripted_registry::{Registry, client, noise};

use crate::support::mirror::TestMirror;

/// What must never be asked for: it stands in bodies only.
const SMUGGLED: &str = "GET /v2/library/smuggled/manifests/1 HTTP/1.1\r\nHost: m\r\n\r\n";

/// The lines that frame a body, in every way that some reader takes for none or for another one.
fn framings() -> Vec<String> {
    let length = SMUGGLED.len();
    let chunked = "Transfer-Encoding: chunked";
    [
        format!("Content-Length: {length}"),
        format!("Content-Length: {length}\r\nContent-Length: 0"),
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        format!("Content-Length: {length}, {length}"),
        format!("Content-Length: 0, {length}"),
        format!("Content-Length: +{length}"),
        format!("Content-Length: 0x{length:x}"),
        format!("Content-Length: {length}.0"),
        format!("Content-Length: 0{length}"),
        format!("Content-Length : {length}"),
        format!("Content-Length:\u{b}{length}"),
        format!("Content-Length: -1\r\nContent-Length: {length}"),
        format!("Content-Length: 99999999999999999999\r\nX: {length}"),
        format!("Content-Length: {length}\nX: y"),
        format!("Content-Length: {length}\r\n{chunked}"),
        format!("{chunked}\r\nContent-Length: {length}"),
        format!("{chunked}\r\nContent-Length: 0"),
        format!("Content-Length: {length}\r\nTransfer_Encoding: chunked"),
        format!("Content-Length: {length}\r\nExpect: 100-continue"),
        format!("Content-Length: {length}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"),
        format!("Content-Length: {length}\r\nConnection: Upgrade\r\nUpgrade: websocket"),
        format!("Content-Length: {length}\r\nConnection: Content-Length"),
        chunked.to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding: identity, chunked".to_owned(),
        "Transfer-Encoding: gzip, chunked".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding: \"chunked\"".to_owned(),
        "Transfer-Encoding:\tchunked".to_owned(),
        "Transfer-Encoding: Chunked\r\nTransfer-Encoding: x".to_owned(),
        "Transfer-Encoding : chunked".to_owned(),
        "transfer-encoding: CHUNKED\r\nConnection: transfer-encoding".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked".to_owned(),
        "X: y\r\nTransfer-Encoding:\r\n chunked".to_owned(),
    ]
    .into()
}

/// As a body with a length, and as one in chunks; each ends where the smuggled request begins, for some.
fn bodies() -> [String; 3] {
    let mut chunk = String::new();
    let _ = write!(chunk, "{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    [SMUGGLED.to_owned(), format!("0\r\n\r\n{SMUGGLED}"), chunk]
}

#[tokio::test]
async fn no_message_with_a_body_hides_a_request() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    registry.add_image("library/smuggled", "1", &[noise(2, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    let path = "/v2/library/app/manifests/1";
    assert_eq!(mirror.get(path).await.status, 200);
    let mut messages = 0;
    for framing in framings() {
        for body in bodies() {
            for (method, path, version) in [
                ("GET", path, "1.1"),
                ("HEAD", path, "1.1"),
                ("GET", "/v2/", "1.1"),
                ("POST", path, "1.1"),
                ("OPTIONS", "*", "1.1"),
                ("GET", path, "1.0"),
            ] {
                messages += 1;
                let message = format!("{method} {path} HTTP/{version}\r\nHost: m\r\n{framing}\r\n\r\n{body}");
                let reply = client::raw(mirror.address, message.as_bytes()).await;
                let reply = String::from_utf8_lossy(&reply);
                let answers = reply.matches("HTTP/1.").count();
                assert!(answers <= 1 && !reply.contains(" 200 OK"), "{message:?}: {reply}");
                assert!(answers == 0 || reply.contains("HTTP/1.1 4") || reply.contains("HTTP/1.0 4"), "{reply}");
            }
        }
    }
    assert!(messages > 600, "{messages}");
    let asked = registry.requests();
    assert!(asked.iter().all(|request| !request.path.contains("smuggled")), "{asked:?}");
    for request in &asked {
        assert!(request.method == "GET" || request.method == "HEAD", "{request:?}");
        for header in ["content-length", "transfer-encoding", "upgrade", "expect", "x"] {
            assert_eq!(request.header(header), None, "{request:?}");
        }
    }
    assert_eq!(mirror.get(path).await.status, 200);
}

#[tokio::test]
async fn nobody_is_led_from_http_1_to_http_2() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    // Begun with prior knowledge (RFC 9113, 3.3): its first settings, and a thousand resets of streams.
    let resets: Vec<u8> = (0..1000_u32)
        .flat_map(|stream| [&[0, 0, 4, 3, 0][..], &(2 * stream + 1).to_be_bytes(), &8_u32.to_be_bytes()].concat())
        .collect();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], &resets].concat();
    let reply = client::raw(mirror.address, &preface).await;
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4") || reply.starts_with(b"HTTP/1.1 5"), "{reply:?}");
    assert!(!reply.windows(9).any(|frame| frame == b"\0\0\0\x04\0\0\0\0\0"), "it speaks HTTP/2");
    // Asked for (RFC 7540, 3.2): answered as ever.
    let upgrade = "GET /v2/library/app/manifests/1 HTTP/1.1\r\nHost: m\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let reply = client::raw(mirror.address, upgrade.as_bytes()).await;
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{reply:?}");
}
