//! Every source of credentials, from its file or program to what arrives at the registry.

use std::ffi::OsString;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use registry_mirror::oci::{Algorithm, Digest, Repository};
use registry_mirror::upstream::credentials::{Auth, Credential, CredentialError, CredentialSource, Secret};
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use registry_mirror::upstream::settings::Settings;
use registry_mirror::upstream::{Contact, Upstream, UpstreamError, UpstreamErrorClass};
use tempfile::TempDir;

use crate::answering::{Reply, Seen, Server, reply};

const REPOSITORY: &str = "team/app";

fn upstream(server: &Server, credentials: Arc<dyn CredentialSource>) -> HttpUpstream {
    let (name, url) = ("registry.example".parse().expect("name"), server.url.parse().expect("url"));
    HttpUpstream::new(HttpSettings { credentials, ..HttpSettings::new(name, url, Settings::default()) })
        .expect("settings")
}

async fn stat(upstream: &HttpUpstream) -> Result<Option<u64>, UpstreamError> {
    let repository: Repository = REPOSITORY.parse().expect("repository");
    upstream.stat(&repository, &Digest::of(Algorithm::Sha256, b"")).await
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let sextet = (bits >> (18 - 6 * at)) & 63;
            out.push(if at <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    out
}

/// A home with these files, some of them programs.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().expect("folder"))
    }

    fn file(self, name: &str, text: &str) -> Home {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(path, text).expect("write");
        self
    }

    /// A program `docker-credential-NAME`. Written by another process: a file that this one has open
    /// for writing while another test starts a program cannot be run until that has begun.
    fn helper(self, name: &str, script: &str) -> Home {
        let path = self.0.path().join(format!("bin/docker-credential-{name}"));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        let text = format!("#!/bin/sh\n{script}\n");
        let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let written = Command::new("sh").args(["-c", write, "sh", &text]).arg(&path).status().expect("a shell");
        assert!(written.success());
        self
    }

    fn source(&self, auth: &str) -> Arc<dyn CredentialSource> {
        let home = self.0.path().to_owned();
        auth.parse::<Auth>().expect("a source").source_in(move |name| {
            let path = |below: &str| Some(OsString::from(home.join(below)));
            match name {
                "HOME" => path(""),
                "PATH" => {
                    let mut folders = vec![home.join("bin")];
                    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
                    std::env::join_paths(folders).ok()
                }
                "XDG_RUNTIME_DIR" => path("run"),
                "REGISTRY_AUTH_FILE" => path("authfile"),
                _ => None,
            }
        })
    }
}

