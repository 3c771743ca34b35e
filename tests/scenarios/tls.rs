//! Pulls over TLS: the same bytes, by their own way, and for those who do not speak it only how to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::mirror::Settings;

/// Sends GETs over one connection and returns everything that came back.
pub(super) async fn get(address: SocketAddr, client: &TlsConnector, path: &str) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.expect("somebody listens");
    let mut stream = client.connect(ServerName::try_from("localhost").expect("a name"), stream).await.expect("TLS");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an orderly end");
    answer
}

/// Lines of configuration for a mirror that speaks TLS with a certificate in `folder`, and a client that trusts
/// it.
pub(super) fn certified(folder: &Path) -> (String, TlsConnector) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
    let (cert_file, key_file) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert_file, cert.pem()).expect("written");
    std::fs::write(&key_file, signing_key.serialize_pem()).expect("written");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let tls = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let lines = format!("server.tls.cert = \"{}\"\nserver.tls.key = \"{}\"\n", cert_file.display(), key_file.display());
    (lines, tls)
}

#[tokio::test]
async fn a_cut_over_tls_is_no_orderly_end_for_whatever_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let (lines, tls) = certified(folder.path());
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(92, 500_000));
    for rule in [
        |rule: Rule| rule.flip_last_byte(),
        |rule: Rule| rule.flip_last_byte().chunked(),
        |rule: Rule| rule.flip_last_byte().without_length(),
        |rule: Rule| rule.without_length().close_after(499_999).ignore_range(),
    ] {
        registry.clear_rules();
        registry.rule(rule(Rule::on(Match::blob(&digest).get())));
        let mirror = Settings::of(&registry).config(&lines).start().await;
        for version in ["1.0", "1.1"] {
            let stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
            let mut stream =
                tls.connect(ServerName::try_from("localhost").expect("a name"), stream).await.expect("TLS");
            let request = format!(
                "GET /v2/library/app/blobs/{digest} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            let end = stream.read_to_end(&mut answer).await;
            let head = String::from_utf8_lossy(answer.get(..15).unwrap_or_default()).into_owned();
            assert!(end.is_err() || head.contains(" 502"), "HTTP/{version}: {head}");
        }
    }
}

#[tokio::test]
async fn who_has_said_goodbye_over_tls_gets_its_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let (lines, tls) = certified(folder.path());
    let registry = Registry::start().await;
    let bytes = noise(93, 500_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    for cold in [true, false] {
        let mirror = Settings::of(&registry).config(&lines).start().await;
        let path = format!("/v2/library/app/blobs/{digest}");
        let gate = Gate::new();
        registry.clear_rules();
        if cold {
            registry.rule(Rule::on(Match::blob(&digest)).stall_before_headers(&gate));
        } else {
            assert!(get(mirror.address, &tls, &path).await.ends_with(&bytes));
            mirror.settled().await;
        }
        let stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
        let mut stream = tls.connect(ServerName::try_from("localhost").expect("a name"), stream).await.expect("TLS");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        // A close_notify, and the end of what it sends.
        stream.shutdown().await.expect("said");
        if cold {
            gate.reached().await;
            gate.open();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an orderly end");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&bytes), "cold: {cold}");
    }
}

#[tokio::test]
async fn blobs_come_over_tls_cold_and_warm() {
    let folder = tempfile::tempdir().expect("a folder");
    let (lines, tls) = certified(folder.path());
    let registry = Registry::start().await;
    let bytes = noise(91, 3_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = Settings::of(&registry).config(&lines).start().await;
    for _ in 0..2 {
        let answer = get(mirror.address, &tls, &format!("/v2/library/app/blobs/{digest}")).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&bytes));
        mirror.settled().await;
    }
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("mirror_bodies_total{path=\"tls\"} 2\n"), "{metrics}");

    for beginning in ["GET", "get", "\r\nGET", "\r\n\r\nGET", "\nGet"] {
        let request = format!("{beginning} /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let plain = client::raw(mirror.address, request.as_bytes()).await;
        let plain = String::from_utf8(plain.to_vec()).expect("text");
        assert!(
            plain.starts_with("HTTP/1.1 400") && plain.contains("text/plain") && plain.contains("use https://"),
            "{plain}"
        );
    }
    // What is neither TLS nor HTTP gets no answer.
    assert!(!client::raw(mirror.address, b"\0ssh").await.starts_with(b"HTTP"));
    // Ends when the mirror hangs up on a client that says nothing.
    let mirror = Settings::of(&registry).config(&lines).config("server.header_timeout = \"50ms\"").start().await;
    let mut silent = TcpStream::connect(mirror.address).await.expect("somebody listens");
    let _ = silent.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn over_tls_nobody_is_offered_http_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let (lines, tls) = certified(folder.path());
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).config(&lines).start().await;
    for (offered, chosen) in [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"http/1.1"[..])), (&[b"h2"], None), (&[], None)] {
        let mut config = ClientConfig::clone(tls.config());
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let agreed = connected.as_ref().ok().map(|stream| stream.get_ref().1.alpn_protocol());
        let expected = if offered == [b"h2"] { None } else { Some(chosen) };
        assert_eq!(agreed, expected, "{offered:?}");
    }
}
