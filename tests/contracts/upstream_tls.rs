//! What `HttpUpstream` makes of https: whom it believes, what it shows of itself and to whom, and
//! where it is not led.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use registry_mirror::oci::{Algorithm, Digest};
use registry_mirror::upstream::credentials::Auth;
use registry_mirror::upstream::http::{HttpSettings, HttpSettingsError, HttpUpstream};
use registry_mirror::upstream::settings::{ClientCertificate, Settings};
use registry_mirror::upstream::{Upstream, UpstreamError, UpstreamErrorClass};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;

/// An authority, with the files that a configuration would name.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    der: rustls::pki_types::CertificateDer<'static>,
    folder: TempDir,
}

/// A certificate and its key.
struct Leaf {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Authority { params, key, pem, der, folder: tempfile::tempdir().expect("folder") }
    }

    fn leaf(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).expect("certificate");
        Leaf { certificate, key }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    }

    fn file(&self) -> PathBuf {
        self.write("ca.pem", &self.pem)
    }

    /// A certificate for us, in files.
    fn client(&self) -> ClientCertificate {
        let leaf = self.leaf("us.example", |_| {});
        let certificate = self.write("client.pem", &leaf.certificate.pem());
        ClientCertificate { certificate, key: self.write("client.key", &leaf.key.serialize_pem()) }
    }
}

/// What came in over one connection.
#[derive(Clone, Debug, Default)]
struct Connection {
    /// Nothing where TLS failed.
    request: Option<String>,
    showed_certificate: bool,
}

