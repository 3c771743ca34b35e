//! Who callers are: certificates, passwords behind proxies, what each of them may have, and what operators see.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use scripted_registry::client::{self, Connection};
use scripted_registry::{Registry, noise};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::access_mapped::{ask, basic, users};
use crate::support::mirror::{Settings, TestMirror};

/// An authority, the files of a mirror that asks for its certificates, and who trusts it.
pub(crate) struct Authority {
    pub(crate) folder: TempDir,
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let authority = Authority { folder: tempfile::tempdir().expect("a folder"), issuer };
        authority.issue();
        authority
    }

    /// Writes a new certificate of the mirror.
    fn issue(&self) {
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(["localhost".to_owned()]).expect("a name").signed_by(&key, &self.issuer);
        for (name, text) in
            [("cert.pem", own.expect("signed").pem()), ("key.pem", key.serialize_pem()), ("ca.pem", self.issuer.pem())]
        {
            std::fs::write(self.folder.path().join(name), text).expect("written");
        }
    }

    pub(crate) fn lines(&self) -> String {
        let key =
            |key: &str, file: &str| format!("server.tls.{key} = \"{}\"\n", self.folder.path().join(file).display());
        key("cert", "cert.pem") + &key("key", "key.pem") + &key("client_ca", "ca.pem")
    }

    /// A client with a certificate of this name, if it has one.
    pub(crate) fn client(&self, name: &str) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let builder = builder.with_root_certificates(roots);
        if name.is_empty() {
            return TlsConnector::from(Arc::new(builder.with_no_client_auth()));
        }
        let (mut params, key) = (CertificateParams::new([]).expect("no names"), KeyPair::generate().expect("a key"));
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = builder.with_client_auth_cert(vec![certificate.der().clone()], key).expect("a pair");
        TlsConnector::from(Arc::new(config))
    }
}

/// Status of an answer over TLS, 0 where there is none, and whether it challenges.
pub(crate) async fn over_tls(mirror: &TestMirror, client: &TlsConnector, path: &str, shown: &str) -> (u16, bool) {
    let stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
    let Ok(mut stream) = client.connect(ServerName::try_from("localhost").expect("a name"), stream).await else {
        return (0, false);
    };
    let shown = if shown.is_empty() { String::new() } else { format!("Authorization: {shown}\r\n") };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{shown}\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_err() || stream.read_to_end(&mut answer).await.is_err() {
        return (0, false);
    }
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    (text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default(), text.contains("www-authenticate"))
}

#[tokio::test]
async fn a_certificate_is_a_caller_and_beside_passwords_it_need_not_be_shown() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(21, 1000)]);
    registry.add_image("app", "1", &[noise(22, 1000)]);
    let (authority, (_folder, users)) = (Authority::new(), users(&["ann"]));
    let (public, mapped) = ("/v2/library/app/manifests/1", "/v2/app/manifests/1?ns=a.example");
    let grants = "access.grant = [{ who = [\"cert:build-*\", \"user:ann\"], may = \"a.example/**\" }]\n";
    let (build, other, nobody) = (authority.client("build-1"), authority.client("other"), authority.client(""));
    let settings = |more: &str| {
        let lines = format!("{}{grants}{more}", authority.lines());
        Settings::of(&registry).config(&lines).and("a.example", &registry).having("access = \"mapped\"")
    };
    let mirror = settings("").start().await;
    for (client, path, status) in [
        (&build, public, 200),
        (&build, mapped, 200),
        (&other, public, 200),
        (&other, mapped, 403),
        // In the handshake, or right after it.
        (&nobody, public, 0),
    ] {
        assert_eq!(over_tls(&mirror, client, path, "").await.0, status, "{path}");
    }
    drop(mirror.stop().await);
    let mirror = settings(&format!("access.htpasswd = \"{}\"", users.display())).start().await;
    let (ann, wrong) = (basic("ann", "ann"), basic("ann", "wrong"));
    for (client, path, shown, expected) in [
        (&build, mapped, "", (200, false)),
        (&build, mapped, wrong.as_str(), (200, false)),
        (&other, mapped, "", (403, false)),
        (&other, mapped, ann.as_str(), (200, false)),
        (&other, mapped, wrong.as_str(), (401, true)),
        (&nobody, mapped, "", (401, true)),
        (&nobody, mapped, ann.as_str(), (200, false)),
        // Nobody gets anything who does not say who he is.
        (&nobody, public, "", (401, false)),
        (&nobody, public, ann.as_str(), (200, false)),
        (&other, public, "", (200, false)),
        (&nobody, "/v2/", "", (401, false)),
        (&nobody, "/v2/", ann.as_str(), (200, false)),
        (&build, "/v2/", "", (200, false)),
    ] {
        assert_eq!(over_tls(&mirror, client, path, shown).await, expected, "{path} {shown}");
    }
    drop(mirror.stop().await);
    // Where clients log in.
    let lines = format!("access.htpasswd = \"{}\"\nroutes.default = \"a.example\"", users.display());
    let mirror = settings(&lines).start().await;
    for (client, shown, expected) in [
        (&build, "", (200, false)),
        (&build, ann.as_str(), (200, false)),
        (&build, wrong.as_str(), (401, true)),
        (&other, "", (200, false)),
        (&other, ann.as_str(), (200, false)),
        (&other, wrong.as_str(), (401, true)),
        (&nobody, ann.as_str(), (200, false)),
        (&nobody, wrong.as_str(), (401, true)),
    ] {
        assert_eq!(over_tls(&mirror, client, "/v2/", shown).await, expected, "{shown}");
    }
}

