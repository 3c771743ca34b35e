//! Secrets stay where they belong: every path is pulled with canaries in every credential and every
//! client header, everything is logged, and then nothing of them is found in logs, metrics, answers of
//! either listener, files of the store, messages of panics, `Debug` output, what commands print, what
//! the system tells of our processes, or requests to hosts that should not have them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_mirror::oci::{Algorithm, Digest};
use registry_mirror::telemetry;
use registry_mirror::upstream::Upstream as _;
use registry_mirror::upstream::credentials::Auth;
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use scripted_registry::client::{self, Response};
use scripted_registry::{Listener, Match, Recorded, Registry, Rule, TokenPolicy, base64, noise};
use tokio::io::AsyncBufReadExt as _;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::mirror::{Settings, TestMirror};

const USER: &str = "canary-user";
const PASSWORD: &str = "canary-password";
/// What clients send: none of it is any upstream's business.
const CLIENT: [(&str, &str); 9] = [
    ("authorization", "Basic canary-client-authorization"),
    ("proxy-authorization", "Basic canary-client-proxy"),
    ("cookie", "session=canary-client-cookie"),
    ("x-registry-auth", "canary-client-registry-auth"),
    ("x-meta-token", "canary-client-meta"),
    ("x-forwarded-for", "canary-client-forwarded"),
    ("referer", "https://canary-client-referer.example/"),
    ("origin", "https://canary-client-origin.example"),
    ("if-none-match", "\"canary-client-etag\""),
];

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Logs everything that the daemon would at `level = "trace"`.
    fn start() -> Log {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing_subscriber::registry().with(lines.with_filter(telemetry::rules("trace"))).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// What a client was told: the head as we parse it, and the body.
fn shown(response: &Response) -> String {
    format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body))
}

async fn ask(mirror: &TestMirror, path: &str, told: &mut String) -> u16 {
    let response = mirror.get_with(path, &CLIENT).await;
    told.push_str(&shown(&response));
    response.status
}

/// Pulls along every path: cold, warm, again, in parts, missing, refused, damaged, throttled, dead.
async fn pull_everything(registry: &mut Registry, mirror: &TestMirror) -> String {
    let mut told = String::new();
    let image = registry.add_image("library/app", "1", &[noise(241, 200_000)]);
    let manifest = "/v2/library/app/manifests/1";
    let blobs: Vec<String> =
        image.blobs().map(|blob| format!("/v2/library/app/blobs/{}?token=canary-client-query", blob.digest)).collect();
    for path in ["/v2/", manifest, manifest, "/v2/library/app/tags/list", "/v2/library/none/manifests/1"] {
        ask(mirror, path, &mut told).await;
    }
    for blob in blobs.iter().chain(&blobs) {
        assert_eq!(ask(mirror, blob, &mut told).await, 200);
    }
    ask(mirror, &format!("/v2/library/app/referrers/{}", image.manifest.digest), &mut told).await;
    ask(mirror, "/v2/nowhere.example/app/manifests/1", &mut told).await;
    ask(mirror, "/v2/library/app/manifests/canary-client-..%2f", &mut told).await;
    let odd = registry.add_blob("library/app", noise(242, 100_000));
    registry.rule(Rule::on(Match::stored(&odd)).flip_last_byte());
    ask(mirror, &format!("/v2/library/app/blobs/{odd}"), &mut told).await;
    registry.clear_rules();
    // Refusals and failures, with words of the upstream that nobody should repeat.
    for (number, status) in [400, 401, 403, 404, 418, 429, 500, 503].into_iter().enumerate() {
        registry.rule(Rule::on(Match::any()).answer(status, "text/plain", "canary-upstream-words").before_auth());
        mirror.advance(Duration::from_secs(1000));
        ask(mirror, manifest, &mut told).await;
        ask(mirror, &format!("/v2/library/other{number}/manifests/1"), &mut told).await;
        registry.clear_rules();
    }
    registry.rule(Rule::on(Match::token()).answer(500, "text/plain", "canary-upstream-words"));
    registry.expire_tokens();
    mirror.advance(Duration::from_secs(1000));
    ask(mirror, manifest, &mut told).await;
    registry.clear_rules();
    let location =
        "https://canary-upstream-user:canary-upstream-password@registry.example/?sig=canary-upstream-signature";
    registry.rule(Rule::on(Match::blobs()).redirect(location));
    let led = registry.add_blob("library/app", noise(243, 100));
    mirror.advance(Duration::from_secs(1000));
    ask(mirror, &format!("/v2/library/app/blobs/{led}"), &mut told).await;
    registry.clear_rules();
    registry.stop().await;
    mirror.advance(Duration::from_secs(1000));
    ask(mirror, manifest, &mut told).await;
    ask(mirror, "/v2/library/app/manifests/2", &mut told).await;
    told
}

