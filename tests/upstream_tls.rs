//! What `HttpUpstream` makes of https: whom it believes, and where it is not led.

#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use registry_mirror::oci::{Algorithm, Digest};
use registry_mirror::upstream::credentials::Anonymous;
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream, Timeouts};
use registry_mirror::upstream::{Unobserved, Upstream, UpstreamError, UpstreamErrorClass};

/// A server with a certificate for `name`, which answers one request and then ends.
struct Server {
    url: String,
    certificate: String,
    /// Gives the request line, or nothing where there was no request.
    thread: JoinHandle<Option<String>>,
}

fn serve(name: &str, answer: &str) -> Server {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).expect("certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).expect("key");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("configuration");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("address"));
    let answer = answer.to_owned();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("connection");
        let session = rustls::ServerConnection::new(Arc::new(config)).expect("session");
        let mut lines = BufReader::new(rustls::StreamOwned::new(session, stream));
        let mut request = String::new();
        lines.read_line(&mut request).ok().filter(|read| *read > 0)?;
        let mut header = String::new();
        while lines.read_line(&mut header).ok()? > 2 {
            header.clear();
        }
        lines.get_mut().write_all(answer.as_bytes()).ok()?;
        lines.get_mut().flush().ok()?;
        Some(request.trim().to_owned())
    });
    Server { url, certificate: cert.pem(), thread }
}

async fn stat(url: &str, ca: Option<PathBuf>) -> Result<Option<u64>, UpstreamError> {
    let settings = HttpSettings {
        name: "registry.example".parse().expect("name"),
        urls: vec![url.parse().expect("url")],
        credentials: Arc::new(Anonymous),
        auth_realms: Vec::new(),
        insecure: true,
        ca,
        timeouts: Timeouts::default(),
        allow_private: false,
        observer: Arc::new(Unobserved),
    };
    let upstream = HttpUpstream::new(settings).expect("settings");
    upstream.stat(&"a".parse().expect("repository"), &Digest::of(Algorithm::Sha256, b"")).await
}

fn certificate_file(folder: &tempfile::TempDir, server: &Server) -> Option<PathBuf> {
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, &server.certificate).expect("write");
    Some(path)
}

const FOUND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";

#[tokio::test]
async fn a_certificate_of_the_configured_authority_is_believed() {
    let folder = tempfile::tempdir().expect("folder");
    let server = serve("127.0.0.1", FOUND);
    assert_eq!(stat(&server.url, certificate_file(&folder, &server)).await.expect("size"), Some(7));
    let request = server.thread.join().expect("server").expect("a request");
    assert!(request.starts_with("HEAD /v2/a/blobs/sha256:"), "{request}");
}

#[tokio::test]
async fn nothing_is_asked_of_an_unknown_or_a_wrong_certificate() {
    let folder = tempfile::tempdir().expect("folder");
    let unknown = serve("127.0.0.1", FOUND);
    let error = stat(&unknown.url, None).await.expect_err("unknown authority");
    assert_eq!(error.class, UpstreamErrorClass::Unavailable);
    assert_eq!(unknown.thread.join().expect("server"), None);

    // `insecure` allows http; it does not make https careless.
    let wrong = serve("other.example", FOUND);
    let error = stat(&wrong.url, certificate_file(&folder, &wrong)).await.expect_err("wrong name");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(wrong.thread.join().expect("server"), None);
}

#[tokio::test]
async fn https_is_not_led_to_http() {
    let folder = tempfile::tempdir().expect("folder");
    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    plain.set_nonblocking(true).expect("nonblocking");
    let target = plain.local_addr().expect("address");
    let answer = format!("HTTP/1.1 307 Go\r\nlocation: http://{target}/?canary\r\ncontent-length: 0\r\n\r\n");
    let server = serve("127.0.0.1", &answer);
    let error = stat(&server.url, certificate_file(&folder, &server)).await.expect_err("led astray");
    assert_eq!(error.class, UpstreamErrorClass::Protocol);
    assert!(!error.to_string().contains("canary"), "{error}");
    assert!(plain.accept().is_err(), "nobody connects");
    server.thread.join().expect("server");
}
