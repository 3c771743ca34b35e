//! What callers show stays where it belongs: every kind of credential, right and wrong, is shown along every path and
//! through every failure, to the program with everything logged. Nothing of it is found in its log, its audit, its
//! metrics, its answers, what its commands print, its store, or at a host that should not have it, also when it
//! is killed in the middle. Longer than others, as one story needs all of its actors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use scripted_registry::client::{self, Stream};
use scripted_registry::{Digest, Gate, Image, Listener, Match, Recorded, Registry, Rule, TokenPolicy, base64, noise};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::secrets::{files_below, sent};

/// What an upstream says that nobody should repeat.
const WORDS: &str = "canary-upstream-words";
/// The hosts, by the names that the mirror has for them.
const PUBLIC: &str = "docker.io";
const PASSING: &str = "a.example";
const MAPPED: &str = "b.example";
const OPERATOR: &str = "canary-operator-token";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(&format!("{user}:{password}")))
}

fn base64url(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// The registries, the issuer, and the files of a mirror of them.
struct World {
    folder: tempfile::TempDir,
    public: Registry,
    passing: Registry,
    mapped: Registry,
    issuer: Registry,
    image: Image,
    /// What is shown, by what it is.
    shown: Vec<(&'static str, String)>,
    tls: Option<(TlsConnector, CertificateDer<'static>)>,
}

impl World {
    async fn new(with_certificates: bool) -> World {
        let (public, mapped, issuer) = (Registry::start().await, Registry::start().await, Registry::start().await);
        let passing = Registry::start().await.with_storage_host().await;
        let policy = TokenPolicy::bearer().user("canary-user", "canary-password").private("team/app");
        passing.require_tokens(policy);
        mapped.require_tokens(TokenPolicy::bearer().user("canary-account", "canary-secret").private("team/app"));
        let images = [&public, &passing, &mapped].map(|it| it.add_image("team/app", "1", &[noise(251, 10_000)]));
        let [.., image] = images;
        let folder = tempfile::tempdir().unwrap();
        let mut world = World { folder, public, passing, mapped, issuer, image, shown: Vec::new(), tls: None };
        let tls = if with_certificates { world.certify() } else { String::new() };
        world.configure(&tls);
        world.shown = world.credentials().await;
        world
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn audit(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    fn configure(&self, tls: &str) {
        let hash = bcrypt::hash("canary-own-password", 4).unwrap();
        let users = self.write("users", &format!("ours:{hash}\n"));
        let account = self.write("account", "canary-account:canary-secret");
        let token = self.write("token", OPERATOR);
        let upstream = |host: &str, registry: &Registry, more: &str| {
            format!("[[upstream]]\nhost = \"{host}\"\nurl = \"{}\"\n{more}\n", registry.url())
        };
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0={PASSING}\", \"127.0.0.1:0={MAPPED}\"]\n\
             admin = \"127.0.0.1:0\"\nadmin_token = \"file:{token}\"\n{tls}\
             [log]\nlevel = \"trace,hyper=trace,h2=trace,rustls=trace,reqwest=trace\"\n\
             [store]\npath = \"{store}\"\nmin_free = \"0\"\n[cache]\ntag_ttl = \"0s\"\nnegative_ttl = \"0s\"\n\
             [access]\nhtpasswd = \"{users}\"\ngrant_ttl = \"0s\"\naudit = \"{audit}\"\n\
             [[access.oidc]]\nissuer = \"{issuer}\"\n\
             [[access.grant]]\nwho = [\"user:ours\", \"oidc:job\"]\nmay = \"{MAPPED}/**\"\n\
             {}{}{}",
            upstream(PUBLIC, &self.public, ""),
            upstream(PASSING, &self.passing, "access = \"pass-through\""),
            upstream(MAPPED, &self.mapped, &format!("access = \"mapped\"\nauth = \"file:{}\"", account.display())),
            token = token.display(),
            store = self.store().display(),
            users = users.display(),
            audit = self.audit().display(),
            issuer = self.issuer.url(),
        );
        self.write("mirror.toml", &text);
    }

    /// Has the mirror ask for certificates, and gives callers one.
    fn certify(&mut self) -> String {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let files = [("cert", own.pem()), ("key", key.serialize_pem()), ("client_ca", authority.pem())];
        let lines =
            files.map(|(name, text)| format!("{name} = \"{}\"\n", self.write(&format!("{name}.pem"), &text).display()));
        let (mut params, key) = (CertificateParams::new([]).unwrap(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, "build");
        let certificate = params.signed_by(&key, &authority).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config =
            builder.with_root_certificates(roots).with_client_auth_cert(vec![certificate.clone()], key).unwrap();
        self.tls = Some((TlsConnector::from(Arc::new(config)), certificate));
        format!("[server.tls]\n{}", lines.concat())
    }

    /// Every kind, right and wrong.
    async fn credentials(&self) -> Vec<(&'static str, String)> {
        let job = self.publish_keys();
        let (rest, _) = job.rsplit_once('.').unwrap();
        let login = basic("canary-user", "canary-password");
        let token = "/token?scope=repository:team/app:pull";
        let token = client::get(self.passing.address(), token, &[("Authorization", &login)]).await;
        let token: Value = serde_json::from_slice(&token.body).unwrap();
        let bearer = |token: &str| format!("Bearer {token}");
        vec![
            ("their password", login),
            ("a wrong password of theirs", basic("canary-user", "canary-wrong")),
            ("their token", bearer(token["token"].as_str().unwrap())),
            ("a made-up token", bearer("canary-made-up")),
            ("our password", basic("ours", "canary-own-password")),
            ("a wrong password of ours", basic("ours", "canary-own-wrong")),
            ("an issuer's token", bearer(&job)),
            ("an issuer's token as password", basic("canary-whoever", &job)),
            ("a forged token", bearer(&format!("{rest}.{}", base64url(b"canary-forged")))),
            ("the operator's token", bearer(OPERATOR)),
            ("something odd", "Canary canary-odd".to_owned()),
        ]
    }

    /// Publishes a key of the issuer, and gives a token that is signed with it.
    fn publish_keys(&self) -> String {
        let (key, url) = (KeyPair::generate().unwrap(), self.issuer.url());
        let point = key.public_key_raw();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
        let own = json!({ "kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256", "x": x, "y": y });
        let description = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") });
        for (path, body) in [("/.well-known/openid-configuration", description), ("/keys", json!({ "keys": [own] }))] {
            let rule = Rule::on(Match::path(path)).answer(200, "application/json", body.to_string());
            self.issuer.rule(rule.before_auth());
        }
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({ "iss": url, "aud": "registry-mirror", "sub": "job", "exp": now + 3600 });
        let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap()
    }

    /// What may be found nowhere, beside the word canary.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec!["canary".to_owned()];
        for (_, shown) in &self.shown {
            let value = shown.split_once(' ').unwrap().1;
            secrets.push(value.to_owned());
            // Of a token the description of how it is signed is nobody's secret.
            secrets.extend(value.split('.').skip(1).map(str::to_owned));
        }
        let seen = [&self.passing, &self.mapped].map(Registry::requests).concat();
        for request in &seen {
            let shown = request.header("authorization").and_then(|shown| shown.split_once(' '));
            secrets.extend(shown.map(|(_, value)| value.to_owned()));
            secrets.extend(Some(request.query.clone()).filter(|query| query.contains("Signature")));
        }
        if let Some((_, certificate)) = &self.tls {
            let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
            secrets.push(encoded[64..96].to_owned());
        }
        secrets.sort_unstable();
        secrets.dedup();
        secrets
    }

    fn registries(&self) -> [(&'static str, &Registry); 4] {
        [(PUBLIC, &self.public), (PASSING, &self.passing), (MAPPED, &self.mapped), ("the issuer", &self.issuer)]
    }
}

/// The program, with all that it logs.
struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
    pull: Vec<SocketAddr>,
    admin: SocketAddr,
}

impl Daemon {
    async fn start(world: &World, log: &Arc<Mutex<String>>) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
            .args(["serve", "-c"])
            .arg(world.folder.path().join("mirror.toml"))
            .env("RUST_LOG", "trace")
            .env_remove("NOTIFY_SOCKET")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = tokio::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let note = |log: &Mutex<String>, line: &str| log.lock().unwrap().extend([line, "\n"]);
        let places = |line: &str, key: &str| -> Option<Vec<SocketAddr>> {
            let list = line.split_once(&format!("\"{key}\":\"["))?.1.split_once(']')?.0.to_owned();
            list.split(", ").map(|place| place.parse().ok()).collect()
        };
        let (pull, admin) = loop {
            let line = lines.next_line().await.unwrap().expect("the daemon says where it listens");
            note(log, &line);
            if let (Some(pull), Some(admin)) = (places(&line, "pull"), places(&line, "admin")) {
                break (pull, admin[0]);
            }
        };
        let kept = Arc::clone(log);
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                note(&kept, &line);
            }
        });
        Daemon { child, log: Arc::clone(log), reading, pull, admin }
    }

    /// What the system tells of it.
    fn seen_by_all(&self) -> String {
        let id = self.child.id().unwrap();
        let files = ["cmdline", "environ"].map(|file| std::fs::read(format!("/proc/{id}/{file}")).unwrap());
        String::from_utf8_lossy(&files.concat()).into_owned()
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
        self.reading.await.unwrap();
        self.log.lock().unwrap().push_str("killed\n");
    }

    async fn stop(mut self) {
        let id = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().await.unwrap();
        self.reading.await.unwrap();
    }

    /// What is answered, as it comes.
    async fn ask(&self, world: &World, at: usize, path: &str, shown: &str) -> String {
        let shown = if shown.is_empty() { String::new() } else { format!("Authorization: {shown}\r\n") };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{shown}\r\n");
        let Some((tls, _)) = &world.tls else {
            return String::from_utf8_lossy(&client::raw(self.pull[at], request.as_bytes()).await).into_owned();
        };
        let stream = TcpStream::connect(self.pull[at]).await.unwrap();
        let mut stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let mut answer = Vec::new();
        stream.write_all(request.as_bytes()).await.unwrap();
        // An answer that is cut is one, too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Every path of every upstream with every credential; gives what was answered.
async fn pull_all(world: &World, daemon: &Daemon) -> String {
    let (image, manifest) = (&world.image, world.image.manifest.digest);
    let mut parts: Vec<String> = image.blobs().map(|blob| format!("blobs/{}", blob.digest)).collect();
    parts.extend(["manifests/1".to_owned(), format!("manifests/{manifest}"), "manifests/none".to_owned()]);
    parts.extend(["tags/list".to_owned(), format!("referrers/{manifest}")]);
    ask_all(world, daemon, &[PUBLIC, PASSING, MAPPED], &parts).await
}

/// The paths where something else is said, if something is wrong on the other side.
async fn pull_some(world: &World, daemon: &Daemon, blob: &Digest) -> String {
    let parts = [format!("blobs/{blob}"), "manifests/1".to_owned(), "tags/list".to_owned()];
    ask_all(world, daemon, &[PASSING, MAPPED], &parts).await
}

async fn ask_all(world: &World, daemon: &Daemon, hosts: &[&str], parts: &[String]) -> String {
    let mut told = String::new();
    for (_, shown) in &world.shown {
        for at in 0..daemon.pull.len() {
            told.push_str(&daemon.ask(world, at, "/v2/", shown).await);
        }
        for host in hosts {
            for part in parts {
                told.push_str(&daemon.ask(world, 0, &format!("/v2/team/app/{part}?ns={host}"), shown).await);
            }
        }
    }
    told
}

/// Everything that can go wrong on the other side, one after the other.
async fn suffer(world: &mut World, daemon: &Daemon) -> String {
    let (mut told, layer) = (String::new(), world.image.layers[0].digest);
    // With certificates it takes a handshake each time.
    let statuses: &[u16] = if world.tls.is_some() { &[401, 502] } else { &[401, 403, 404, 429, 500, 502] };
    for status in statuses {
        for registry in [&world.passing, &world.mapped] {
            registry.rule(Rule::on(Match::any()).answer(*status, "text/plain", WORDS).before_auth());
        }
        told.push_str(&pull_some(world, daemon, &layer).await);
        world.passing.clear_rules();
        world.mapped.clear_rules();
    }
    world.passing.rule(Rule::on(Match::token()).answer(500, "text/plain", WORDS));
    told.push_str(&pull_some(world, daemon, &layer).await);
    world.passing.clear_rules();
    let damaged = world.passing.add_blob("team/app", noise(252, 50_000));
    world.passing.rule(Rule::on(Match::stored(&damaged)).flip_last_byte());
    told.push_str(&pull_some(world, daemon, &damaged).await);
    world.passing.clear_rules();
    world.passing.stop().await;
    world.mapped.stop().await;
    world.issuer.stop().await;
    told.push_str(&pull_some(world, daemon, &layer).await);
    told
}

/// What the admin interface and the commands tell an operator.
async fn operate(world: &World, daemon: &Daemon) -> String {
    let mut told = String::new();
    let right = format!("Bearer {OPERATOR}");
    // Each wrong one waits half a second for its answer.
    let wrong = world.shown.iter().map(|(_, shown)| shown.as_str()).take(3);
    for shown in wrong.chain([right.as_str()]) {
        for path in
            ["/metrics", "/readyz", "/api/v1/status", "/api/v1/images", "/api/v1/history?image=b.example/team/app:1"]
        {
            let headers = [("Authorization", shown), ("Host", "127.0.0.1")];
            told.push_str(&format!("{:?}", client::get(daemon.admin, path, &headers).await));
        }
    }
    let headers = [("Authorization", right.as_str()), ("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
    for act in ["pull", "ready", "verify", "pin"] {
        let body = r#"{"images":["b.example/team/app:1"],"image":"b.example/team/app:1"}"#;
        told.push_str(&format!("{:?}", client::post(daemon.admin, &format!("/api/v1/{act}"), &headers, body).await));
    }
    let (folder, admin) = (world.folder.path(), format!("http://{}", daemon.admin));
    let [config, token] = ["mirror.toml", "token"].map(|name| folder.join(name).display().to_string());
    for command in [
        format!("status --json --admin {admin} --admin-token {token}"),
        format!("images -v --admin {admin} --admin-token {token}"),
        format!("images --admin {admin} --admin-token {config}"),
        format!("check {config}"),
        format!("config show --origin -c {config}"),
        format!("access explain user:ours b.example/team/app:1 -c {config}"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_registry-mirror")).args(command.split(' ')).output();
        let output = output.await.unwrap();
        told.push_str(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    }
    told
}

/// Kills the program while it fills something for a caller who has shown his password.
async fn crash(world: &World, daemon: Daemon) {
    let (gate, blob) = (Gate::new(), world.passing.add_blob("team/app", noise(253, 500_000)));
    world.passing.rule(Rule::on(Match::stored(&blob)).stall_after(300_000, &gate));
    let path = format!("/v2/team/app/blobs/{blob}?ns={PASSING}");
    let shown = &world.shown[0].1;
    if world.tls.is_none() {
        let mut reader = Stream::get(daemon.pull[0], &path, &[("Authorization", shown)]).await;
        reader.read_exactly(100_000).await;
        gate.reached().await;
        daemon.kill().await;
    } else {
        tokio::select! {
            _ = daemon.ask(world, 0, &path, shown) => panic!("it stands still"),
            () = gate.reached() => {}
        }
        daemon.kill().await;
    }
    world.passing.clear_rules();
}

/// Whether a host may be shown what it was shown.
fn may_be_shown(world: &World, host: &str, request: &Recorded) -> bool {
    let Some(shown) = request.header("authorization") else { return true };
    if request.listener == Listener::Storage {
        return false;
    }
    let theirs = |kind: &str| world.shown.iter().any(|(it, value)| *it == kind && value == shown);
    let issued = shown.starts_with("Bearer token-");
    match (host, request.path.as_str()) {
        (PASSING, "/token") => theirs("their password") || theirs("a wrong password of theirs"),
        (PASSING, _) => issued || theirs("a made-up token") || theirs("the operator's token"),
        (MAPPED, "/token") => shown == basic("canary-account", "canary-secret"),
        (MAPPED, _) => issued && !theirs("their token"),
        _ => false,
    }
}

async fn nothing_is_found_where_it_should_not_be(with_certificates: bool) {
    let mut world = World::new(with_certificates).await;
    let log = Arc::default();
    let daemon = Daemon::start(&world, &log).await;
    let mut system = daemon.seen_by_all();
    let mut told = pull_all(&world, &daemon).await;
    told.push_str(&pull_all(&world, &daemon).await);
    crash(&world, daemon).await;
    let left_by_the_crash = files_below(&world.store());
    let daemon = Daemon::start(&world, &log).await;
    told.push_str(&suffer(&mut world, &daemon).await);
    let operated = operate(&world, &daemon).await;
    system.push_str(&daemon.seen_by_all());
    daemon.stop().await;

    let log = log.lock().unwrap().clone();
    let audit = read(&world.audit());
    let store = files_below(&world.store());
    assert!(log.contains("DEBUG") && log.contains("\"caller\":\"user:ours\""), "everything is logged");
    for (_, registry) in world.registries().iter().skip(1) {
        assert!(!registry.requests().is_empty(), "all take part");
    }
    let unknown = if with_certificates { "cert:build" } else { "presented:" };
    for word in ["user:ours", "oidc:job", unknown, "\"status\":200", "\"status\":401", "\"status\":503"] {
        assert!(audit.contains(word), "{word} is in the audit");
    }
    assert!(store.contains("_links") && left_by_the_crash.contains("_links"), "there is a store");

    let mut found = Vec::new();
    let secrets = world.secrets();
    for (place, text) in [
        ("the log", &log),
        ("the audit", &audit),
        ("answers", &told),
        ("what operators see", &operated),
        ("the store", &store),
        ("the store after a crash", &left_by_the_crash),
        ("what the system tells", &system),
    ] {
        // The log is long, and there are many secrets: lines are looked at only where there is something.
        for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
            let lines = text.lines().filter(|line| line.contains(secret.as_str()));
            found.extend(lines.take(3).map(|line| format!("{secret} in {place}: {line}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    for (host, registry) in world.registries() {
        for request in registry.requests() {
            assert!(may_be_shown(&world, host, &request), "{host} was shown {}", sent(&request));
            let elsewhere = format!("{} {:?}", request.query, request.body);
            assert!(!elsewhere.contains("canary"), "{host}: {elsewhere}");
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}

#[tokio::test]
async fn nothing_that_callers_show_is_found_where_it_should_not_be() {
    nothing_is_found_where_it_should_not_be(false).await;
}

#[tokio::test]
async fn nothing_that_callers_with_certificates_show_is_found_where_it_should_not_be() {
    nothing_is_found_where_it_should_not_be(true).await;
}