/// A server that answers every request alike.
struct Server {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `asking` makes it ask for a certificate of this authority, and insist if so.
    fn start(leaf: Leaf, asking: Option<(&Authority, bool)>, answer: &str) -> Server {
        let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).expect("key");
        let builder = rustls::ServerConfig::builder();
        let builder = match asking {
            None => builder.with_no_client_auth(),
            Some((authority, insists)) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority.der.clone()).expect("root");
                let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
                let verifier = if insists { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().expect("verifier"))
            }
        };
        let config = builder.with_single_cert(vec![leaf.certificate.der().clone()], key).expect("configuration");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("address");
        let (connections, stopping) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stop, answer) = (Arc::clone(&connections), Arc::clone(&stopping), answer.to_owned());
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let connection = serve(stream, &config, &answer);
                log.lock().expect("lock").push(connection);
            }
        });
        Server { address, connections, stopping, thread: Some(thread) }
    }

    fn honest(authority: &Authority) -> Server {
        Server::start(authority.leaf("127.0.0.1", |_| {}), None, FOUND)
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Ends the server and gives what came in.
    fn stop(mut self) -> Vec<Connection> {
        self.end();
        self.connections.lock().expect("lock").clone()
    }

    fn end(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(stream: TcpStream, config: &Arc<rustls::ServerConfig>, answer: &str) -> Connection {
    let session = rustls::ServerConnection::new(Arc::clone(config)).expect("session");
    let mut lines = BufReader::new(rustls::StreamOwned::new(session, stream));
    let mut request = String::new();
    let read = lines.read_line(&mut request);
    let showed_certificate = lines.get_ref().conn.peer_certificates().is_some();
    if !read.is_ok_and(|read| read > 0) {
        return Connection { request: None, showed_certificate };
    }
    let mut header = String::new();
    while lines.read_line(&mut header).is_ok_and(|read| read > 2) {
        header.clear();
    }
    let _ = lines.get_mut().write_all(answer.as_bytes());
    lines.get_mut().conn.send_close_notify();
    let _ = lines.get_mut().flush();
    Connection { request: Some(request.trim().to_owned()), showed_certificate }
}

const FOUND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n";

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 307 Go\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// Where proxies are to go.
const REGISTRY: &str = "https://registry.example";

fn upstream(url: &str, settings: Settings) -> Result<HttpUpstream, HttpSettingsError> {
    let (name, url) = ("registry.example".parse().expect("name"), url.parse().expect("url"));
    HttpUpstream::new(HttpSettings::new(name, url, settings))
}

async fn stat(url: &str, settings: Settings) -> Result<Option<u64>, UpstreamError> {
    let upstream = upstream(url, settings).expect("settings");
    upstream.stat(&"a".parse().expect("repository"), &Digest::of(Algorithm::Sha256, b"")).await
}

fn class(answer: Result<Option<u64>, UpstreamError>) -> Result<Option<u64>, UpstreamErrorClass> {
    answer.map_err(|error| error.class)
}

#[tokio::test]
async fn a_certificate_of_the_configured_authority_is_believed() {
    let authority = Authority::new();
    let server = Server::honest(&authority);
    let settings = Settings { ca: Some(authority.file()), ..Settings::default() };
    assert_eq!(stat(&server.url(), settings).await.expect("size"), Some(7));
    let requests = server.stop();
    let request = requests[0].request.as_deref().expect("a request");
    assert!(request.starts_with("HEAD /v2/a/blobs/sha256:"), "{request}");
}

#[tokio::test]
async fn a_bad_certificate_gets_no_request_and_is_not_taken_for_an_outage() {
    let authority = Authority::new();
    type Change = fn(&mut CertificateParams);
    let expired: Change = |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let not_yet: Change = |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    let nothing: Change = |_| {};
    for (what, name, change, known) in [
        ("wrong name", "other.example", nothing, true),
        ("expired", "127.0.0.1", expired, true),
        ("not yet valid", "127.0.0.1", not_yet, true),
        ("unknown authority", "127.0.0.1", nothing, false),
    ] {
        let server = Server::start(authority.leaf(name, change), None, FOUND);
        let ca = known.then(|| authority.file());
        let error = stat(&server.url(), Settings { ca, ..Settings::default() }).await.expect_err(what);
        assert_eq!(error.class, UpstreamErrorClass::Protocol, "{what}: {error}");
        assert!(error.to_string().contains("certificate"), "{what}: {error}");
        // No second attempt either: neither over plain http nor without a look.
        let connections = server.stop();
        assert_eq!(connections.len(), 1, "{what}");
        assert_eq!(connections[0].request, None, "{what}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused() {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("certificate");
    let server = Server::start(Leaf { certificate, key }, None, FOUND);
    assert_eq!(class(stat(&server.url(), Settings::default()).await), Err(UpstreamErrorClass::Protocol));
    assert_eq!(server.stop()[0].request, None);
}

#[tokio::test]
async fn insecure_is_for_exactly_this_origin() {
    let authority = Authority::new();
    let careless = || Settings { insecure: true, ..Settings::default() };
    let server = Server::start(authority.leaf("other.example", |_| {}), None, FOUND);
    assert_eq!(class(stat(&server.url(), careless()).await), Ok(Some(7)));

    // The same host at another port is another origin.
    let elsewhere = Server::honest(&authority);
    let location = format!("{}/x", elsewhere.url());
    let leading = Server::start(authority.leaf("127.0.0.1", |_| {}), None, &redirect(&location));
    assert_eq!(class(stat(&leading.url(), careless()).await), Err(UpstreamErrorClass::Protocol));
    assert_eq!(elsewhere.stop()[0].request, None, "a redirect");

    let realm = Server::honest(&authority);
    let challenge = format!(
        "HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm=\"{}/token\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        realm.url()
    );
    let guarded = Server::start(authority.leaf("127.0.0.1", |_| {}), None, &challenge);
    assert_eq!(class(stat(&guarded.url(), careless()).await), Err(UpstreamErrorClass::Protocol));
    assert_eq!(realm.stop()[0].request, None, "a token service");
}

#[tokio::test]
async fn our_certificate_is_shown_to_the_upstream_and_not_where_it_redirects() {
    let authority = Authority::new();
    let storage = Server::start(authority.leaf("127.0.0.1", |_| {}), Some((&authority, false)), FOUND);
    let location = format!("{}/x", storage.url());
    let registry = Server::start(authority.leaf("127.0.0.1", |_| {}), Some((&authority, true)), &redirect(&location));
    let ours = |certificate| Settings { ca: Some(authority.file()), certificate, ..Settings::default() };
    assert_eq!(class(stat(&registry.url(), ours(Some(authority.client()))).await), Ok(Some(7)));
    assert_eq!(class(stat(&registry.url(), ours(None)).await), Err(UpstreamErrorClass::Protocol), "it wants one");
    let shown: Vec<bool> = registry.stop().iter().map(|connection| connection.showed_certificate).collect();
    assert_eq!(shown, [true, false]);
    let seen = storage.stop();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].request.is_some() && !seen[0].showed_certificate);
}

#[test]
fn files_that_are_no_certificates_are_named_and_not_quoted() {
    let authority = Authority::new();
    let client = authority.client();
    let junk = authority.write("junk.pem", "canary");
    let missing = authority.folder.path().join("missing.pem");
    for (ca, certificate, named) in [
        (Some(junk.clone()), None, &junk),
        (Some(missing.clone()), None, &missing),
        (None, Some(ClientCertificate { key: junk.clone(), ..client.clone() }), &junk),
        (None, Some(ClientCertificate { key: missing.clone(), ..client.clone() }), &missing),
        (None, Some(ClientCertificate { certificate: missing.clone(), ..client }), &missing),
    ] {
        let settings = Settings { ca, certificate, ..Settings::default() };
        let error = upstream(REGISTRY, settings).expect_err("not usable");
        let text = format!("{error} {error:?}");
        assert!(text.contains(&named.display().to_string()) && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn https_is_not_led_to_http() {
    let authority = Authority::new();
    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    plain.set_nonblocking(true).expect("nonblocking");
    let target = plain.local_addr().expect("address");
    let answer = redirect(&format!("http://{target}/?canary"));
    let server = Server::start(authority.leaf("127.0.0.1", |_| {}), None, &answer);
    let settings = Settings { ca: Some(authority.file()), ..Settings::default() };
    let error = stat(&server.url(), settings).await.expect_err("led astray");
    assert_eq!(error.class, UpstreamErrorClass::Protocol);
    assert!(!error.to_string().contains("canary"), "{error}");
    assert!(plain.accept().is_err(), "nobody connects");
}

/// A proxy that notes what it is first told, and lets no more through than one connection.
fn proxy(accept: impl FnOnce(&mut TcpStream) -> SocketAddr + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("address");
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("connection");
        let target = accept(&mut client);
        let server = TcpStream::connect(target).expect("target");
        let copies = [(&client, &server), (&server, &client)].map(|(from, to)| {
            let (mut from, mut to) = (from.try_clone().expect("clone"), to.try_clone().expect("clone"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            })
        });
        for copy in copies {
            copy.join().expect("copy");
        }
    });
    (address, thread)
}

#[tokio::test]
async fn requests_go_through_an_http_proxy() {
    let authority = Authority::new();
    let server = Server::start(authority.leaf("registry.example", |_| {}), None, FOUND);
    let target = server.address;
    let (address, thread) = proxy(move |client| {
        let mut head = String::new();
        let mut lines = BufReader::new(client.try_clone().expect("clone"));
        while lines.read_line(&mut head).expect("head") > 2 {}
        assert!(head.starts_with("CONNECT registry.example:443 "), "{head}");
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("write");
        target
    });
    let proxy = Some(format!("http://{address}").parse().expect("url"));
    let settings = Settings { ca: Some(authority.file()), proxy, ..Settings::default() };
    assert_eq!(class(stat(REGISTRY, settings).await), Ok(Some(7)));
    drop(server.stop());
    thread.join().expect("proxy");
}

/// A file with a user and a password that has everything addresses are particular about.
fn password_file(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("proxy-password");
    std::fs::write(&path, "me:p@s:s/w%rd#?\n").expect("write");
    path
}

#[tokio::test]
async fn an_http_proxy_is_told_who_we_are_and_nobody_else_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let server = Server::start(authority.leaf("registry.example", |_| {}), None, FOUND);
    let target = server.address;
    let (address, thread) = proxy(move |client| {
        let mut head = String::new();
        let mut lines = BufReader::new(client.try_clone().expect("clone"));
        while lines.read_line(&mut head).expect("head") > 2 {}
        // me:p@s:s/w%rd#? in base64
        assert!(head.to_lowercase().contains("proxy-authorization: basic bwu6cebzonmvdyvyzcm/"), "{head}");
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("write");
        target
    });
    let settings = Settings {
        ca: Some(authority.file()),
        proxy: Some(format!("http://{address}").parse().expect("url")),
        proxy_auth: Some(Auth::File(password_file(&folder))),
        ..Settings::default()
    };
    assert_eq!(class(stat(REGISTRY, settings).await), Ok(Some(7)));
    for connection in server.stop() {
        let head = connection.request.unwrap_or_default().to_lowercase();
        assert!(!head.contains("proxy-auth") && !head.contains("authorization"), "{head}");
    }
    thread.join().expect("proxy");
}

#[tokio::test]
async fn a_socks_proxy_is_told_who_we_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let server = Server::start(authority.leaf("registry.example", |_| {}), None, FOUND);
    let target = server.address;
    let (address, thread) = proxy(move |client| {
        let read = |client: &mut TcpStream, count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).expect("read");
            bytes
        };
        let methods = read(client, 2)[1];
        assert!(read(client, methods.into()).contains(&2), "a password is offered");
        client.write_all(&[5, 2]).expect("write");
        let user = read(client, 2)[1];
        assert_eq!(read(client, user.into()), b"me");
        let password = read(client, 1)[0];
        assert_eq!(read(client, password.into()), b"p@s:s/w%rd#?");
        client.write_all(&[1, 0]).expect("write");
        let length = read(client, 5)[4];
        read(client, usize::from(length) + 2);
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).expect("write");
        target
    });
    let settings = Settings {
        ca: Some(authority.file()),
        proxy: Some(format!("socks5h://{address}").parse().expect("url")),
        proxy_auth: Some(Auth::File(password_file(&folder))),
        ..Settings::default()
    };
    assert_eq!(class(stat(REGISTRY, settings).await), Ok(Some(7)));
    drop(server.stop());
    thread.join().expect("proxy");
}

