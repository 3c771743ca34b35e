//! What `HttpUpstream` puts up with over TLS, as every other client does: a certificate that is pinned as it
//! stands, an end without a word, an HTTP/2 that does not work, a realm that is written with plain http.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use registry_mirror::oci::{AcceptSet, Algorithm, Digest, Reference, Repository, Span};
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use registry_mirror::upstream::settings::{Settings, Timeouts};
use registry_mirror::upstream::{Upstream as _, UpstreamErrorClass};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const MANIFEST: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A certificate that signs itself, as openssl makes it: one of an authority.
struct SelfSigned {
    folder: TempDir,
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl SelfSigned {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> SelfSigned {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        SelfSigned { folder: tempfile::tempdir().expect("folder"), certificate, key }
    }

    fn file(&self) -> PathBuf {
        let path = self.folder.path().join("pinned.pem");
        std::fs::write(&path, self.certificate.pem()).expect("write");
        path
    }

    fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("key");
        let builder = rustls::ServerConfig::builder().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.certificate.der().clone()], key).expect("configuration");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Announced,
    Silent,
}

/// What a server says to a request, given its head.
type Says = Arc<dyn Fn(&str) -> String + Send + Sync>;

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One request per connection, over TLS, or without it where there is no acceptor.
    async fn start(
        acceptor: Option<TlsAcceptor>,
        end: End,
        says: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Server::at(listener, acceptor, end, Arc::new(says))
    }

    fn at(listener: TcpListener, acceptor: Option<TlsAcceptor>, end: End, says: Says) -> Server {
        let address = listener.local_addr().expect("address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, says) = (acceptor.clone(), Arc::clone(&says));
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            let Ok(mut stream) = acceptor.accept(stream).await else { return };
                            answer(&mut stream, &says).await;
                            if end == End::Announced {
                                let _ = stream.shutdown().await;
                            }
                        }
                        None => {
                            let mut stream = stream;
                            answer(&mut stream, &says).await;
                        }
                    }
                });
            }
        });
        Server { address, task }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), says: &Says) {
    let head = read_head(stream).await;
    let _ = stream.write_all(says(&head).as_bytes()).await;
    let _ = stream.flush().await;
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
        if head == [0x16] {
            // TLS, where none is spoken.
            break;
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn found(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: {INDEX}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn upstream(url: &str, ca: PathBuf) -> HttpUpstream {
    let (name, url) = ("registry.example".parse().expect("name"), url.parse().expect("url"));
    let settings = Settings { ca: Some(ca), ..Settings::default() };
    HttpUpstream::new(HttpSettings::new(name, url, settings)).expect("settings")
}

fn repository() -> Repository {
    "library/app".parse().expect("name")
}

fn tag() -> Reference {
    Reference::Tag("1".parse().expect("tag"))
}

async fn manifest(upstream: &HttpUpstream) -> Result<usize, UpstreamErrorClass> {
    let found = upstream.manifest(&repository(), &tag(), AcceptSet::everything()).await;
    found.map(|manifest| manifest.bytes.len()).map_err(|error| error.class)
}

#[tokio::test]
async fn a_certificate_that_is_pinned_as_it_stands_is_trusted() {
    let pinned = SelfSigned::new(|_| {});
    let server = Server::start(Some(pinned.acceptor(&[])), End::Announced, |_| found(MANIFEST)).await;
    assert_eq!(manifest(&upstream(&server.url(), pinned.file())).await, Ok(MANIFEST.len()));
    // Another one of the same kind is another one.
    let other = SelfSigned::new(|_| {});
    assert_eq!(manifest(&upstream(&server.url(), other.file())).await, Err(UpstreamErrorClass::Protocol));
}

#[tokio::test]
async fn a_pinned_certificate_is_still_looked_at() {
    type Change = fn(&mut CertificateParams);
    let expired: Change = |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let of_another: Change = |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().expect("a name"))];
    };
    for (what, change) in [("expired", expired), ("of another host", of_another)] {
        let pinned = SelfSigned::new(change);
        let server = Server::start(Some(pinned.acceptor(&[])), End::Announced, |_| found(MANIFEST)).await;
        let answer = manifest(&upstream(&server.url(), pinned.file())).await;
        assert_eq!(answer, Err(UpstreamErrorClass::Protocol), "{what}");
    }
}

