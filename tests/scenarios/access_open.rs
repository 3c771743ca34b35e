//! Connections that are open when the settings change: each of their requests is judged by the settings of its time.

use rustls::pki_types::ServerName;
use scripted_registry::{Image, Registry, noise};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::access_callers::{Authority, over_tls};
use crate::access_mapped::{basic, users};
use crate::support::mirror::{Settings, TestMirror};

/// More than the system keeps of an answer that nobody reads.
const LARGE: usize = 24_000_000;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection that is used again and again.
struct Kept(Box<dyn Stream>);

impl Kept {
    async fn in_clear(mirror: &TestMirror) -> Kept {
        Kept(Box::new(TcpStream::connect(mirror.address).await.expect("somebody listens")))
    }

    async fn over_tls(mirror: &TestMirror, client: &TlsConnector) -> Kept {
        let stream = TcpStream::connect(mirror.address).await.expect("somebody listens");
        let name = ServerName::try_from("localhost").expect("a name");
        Kept(Box::new(client.connect(name, stream).await.expect("admitted")))
    }

    /// Asks, and reads nothing of the answer but its first bytes.
    async fn begin(&mut self, (method, path): (&str, &str), lines: &str) -> Vec<u8> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        self.0.write_all(request.as_bytes()).await.expect("written");
        let mut begun = vec![0; 20];
        self.0.read_exact(&mut begun).await.expect("an answer");
        begun
    }

    /// Status and length of an answer that has `begun` so, which is read whole.
    async fn end(&mut self, method: &str, begun: Vec<u8>) -> (u16, usize) {
        let (mut answer, mut bytes) = (begun, vec![0; 65_536]);
        loop {
            if let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                let length = length.filter(|_| method != "HEAD").unwrap_or_default();
                if answer.len() - head - 4 >= length {
                    return (text[9..12].parse().expect("a status"), answer.len() - head - 4);
                }
            }
            let read = self.0.read(&mut bytes).await.expect("an answer");
            assert!(read > 0, "it is cut");
            answer.extend_from_slice(&bytes[..read]);
        }
    }

    async fn ask(&mut self, what: (&str, &str), lines: &str) -> u16 {
        let begun = self.begin(what, lines).await;
        self.end(what.0, begun).await.0
    }

    async fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).await.is_ok_and(|read| read == 0)
    }
}

fn lines(user: &str) -> String {
    if user.is_empty() { String::new() } else { format!("Authorization: {}\r\n", basic(user, user)) }
}

/// Every way to ask for something of an image that everybody may have, and for what is no image.
fn ways(image: &Image) -> Vec<(&'static str, String, &'static str)> {
    let (manifest, layer) = (&image.manifest.digest, &image.layers[0].digest);
    let mut ways = vec![("GET", format!("/v2/library/app/blobs/{layer}"), "Range: bytes=1-9\r\n")];
    for path in [
        "/v2/",
        "/v2/library/app/manifests/1",
        "/v2/library/app/tags/list",
        "/v2/shared/app/manifests/1?ns=a.example",
        "/v2/library/registry-mirror-canary/manifests/latest",
        &format!("/v2/library/app/manifests/{manifest}"),
        &format!("/v2/library/app/blobs/{layer}"),
    ] {
        ways.extend(["GET", "HEAD"].map(|method| (method, path.to_owned(), "")));
    }
    ways
}

fn settings(registry: &Registry, lines: &str) -> Settings {
    Settings::of(registry).config(lines).and("a.example", registry).having("access = \"shared\"")
}

/// Has the lines of the configuration replaced, and returns what was told of it.
async fn reloaded(mirror: &mut TestMirror, lines: &str) -> String {
    let told = mirror.reload(|settings| settings.reconfigured(lines)).await;
    let text = String::from_utf8_lossy(&told.body).into_owned();
    assert_eq!(told.status, 200, "{text}");
    text
}

#[tokio::test]
async fn where_certificates_alone_come_to_admit_an_open_connection_without_one_is_refused_each_way() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(25, 1000)]);
    registry.add_image("shared/app", "1", &[noise(26, 1000)]);
    let (authority, (_folder, users)) = (Authority::new(), users(&["ann"]));
    let alone = authority.lines();
    let without_ca = alone.lines().filter(|line| !line.contains("client_ca")).collect::<Vec<_>>().join("\n");
    let htpasswd = format!("{alone}access.htpasswd = \"{}\"", users.display());
    let oidc = format!("{alone}access.oidc = [{{ issuer = \"http://127.0.0.1:1\" }}]");
    let (build, nobody) = (authority.client("build-1"), authority.client(""));
    for (before, user, status, changed) in [
        (&htpasswd, "ann", 200, "access.htpasswd"),
        (&oidc, "", 401, "access.oidc"),
        (&without_ca, "", 200, "server.tls.client_ca"),
    ] {
        let mut mirror = settings(&registry, before).start().await;
        let (mut with, mut without) = (Kept::over_tls(&mirror, &build).await, Vec::new());
        for (method, path, more) in ways(&image) {
            let mut one = Kept::over_tls(&mirror, &nobody).await;
            let got = one.ask((method, &path), &(lines(user) + more)).await;
            let expected = match status {
                200 if !more.is_empty() => 206,
                401 if path.contains("canary") => 200,
                status => status,
            };
            assert_eq!(got, expected, "{changed}: {method} {path}");
            without.push(one);
        }
        assert!(reloaded(&mut mirror, &alone).await.contains(changed));
        for ((method, path, more), one) in ways(&image).into_iter().zip(&mut without) {
            assert_eq!(one.ask((method, &path), &(lines(user) + more)).await, 403, "{changed}: {method} {path}");
            assert!(one.is_closed().await, "{changed}: {method} {path}");
            assert_eq!(over_tls(&mirror, &nobody, &path, "").await.0, 0, "as a new one: {changed}: {method} {path}");
        }
        // One that was asked for none shows none.
        let expected = if *before == without_ca { 403 } else { 200 };
        assert_eq!(with.ask(("GET", "/v2/library/app/manifests/1"), "").await, expected, "{changed}");
        assert_eq!(over_tls(&mirror, &build, "/v2/library/app/manifests/1", "").await.0, 200, "{changed}");
    }
}