#[tokio::test]
async fn behind_a_proxy_only_what_came_to_it_over_tls_may_show_anything() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(23, 1000)]);
    registry.add_image("app", "1", &[noise(24, 1000)]);
    let (_folder, users) = users(&["ann"]);
    let lines = format!(
        "server.trusted_proxies = [\"127.0.0.2\"]\naccess.htpasswd = \"{}\"\n\
         access.grant = [{{ who = \"user:ann\", may = \"a.example/**\" }}]",
        users.display()
    );
    let mirror = Settings::of(&registry).config(&lines).and("a.example", &registry).having("access = \"mapped\"");
    let mirror = mirror.start().await;
    let ann = basic("ann", "ann");
    let (proxy, stranger) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    for (from, proto, path, status) in [
        (proxy, "https", "/v2/app/manifests/1?ns=a.example", 200),
        (proxy, "HTTPS", "/v2/app/manifests/1?ns=a.example", 200),
        (proxy, "http", "/v2/app/manifests/1?ns=a.example", 403),
        (proxy, "", "/v2/app/manifests/1?ns=a.example", 403),
        (stranger, "https", "/v2/app/manifests/1?ns=a.example", 403),
        (stranger, "https", "/v2/library/app/manifests/1", 200),
        (proxy, "http", "/v2/library/app/manifests/1", 200),
    ] {
        // As proxies send it, and without the client's address.
        for more in [1, 0] {
            let headers =
                [("Authorization", ann.as_str()), ("X-Forwarded-Proto", proto), ("X-Forwarded-For", "192.0.2.1")];
            let connection = Connection::open_from(from, mirror.address).await;
            let answer = connection.send("GET", path, &headers[..2 + more]).await.expect("an answer").finish().await;
            assert_eq!(answer.status, status, "{from:?} {proto} {path}");
            if status == 403 {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(text.contains("X-Forwarded-Proto") && answer.header("www-authenticate").is_none(), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn who_has_said_who_he_is_has_limits_of_his_own() {
    let registry = Registry::start().await;
    registry.add_image("app", "1", &[noise(25, 1000)]);
    let (_folder, users) = users(&["ann", "bob"]);
    let lines = format!(
        "limits.requests_per_client = 4\naccess.htpasswd = \"{}\"\n\
         access.grant = [{{ who = \"user:*\", may = \"a.example/**\" }}]",
        users.display()
    );
    let mirror = Settings::of(&registry).config(&lines).and("a.example", &registry).having("access = \"mapped\"");
    let mirror = mirror.start().await;
    let path = "/v2/app/manifests/1?ns=a.example";
    assert_eq!(ask(&mirror, "GET", "bob", path).await.status, 200);
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(ask(&mirror, "GET", "ann", path).await.status == 429);
    }
    assert!(refused > 0);
    assert_eq!(ask(&mirror, "GET", "bob", path).await.status, 200, "of the same address");
    // What is asked of upstreams, too, wherever he asks from.
    for n in 0..20 {
        registry.add_image("app", &format!("cold{n}"), &[noise(125 + n, 1000)]);
    }
    let lines = lines.replace("limits.requests_per_client = 4", "limits.cold_per_client = 2");
    let mirror = Settings::of(&registry).config(&lines).and("a.example", &registry).having("access = \"mapped\"");
    let mirror = mirror.start().await;
    let of = |user: &'static str, from: [u8; 4], n: u64| {
        let (address, path) = (mirror.address, format!("/v2/app/manifests/cold{n}?ns=a.example"));
        async move {
            let shown = basic(user, user);
            let connection = Connection::open_from(from, address).await;
            connection.send("GET", &path, &[("Authorization", &shown)]).await.expect("an answer").finish().await.status
        }
    };
    let mut refused = [0; 2];
    for n in 0..18 {
        let from = [127, 0, 0, 31 + (n % 2) as u8];
        refused[(n % 2) as usize] += usize::from(of("ann", from, n).await == 429);
    }
    assert!(refused.iter().all(|refused| *refused > 0), "{refused:?} of two addresses");
    assert_eq!(of("bob", [127, 0, 0, 31], 19).await, 200, "of hers");
}

#[tokio::test]
async fn shared_with_passwords_is_for_those_who_log_in() {
    let registry = Registry::start().await;
    registry.add_image("app", "1", &[noise(26, 1000)]);
    let (_folder, users) = users(&["ann"]);
    let lines = format!("access.htpasswd = \"{}\"", users.display());
    let mirror = Settings::of(&registry).config(&lines).and("a.example", &registry).having("access = \"shared\"");
    let mirror = mirror.start().await;
    let path = "/v2/app/manifests/1?ns=a.example";
    for (user, status) in [("", 401), ("ann", 200), ("eve", 401), ("", 401), ("ann", 200)] {
        assert_eq!(ask(&mirror, "GET", user, path).await.status, status, "{user}");
    }
}

#[tokio::test]
async fn where_callers_say_who_they_are_names_of_images_are_for_operators_alone() {
    let registry = Registry::start().await;
    let (_folder, users) = users(&["ann"]);
    let lines = format!("access.htpasswd = \"{}\"", users.display());
    for (settings, status) in [
        (Settings::of(&registry), 200),
        (Settings::of(&registry).config(&lines), 401),
        (Settings::of(&registry).and("a.example", &registry).having("access = \"mapped\""), 401),
    ] {
        let mirror = settings.start().await;
        let answer = client::get(mirror.admin, "/api/v1/images", &[("Host", "127.0.0.1")]).await;
        assert_eq!(answer.status, status);
    }
}

/// The status of an answer to HEAD, over a connection that is kept.
async fn head(stream: &mut TlsStream<TcpStream>, path: &str) -> u16 {
    let request = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    String::from_utf8_lossy(&answer).get(9..12).and_then(|status| status.parse().ok()).expect("a status")
}

#[tokio::test]
async fn a_new_certificate_drops_no_connection_and_authorities_that_are_gone_vouch_for_nobody() {
    let registry = Registry::start().await;
    registry.add_image("app", "1", &[noise(23, 1000)]);
    let authority = Authority::new();
    let mapped = "/v2/app/manifests/1?ns=a.example";
    let grants = "access.grant = [{ who = \"cert:build-*\", may = \"a.example/**\" }]\n";
    let settings = Settings::of(&registry).config(&format!("{}{grants}", authority.lines()));
    let mut mirror = settings.and("a.example", &registry).having("access = \"mapped\"").start().await;
    let build = authority.client("build-1");
    let connect = async |mirror: &TestMirror| {
        let stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
        build.connect(ServerName::try_from("localhost").expect("a name"), stream).await
    };
    let shown = |stream: &TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first).expect("a certificate").clone().into_owned()
    };
    let mut kept = connect(&mirror).await.expect("served");
    assert_eq!(head(&mut kept, mapped).await, 200);
    authority.issue();
    let answer = mirror.reload(|settings| settings).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("server.tls"), "{answer:?}");
    assert_eq!(head(&mut kept, mapped).await, 200, "it is kept");
    let new = connect(&mirror).await.expect("served");
    assert_ne!(shown(&new), shown(&kept));
    // A pair that does not fit changes nothing.
    let key = authority.folder.path().join("key.pem");
    let before = std::fs::read(&key).expect("ours");
    std::fs::write(&key, KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    assert_eq!(mirror.reload(|settings| settings).await.status, 500);
    assert_eq!(shown(&connect(&mirror).await.expect("served")), shown(&new));
    std::fs::write(&key, before).expect("written");
    let (own, another) = (authority.issuer.pem(), Authority::new().issuer.pem());
    for file in [own.clone() + &another, another.clone() + &own] {
        std::fs::write(authority.folder.path().join("ca.pem"), file).expect("written");
        assert_eq!(mirror.reload(|settings| settings).await.status, 200);
        assert_eq!(head(&mut kept, mapped).await, 200, "his own authority is still one of them");
    }
    std::fs::write(authority.folder.path().join("ca.pem"), another).expect("written");
    assert_eq!(mirror.reload(|settings| settings).await.status, 200);
    assert_eq!(head(&mut kept, mapped).await, 403, "he is nobody now, and would not be admitted anew");
    assert_eq!(over_tls(&mirror, &build, mapped, "").await.0, 0);
}