#[tokio::test]
async fn an_end_of_tls_without_a_word_is_the_end_of_what_nothing_else_ends() {
    let pinned = SelfSigned::new(|_| {});
    let bare = || format!("HTTP/1.1 200 OK\r\ncontent-type: {INDEX}\r\nconnection: close\r\n\r\n{MANIFEST}");
    let server = Server::start(Some(pinned.acceptor(&[])), End::Silent, move |_| bare()).await;
    let upstream = self::upstream(&server.url(), pinned.file());
    assert_eq!(manifest(&upstream).await, Ok(MANIFEST.len()));
    let digest = Digest::of(Algorithm::Sha256, MANIFEST.as_bytes());
    let blob = upstream.blob(&repository(), &digest, Span::default()).await.expect("a blob");
    let chunks: Vec<_> = blob.body.collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("whole").to_vec()).collect();
    assert_eq!(bytes, MANIFEST.as_bytes());
}

#[tokio::test]
async fn an_end_of_tls_without_a_word_is_a_cut_of_what_has_an_end_of_its_own() {
    let pinned = SelfSigned::new(|_| {});
    for head in ["content-length: 1000", "transfer-encoding: chunked"] {
        let body = if head.starts_with('c') { MANIFEST.to_owned() } else { format!("22\r\n{MANIFEST}\r\n") };
        let says = format!("HTTP/1.1 200 OK\r\ncontent-type: {INDEX}\r\n{head}\r\n\r\n{body}");
        let server = Server::start(Some(pinned.acceptor(&[])), End::Silent, move |_| says.clone()).await;
        let answer = manifest(&upstream(&server.url(), pinned.file())).await;
        assert_eq!(answer, Err(UpstreamErrorClass::Unavailable), "{head}");
    }
}

/// Answers HTTP/1.1, and breaks off HTTP/2 with this frame, counting how often.
async fn breaking(pinned: &SelfSigned, frame: fn(u8) -> Vec<u8>, tried: Arc<AtomicUsize>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("address");
    let acceptor = pinned.acceptor(&["h2", "http/1.1"]);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tried) = (acceptor.clone(), Arc::clone(&tried));
            tokio::spawn(one_connection(stream, acceptor, frame, tried));
        }
    });
    Server { address, task }
}

async fn one_connection(stream: TcpStream, acceptor: TlsAcceptor, frame: fn(u8) -> Vec<u8>, tried: Arc<AtomicUsize>) {
    const PREFACE: usize = 24;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        answer(&mut stream, &(Arc::new(|_: &str| found(MANIFEST)) as Says)).await;
        let _ = stream.shutdown().await;
        return;
    }
    tried.fetch_add(1, Ordering::SeqCst);
    let mut preface = [0; PREFACE];
    if stream.read_exact(&mut preface).await.is_err() || stream.write_all(&SETTINGS).await.is_err() {
        return;
    }
    // To each request its frame.
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == 1 && (stream.write_all(&frame(head[8])).await.is_err() || stream.flush().await.is_err()) {
            return;
        }
    }
}

fn reset(stream: u8, code: u8) -> Vec<u8> {
    vec![0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, code]
}

fn go_away(code: u8) -> Vec<u8> {
    vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code]
}