/// Everything that one request to an upstream contains.
pub(crate) fn sent(request: &Recorded) -> String {
    format!("{} {}?{} {:?} {:?}", request.method, request.path, request.query, request.headers, request.body)
}

/// Everything that the admin interface tells, and a change of each kind.
async fn ask_the_admin(mirror: &TestMirror) -> String {
    let mut told = String::new();
    let image = "images/inspect?image=docker.io/library/app:1";
    for path in ["status", "images", image, "history?image=app:1", "canary-client-path"] {
        let response = client::get(mirror.admin, &format!("/api/v1/{path}"), &CLIENT).await;
        told.push_str(&shown(&response).replace("canary-client-path", ""));
    }
    for path in ["/", "/livez", "/readyz"] {
        told.push_str(&shown(&client::get(mirror.admin, path, &CLIENT).await));
    }
    let consent = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];
    for path in ["ready", "pull", "verify", "pin", "freeze", "unfreeze", "forget", "gc"] {
        let body = r#"{"images":["app:1"],"image":"app:1"}"#;
        told.push_str(&shown(&client::post(mirror.socket(), &format!("/api/v1/{path}"), &consent, body).await));
    }
    told
}

/// What the program prints, with a credential of its own.
async fn run_commands(registry: &Registry, mirror: &TestMirror, auth: &str) -> String {
    let run = |args: Vec<String>| async move {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
        let output = program.args(args).env_remove("HOME").kill_on_drop(true).output().await.unwrap();
        format!("{} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let admin = format!("unix:{}", mirror.socket().display());
    let arguments = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let bench = format!(
        "bench --direct {} --auth {auth} --mirror http://{} --admin {admin} library/app:1",
        registry.url(),
        mirror.address
    );
    let mut told = run(arguments(format!("{bench} --json"))).await;
    assert!(told.contains("series"), "{told}");
    told.push_str(&run(arguments(format!("{bench}-missing"))).await);
    for command in ["status", "status --json", "images --json", "inspect app:1"] {
        told.push_str(&run(arguments(format!("{command} --admin {admin}"))).await);
    }
    told
}

/// Whatever lies below a folder: names of files and what is in them.
pub(crate) fn files_below(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        text.push_str(&format!("{}\n", entry.file_name().to_string_lossy()));
        if entry.file_type().unwrap().is_dir() {
            text.push_str(&files_below(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    text
}

/// The sources of credentials that the daemon finds by its environment, each with a canary.
async fn use_every_source(registry: &Registry, errors: &mut String) {
    let home = tempfile::tempdir().unwrap();
    let origin = registry.authority();
    let auth = base64(&format!("{USER}:{PASSWORD}"));
    let broken = format!("file:{}", home.path().join("broken").display());
    for (n, (entry, source)) in [
        (format!(r#""auth":"{auth}""#), "docker-config"),
        (r#""identitytoken":"canary-identity-token""#.to_owned(), "docker-config"),
        (r#""registrytoken":"canary-registry-token""#.to_owned(), "docker-config"),
        (r#""auth":"canary-not-base64""#.to_owned(), "docker-config"),
        (String::new(), "helper:canary-missing"),
        (String::new(), &broken),
    ]
    .into_iter()
    .enumerate()
    {
        let file = home.path().join(format!("auth{n}.json"));
        std::fs::write(&file, format!(r#"{{"auths":{{"{origin}":{{{entry}}}}}}}"#)).unwrap();
        std::fs::write(home.path().join("broken"), "canary-line-without-colon").unwrap();
        let source = source.parse::<Auth>().unwrap().source_in(|name| match name {
            "REGISTRY_AUTH_FILE" => Some(file.clone().into()),
            _ => None,
        });
        let name = "registry.example".parse().unwrap();
        let settings = HttpSettings {
            credentials: source,
            ..HttpSettings::new(name, registry.url().parse().unwrap(), Default::default())
        };
        let upstream = HttpUpstream::new(settings).unwrap();
        let answer = upstream.stat(&"library/app".parse().unwrap(), &Digest::of(Algorithm::Sha256, b"x")).await;
        errors.push_str(&format!(
            "{upstream:?} {answer:?} {}",
            answer.as_ref().err().map(ToString::to_string).unwrap_or_default()
        ));
    }
}

#[tokio::test]
async fn no_canary_is_found_where_it_should_not_be() {
    let log = Log::start();
    tracing::trace!(target: "registry_mirror", "the log works");
    tracing::trace!(target: "h2::proto", "canary-library-trace");
    tracing::trace!(target: "hyper::proto", "canary-library-trace");

    let mut registry = Registry::start().await.with_storage_host().await;
    registry.require_tokens(TokenPolicy::bearer().user(USER, PASSWORD));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{USER}:{PASSWORD}\n")).unwrap();
    let auth = format!("auth = \"file:{}\"", file.display());
    let mirror = Settings::of(&registry).upstream(&auth).start().await;
    let panics = Log::default();
    let messages = panics.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        messages.0.lock().unwrap().extend_from_slice(format!("{panic}\n").as_bytes());
    }));
    let secret = registry_mirror::upstream::credentials::Secret::new(PASSWORD.to_owned());
    assert!(std::panic::catch_unwind(|| panic!("{secret:?}")).is_err());
    let mut errors = String::new();
    use_every_source(&registry, &mut errors).await;
    registry.forget_requests();
    registry.add_image("library/app", "1", &[noise(244, 1000)]);
    let printed = run_commands(&registry, &mirror, &format!("file:{}", file.display())).await;
    let told = pull_everything(&mut registry, &mirror).await;
    let metrics = mirror.metrics().await;
    let admin = ask_the_admin(&mirror).await;
    let debug = format!("{:?} {errors}", mirror.mirror);
    let settings = mirror.stop().await;
    let files = files_below(settings.store());
    assert!(files.contains("library"), "there is a store");
    let panics = panics.text();
    assert!(panics.contains("***"), "what panics say is heard: {panics}");
    let _ = std::panic::take_hook();

    let requests = registry.requests();
    let pair = base64(&format!("{USER}:{PASSWORD}"));
    let at_token_service = requests.iter().filter(|request| request.path == "/token");
    assert!(at_token_service.clone().any(|request| sent(request).contains(&pair)), "the password is in use");
    let stored = |request: &&Recorded| request.listener == Listener::Storage;
    assert!(requests.iter().filter(stored).count() > 0, "storage is in use");

    // Tokens and signatures that were in use are secrets as well.
    let tokens = requests.iter().filter_map(|request| request.header("authorization")?.strip_prefix("Bearer "));
    let signatures = requests.iter().filter(stored).map(|request| request.query.as_str());
    let mut secrets: Vec<&str> = tokens.chain(signatures).filter(|secret| !secret.is_empty()).collect();
    secrets.sort_unstable();
    secrets.dedup();
    assert!(secrets.len() > 3, "{secrets:?}");
    secrets.extend(["canary", pair.as_str()]);

    let log = log.text();
    assert!(log.contains("the log works") && log.contains("TRACE"), "there is a log");
    let mut found = Vec::new();
    for (place, text) in [
        ("the log", &log),
        ("metrics", &metrics),
        ("answers", &told),
        ("the admin interface", &admin),
        ("debug output", &debug),
        ("what commands print", &printed),
        ("the store", &files),
        ("panics", &panics),
    ] {
        // The name of a helper is not a secret, it is how a person finds it.
        let text = text.replace("docker-credential-canary-missing", "");
        for line in text.lines() {
            let secret = secrets.iter().find(|secret| line.contains(**secret));
            found.extend(secret.map(|secret| format!("{secret} in {place}: {line}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    for request in &requests {
        let text = sent(request);
        assert!(!text.contains("canary-client"), "what a client sent went upstream: {text}");
        let may_have_password = request.path == "/token";
        assert!(may_have_password || !text.contains(&pair), "the password at {}", request.path);
        if request.listener == Listener::Storage {
            assert_eq!(request.header("authorization"), None);
            assert_eq!(request.header("cookie"), None);
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_what_the_system_tells_of_our_processes() {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user(USER, PASSWORD));
    registry.add_image("library/app", "1", &[noise(245, 1000)]);
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    // A helper that notes what the system tells of it and of whoever started it.
    let helper = folder.path().join("docker-credential-canary");
    let script = format!(
        "#!/bin/sh\ncat /proc/$$/cmdline /proc/$$/environ /proc/$PPID/cmdline /proc/$PPID/environ > {0}.part\n\
         mv {0}.part {0}\ncat >/dev/null\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
        seen.display()
    );
    // Written by another process: a file that this one has open for writing while another test starts a
    // program cannot be run until that has begun.
    let write = ["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script];
    assert!(std::process::Command::new("sh").args(write).arg(&helper).status().unwrap().success());
    let config = folder.path().join("mirror.toml");
    let lines = format!(
        "[store]\nmin_free = \"0%\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\nauth = \"helper:canary\"\n",
        registry.url()
    );
    std::fs::write(&config, lines).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut daemon = tokio::process::Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
        .args(["serve", "-c", &config.display().to_string(), "--admin", "127.0.0.1:0"])
        .args(["--listen", "127.0.0.1:0", "--store", &folder.path().join("store").display().to_string()])
        .env("PATH", path)
        .env_remove("NOTIFY_SOCKET")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = tokio::io::BufReader::new(daemon.stderr.take().unwrap()).lines();
    let address: std::net::SocketAddr = loop {
        let line = log.next_line().await.unwrap().expect("the daemon says where it listens");
        let place = line.split_once("\"pull\":\"[").and_then(|(_, rest)| rest.split([']', ',']).next()?.parse().ok());
        if let Some(address) = place {
            break address;
        }
    };
    let rest = tokio::spawn(async move { while log.next_line().await.is_ok_and(|line| line.is_some()) {} });
    assert_eq!(client::get(address, "/v2/library/app/manifests/1", &CLIENT).await.status, 200);
    let told = String::from_utf8_lossy(&std::fs::read(&seen).unwrap()).into_owned();
    assert!(told.contains("docker-credential-canary") && told.contains("serve"), "{told}");
    let process = daemon.id().unwrap();
    let now: Vec<_> =
        ["cmdline", "environ"].map(|what| std::fs::read(format!("/proc/{process}/{what}")).unwrap()).concat();
    let told = format!("{told} {}", String::from_utf8_lossy(&now));
    let pair = base64(&format!("{USER}:{PASSWORD}"));
    for secret in [PASSWORD, pair.as_str(), "canary-client"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    daemon.kill().await.unwrap();
    rest.await.unwrap();
}
