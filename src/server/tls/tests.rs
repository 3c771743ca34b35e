//! TLS over loopback, with certificates made for the occasion.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::*;

/// A folder with an authority and a certificate of it for `localhost`.
struct Folder {
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Folder {
    fn new() -> Folder {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let folder = tempfile::tempdir().expect("a folder");
        let made = Folder { folder, authority };
        made.issue();
        std::fs::write(made.files().client_ca.expect("named"), made.authority.pem()).expect("written");
        made
    }

    /// Writes a new certificate, and returns it.
    fn issue(&self) -> CertificateDer<'static> {
        self.issue_for(&KeyPair::generate().expect("a key"))
    }

    fn issue_for(&self, key: &KeyPair) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(2060, 1, 2);
        let certificate = params.signed_by(key, &self.authority).expect("signed");
        let files = self.files();
        std::fs::write(files.cert, certificate.pem()).expect("written");
        std::fs::write(files.key, key.serialize_pem()).expect("written");
        certificate.der().clone()
    }

    /// Writes a certificate that lasts longer than the one between it and the authority.
    fn issue_below_another(&self) {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "between them");
        params.not_after = rcgen::date_time_ymd(2060, 1, 2);
        let key = KeyPair::generate().expect("a key");
        let between = CertifiedIssuer::signed_by(params, key, &self.authority).expect("signed");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(2070, 1, 2);
        let key = KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &between).expect("signed");
        std::fs::write(self.files().cert, own.pem() + &between.pem()).expect("written");
        std::fs::write(self.files().key, key.serialize_pem()).expect("written");
    }

    fn files(&self) -> Files {
        let path = |name| self.folder.path().join(name);
        Files {
            cert: path("cert.pem"),
            key: path("key.pem"),
            client_ca: Some(path("ca.pem")),
            certificate_optional: false,
        }
    }

    fn open_to_all(&self) -> Files {
        Files { client_ca: None, ..self.files() }
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion], with_certificate: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("an authority");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        let mut config = if with_certificate {
            let key = PrivateKeyDer::from_pem_file(self.files().key).expect("a key");
            builder.with_client_auth_cert(certificates(&self.files().cert).expect("a chain"), key).expect("a pair")
        } else {
            builder.with_no_client_auth()
        };
        config.resumption = Resumption::in_memory_sessions(8);
        TlsConnector::from(Arc::new(config))
    }
}

/// One connection: a byte there and a byte back. `None` if either side refused the other.
async fn connect(tls: &Tls, client: &TlsConnector) -> Option<ClientStream<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let server = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        let (mut stream, _) = tls.accept(stream, Duration::from_secs(60)).await.ok()?;
        let byte = stream.read_u8().await.ok()?;
        stream.write_u8(byte).await.ok()?;
        stream.flush().await.ok()
    };
    let client = async {
        let mut stream = client.connect(name, stream).await.ok()?;
        stream.write_u8(7).await.ok()?;
        (stream.read_u8().await.ok()? == 7).then_some(stream)
    };
    let (served, stream) = tokio::join!(server, client);
    served.and(stream)
}

#[tokio::test]
async fn old_and_new_clients_are_served_and_resumed() {
    let folder = Folder::new();
    let tls = Tls::open(folder.open_to_all()).expect("a pair");
    for (version, name) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let client = folder.client(&[version], false);
        let first = connect(&tls, &client).await.expect("served");
        assert_eq!(first.get_ref().1.protocol_version(), Some(name));
        assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let second = connect(&tls, &client).await.expect("served");
        assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{name:?}");
    }
}

/// A client such as docker 1.13, which was built with Go 1.7: TLS 1.2 with AES-GCM over one of these
/// curves, no X25519, no Ed25519, no RSA-PSS.
fn client_of_2017(folder: &Folder, curve: NamedGroup) -> TlsConnector {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == curve);
    provider.cipher_suites.retain(|suite| {
        let name = format!("{:?}", suite.suite());
        name.starts_with("TLS_ECDHE_") && name.contains("_GCM_")
    });
    assert!(provider.kx_groups.len() == 1 && provider.cipher_suites.len() == 4);
    let mut verifiers = provider.signature_verification_algorithms;
    let known = verifiers.mapping.iter().filter(|(scheme, _)| {
        let name = format!("{scheme:?}");
        name.starts_with("RSA_PKCS1_") || name.starts_with("ECDSA_NISTP256") || name.starts_with("ECDSA_NISTP384")
    });
    verifiers.mapping = Vec::leak(known.copied().collect());
    provider.signature_verification_algorithms = verifiers;
    let mut roots = RootCertStore::empty();
    roots.add(folder.authority.der().clone()).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).expect("a version");
    TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