/// Wants a token; tells by it who came to the token service, and how.
fn token_registry(seen: &Seen) -> Reply {
    let host = seen.header("host").unwrap_or_default();
    match (seen.path.as_str(), seen.header("authorization")) {
        ("/token", _) => reply(200).body(r#"{"token":"granted"}"#),
        (_, Some(sent)) if sent.starts_with("Bearer ") => reply(200).body("abc"),
        _ => reply(401).header("www-authenticate", &format!(r#"Bearer realm="http://{host}/token",service="s""#)),
    }
}

/// What the token service was told: the header, or the refresh token of the form; and what the
/// registry was shown.
async fn told(auth: &str, files: impl Fn(&str) -> Home) -> (Option<String>, String) {
    let server = Server::start(token_registry).await;
    let origin = server.url.trim_start_matches("http://").to_owned();
    let home = files(&origin);
    stat(&upstream(&server, home.source(auth))).await.expect("granted");
    let seen = server.seen();
    let service = seen.iter().find(|seen| seen.path == "/token").map(|seen| {
        seen.header("authorization").unwrap_or_else(|| {
            let form = url::form_urlencoded::parse(seen.body.as_bytes());
            let refresh = form.into_owned().find(|(key, _)| key == "refresh_token").map(|(_, value)| value);
            refresh.map_or_else(|| "nobody".to_owned(), |token| format!("refresh {token}"))
        })
    });
    (service, seen.last().and_then(|seen| seen.header("authorization")).unwrap_or_default())
}

async fn service_is_told(auth: &str, files: impl Fn(&str) -> Home) -> String {
    told(auth, files).await.0.expect("the token service was asked")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(&format!("{user}:{password}")))
}

fn auths(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, user)| format!(r#""{key}":{{"auth":"{}"}}"#, base64(&format!("{user}:word"))))
        .collect();
    format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
}

#[tokio::test]
async fn dockers_file_is_read_with_its_helper_before_its_store_before_its_entries() {
    const ANSWER: &str = r#"cat >/dev/null; printf '{"Username":"%s","Secret":"word"}'"#;
    let config = |helpers: &str, origin: &str| {
        let auth = base64("entry:word");
        format!(r#"{{"auths":{{"{origin}":{{"auth":"{auth}"}}}}{helpers}}}"#)
    };
    let of = |more: fn(&str) -> String| {
        move |origin: &str| {
            Home::new()
                .file(".docker/config.json", &config(&more(origin), origin))
                .helper("one", &format!("{ANSWER} helper"))
                .helper("two", &format!("{ANSWER} store"))
                .helper("empty", "echo credentials not found in native keychain; exit 1")
        }
    };
    let docker = "docker-config";
    assert_eq!(service_is_told(docker, of(|_| String::new())).await, basic("entry", "word"));
    let store = service_is_told(docker, of(|_| r#","credsStore":"two""#.to_owned())).await;
    assert_eq!(store, basic("store", "word"));
    let both = of(|origin| format!(r#","credsStore":"two","credHelpers":{{"{origin}":"one"}}"#));
    assert_eq!(service_is_told(docker, both).await, basic("helper", "word"));
    let nothing_in_the_store = of(|_| r#","credsStore":"empty""#.to_owned());
    assert_eq!(service_is_told(docker, nothing_in_the_store).await, basic("entry", "word"));
}

#[tokio::test]
async fn podmans_files_come_in_podmans_order_before_dockers() {
    let in_order = ["authfile", "run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json"];
    for first in 0..in_order.len() {
        let files = |origin: &str| {
            in_order[first..].iter().fold(Home::new(), |home, name| home.file(name, &auths(&[(origin, name)])))
        };
        assert_eq!(service_is_told("docker-config", files).await, basic(in_order[first], "word"));
    }
}

#[tokio::test]
async fn the_key_with_the_longest_path_wins() {
    let files = |origin: &str| {
        let keys = [format!("{origin}/team/app"), format!("{origin}/team"), origin.to_owned()];
        let other = format!("{origin}/team/application");
        let entries = [(keys[0].as_str(), "app"), (&keys[1], "team"), (&keys[2], "host"), (&other, "other")];
        Home::new().file("authfile", &auths(&entries))
    };
    assert_eq!(service_is_told("docker-config", files).await, basic("app", "word"));
    let less = |origin: &str| {
        let team = format!("{origin}/team");
        Home::new().file("authfile", &auths(&[(team.as_str(), "team"), (origin, "host")]))
    };
    assert_eq!(service_is_told("docker-config", less).await, basic("team", "word"));
}

#[tokio::test]
async fn an_identity_token_is_posted_and_a_registry_token_goes_to_the_registry_itself() {
    let entry = |entry: &'static str| {
        move |origin: &str| Home::new().file("authfile", &format!(r#"{{"auths":{{"{origin}":{entry}}}}}"#))
    };
    let identity = service_is_told("docker-config", entry(r#"{"identitytoken":"r&1"}"#)).await;
    assert_eq!(identity, "refresh r&1");
    let (service, registry) = told("docker-config", entry(r#"{"registrytoken":"ready"}"#)).await;
    assert_eq!((service, registry.as_str()), (None, "Bearer ready"));
}

#[tokio::test]
async fn a_registry_token_that_is_refused_does_not_break_a_public_image() {
    let server = Server::start(|seen| match seen.header("authorization").as_deref() {
        Some("Bearer ready") => reply(401).header("www-authenticate", "Bearer error=\"invalid_token\""),
        _ => token_registry(seen),
    })
    .await;
    let origin = server.url.trim_start_matches("http://");
    let file = format!(r#"{{"auths":{{"{origin}":{{"registrytoken":"ready"}}}}}}"#);
    let home = Home::new().file("authfile", &file);
    assert_eq!(stat(&upstream(&server, home.source("docker-config"))).await.expect("public"), Some(3));
}

#[tokio::test]
async fn a_helper_is_told_the_host_and_may_give_a_refresh_token() {
    let helper = |_: &str| Home::new().helper("cloud", r#"printf '{"Username":"%s","Secret":"%s"}' "$1" "$(cat)""#);
    let server = service_is_told("helper:cloud", helper).await;
    let decoded = server.strip_prefix("Basic ").expect("a password");
    assert!(decoded.starts_with(&base64("get:127.0.0.1:")[..16]), "{decoded}");
    let token = |_: &str| Home::new().helper("cloud", r#"printf '{"Username":"<token>","Secret":"r"}'"#);
    assert_eq!(service_is_told("helper:cloud", token).await, "refresh r");
}

#[tokio::test]
async fn a_file_is_found_by_its_path() {
    let home = Home::new().file("secret", "me:other");
    let path = format!("file:{}", home.0.path().join("secret").display());
    assert_eq!(service_is_told(&path, |_| Home::new()).await, basic("me", "other"));
}

#[tokio::test]
async fn a_source_that_is_broken_leaves_what_is_public_and_is_an_outage_for_the_rest() {
    let public = Server::start(token_registry).await;
    let server = Server::start(|seen| match (seen.path.as_str(), seen.header("authorization")) {
        ("/token", None) => reply(403),
        _ => token_registry(seen),
    })
    .await;
    for (auth, home, named) in [
        ("file:/no/such/file", Home::new(), "/no/such/file"),
        ("helper:broken", Home::new().helper("broken", "echo canary; exit 3"), "docker-credential-broken"),
        ("helper:missing", Home::new(), "docker-credential-missing"),
        ("docker-config", Home::new().file("authfile", r#"{"auths":"canary"}"#), "authfile"),
        (
            "docker-config",
            Home::new().file("authfile", r#"{"credsStore":"not-installed"}"#),
            "docker-credential-not-installed",
        ),
    ] {
        assert_eq!(stat(&upstream(&public, home.source(auth))).await.expect("public"), Some(3), "{auth}");
        let error = stat(&upstream(&server, home.source(auth))).await.expect_err(auth);
        assert_eq!(error.class, UpstreamErrorClass::Unavailable, "{error}");
        assert_eq!(error.contact, Contact::Answered, "it says nothing about the upstream");
        let text = format!("{error} {error:?}");
        assert!(text.contains(named) && !text.contains("canary"), "{text}");
    }
    assert!(server.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

/// Gives out a new password when one is refused.
struct Rotating(AtomicUsize);

#[async_trait]
impl CredentialSource for Rotating {
    async fn credential(&self, _: &str, _: &Repository) -> Result<Credential, CredentialError> {
        let password = Secret::new(format!("p{}", self.0.load(Ordering::SeqCst)));
        Ok(Credential::Basic { user: "AWS".to_owned(), password })
    }

    async fn refused(&self, _: &str, _: &Repository) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_password_that_expires_is_looked_up_anew_once_whatever_the_registry_says_about_it() {
    for status in [401, 403, 400] {
        let expired = Arc::new(AtomicUsize::new(0));
        let good = Arc::clone(&expired);
        let server = Server::start(move |seen| {
            let wanted = basic("AWS", &format!("p{}", good.load(Ordering::SeqCst)));
            match seen.header("authorization") {
                Some(sent) if sent == wanted => reply(200).body("abc"),
                Some(_) if status != 401 => reply(status),
                _ => reply(401).header("www-authenticate", "Basic realm=\"x\""),
            }
        })
        .await;
        let upstream = upstream(&server, Arc::new(Rotating(AtomicUsize::new(0))));
        assert_eq!(stat(&upstream).await.expect("at first"), Some(3));
        expired.store(1, Ordering::SeqCst);
        assert_eq!(stat(&upstream).await.expect("renewed"), Some(3), "{status}");
        let requests = server.seen().len();
        expired.store(9, Ordering::SeqCst);
        assert!(stat(&upstream).await.is_err(), "{status}");
        // A refusal, in so many words, is then put to the test as nobody.
        let as_nobody = usize::from(status != 400);
        assert_eq!(server.seen().len(), requests + 2 + as_nobody, "{status}: once, and no more");
    }
}

#[tokio::test]
async fn what_only_callers_have_credentials_for_is_not_to_be_mended_by_one_of_ours() {
    for status in [401, 403] {
        let server = Server::start(move |_| reply(status).header("www-authenticate", "Basic realm=\"x\"")).await;
        for for_callers in [true, false] {
            let (name, url) = ("registry.example".parse().expect("name"), server.url.parse().expect("url"));
            let settings = HttpSettings { for_callers, ..HttpSettings::new(name, url, Settings::default()) };
            let error = stat(&HttpUpstream::new(settings).expect("settings")).await.expect_err("refused").to_string();
            assert_eq!(error.contains("with a client that is logged in"), for_callers, "{error}");
            assert_eq!(error.contains("check auth of this upstream"), !for_callers && status == 401, "{error}");
        }
    }
}

#[tokio::test]
async fn one_answer_of_a_helper_is_for_all_repositories_of_a_registry() {
    const COUNTING: &str =
        r#"cat >/dev/null; echo run >> "$(dirname "$0")/runs"; printf '{"Username":"me","Secret":"word"}'"#;
    for (auth, names_it) in [("helper:counting", true), ("docker-config", true), ("docker-config", false)] {
        let server = Server::start(token_registry).await;
        let origin = server.url.trim_start_matches("http://");
        let of_one = format!(r#"{{"credHelpers":{{"{origin}":"counting"}}}}"#);
        let file = if names_it { &of_one } else { r#"{"credsStore":"counting"}"# };
        let home = Home::new().helper("counting", COUNTING).file("authfile", file);
        let upstream = upstream(&server, home.source(auth));
        let digest = Digest::of(Algorithm::Sha256, b"");
        let repositories: Vec<Repository> = (0..100).map(|n| format!("r{n}").parse().expect("name")).collect();
        let asked = repositories.iter().map(|repository| upstream.stat(repository, &digest));
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!(answer.expect("granted"), Some(3), "{auth}");
        }
        let runs = std::fs::read_to_string(home.0.path().join("bin/runs")).expect("it ran");
        assert_eq!(runs.lines().count(), 1, "{auth}");
    }
}

#[tokio::test]
async fn a_helper_that_is_not_installed_hides_nothing_that_is_written_elsewhere() {
    let files = |origin: &str| {
        let entries = auths(&[(origin, "entry")]);
        let broken = r#"{"credsStore":"not-installed"}"#;
        Home::new().file("authfile", broken).file(".docker/config.json", &entries)
    };
    assert_eq!(service_is_told("docker-config", files).await, basic("entry", "word"));
    let same_file = |origin: &str| {
        let entries = auths(&[(origin, "entry")]);
        let entries = entries.trim_end_matches('}').to_owned() + r#"}},"credsStore":"not-installed"}"#;
        Home::new().file("authfile", &entries)
    };
    assert_eq!(service_is_told("docker-config", same_file).await, basic("entry", "word"));
}