#[tokio::test]
async fn a_registry_whose_http2_does_not_work_is_asked_over_http1_for_a_while() {
    type Frame = fn(u8) -> Vec<u8>;
    for (what, frame) in [
        ("HTTP_1_1_REQUIRED", (|stream| reset(stream, 0xd)) as Frame),
        ("INTERNAL_ERROR", |stream| reset(stream, 2)),
        ("REFUSED_STREAM", |stream| reset(stream, 7)),
        ("GOAWAY", |_| go_away(0)),
        ("GOAWAY with an error", |_| go_away(2)),
        ("GOAWAY for HTTP/1.1", |_| go_away(0xd)),
    ] {
        let pinned = SelfSigned::new(|_| {});
        let tried = Arc::new(AtomicUsize::new(0));
        let server = breaking(&pinned, frame, Arc::clone(&tried)).await;
        let upstream = upstream(&server.url(), pinned.file());
        for asked in 1..=3 {
            assert_eq!(manifest(&upstream).await, Ok(MANIFEST.len()), "{what} {asked}");
        }
        // One that is said goodbye to in good order may be tried again.
        assert!(tried.load(Ordering::SeqCst) == 1 || what == "GOAWAY", "{what}: {tried:?}");
    }
}

#[tokio::test]
async fn blobs_have_nothing_to_do_with_an_http2_that_does_not_work() {
    let pinned = SelfSigned::new(|_| {});
    let tried = Arc::new(AtomicUsize::new(0));
    let server = breaking(&pinned, |stream| reset(stream, 2), Arc::clone(&tried)).await;
    let upstream = upstream(&server.url(), pinned.file());
    let digest = Digest::of(Algorithm::Sha256, MANIFEST.as_bytes());
    assert_eq!(upstream.stat(&repository(), &digest).await.expect("an answer"), Some(MANIFEST.len() as u64));
    let blob = upstream.blob(&repository(), &digest, Span::default()).await.expect("a blob");
    let chunks: Vec<_> = blob.body.collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("whole").to_vec()).collect();
    assert_eq!((bytes.as_slice(), tried.load(Ordering::SeqCst)), (MANIFEST.as_bytes(), 0));
}

#[tokio::test]
async fn a_hello_of_tls_that_nobody_answers_is_given_up_as_a_connection_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("address")).parse().expect("url");
    let (connect, longer) = (std::time::Duration::from_millis(200), std::time::Duration::from_secs(600));
    let timeouts = Timeouts { connect, first_byte: longer, idle: longer };
    let settings = Settings { timeouts, ..Settings::default() };
    let name = "registry.example".parse().expect("name");
    let upstream = HttpUpstream::new(HttpSettings::new(name, url, settings)).expect("settings");
    let accepted = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(stream) = listener.accept().await {
            held.push(stream);
        }
    });
    assert_eq!(manifest(&upstream).await, Err(UpstreamErrorClass::Unavailable));
    accepted.abort();
}

