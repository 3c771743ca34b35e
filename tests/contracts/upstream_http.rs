//! What `HttpUpstream` says on the wire, against scripted servers on loopback ports.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use registry_mirror::clock::SystemClock;
use registry_mirror::oci::{AcceptSet, Algorithm, Digest, Reference, RegistryName, Repository, Span};
use registry_mirror::upstream::asking::Asking;
use registry_mirror::upstream::credentials::{Credential, CredentialError, CredentialSource, Secret};
use registry_mirror::upstream::http::{HttpSettings, HttpSettingsError, HttpUpstream};
use registry_mirror::upstream::settings::{Settings, Timeouts};
use registry_mirror::upstream::{Resolved, Unobserved, Upstream, UpstreamError, UpstreamErrorClass, UpstreamObserver};

use crate::answering::{Reply, Seen, Server, reply};

const MANIFEST: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PASSWORD: &str = "canary-password";
const TOKEN: &str = "canary-token";
const SIGNATURE: &str = "canary-signature";

fn repository() -> Repository {
    "library/redis".parse().expect("repository")
}

fn tag() -> Reference {
    Reference::Tag("7".parse().expect("tag"))
}

fn digest_of(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn settings(url: &str) -> HttpSettings {
    configured(url, Settings::default())
}

fn configured(url: &str, configured: Settings) -> HttpSettings {
    let configured = Settings { budget_floor: 10, ..configured };
    HttpSettings::new("registry.example".parse().expect("name"), url.parse().expect("url"), configured)
}

fn upstream(server: &Server) -> HttpUpstream {
    HttpUpstream::new(settings(&server.url)).expect("settings")
}

fn upstream_with(server: &Server, credential: Credential) -> HttpUpstream {
    let credentials = Arc::new(Fixed(credential));
    HttpUpstream::new(HttpSettings { credentials, ..settings(&server.url) }).expect("settings")
}

struct Fixed(Credential);

#[async_trait]
impl CredentialSource for Fixed {
    async fn credential(&self, _: &str, _: &Repository) -> Result<Credential, CredentialError> {
        Ok(self.0.clone())
    }

    async fn refused(&self, _: &str, _: &Repository) {}
}

fn user() -> Credential {
    Credential::Basic { user: "me".to_owned(), password: Secret::new(PASSWORD.to_owned()) }
}

fn manifest() -> Reply {
    reply(200)
        .header("content-type", INDEX)
        .header("docker-content-digest", &digest_of(MANIFEST).to_string())
        .body(MANIFEST)
}

fn challenge(realm: &str) -> Reply {
    reply(401).header("www-authenticate", &format!(r#"Bearer realm="{realm}",service="s",scope="*""#))
}

fn token() -> Reply {
    reply(200).body(&format!(r#"{{"access_token":"{TOKEN}"}}"#))
}

/// A registry that wants `TOKEN`, and gives it out at `/token`.
fn guarded(seen: &Seen) -> Reply {
    match (seen.path.as_str(), seen.header("authorization")) {
        ("/token", _) => token(),
        (_, Some(sent)) if sent == format!("Bearer {TOKEN}") => manifest(),
        _ => challenge(&format!("http://{}/token", seen.header("host").unwrap_or_default())),
    }
}

async fn read(upstream: &HttpUpstream, blob: &str, span: Span) -> (u64, Result<String, UpstreamError>) {
    let blob = match upstream.blob(&repository(), &digest_of(blob), span).await {
        Ok(blob) => blob,
        Err(error) => return (0, Err(error)),
    };
    let mut body = blob.body;
    let mut text = String::new();
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => text.push_str(&String::from_utf8_lossy(&chunk)),
            Err(error) => return (blob.offset, Err(error)),
        }
    }
    (blob.offset, Ok(text))
}

fn assert_no_secret(error: &UpstreamError) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_token_is_fetched_for_a_scope_of_our_own_and_used_again() {
    let server = Server::start(guarded).await;
    let upstream = upstream_with(&server, user());
    for _ in 0..3 {
        let manifest = upstream.manifest(&repository(), &tag(), AcceptSet::everything()).await.expect("manifest");
        assert_eq!(manifest.bytes, MANIFEST);
    }
    let seen = server.seen();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
    let manifest = "/v2/library/redis/manifests/7";
    assert_eq!(paths, [manifest, "/token", manifest, manifest, manifest]);
    assert_eq!(seen[1].query, "service=s&scope=repository%3Alibrary%2Fredis%3Apull");
    assert_eq!(seen[1].header("authorization").as_deref(), Some("Basic bWU6Y2FuYXJ5LXBhc3N3b3Jk"));
    assert!(seen.iter().all(|seen| seen.header("accept-encoding").as_deref() == Some("identity")));
    assert!(seen.iter().all(|seen| seen.header("cookie").is_none()));
}

#[tokio::test]
async fn fifty_requests_at_once_fetch_one_token() {
    let server = Server::start(guarded).await;
    let upstream = Arc::new(upstream(&server));
    let (repository, tag) = (repository(), tag());
    let ask = || upstream.resolve(&repository, &tag, AcceptSet::everything());
    for answer in futures_util::future::join_all((0..50).map(|_| ask())).await {
        assert_eq!(answer.expect("descriptor").descriptor().digest, digest_of(MANIFEST));
    }
    assert_eq!(server.seen().iter().filter(|seen| seen.path == "/token").count(), 1);
}

#[tokio::test]
async fn a_token_is_never_used_for_another_repository() {
    let server = Server::start(guarded).await;
    let upstream = upstream(&server);
    upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await.expect("descriptor");
    upstream.resolve(&"other".parse().expect("name"), &tag(), AcceptSet::everything()).await.expect("descriptor");
    let scopes = server.seen().iter().filter(|seen| seen.path == "/token" && seen.query.contains("scope")).count();
    assert_eq!(scopes, 2);
}

#[tokio::test]
async fn a_refresh_token_goes_into_the_body_of_a_post() {
    let server = Server::start(guarded).await;
    let upstream = upstream_with(&server, Credential::IdentityToken(Secret::new("r&1".to_owned())));
    upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await.expect("descriptor");
    let asked = server.seen().into_iter().find(|seen| seen.path == "/token").expect("asked for a token");
    assert_eq!((asked.method.as_str(), asked.query.as_str()), ("POST", ""));
    assert_eq!(
        asked.body,
        "grant_type=refresh_token&client_id=registry-mirror&service=s&\
         scope=repository%3Alibrary%2Fredis%3Apull&refresh_token=r%261"
    );
}

#[tokio::test]
async fn a_token_service_that_does_not_know_get_is_given_the_password_in_a_post() {
    for status in [404, 405] {
        let server = Server::start(move |seen| match (seen.path.as_str(), seen.method.as_str()) {
            ("/token", "GET") => reply(status),
            ("/token", _) => token(),
            _ => guarded(seen),
        })
        .await;
        let upstream = upstream_with(&server, user());
        upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await.expect("descriptor");
        let asked: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/token").collect();
        assert_eq!(asked.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["GET", "POST"]);
        assert_eq!((asked[1].query.as_str(), asked[1].header("authorization")), ("", None));
        let form: Vec<_> = asked[1].body.split('&').collect();
        assert_eq!(form[..2], ["grant_type=password", "client_id=registry-mirror"]);
        assert!(form.iter().any(|field| field.starts_with("username=")), "{form:?}");
        // Who has no password to give has nothing to post.
        let nobody = upstream_with(&server, Credential::Anonymous);
        let error = nobody.resolve(&repository(), &tag(), AcceptSet::everything()).await.expect_err("no token");
        assert_eq!(error.class, UpstreamErrorClass::Protocol);
    }
}

#[tokio::test]
async fn no_redirect_leads_to_a_metadata_service_not_even_that_of_a_local_registry() {
    for location in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/latest/",
        "http://[fe80::1]/",
        "http://metadata.google.internal/computeMetadata/v1/",
    ] {
        let server = Server::start(move |_| reply(307).header("location", location)).await;
        let error = upstream(&server).stat(&repository(), &digest_of("x")).await.expect_err("refused");
        assert_eq!(error.class, UpstreamErrorClass::Protocol);
        assert!(error.message.contains("never followed"), "{error}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn no_proxy_is_asked_for_what_a_redirect_must_not_reach() {
    for location in [
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://LOCALHOST./",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://[fd00::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://intranet/",
        "http://2130706433/",
    ] {
        let proxy = Server::start(move |_| reply(307).header("location", location)).await;
        let proxy_url = Some(proxy.url.parse().expect("url"));
        let proxied = Settings { insecure: true, proxy: proxy_url, ..Settings::default() };
        let settings = configured("http://registry.example", proxied);
        let upstream = HttpUpstream::new(settings).expect("settings");
        let error = upstream.stat(&repository(), &digest_of("x")).await.expect_err("refused");
        assert_eq!(error.class, UpstreamErrorClass::Protocol, "{location}");
        assert_eq!(proxy.seen().len(), 1, "{location}");
    }
    for realm in ["http://10.0.0.1/token", "http://localhost/token", "http://169.254.169.254/token"] {
        let proxy = Server::start(move |_| challenge(realm)).await;
        let proxy_url = Some(proxy.url.parse().expect("url"));
        let proxied = Settings { insecure: true, proxy: proxy_url, ..Settings::default() };
        let credentials = Arc::new(Fixed(user()));
        let settings = HttpSettings { credentials, ..configured("http://registry.example", proxied) };
        let upstream = HttpUpstream::new(settings).expect("settings");
        let error = upstream.stat(&repository(), &digest_of("x")).await.expect_err("refused");
        assert_eq!(error.class, UpstreamErrorClass::Protocol, "{realm}");
        assert_eq!(proxy.seen().len(), 1, "{realm}");
    }
}

#[tokio::test]
async fn no_request_goes_to_a_realm_of_another_site() {
    let thief = Server::start(|_| token()).await;
    let realm = format!("{}/token", thief.url.replace("127.0.0.1", "localhost"));
    let server = Server::start(move |_| challenge(&realm)).await;
    let error = upstream_with(&server, user())
        .resolve(&repository(), &tag(), AcceptSet::everything())
        .await
        .expect_err("the realm is refused");
    assert_eq!(error.class, UpstreamErrorClass::Protocol);
    assert!(error.to_string().contains("localhost") && error.to_string().contains("auth_realms"), "{error}");
    assert_eq!(thief.seen().len(), 0);
    assert_no_secret(&error);
}

#[tokio::test]
async fn a_token_service_that_redirects_gets_no_second_request() {
    let thief = Server::start(|_| token()).await;
    let elsewhere = thief.url.clone();
    let server = Server::start(move |seen| match seen.path.as_str() {
        "/token" => reply(307).header("location", &elsewhere),
        _ => guarded(seen),
    })
    .await;
    let error = upstream_with(&server, user()).stat(&repository(), &digest_of("")).await.expect_err("refused");
    assert_eq!(error.class, UpstreamErrorClass::Protocol);
    assert_eq!(thief.seen().len(), 0);
}

#[tokio::test]
async fn a_stale_token_is_renewed_once_whatever_the_registry_says_about_it() {
    for (status, offered) in [(401, "Basic realm=\"harbor\""), (401, ""), (403, ""), (400, "")] {
        let issued = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&issued);
        let server = Server::start(move |seen| {
            let host = seen.header("host").unwrap_or_default();
            match (seen.path.as_str(), seen.header("authorization").as_deref()) {
                ("/token", _) => {
                    let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                    reply(200).body(&format!(r#"{{"token":"t{number}"}}"#))
                }
                (path, Some("Bearer t1")) if path.ends_with("/7") => manifest(),
                (_, Some("Bearer t1")) if offered.is_empty() => reply(status),
                (_, Some("Bearer t1")) => reply(status).header("www-authenticate", offered),
                (_, Some("Bearer t2")) => manifest(),
                _ => challenge(&format!("http://{host}/token")),
            }
        })
        .await;
        let upstream = upstream(&server);
        upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await.expect("with the first token");
        let later = Reference::Tag("8".parse().expect("tag"));
        upstream.resolve(&repository(), &later, AcceptSet::everything()).await.expect("with the second token");
        assert_eq!(issued.load(Ordering::SeqCst), 2, "{status} {offered}");
    }
}

#[tokio::test]
async fn a_registry_may_go_over_from_tokens_to_passwords() {
    let passwords = Arc::new(AtomicBool::new(false));
    let switched = Arc::clone(&passwords);
    let server = Server::start(move |seen| match seen.header("authorization").unwrap_or_default() {
        _ if seen.path == "/token" || !switched.load(Ordering::SeqCst) => guarded(seen),
        sent if sent.starts_with("Basic") => manifest(),
        _ => reply(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let upstream = upstream_with(&server, user());
    let ask = || async { upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await.is_ok() };
    assert!(ask().await);
    passwords.store(true, Ordering::SeqCst);
    ask().await;
    assert!(ask().await);
}

#[tokio::test]
async fn a_refusal_of_a_fresh_token_is_final() {
    let issued = AtomicUsize::new(0);
    let server = Server::start(move |seen| match (seen.path.as_str(), seen.header("authorization")) {
        ("/token", _) => reply(200).body(&format!(r#"{{"token":"t{}"}}"#, issued.fetch_add(1, Ordering::SeqCst))),
        (_, None) => guarded(seen),
        _ => reply(403),
    })
    .await;
    let upstream = upstream(&server);
    // At first: no token, a token, its refusal. Then: the kept one, a new one, its refusal.
    for requests in [3, 6] {
        let error = upstream.manifest(&repository(), &tag(), AcceptSet::everything()).await.expect_err("denied");
        assert_eq!(error.class, UpstreamErrorClass::Denied);
        assert_eq!(server.seen().len(), requests);
        assert_no_secret(&error);
    }
}

#[tokio::test]
async fn a_wrong_password_does_not_break_a_public_image() {
    for at_registry in [false, true] {
        let server = Server::start(move |seen| {
            let sent = seen.header("authorization").unwrap_or_default();
            match seen.path.as_str() {
                "/token" if sent.is_empty() => token(),
                "/token" if at_registry => reply(200).body(r#"{"token":"worthless"}"#),
                "/token" => reply(403),
                _ if sent == "Bearer worthless" => reply(403),
                _ => guarded(seen),
            }
        })
        .await;
        let upstream = upstream_with(&server, user());
        let found = upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await;
        assert_eq!(
            found.expect("public").descriptor().digest,
            digest_of(MANIFEST),
            "refused by the registry: {at_registry}"
        );
    }
}

#[tokio::test]
async fn a_password_is_sent_to_a_registry_that_wants_it_and_not_where_it_redirects() {
    let storage = Server::start(|_| reply(206).header("content-range", "bytes 3-6/7").body("defg")).await;
    let target = format!("{}/bucket?sig={SIGNATURE}", storage.url);
    let server = Server::start(move |seen| match seen.header("authorization") {
        None => reply(401).header("www-authenticate", "Basic realm=\"x\""),
        Some(_) => reply(307).header("location", &target),
    })
    .await;
    let upstream = upstream_with(&server, user());
    assert_eq!(read(&upstream, "abcdefg", Span::from(3)).await.1.expect("body"), "defg");
    let seen = storage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].header("range").as_deref(), Some("bytes=3-"));
    assert_eq!(seen[0].query, format!("sig={SIGNATURE}"));
}

#[tokio::test]
async fn coming_back_from_abroad_does_not_restore_the_password() {
    let back = Arc::new(std::sync::OnceLock::<String>::new());
    let home = Arc::clone(&back);
    let abroad =
        Server::start(move |_| reply(302).header("location", &format!("{}/back", home.get().expect("set")))).await;
    let target = abroad.url.clone();
    let server = Server::start(move |seen| match (seen.path.as_str(), seen.header("authorization")) {
        ("/back", _) => reply(200).body("abc"),
        (_, None) => reply(401).header("www-authenticate", "Basic realm=\"x\""),
        _ => reply(302).header("location", &target),
    })
    .await;
    back.set(server.url.clone()).expect("set once");
    assert_eq!(read(&upstream_with(&server, user()), "abc", Span::default()).await.1.expect("body"), "abc");
    let last = server.seen().pop().expect("requests");
    assert_eq!((last.path.as_str(), last.header("authorization")), ("/back", None));
}

#[tokio::test]
async fn a_redirect_loop_ends_after_ten() {
    let server = Server::start(|seen| reply(307).header("location", &format!("{}?sig={SIGNATURE}", seen.path))).await;
    let error = upstream(&server).stat(&repository(), &digest_of("")).await.expect_err("a loop");
    assert_eq!(error.class, UpstreamErrorClass::Protocol);
    assert_eq!(server.seen().len(), 11);
    assert_no_secret(&error);
}

#[tokio::test]
async fn an_expired_storage_address_is_renewed_once_at_the_registry() {
    for (good, expected) in [(2, Ok("abc".to_owned())), (9, Err(UpstreamErrorClass::Denied))] {
        let storage = Server::start(move |seen| match seen.query.as_str() {
            query if query == format!("{SIGNATURE}{good}") => reply(200).body("abc"),
            _ => reply(403),
        })
        .await;
        let (target, count) = (storage.url.clone(), AtomicUsize::new(0));
        let server = Server::start(move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            reply(307).header("location", &format!("{target}/?{SIGNATURE}{number}"))
        })
        .await;
        let (_, body) = read(&upstream(&server), "abc", Span::default()).await;
        if let Err(error) = &body {
            assert_no_secret(error);
        }
        assert_eq!(body.map_err(|error| error.class), expected);
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn retry_after_is_told_and_nothing_is_asked_again() {
    let server = Server::start(|_| reply(429).header("retry-after", "5").body("slow down\n")).await;
    let error = upstream(&server).resolve(&repository(), &tag(), AcceptSet::everything()).await.expect_err("limited");
    assert_eq!(error.class, UpstreamErrorClass::RateLimited(Some(Duration::from_secs(5))));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_outage() {
    let server = Server::start(|_| reply(200).body("abc").announced(5)).await;
    let (_, body) = read(&upstream(&server), "abcde", Span::default()).await;
    assert_eq!(body.expect_err("too short").class, UpstreamErrorClass::Unavailable);
}

#[tokio::test]
async fn a_body_that_stands_still_is_an_outage() {
    let server = Server::start(|_| reply(200).body("abc").announced(5).hanging()).await;
    let timeouts = Timeouts { idle: Duration::from_millis(50), ..Timeouts::default() };
    let upstream =
        HttpUpstream::new(configured(&server.url, Settings { timeouts, ..Settings::default() })).expect("settings");
    let (_, body) = read(&upstream, "abcde", Span::default()).await;
    let error = body.expect_err("no end");
    assert_eq!(error.class, UpstreamErrorClass::Unavailable);
    assert!(error.to_string().contains("stood still"), "{error}");
}

#[tokio::test]
async fn a_range_comes_from_where_it_was_asked_or_from_the_start_or_not_at_all() {
    use UpstreamErrorClass::Protocol;
    let asked = Span { start: 3, end: Some(5) };
    for (answer, expected) in [
        (reply(206).header("content-range", "bytes 3-4/7").body("de"), Ok((3, "de"))),
        (reply(200).body("abcdefg"), Ok((0, "abcdefg"))),
        (reply(206).header("content-range", "bytes 2-4/7").body("cde"), Err(Protocol)),
        (reply(206).header("content-range", "bytes 3-6/7").body("defg"), Err(Protocol)),
        (reply(206).header("content-range", "bytes 3-4/7").body("defg"), Err(Protocol)),
        (reply(206).body("de"), Err(Protocol)),
        (reply(416).header("content-range", "bytes */3"), Err(Protocol)),
    ] {
        let server = Server::start(move |_| answer.clone()).await;
        let (offset, body) = read(&upstream(&server), "abcdefg", asked).await;
        let found = body.as_ref().map(|body| (offset, body.as_str())).map_err(|error| error.class);
        assert_eq!(found, expected);
        assert_eq!(server.seen()[0].header("range").as_deref(), Some("bytes=3-4"));
    }
}

#[tokio::test]
async fn an_encoded_answer_is_refused() {
    let server = Server::start(|_| manifest().header("content-encoding", "gzip")).await;
    let upstream = upstream(&server);
    let accept = AcceptSet::everything();
    let class = |error: UpstreamError| error.class;
    assert_eq!(
        upstream.manifest(&repository(), &tag(), accept.clone()).await.map_err(class),
        Err(UpstreamErrorClass::Protocol)
    );
    assert_eq!(upstream.resolve(&repository(), &tag(), accept).await.map_err(class), Err(UpstreamErrorClass::Protocol));
    let (_, body) = read(&upstream, "abc", Span::default()).await;
    assert_eq!(body.map_err(class), Err(UpstreamErrorClass::Protocol));
}

#[tokio::test]
async fn a_head_that_does_not_tell_enough_is_followed_by_one_get() {
    let useless = [
        reply(405),
        reply(200).header("content-type", INDEX).body(MANIFEST),
        reply(200).header("docker-content-digest", &digest_of(MANIFEST).to_string()).body(MANIFEST),
        manifest().header("content-type", "text/plain"),
    ];
    for head in useless {
        let server = Server::start(move |seen| if seen.method == "HEAD" { head.clone() } else { manifest() }).await;
        let found =
            upstream(&server).resolve(&repository(), &tag(), AcceptSet::everything()).await.expect("descriptor");
        let Resolved::Fetched(manifest) = found else { panic!("what was fetched is handed over: {found:?}") };
        let descriptor = manifest.descriptor;
        assert_eq!((descriptor.digest, descriptor.size), (digest_of(MANIFEST), MANIFEST.len() as u64));
        assert_eq!((descriptor.media_type.as_ref(), &manifest.bytes[..]), (INDEX, MANIFEST.as_bytes()));
        let methods: Vec<String> = server.seen().into_iter().map(|seen| seen.method).collect();
        assert_eq!(methods, ["HEAD", "GET"]);
    }
}

#[tokio::test]
async fn a_good_head_costs_no_get() {
    let server = Server::start(|_| manifest()).await;
    let accept = AcceptSet::from_headers([INDEX]);
    let found = upstream(&server).resolve(&repository(), &tag(), accept).await.expect("descriptor");
    let Resolved::Told(found) = found else { panic!("nothing is fetched: {found:?}") };
    assert_eq!((found.digest, found.size), (digest_of(MANIFEST), MANIFEST.len() as u64));
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].method.as_str(), seen[0].header("accept").as_deref()), ("HEAD", Some(INDEX)));
}

#[tokio::test]
async fn a_manifest_has_the_digest_it_is_called_by() {
    let server = Server::start(|_| manifest()).await;
    let upstream = upstream(&server);
    let class = |error: UpstreamError| error.class;
    let wrong = Reference::Digest(digest_of("something else"));
    let answer = upstream.manifest(&repository(), &wrong, AcceptSet::everything()).await;
    assert_eq!(answer.map_err(class), Err(UpstreamErrorClass::Protocol));
    let answer = upstream.resolve(&repository(), &wrong, AcceptSet::everything()).await;
    assert_eq!(answer.map_err(class), Err(UpstreamErrorClass::Protocol));

    let lying = Server::start(|_| manifest().body("{}")).await;
    let answer = self::upstream(&lying).manifest(&repository(), &tag(), AcceptSet::everything()).await;
    assert_eq!(answer.map_err(class), Err(UpstreamErrorClass::Protocol));

    let sha512 = Digest::of(Algorithm::Sha512, MANIFEST.as_bytes());
    let other = Server::start(move |_| manifest().header("docker-content-digest", &sha512.to_string())).await;
    let answer = self::upstream(&other).manifest(&repository(), &tag(), AcceptSet::everything()).await;
    assert_eq!(answer.map(|manifest| manifest.descriptor.digest).map_err(class), Ok(sha512));
}

#[tokio::test]
async fn a_manifest_larger_than_eight_mebibytes_is_refused_unread() {
    let server = Server::start(|_| reply(200).body("x").announced((8 << 20) + 1).hanging()).await;
    let answer = upstream(&server).manifest(&repository(), &tag(), AcceptSet::everything()).await;
    assert_eq!(answer.map_err(|error| error.class), Err(UpstreamErrorClass::Protocol));
}

#[tokio::test]
async fn the_size_of_a_blob_is_found_where_storage_refuses_head() {
    for (get, expected) in [
        (reply(206).header("content-range", "bytes 0-0/7").body("a"), Some(7)),
        (reply(206).header("content-range", "bytes 0-0/*").body("a"), None),
        (reply(200).body("abcdefg"), Some(7)),
        (reply(416).header("content-range", "bytes */0"), Some(0)),
    ] {
        let storage = Server::start(move |seen| if seen.method == "HEAD" { reply(403) } else { get.clone() }).await;
        let target = storage.url.clone();
        let server = Server::start(move |_| reply(307).header("location", &target)).await;
        assert_eq!(upstream(&server).stat(&repository(), &digest_of("abcdefg")).await.expect("size"), expected);
        assert_eq!(storage.seen().last().and_then(|seen| seen.header("range")).as_deref(), Some("bytes=0-0"));
    }
}

#[tokio::test]
async fn the_next_url_is_asked_when_one_cannot_answer_and_only_then() {
    for (status, expected) in [(503, Ok(())), (429, Ok(())), (404, Err(UpstreamErrorClass::NotFound))] {
        let first = Server::start(move |_| reply(status)).await;
        let second = Server::start(|_| manifest()).await;
        let addresses = [&first, &second].map(|server| (server.url.clone(), Arc::new(upstream(server)) as _));
        let observer: Arc<dyn UpstreamObserver> = Arc::new(Unobserved);
        let upstream = Asking::new(&settings(&first.url).name, addresses, Arc::new(SystemClock), &observer);
        let answer = upstream.resolve(&repository(), &tag(), AcceptSet::everything()).await;
        assert_eq!(answer.map(|_| ()).map_err(|error| error.class), expected);
        // A no to HEAD is asked about at the door, once, and by GET.
        let asked = if status == 404 { 3 } else { 1 };
        assert_eq!(first.seen().len(), asked, "{status}: only the last address is asked again");
    }
}

#[tokio::test]
async fn nobody_listening_is_an_outage() {
    let gone = Server::start(|_| manifest()).await.stop().await;
    let upstream = HttpUpstream::new(settings(&gone)).expect("settings");
    let error = upstream.stat(&repository(), &digest_of("")).await.expect_err("nobody there");
    assert_eq!(error.class, UpstreamErrorClass::Unavailable);
}

#[tokio::test]
async fn secrets_show_in_no_error_and_no_debug_output() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/token" => reply(500).body(TOKEN),
        _ => guarded(seen),
    })
    .await;
    let upstream = upstream_with(&server, user());
    let error = upstream.stat(&repository(), &digest_of("")).await.expect_err("no token");
    assert_eq!(error.class, UpstreamErrorClass::Unavailable);
    assert_no_secret(&error);
    let text = format!("{upstream:?} {:?} {:?}", user(), Secret::new(TOKEN.to_owned()));
    assert!(!text.contains("canary"), "{text}");
}

#[derive(Default)]
struct Counting(Mutex<(Vec<Option<u16>>, u64)>);

impl UpstreamObserver for Counting {
    fn requested(&self, _: &RegistryName, status: Option<u16>) {
        self.0.lock().expect("lock").0.push(status);
    }

    fn received(&self, _: &RegistryName, bytes: u64, _: Duration) {
        self.0.lock().expect("lock").1 += bytes;
    }
}

#[tokio::test]
async fn every_request_and_every_byte_of_a_body_is_counted() {
    let storage = Server::start(|_| reply(200).body("abcdefg")).await;
    let target = storage.url.clone();
    let server = Server::start(move |_| reply(307).header("location", &target)).await;
    let counting = Arc::new(Counting::default());
    let observer = Arc::clone(&counting) as Arc<dyn UpstreamObserver>;
    let upstream = HttpUpstream::new(HttpSettings { observer, ..settings(&server.url) }).expect("settings");
    assert_eq!(read(&upstream, "abcdefg", Span::default()).await.1.expect("body"), "abcdefg");
    assert_eq!(*counting.0.lock().expect("lock"), (vec![Some(307), Some(200)], 7));
    server.stop().await;
    upstream.stat(&repository(), &digest_of("")).await.expect_err("nobody there");
    assert_eq!(counting.0.lock().expect("lock").0.last(), Some(&None));
}

#[test]
fn plain_http_needs_to_be_asked_for_except_at_home() {
    let new = |url: &str, insecure| {
        HttpUpstream::new(configured(url, Settings { insecure, ..Settings::default() })).map(|_| ())
    };
    assert!(matches!(new("http://registry.example", false), Err(HttpSettingsError::PlainHttp { .. })));
    assert!(new("http://registry.example", true).is_ok());
    assert!(new("http://127.0.0.1:5000", false).is_ok());
    for url in ["ftp://registry.example", "https://user:word@registry.example", "https://registry.example/?x"] {
        assert!(matches!(new(url, true), Err(HttpSettingsError::Url(_))), "{url}");
    }
}