#[tokio::test]
async fn the_password_of_a_proxy_is_in_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("broken");
    std::fs::write(&file, "canary-without-colon").expect("write");
    let with = |proxy: &str, file: PathBuf| Settings {
        proxy: Some(proxy.parse().expect("url")),
        proxy_auth: Some(Auth::File(file)),
        ..Settings::default()
    };
    for missing in [file.clone(), folder.path().join("missing")] {
        let error = upstream(REGISTRY, with("http://127.0.0.1:1", missing)).map(drop).expect_err("of no use");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    std::fs::write(&file, "canary-user:canary-password").expect("write");
    for scheme in ["http", "https", "socks5", "socks5h"] {
        let error =
            stat(REGISTRY, with(&format!("{scheme}://127.0.0.1:1"), file.clone())).await.expect_err("nobody listens");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn requests_go_through_a_socks_proxy_that_looks_names_up() {
    let authority = Authority::new();
    let server = Server::start(authority.leaf("registry.example", |_| {}), None, FOUND);
    let target = server.address;
    let (address, thread) = proxy(move |client| {
        let mut read = |count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).expect("read");
            bytes
        };
        let methods = read(2)[1];
        read(methods.into());
        client.write_all(&[5, 0]).expect("write");
        let mut read = |count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).expect("read");
            bytes
        };
        let [_, command, _, kind, length] = read(5)[..] else { panic!("a request") };
        assert_eq!((command, kind), (1, 3), "connect, by name");
        assert_eq!(read(length.into()), b"registry.example");
        read(2);
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).expect("write");
        target
    });
    let proxy = Some(format!("socks5h://{address}").parse().expect("url"));
    let settings = Settings { ca: Some(authority.file()), proxy, ..Settings::default() };
    assert_eq!(class(stat(REGISTRY, settings).await), Ok(Some(7)));
    drop(server.stop());
    thread.join().expect("proxy");
}
