//! Replicas that ask their clients for a certificate show each other their own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use scripted_registry::{Gate, Match, Rule, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Scene, TestMirror, blob_of, leases};

const SIZE: usize = 2_000_000;

/// Who trusts the authority, and has this certificate.
fn client(authority: &CertificateDer<'static>, own: &CertificateDer<'static>, key: &KeyPair) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = builder.with_root_certificates(roots).with_client_auth_cert(vec![own.clone()], key).unwrap();
    TlsConnector::from(Arc::new(config))
}

/// Asks for a blob, and reads so much of the answer.
async fn begin(mirror: &TestMirror, client: &TlsConnector, path: &str, length: usize) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(mirror.address).await.unwrap();
    let mut stream = client.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut beginning = vec![0; length];
    stream.read_exact(&mut beginning).await.unwrap();
    assert!(beginning.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&beginning[..100]));
    stream
}

#[tokio::test]
async fn a_replica_that_asks_for_certificates_gives_to_one_that_shows_its_own() {
    let scene = Scene::set().await;
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = [("cert", own.pem() + &authority.pem()), ("key", key.serialize_pem()), ("client_ca", authority.pem())];
    let lines = files.map(|(name, text)| {
        std::fs::write(folder.path().join(name), text).unwrap();
        format!("server.tls.{name} = \"{}\"\n", folder.path().join(name).display())
    });
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let door = crate::Door::shut().await;
        let told = scene.told_others(&door).replace("advertise = \"http:", "advertise = \"https:");
        let mirror = scene.settings().config(&told).config(&lines.concat()).start().await;
        door.lead_to(mirror.address);
        leases::has_leases(&mirror).await;
        replicas.push((mirror, door));
    }
    let bytes = noise(600, SIZE);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    let (path, gate) = (blob_of("library/app", &digest), Gate::new());
    scene.registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(1_000_000, &gate));
    let client = client(authority.der(), own.der(), &key);
    let first = begin(&replicas[0].0, &client, &path, 500_000).await;
    let second = begin(&replicas[1].0, &client, &path, 500_000).await;
    gate.open();
    for mut stream in [first, second] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(bytes.ends_with(&rest) && rest.len() > SIZE - 500_000);
    }
    assert_eq!(scene.registry.gets_of(&digest), 1);
}