#[tokio::test]
async fn what_is_under_way_ends_whole_when_who_gets_it_would_not_be_admitted_any_more() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(27, LARGE)]);
    let ((authority, later), (_folder, users)) = ((Authority::new(), Authority::new()), users(&["ann"]));
    let htpasswd = format!("{}access.htpasswd = \"{}\"", authority.lines(), users.display());
    let mut mirror = settings(&registry, &htpasswd).start().await;
    let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    let length = usize::try_from(image.layers[0].size).expect("fits");
    let (large, small) = (("GET", layer.as_str()), ("HEAD", "/v2/library/app/manifests/1"));
    let mut without = Kept::over_tls(&mirror, &authority.client("")).await;
    let mut with = Kept::over_tls(&mirror, &authority.client("build-1")).await;
    let begun = (without.begin(large, &lines("ann")).await, with.begin(large, "").await);
    assert!(reloaded(&mut mirror, &authority.lines()).await.contains("access.htpasswd"));
    std::fs::write(authority.folder.path().join("ca.pem"), later.issuer.pem()).expect("written");
    assert!(reloaded(&mut mirror, &authority.lines()).await.contains("server.tls"));
    assert_eq!(without.end("GET", begun.0).await, (200, length));
    assert_eq!(with.end("GET", begun.1).await, (200, length));
    assert_eq!(without.ask(small, &lines("ann")).await, 403);
    assert_eq!(with.ask(small, "").await, 403, "another authority than the one that vouched for it");
    assert!(without.is_closed().await && with.is_closed().await);
    assert_eq!(over_tls(&mirror, &authority.client("build-1"), small.1, "").await.0, 0, "as a new one");
}

#[tokio::test]
async fn who_counts_no_more_on_an_open_connection_gets_what_a_new_one_gets() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(28, 1000)]);
    registry.add_image("shared/app", "1", &[noise(29, 1000)]);
    let (authority, (_folder, users)) = (Authority::new(), users(&["ann", "bob"]));
    let grants = "access.grant = [{ who = [\"cert:build-*\", \"user:*\"], may = \"a.example/**\" }]\n";
    let tls = authority.lines() + grants;
    let no_ca = tls.lines().filter(|line| !line.contains("client_ca")).collect::<Vec<_>>().join("\n");
    let htpasswd = format!("access.htpasswd = \"{}\"\n{grants}", users.display());
    let (build, image) = (authority.client("build-1"), ("GET", "/v2/shared/app/manifests/1?ns=a.example"));
    let mapped = |lines: &str| settings(&registry, lines).replacing("shared", "mapped");
    // There are no certificates any more.
    let mut mirror = mapped(&tls).start().await;
    let mut with = Kept::over_tls(&mirror, &build).await;
    assert_eq!(with.ask(image, "").await, 200);
    assert!(reloaded(&mut mirror, &no_ca).await.contains("server.tls.client_ca"));
    let mut anew = Kept::over_tls(&mirror, &build).await;
    for of in [&mut with, &mut anew] {
        assert_eq!(of.ask(image, "").await, 401);
        assert_eq!(of.ask(("GET", "/v2/library/app/manifests/1"), "").await, 200);
    }
    // There are no passwords any more, or not hers; nobody is asked for a certificate in clear.
    let mut mirror = mapped(&htpasswd).start().await;
    let mut kept = Kept::in_clear(&mirror).await;
    assert_eq!(kept.ask(image, &lines("ann")).await, 200);
    let file = std::fs::read_to_string(&users).expect("ours");
    std::fs::write(&users, file.lines().filter(|line| !line.starts_with("ann:")).collect::<String>()).expect("written");
    assert!(reloaded(&mut mirror, &htpasswd).await.contains("access.htpasswd"));
    assert_eq!((kept.ask(image, &lines("ann")).await, kept.ask(image, &lines("bob")).await), (401, 200));
    assert!(reloaded(&mut mirror, grants).await.contains("access.htpasswd"));
    assert_eq!(kept.ask(image, &lines("bob")).await, 401);
    // Certificates for addresses that are in clear hold from a restart on.
    assert!(reloaded(&mut mirror, &tls).await.contains("server.tls.client_ca"));
    assert_eq!(kept.ask(("GET", "/v2/library/app/manifests/1"), "").await, 200);
    assert_eq!(Kept::in_clear(&mirror).await.ask(("GET", "/v2/"), "").await, 200);
}