#[tokio::test]
async fn a_client_of_2017_is_served_with_ecdsa_and_with_rsa_certificates() {
    let folder = Folder::new();
    let rsa = KeyPair::from_pem(include_str!("rsa_key_for_tests.pem")).expect("a key");
    let ecdsa = |of| KeyPair::generate_for(of).expect("a key");
    for (kind, key) in [
        ("P-256", ecdsa(&rcgen::PKCS_ECDSA_P256_SHA256)),
        ("P-384", ecdsa(&rcgen::PKCS_ECDSA_P384_SHA384)),
        ("RSA", rsa),
    ] {
        folder.issue_for(&key);
        let tls = Tls::open(folder.open_to_all()).expect("a pair");
        for curve in [NamedGroup::secp256r1, NamedGroup::secp384r1] {
            let stream = connect(&tls, &client_of_2017(&folder, curve)).await;
            let stream = stream.unwrap_or_else(|| panic!("refused: {kind} {curve:?}"));
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_2), "{kind}");
            assert_eq!(connection.negotiated_key_exchange_group().map(|group| group.name()), Some(curve), "{kind}");
        }
    }
    folder.issue_for(&KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"));
    let tls = Tls::open(folder.open_to_all()).expect("a pair");
    let refused = connect(&tls, &client_of_2017(&folder, NamedGroup::secp256r1)).await;
    assert!(refused.is_none(), "the client is as old as it should be");
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let folder = Folder::new();
    let tls = Tls::open(folder.open_to_all()).expect("a pair");
    assert!(!tls.look().expect("a pair"), "nothing changed");
    let read = |files| Tls::prepare(files).expect("a pair");
    assert!(!tls.differ(&read(folder.open_to_all())), "nothing changed");
    let new = folder.issue();
    let prepared = read(folder.open_to_all());
    assert!(tls.differ(&prepared));
    tls.take(prepared);
    let stream = connect(&tls, &folder.client(rustls::ALL_VERSIONS, false)).await.expect("served");
    assert_eq!(stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()), Some(&new));
}

#[tokio::test]
async fn a_change_shows_in_the_time_of_the_file_and_a_bad_one_changes_nothing() {
    let folder = Folder::new();
    let tls = Tls::open(folder.open_to_all()).expect("a pair");
    std::fs::write(folder.files().cert, "not a certificate").expect("written");
    let another_time = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    let file = std::fs::OpenOptions::new().write(true).open(folder.files().cert).expect("ours");
    file.set_modified(another_time).expect("ours");
    assert!(tls.look().is_err());
    connect(&tls, &folder.client(rustls::ALL_VERSIONS, false)).await.expect("served with what was there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_is_refused_while_certificates_change_and_the_daemon_is_told_again_and_again() {
    let folder = Folder::new();
    let tls = Arc::new(Tls::open(folder.open_to_all()).expect("a pair"));
    let (others, client, files) = (Arc::clone(&tls), folder.client(rustls::ALL_VERSIONS, false), folder.open_to_all());
    // Also while the new certificate is there, and its key is not yet.
    let tell = move |tls: &Tls| drop(Tls::prepare(files.clone()).map(|prepared| tls.take(prepared)));
    let told = tell.clone();
    let meanwhile = tokio::spawn(async move {
        loop {
            told(&others);
            connect(&others, &client).await.expect("served");
        }
    });
    let client = folder.client(rustls::ALL_VERSIONS, false);
    for _ in 0..10 {
        let new = folder.issue();
        let shown = async {
            loop {
                tell(&tls);
                let stream = connect(&tls, &client).await.expect("served");
                if stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) == Some(&new) {
                    break;
                }
            }
        };
        shown.await;
    }
    assert!(!meanwhile.is_finished(), "somebody was refused");
    meanwhile.abort();
}

#[tokio::test]
async fn with_an_authority_for_clients_strangers_are_refused() {
    let folder = Folder::new();
    let tls = Tls::open(folder.files()).expect("a pair");
    assert!(connect(&tls, &folder.client(rustls::ALL_VERSIONS, false)).await.is_none());
    assert!(connect(&tls, &folder.client(rustls::ALL_VERSIONS, true)).await.is_some());
}

/// When certificates of these tests end: the second of January 2060, in seconds since 1970.
const THE_END: u64 = 2_840_227_200;

/// A time that somebody sets, in seconds since 1970.
#[derive(Debug)]
struct SetTime(std::sync::atomic::AtomicU64);

