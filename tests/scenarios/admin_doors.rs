//! Who may do what at the admin interface, by which door: addresses look, the Unix socket and the token act.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use registry_mirror::admin::{self, AdminState, Guard, Reach, Readiness, Token};
use registry_mirror::metrics::Metrics;
use registry_mirror::server::tls::Files;
use registry_mirror::server::{Listener, Tls};
use scripted_registry::client::{self, Response};
use scripted_registry::{Registry, noise};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::access_mapped::users;
use crate::support::command;
use crate::support::mirror::{Settings, TestMirror};

const TOKEN: &str = "a token of 24 characters";
const ACTS: [&str; 11] =
    ["pull", "pin", "unpin", "forget", "freeze", "unfreeze", "gc", "verify", "export", "import", "page"];
const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
/// Longer than anything here takes, so that what hangs fails.
const LONG: Duration = Duration::from_secs(30);

fn with(token: &str) -> [(&str, String); 3] {
    let [host, consent] = CONSENT.map(|(name, value)| (name, value.to_owned()));
    [host, consent, ("Authorization", format!("Bearer {token}"))]
}

async fn post(address: SocketAddr, act: &str, token: Option<&str>, body: &str) -> Response {
    let headers = with(token.unwrap_or_default());
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let headers = if token.is_some() { &headers[..] } else { &headers[..2] };
    client::post(address, &format!("/api/v1/{act}"), headers, body).await
}

fn code(response: &Response) -> Value {
    let document: Value = serde_json::from_slice(&response.body).expect("JSON");
    document["code"].clone()
}

/// A mirror with one image and a token.
async fn mirror(config: &str) -> (Registry, TestMirror, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(401, 1000)]);
    let token = format!("server.admin_token = \"file:{}\"\n{config}", file.display());
    let mirror = Settings::of(&registry).config(&token).start().await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    (registry, mirror, folder)
}

async fn pinned(mirror: &TestMirror) -> Value {
    let images = client::get(mirror.socket(), "/api/v1/images", &CONSENT).await;
    let images: Value = serde_json::from_slice(&images.body).expect("JSON");
    images["images"][0]["pinned"].clone()
}

#[tokio::test]
async fn an_address_looks_and_acts_with_the_token_alone() {
    let (_registry, mirror, _folder) = mirror("").await;
    let body = json!({ "images": ["app:1"] }).to_string();
    for act in ACTS {
        let refused = post(mirror.admin, act, None, &body).await;
        assert_eq!((refused.status, code(&refused)), (401, json!("unauthorized")), "{act}");
        assert!(refused.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer")));
    }
    assert_eq!(pinned(&mirror).await, false);
    for wrong in ["", "another token of 16", &TOKEN[1..]] {
        assert_eq!(post(mirror.admin, "pin", Some(wrong), &body).await.status, 401, "{wrong}");
    }
    assert_eq!(pinned(&mirror).await, false);
    assert_eq!(post(mirror.admin, "ready", None, &body).await.status, 200, "it only looks");
    assert_eq!(client::get(mirror.admin, "/api/v1/images", &CONSENT).await.status, 200);
    assert_eq!(post(mirror.admin, "pin", Some(TOKEN), &body).await.status, 200);
    assert_eq!(pinned(&mirror).await, true);
    // A page has no token to show, so any name will do; but what changes something is still asked for.
    let token = format!("Bearer {TOKEN}");
    let foreign = [("Host", "mirror.example"), ("Authorization", token.as_str()), ("X-Registry-Mirror", "1")];
    assert_eq!(client::post(mirror.admin, "/api/v1/unpin", &foreign, &body).await.status, 200);
    assert_eq!(client::post(mirror.admin, "/api/v1/pin", &foreign[..2], &body).await.status, 403);
    assert_eq!(pinned(&mirror).await, false);
}

#[tokio::test]
async fn without_a_token_nothing_that_is_shown_acts() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    for token in [None, Some(""), Some("null"), Some(TOKEN)] {
        assert_eq!(post(mirror.admin, "gc", token, "").await.status, 401, "{token:?}");
    }
    let acted = client::post(mirror.socket(), "/api/v1/gc", &CONSENT, "").await;
    assert_eq!(acted.status, 200);
}