/// A registry that wants a token of this realm, and gives it out itself.
fn guarded(head: &str, realm: &str) -> String {
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/token") {
        return found(r#"{"token":"granted"}"#);
    }
    if head.to_lowercase().contains("authorization: bearer granted") {
        return found(MANIFEST);
    }
    format!(
        "HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm=\"{realm}\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn a_realm_that_is_written_with_plain_http_is_asked_over_https() {
    let pinned = SelfSigned::new(|_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let realm = format!("http://{}/token", listener.local_addr().expect("address"));
    let says: Says = Arc::new(move |head: &str| guarded(head, &realm));
    let server = Server::at(listener, Some(pinned.acceptor(&[])), End::Announced, says);
    assert_eq!(manifest(&upstream(&server.url(), pinned.file())).await, Ok(MANIFEST.len()));
}

#[tokio::test]
async fn a_realm_that_leads_from_http_to_https_on_its_host_is_followed_and_told_no_secret_before() {
    let pinned = SelfSigned::new(|_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let secure = listener.local_addr().expect("address");
    let secrets = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&secrets);
    let plain = Server::start(None, End::Announced, move |head| {
        told.fetch_add(usize::from(head.to_lowercase().contains("authorization")), Ordering::SeqCst);
        format!(
            "HTTP/1.1 301 Moved\r\nlocation: https://{secure}/token\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    })
    .await;
    let realm = format!("http://{}/token", plain.address);
    let says: Says = Arc::new(move |head: &str| guarded(head, &realm));
    let server = Server::at(listener, Some(pinned.acceptor(&[])), End::Announced, says);
    let folder = tempfile::tempdir().expect("folder");
    let login = folder.path().join("login");
    std::fs::write(&login, "me:word\n").expect("write");
    for auth in ["anonymous".to_owned(), format!("file:{}", login.display())] {
        let (name, url) = ("registry.example".parse().expect("name"), server.url().parse().expect("url"));
        let settings = Settings { ca: Some(pinned.file()), auth: auth.parse().expect("auth"), ..Settings::default() };
        let upstream = HttpUpstream::new(HttpSettings::new(name, url, settings)).expect("settings");
        assert_eq!(manifest(&upstream).await, Ok(MANIFEST.len()), "{auth}");
    }
    assert_eq!(secrets.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn blobs_are_fetched_over_http_where_the_operator_allows_it_and_nothing_else_is() {
    let pinned = SelfSigned::new(|_| {});
    let plain = Server::start(None, End::Announced, |_| found(MANIFEST)).await;
    let target = format!("http://{}/x", plain.address);
    let answer = format!("HTTP/1.1 307 Go\r\nlocation: {target}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let server = Server::start(Some(pinned.acceptor(&[])), End::Announced, move |_| answer.clone()).await;
    for allowed in [false, true] {
        let (name, url) = ("registry.example".parse().expect("name"), server.url().parse().expect("url"));
        let settings = Settings { ca: Some(pinned.file()), redirect_to_http: allowed, ..Settings::default() };
        let upstream = HttpUpstream::new(HttpSettings::new(name, url, settings)).expect("settings");
        let digest = Digest::of(Algorithm::Sha256, MANIFEST.as_bytes());
        let size = upstream.stat(&repository(), &digest).await;
        match (&size, allowed) {
            (Ok(size), true) => assert_eq!(*size, Some(MANIFEST.len() as u64)),
            (Err(error), false) => {
                assert_eq!(error.class, UpstreamErrorClass::Protocol);
                assert!(error.to_string().contains("redirect_to_http"), "{error}");
            }
            _ => panic!("{allowed}: {size:?}"),
        }
        match upstream.blob(&repository(), &digest, Span::default()).await {
            Ok(blob) => {
                let chunks: Vec<_> = blob.body.collect().await;
                let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.expect("whole").to_vec()).collect();
                assert!(allowed && bytes == MANIFEST.as_bytes());
            }
            Err(error) => assert_eq!((allowed, error.class), (false, UpstreamErrorClass::Protocol)),
        }
        assert_eq!(manifest(&upstream).await, Err(UpstreamErrorClass::Protocol), "allowed: {allowed}");
    }
}

#[tokio::test]
async fn the_head_of_an_answer_is_read_as_other_clients_read_it() {
    let many: String = (0..900).map(|number| format!("X-{number}: y\r\n")).collect();
    for odd in [
        "X-Folded: a\r\n  b\r\n\tc\r\n",
        "X-Spaced : a\r\n",
        "X-\u{fc}: a\r\n",
        "X(odd): a\r\n",
        "X-Odd: a\u{1}b\r\n",
        "no name and no value\r\n",
        many.as_str(),
    ] {
        let head = odd.to_owned();
        let says = move |_: &str| found(MANIFEST).replacen("content-type", &format!("{head}content-type"), 1);
        let server = Server::start(None, End::Announced, says).await;
        let (name, url) = ("registry.example".parse().expect("name"), format!("http://{}", server.address));
        let settings = HttpSettings::new(name, url.parse().expect("url"), Settings::default());
        let upstream = HttpUpstream::new(settings).expect("settings");
        assert_eq!(manifest(&upstream).await, Ok(MANIFEST.len()), "{:.40}", odd);
    }
}