impl rustls::time_provider::TimeProvider for SetTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = self.0.load(std::sync::atomic::Ordering::SeqCst);
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired_since_is_not_resumed() {
    let folder = Folder::new();
    for (version, below_another) in [
        (&rustls::version::TLS12, false),
        (&rustls::version::TLS13, false),
        (&rustls::version::TLS12, true),
        (&rustls::version::TLS13, true),
    ] {
        if below_another {
            folder.issue_below_another();
        }
        let tls = Tls::open(folder.files()).expect("a pair");
        // A minute before the certificate ends, or the one above it.
        let time = Arc::new(SetTime((THE_END - 60).into()));
        let mut config = ServerConfig::clone(&tls.current.read().config);
        config.time_provider = Arc::clone(&time) as Arc<dyn rustls::time_provider::TimeProvider>;
        tls.current.write().config = Arc::new(config);
        let client = folder.client(&[version], true);
        assert!(connect(&tls, &client).await.is_some());
        // The ticket of a session that was resumed is as good, and as old, as the first.
        for _ in 0..4 {
            let resumed = connect(&tls, &client).await.expect("served again");
            assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        }
        time.0.store(THE_END + 60, std::sync::atomic::Ordering::SeqCst);
        assert!(connect(&tls, &client).await.is_none(), "{version:?}, below another: {below_another}");
    }
}

/// What a connection knows of its client, who has the certificate of the folder.
async fn vouched(tls: &Tls, folder: &Folder) -> Vouched {
    let (client, server) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = folder.client(rustls::ALL_VERSIONS, true);
    let (accepted, connected) =
        tokio::join!(tls.accept(server, Duration::from_secs(60)), connector.connect(name, client));
    connected.expect("served");
    accepted.expect("served").1.expect("he showed one")
}

#[tokio::test]
async fn who_is_there_counts_as_long_as_one_of_the_authorities_vouches_for_him() {
    let (folder, other) = (Folder::new(), Folder::new());
    let authorities = folder.files().client_ca.expect("named");
    let tls = Tls::open(folder.files()).expect("a pair");
    let below_another = || {
        folder.issue_below_another();
        vouched(&tls, &folder)
    };
    let clients = [vouched(&tls, &folder).await, below_another().await];
    let (own, another) = (folder.authority.pem(), other.authority.pem());
    for (file, counts) in [
        (own.clone() + "# a comment\n", true),
        (own.clone() + &another, true),
        (another.clone() + &own, true),
        (own.clone() + &own, true),
        (another, false),
        (own, true),
    ] {
        std::fs::write(&authorities, &file).expect("written");
        tls.take(Tls::prepare(folder.files()).expect("a pair"));
        for client in &clients {
            assert_eq!(client.caller().is_some(), counts, "{file}");
        }
    }
    tls.take(Tls::prepare(Files { certificate_optional: true, ..folder.files() }).expect("a pair"));
    assert!(clients[0].caller().is_some());
    tls.take(Tls::prepare(folder.open_to_all()).expect("a pair"));
    assert!(clients.iter().all(|client| client.caller().is_none()), "nobody vouches for anybody");
}

#[tokio::test]
async fn who_is_there_counts_no_more_some_time_after_his_certificate_has_expired() {
    let folder = Folder::new();
    let tls = Tls::open(folder.files()).expect("a pair");
    let client = vouched(&tls, &folder).await;
    let mut config = ServerConfig::clone(&tls.current.read().config);
    config.time_provider = Arc::new(SetTime((THE_END + 60).into()));
    tls.current.write().config = Arc::new(config);
    assert!(client.caller().is_some(), "it was looked at a moment ago");
    client.0.looked.lock().at = Instant::now().checked_sub(LOOK_EVERY).expect("the machine has run for longer");
    assert!(client.caller().is_none());
}

#[test]
fn files_that_are_of_no_use_are_named_with_their_problem() {
    let folder = Folder::new();
    let good = folder.open_to_all();
    let path = |name: &str, text: &str| {
        let path = folder.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let other_key = path("other.pem", &KeyPair::generate().expect("a key").serialize_pem());
    let garbled = path("garbled.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
    let empty = path("empty.pem", "");
    let missing = folder.folder.path().join("missing.pem");
    for (files, expected) in [
        (Files { cert: missing, ..good.clone() }, "missing.pem: cannot be read"),
        (Files { cert: garbled, ..good.clone() }, "garbled.pem: not PEM"),
        (Files { cert: empty.clone(), ..good.clone() }, "empty.pem: no certificate in PEM form"),
        (Files { key: empty, ..good.clone() }, "empty.pem: nothing in PEM form"),
        (Files { key: other_key, ..good }, "the key does not belong to the certificate"),
    ] {
        let error = Tls::open(files).expect_err("of no use").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