#[tokio::test]
async fn where_clients_say_who_they_are_names_of_images_are_hidden_on_loopback_too() {
    let (files, _certificates) = certificate();
    let [cert, key] = [&files.cert, &files.key].map(|file| file.display().to_string());
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).expect("written");
    let config = format!(
        "server.tls.cert = \"{cert}\"\nserver.tls.key = \"{key}\"\nserver.tls.client_ca = \"{cert}\"\n\
         server.admin_token = \"file:{}\"",
        token.display()
    );
    let mirror = Settings::of(&registry).config(&config).start().await;
    let ready = json!({ "images": ["app:1"] }).to_string();
    assert_eq!(post(mirror.admin, "ready", None, &ready).await.status, 401);
    let token = format!("Bearer {TOKEN}");
    for path in [
        "status",
        "usage",
        "config",
        "session",
        "images",
        "images/inspect?image=app:1",
        "history?image=app:1",
        "canary",
    ] {
        let path = format!("/api/v1/{path}");
        assert_eq!(client::get(mirror.admin, &path, &CONSENT).await.status, 401, "{path}");
        let shown = [("Host", "127.0.0.1"), ("Authorization", token.as_str())];
        assert_ne!(client::get(mirror.admin, &path, &shown).await.status, 401, "{path}");
        assert_ne!(client::get(mirror.socket(), &path, &CONSENT).await.status, 401, "{path}");
    }
    assert_eq!(client::get(mirror.admin, "/api/v1/events", &CONSENT).await.status, 401);
    for path in ["/livez", "/readyz", "/metrics", "/", "/page.css", "/page.js"] {
        assert_eq!(client::get(mirror.admin, path, &[("Authorization", "Bearer wrong")]).await.status, 200, "{path}");
    }
}

fn certificate() -> (Files, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let files = Files { cert: path("cert.pem"), key: path("key.pem"), client_ca: None, certificate_optional: false };
    std::fs::write(&files.cert, cert.pem()).expect("written");
    std::fs::write(&files.key, signing_key.serialize_pem()).expect("written");
    (files, folder)
}

/// The admin interface of a mirror as it is on an address that others can reach, on one that they cannot.
async fn exposed(mirror: &TestMirror, tls: Option<Files>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let state = AdminState {
        bucket: Arc::new(|| None),
        metrics: Arc::new(Metrics::new([])),
        readiness: Arc::new(|| Readiness::Ready),
        mirror: Some(mirror.mirror.clone()),
        guard: Arc::new(Guard::new(Some(Token::new(TOKEN.as_bytes())), false)),
        audit: None,
        pull: Arc::new([]),
        usage: None,
        page: None,
        configuration: None,
        tls: tls.map(|files| Arc::new(Tls::open(files).expect("a pair"))),
        reload: None,
        explain: None,
        carry: None,
    };
    tokio::spawn(admin::serve(Listener::Address(listener), Reach::Network, state, std::future::pending()));
    address
}

#[tokio::test]
async fn beyond_loopback_health_and_numbers_are_told_to_all_and_nothing_else_is() {
    let (_registry, mirror, _folder) = mirror("").await;
    let (files, _certificates) = certificate();
    for tls in [None, Some(files)] {
        let page = if tls.is_some() { 403 } else { 200 };
        let address = exposed(&mirror, tls).await;
        for path in ["/livez", "/readyz", "/metrics"] {
            let answer = client::get(address, path, &[("Host", "mirror.example")]).await;
            assert_eq!(answer.status, 200, "{path}, as probes and scrapers of today ask it");
        }
        for path in ["/", "/page.css", "/page.js"] {
            assert_eq!(client::get(address, path, &[]).await.status, page, "{path}");
        }
        for path in ["status", "images", "schema", "nothing"] {
            assert_eq!(client::get(address, &format!("/api/v1/{path}"), &CONSENT).await.status, 401, "{path}");
        }
        assert_eq!(post(address, "ready", None, "{}").await.status, 401);
        assert_eq!(post(address, "gc", None, "").await.status, 401);
        // From this machine nobody else can read it.
        assert_eq!(post(address, "gc", Some(TOKEN), "").await.status, 200);
    }
}

/// Runs a command.
async fn run(line: String) -> (i32, String) {
    let work = move || {
        let (code, _, err) = command::run(&line.split(' ').collect::<Vec<_>>(), b"");
        (code, err)
    };
    tokio::task::spawn_blocking(work).await.expect("ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_asks_over_tls_whom_it_is_told_to_believe() {
    let (_registry, mirror, folder) = mirror("").await;
    let (files, _certificates) = certificate();
    let (others, _others) = certificate();
    let address = exposed(&mirror, Some(files.clone())).await;
    let (port, token) = (address.port(), folder.path().join("token").display().to_string());
    let [cert, other] = [&files.cert, &others.cert].map(|file| file.display().to_string());
    for (line, expected, why) in [
        (format!("gc --admin https://localhost:{port} --ca {cert} --admin-token {token}"), 0, ""),
        (format!("status --admin https://localhost:{port} --ca {cert}"), 1, "--admin-token FILE"),
        (format!("status --admin https://localhost:{port} --ca {other} --admin-token {token}"), 4, "certificate"),
        (format!("status --admin https://localhost:{port} --admin-token {token}"), 4, "certificate"),
        // The certificate is not for this name.
        (format!("status --admin https://127.0.0.1:{port} --ca {cert} --admin-token {token}"), 4, "certificate"),
        (format!("status --admin https://localhost:{port} --ca /nonexistent"), 2, "--ca: /nonexistent"),
        (format!("status --admin https://localhost:{port} --ca {cert} --admin-token /nonexistent"), 2, "--admin-token"),
        (format!("status --ca {cert}"), 2, "--admin"),
    ] {
        let (code, err) = run(line.clone()).await;
        assert!(code == expected && err.contains(why), "{line}: {code} {err}");
    }
    // Found by its file it is asked by an address that no certificate is for, and exactly that one is believed.
    let config = |cert: &str| {
        let file = folder.path().join("mirror.toml");
        let text = format!(
            "[server]\nadmin = [\"0.0.0.0:{port}\"]\nadmin_socket = \"off\"\nadmin_token = \"file:{token}\"\n\
             [server.tls]\ncert = \"{cert}\"\nkey = \"{}\"\n",
            files.key.display()
        );
        std::fs::write(&file, text).expect("written");
        file.display().to_string()
    };
    let (code, err) = run(format!("gc -c {}", config(&cert))).await;
    assert_eq!(code, 0, "{err}");
    let (code, err) = run(format!("gc -c {}", config(&other))).await;
    assert!(code == 4 && err.contains(&format!("https://127.0.0.1:{port}")), "{code} {err}");
}

/// A connection to the socket, where many are made at a time: the kernel keeps a few waiting, and refuses more.
async fn connected(mirror: &TestMirror) -> UnixStream {
    loop {
        match UnixStream::connect(mirror.socket()).await {
            Ok(stream) => return stream,
            Err(full) if full.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The head of the answer to this, on a connection that is not kept.
async fn told(mirror: &TestMirror, request: &str) -> String {
    let mut stream = connected(mirror).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an orderly end");
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_never_end_beside_a_flood_of_idle_connections_silence_neither_probes_nor_acts() {
    let (_registry, mirror, _folder) = mirror("").await;
    let mut begun = Vec::new();
    for _ in 0..16 {
        begun.push(begin(&mirror, "import", false).await);
    }
    let mut idle = Vec::new();
    let asked = async {
        for number in 0..600 {
            let mut stream = connected(&mirror).await;
            if number % 2 == 0 {
                stream.write_all(b"POST /api/v1/imp").await.expect("sent");
            }
            idle.push(stream);
        }
        let livez = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert!(told(&mirror, livez).await.contains(" 200 "));
        let gc = "POST /api/v1/gc HTTP/1.1\r\nHost: localhost\r\nX-Registry-Mirror: 1\r\nConnection: close\r\n\
                  Content-Length: 2\r\n\r\n{}";
        let gc = told(&mirror, gc).await;
        assert!(gc.contains(" 200 "), "imports have places of their own: {gc}");
    };
    tokio::time::timeout(LONG, asked).await.expect("in time");
    drop((begun, idle));
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_in_front_may_read_otherwise_is_refused_at_every_door() {
    let (_registry, mirror, _folder) = mirror("").await;
    for ambiguous in [
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /api/v1/gc HTTP/1.1\r\nHost: localhost\r\nX-Registry-Mirror: 1\r\nContent-Length: 7\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "POST /api/v1/gc HTTP/1.1\r\nHost: localhost\r\nX-Registry-Mirror: 1\r\nTransfer-Encoding: chunked\r\n\
         Content-Length: 7\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        // What may be longer than anybody knows is the last on its connection, whatever it turns out to be.
        "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nX-Registry-Mirror: 1\r\nContent-Length: 7\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        // Whoever is refused is not heard on the same connection again.
        let smuggled = format!("{ambiguous}GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let status = if ambiguous.contains("/import") { " 422 " } else { " 400 " };
        let at_socket = tokio::time::timeout(LONG, told(&mirror, &smuggled)).await.expect("it closes");
        assert!(at_socket.contains(status) && !at_socket.contains(" 200 "), "{ambiguous}: {at_socket}");
        let mut stream = TcpStream::connect(mirror.admin).await.expect("somebody listens");
        stream.write_all(ambiguous.as_bytes()).await.expect("sent");
        let mut at_address = String::new();
        tokio::time::timeout(LONG, stream.read_to_string(&mut at_address))
            .await
            .expect("it closes")
            .expect("an answer");
        // Addresses do not act.
        let statuses: &[&str] = if ambiguous.contains("/import") { &[" 401 ", " 403 "] } else { &[" 400 "] };
        assert!(statuses.iter().any(|status| at_address.contains(status)), "{ambiguous}: {at_address}");
        assert_eq!(at_address.matches("HTTP/1.1").count(), 1, "{ambiguous}: {at_address}");
    }
    mirror.stop().await;
}

/// Somebody who begins an order and never ends it.
async fn begin(mirror: &TestMirror, act: &str, at_address: bool) -> Either<TcpStream, UnixStream> {
    let mut stream = match at_address {
        true => Either::Left(TcpStream::connect(mirror.admin).await.expect("somebody listens")),
        false => Either::Right(UnixStream::connect(mirror.socket()).await.expect("somebody listens")),
    };
    let head = format!(
        "POST /api/v1/{act} HTTP/1.1\r\nHost: localhost\r\nX-Registry-Mirror: 1\r\nContent-Length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_never_end_are_few_and_silence_no_probe() {
    let (_registry, mirror, _folder) = mirror("").await;
    for (act, at_address) in [("import", false), ("pin", false), ("export", false), ("ready", true)] {
        let mut begun = Vec::new();
        for _ in 0..100 {
            begun.push(begin(&mirror, act, at_address).await);
        }
        // What lasts as long as its client likes has places of its own, so that it keeps nobody from other acts.
        let more = async || {
            let more = match act {
                "ready" => post(mirror.admin, "ready", None, r#"{"images":["app:1"]}"#).await,
                "pin" => client::post(mirror.socket(), "/api/v1/gc", &CONSENT, "{}").await,
                act => client::post(mirror.socket(), &format!("/api/v1/{act}"), &CONSENT, "{}").await,
            };
            (more.status, more.header("retry-after").map(str::to_owned))
        };
        let told = async {
            assert_eq!(client::get(mirror.socket(), "/livez", &[]).await.status, 200);
            assert_eq!(client::get(mirror.admin, "/livez", &[]).await.status, 200);
            while more().await != (503, Some("5".to_owned())) {}
            if act == "import" || act == "export" {
                assert_eq!(client::post(mirror.socket(), "/api/v1/gc", &CONSENT, "{}").await.status, 200, "{act}");
            }
        };
        tokio::time::timeout(LONG, told).await.expect("somebody answers");
        drop(begun);
        let ended = async {
            while more().await.0 == 503 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, ended).await.expect("who hangs up makes room");
    }
    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_follow_are_few_silence_no_probe_and_hold_up_no_stop() {
    let (_registry, mirror, _folder) = mirror("").await;
    let mut followers = Vec::new();
    let refused = loop {
        let follower = client::Stream::get(mirror.admin, "/api/v1/events", &CONSENT).await;
        match follower.status {
            200 => followers.push(follower),
            _ => break follower,
        }
    };
    assert_eq!((refused.status, followers.len()), (503, 32));
    assert!(!followers[0].read(1 << 10).await.is_empty());
    assert_eq!(post(mirror.admin, "ready", None, r#"{"images":["app:1"]}"#).await.status, 200, "other looks go on");
    for _ in 0..300 {
        assert_eq!(client::get(mirror.admin, "/livez", &[]).await.status, 200);
    }
    drop(followers.split_off(1));
    let again = async {
        while client::Stream::get(mirror.admin, "/api/v1/events", &CONSENT).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, again).await.expect("who hangs up makes room");
    // The one that goes on is told that it is over, long before the drain time ends.
    let stopping = tokio::time::timeout(Duration::from_secs(8), mirror.stop());
    stopping.await.expect("nobody waits for a stream");
    assert!(followers.remove(0).finish().await.complete);
}

#[tokio::test]
async fn a_login_is_made_at_the_socket_and_becomes_a_session_that_acts_for_its_user() {
    let (_registry, mirror, _folder) = mirror("").await;
    let body = json!({ "images": ["app:1"] }).to_string();
    let page = client::post(mirror.socket(), "/api/v1/page", &CONSENT, "").await;
    let page: Value = serde_json::from_slice(&page.body).expect("JSON");
    let (at, login) = page["address"].as_str().and_then(|page| page.split_once("/#login=")).expect("an address");
    assert_eq!(at, format!("http://{}", mirror.admin));
    let order = json!({ "login": login }).to_string();
    assert_eq!(
        client::post(
            mirror.admin,
            "/api/v1/page",
            &with(TOKEN).each_ref().map(|(name, value)| (*name, value.as_str())),
            ""
        )
        .await
        .status,
        403,
        "not with the token"
    );
    assert_eq!(
        client::post(mirror.admin, "/api/v1/login", &CONSENT[..1], &order).await.status,
        403,
        "no page of others"
    );
    assert_eq!(client::get(mirror.admin, "/api/v1/login", &CONSENT).await.status, 405);
    let begun = client::post(mirror.admin, "/api/v1/login", &CONSENT, &order).await;
    assert_eq!(begun.status, 200);
    let begun: Value = serde_json::from_slice(&begun.body).expect("JSON");
    let session = begun["session"].as_str().expect("a session");
    assert_eq!(begun["by"], format!("uid={}", rustix::process::getuid().as_raw()));
    for again in [&order, &json!({ "login": session }).to_string(), "{}", "["] {
        let refused = client::post(mirror.admin, "/api/v1/login", &CONSENT, again).await;
        assert!([401, 400].contains(&refused.status), "{again}: {}", refused.status);
    }
    assert_eq!(post(mirror.admin, "pin", Some(login), &body).await.status, 401, "a login is no session");
    assert_eq!(post(mirror.admin, "pin", Some(session), &body).await.status, 200);
    assert_eq!(pinned(&mirror).await, true);
    let address = exposed(&mirror, None).await;
    assert_eq!(post(address, "unpin", Some(session), &body).await.status, 401, "another daemon knows nothing of it");
    let mirror = mirror.restart().await;
    assert_eq!(post(mirror.admin, "unpin", Some(session), &body).await.status, 401, "it ends with the daemon");
}

#[tokio::test]
async fn a_stream_ends_for_whom_it_is_hidden_by_a_reload() {
    let (_registry, mut mirror, folder) = mirror("").await;
    let token = with(TOKEN);
    let token: Vec<_> = token.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let stranger = client::Stream::get(mirror.admin, "/api/v1/events", &CONSENT).await;
    let mut known = client::Stream::get(mirror.admin, "/api/v1/events", &token).await;
    let mut user = client::Stream::get(mirror.socket(), "/api/v1/events", &CONSENT).await;
    assert_eq!([stranger.status, known.status, user.status], [200; 3]);
    let (_users, users) = users(&["ann"]);
    let hidden = mirror.reload(|settings| settings.config(&format!("access.htpasswd = \"{}\"", users.display())));
    assert_eq!(hidden.await.status, 200);
    let ended = tokio::time::timeout(LONG, stranger.finish()).await.expect("it ends");
    assert!(ended.complete);
    assert!(!known.read(1 << 10).await.is_empty(), "who shows the token goes on");
    std::fs::write(folder.path().join("token"), "another token of 28 characters").expect("written");
    assert_eq!(mirror.reload(|settings| settings).await.status, 200);
    assert!(tokio::time::timeout(LONG, known.finish()).await.expect("it ends").complete);
    assert!(!user.read(1 << 10).await.is_empty(), "who is at the socket goes on");
    drop(user);
    mirror.stop().await;
}
