//! Authentication as clients know it: challenges in every form, realms that change, redirect or belong to
//! somebody else, and credentials that are not to be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scripted_registry::{Expired, Image, Match, Registry, Rule, TokenPolicy, base64, client, noise};

use crate::support::mirror::{Settings, TestMirror};

const PATH: &str = "/v2/library/app/manifests/1";

async fn registry() -> Registry {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(420, 100)]);
    registry.add_image("library/app", "2", &[noise(421, 100)]);
    registry
}

/// The address of a registry as another site than `127.0.0.1`.
fn foreign(registry: &Registry) -> String {
    registry.url().replace("127.0.0.1", "localhost")
}

/// The keys of an upstream that logs in as `me` with `word`.
fn logged_in(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("login");
    std::fs::write(&path, "me:word\n").unwrap();
    format!("auth = \"file:{}\"", path.display())
}

fn showed_a_secret(registry: &Registry) -> bool {
    let secret = base64("me:word");
    registry.count(|request| {
        let header = request.headers.get("authorization").map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        String::from_utf8_lossy(&header).contains(&secret) || String::from_utf8_lossy(&request.body).contains("word")
    }) > 0
}

#[tokio::test]
async fn a_challenge_with_odd_bytes_or_quotes_is_a_challenge() {
    let folder = tempfile::tempdir().unwrap();
    for challenge in [
        "Basic realm=/",
        "Basic realm='a b'",
        "Basic realm=\"Größe\"",
        "Basic realm=\"a\" charset=\"UTF-8\"",
        "Negotiate, Basic realm=a",
    ] {
        let registry = registry().await;
        let strangers = Match::any().without_header("authorization");
        registry.rule(Rule::on(strangers).refuse(401).header("www-authenticate", challenge));
        let mirror = Settings::of(&registry).upstream(&logged_in(&folder)).start().await;
        assert_eq!(mirror.get(PATH).await.status, 200, "{challenge}");
    }
    for form in [
        "Bearer realm=\"REALM\" service=\"s\" scope=\"repository:library/app:pull\"",
        "Bearer realm='REALM',service='s'",
        "Bearer realm=REALM,service=Größe",
        "Bearer service=\"ü\",realm=\"REALM\"",
    ] {
        let registry = registry().await;
        registry.require_tokens(TokenPolicy::bearer());
        let challenge = form.replace("REALM", &format!("{}/token", registry.url()));
        let strangers = Match::manifests().without_header("authorization");
        registry.rule(Rule::on(strangers).refuse(401).header("www-authenticate", &challenge).before_auth());
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get(PATH).await.status, 200, "{form}");
    }
}

#[tokio::test]
async fn a_dead_token_is_renewed_where_it_came_from_before_another_realm_is_looked_at() {
    for allowed in [false, true] {
        let (registry, other) = (registry().await, Registry::start().await);
        registry.require_tokens(TokenPolicy::bearer().expired(Expired::Challenge));
        let lines = if allowed { "auth_realms = [\"localhost\"]" } else { "" };
        let mirror = Settings::of(&registry).upstream(lines).config("cache.tag_ttl = \"0s\"").start().await;
        assert_eq!(mirror.get(PATH).await.status, 200);
        registry.expire_tokens();
        let challenge = format!("Bearer realm=\"{}/token\"", foreign(&other));
        let dead = Match::manifests().with_header("authorization");
        registry.rule(Rule::on(dead).once().refuse(401).header("www-authenticate", &challenge).before_auth());
        let response = mirror.get(PATH).await;
        assert_eq!((response.status, response.header("warning")), (200, None), "allowed: {allowed}");
        assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 200);
        assert_eq!((registry.token_requests(), other.requests().len()), (2, 0), "allowed: {allowed}");
    }
}

#[tokio::test]
async fn a_realm_that_has_moved_is_followed_when_a_fresh_token_does_not_help() {
    let registry = registry().await;
    registry.require_tokens(TokenPolicy::bearer());
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    // The old service is gone, and so are its tokens.
    registry.expire_tokens();
    registry.rule(Rule::on(Match::token()).refuse(500).before_auth());
    let moved = Registry::start().await;
    moved.rule(Rule::on(Match::token()).answer(200, "application/json", r#"{"token":"new"}"#));
    registry.require_tokens(TokenPolicy::bearer().realm(&format!("{}/token", moved.url())));
    let with_new = Match::when(|request| {
        request.headers.get("authorization").is_some_and(|value| value.as_bytes() == b"Bearer new")
            && request.path.contains("/manifests/")
    });
    let manifest = registry.content(|content| {
        let holding = content.repository("library/app");
        let digest = holding.tags["1"][0];
        holding.manifests[&digest].clone()
    });
    registry.rule(Rule::on(with_new).answer(200, &manifest.media_type, manifest.bytes.clone()).before_auth());
    let response = mirror.get(PATH).await;
    assert_eq!((response.status, response.header("warning")), (200, None));
}

#[tokio::test]
async fn a_token_for_nobody_needs_no_trust_in_the_realm_and_a_credential_does() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, issuer) = (registry().await, Registry::start().await);
    issuer.rule(Rule::on(Match::token()).answer(200, "application/json", r#"{"token":"public"}"#));
    let strangers = Match::any().without_header("authorization");
    let challenge = format!("Bearer realm=\"{}/token\",service=\"s\"", foreign(&issuer));
    registry.rule(Rule::on(strangers).refuse(401).header("www-authenticate", &challenge));

    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    assert_eq!(issuer.requests()[0].query, "service=s&scope=repository%3Alibrary%2Fapp%3Apull");
    issuer.forget_requests();

    let mirror = Settings::of(&registry).upstream(&logged_in(&folder)).start().await;
    for _ in 0..2 {
        let refused = mirror.get(PATH).await;
        assert_eq!(refused.status, 502);
        assert!(String::from_utf8_lossy(&refused.body).contains("auth_realms"));
    }
    assert_eq!(issuer.requests().len(), 0, "nothing is asked there");
    assert!(!showed_a_secret(&registry));

    // Allowed with its port, it may see it.
    let lines =
        format!("{}\nauth_realms = [\"{}\"]", logged_in(&folder), foreign(&issuer).trim_start_matches("http://"));
    let mirror = Settings::of(&registry).upstream(&lines).start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    assert!(showed_a_secret(&issuer));
}

#[tokio::test]
async fn a_token_service_is_followed_within_itself_and_by_who_has_no_secret_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    for login in [false, true] {
        let registry = registry().await;
        registry.require_tokens(TokenPolicy::bearer().user("me", "word").realm(&format!("{}/auth", registry.url())));
        registry
            .rule(Rule::on(Match::path("/auth")).before_auth().redirect("/token?scope=repository:library/app:pull"));
        let settings = Settings::of(&registry);
        let settings = if login { settings.upstream(&logged_in(&folder)) } else { settings };
        assert_eq!(settings.start().await.get(PATH).await.status, 200, "login: {login}");
    }
    for login in [false, true] {
        let (registry, elsewhere) = (registry().await, Registry::start().await);
        elsewhere.rule(Rule::on(Match::token()).answer(200, "application/json", r#"{"token":"t"}"#));
        let strangers = Match::manifests().without_header("authorization");
        let challenge = format!("Bearer realm=\"{}/auth\"", registry.url());
        registry.rule(Rule::on(strangers).refuse(401).header("www-authenticate", &challenge));
        registry.rule(Rule::on(Match::path("/auth")).redirect(&format!("{}/token", foreign(&elsewhere))));
        let settings = Settings::of(&registry);
        let settings = if login { settings.upstream(&logged_in(&folder)) } else { settings };
        let status = settings.start().await.get(PATH).await.status;
        assert_eq!(status, if login { 502 } else { 200 }, "login: {login}");
        assert_eq!(elsewhere.requests().len(), usize::from(!login), "login: {login}");
        assert!(!showed_a_secret(&elsewhere));
    }
}

#[tokio::test]
async fn a_registry_that_challenges_at_its_door_only_is_asked_there_once() {
    let folder = tempfile::tempdir().unwrap();
    for status in [401, 404, 403, 400] {
        let registry = registry().await;
        let strangers = || Match::any().without_header("authorization");
        let challenge =
            Rule::on(strangers().and(Match::ping())).refuse(401).header("www-authenticate", "Basic realm=x");
        registry.rule(challenge);
        registry.rule(Rule::on(strangers()).refuse(status));
        let mirror = Settings::of(&registry).upstream(&logged_in(&folder)).start().await;
        for tag in [1, 2] {
            assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{tag}")).await.status, 200, "{status} {tag}");
        }
        assert_eq!(registry.count_of(&Match::ping()), 1, "{status}");
    }
    // Who has no credential takes a token for nobody.
    for status in [401, 404, 403, 400] {
        let registry = registry().await;
        registry.require_tokens(TokenPolicy::bearer());
        let strangers = Match::ping().without_header("authorization");
        let strangers = Match::any().without_header("authorization").and(Match::when(move |it| !strangers.matches(it)));
        registry.rule(Rule::on(strangers.and(Match::when(|it| it.path != "/token"))).refuse(status).before_auth());
        let mirror = TestMirror::of(&registry).await;
        for path in [PATH, "/v2/library/app/manifests/2", "/v2/library/app/tags/list"] {
            assert_eq!(mirror.get(path).await.status, 200, "{status} {path}");
        }
        assert_eq!(registry.count_of(&Match::ping()), 1, "{status}");
    }
}

#[tokio::test]
async fn a_no_to_a_token_that_has_died_is_asked_again_with_a_fresh_one_before_it_is_believed() {
    for expired in [Expired::Missing, Expired::Denied, Expired::BadRequest] {
        let registry = registry().await;
        registry.require_tokens(TokenPolicy::bearer().expired(expired));
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
        for _ in 0..2 {
            for path in [PATH, "/v2/library/app/tags/list"] {
                let response = mirror.get(path).await;
                assert_eq!((response.status, response.header("warning")), (200, None), "{expired:?} {path}");
                registry.expire_tokens();
            }
        }
        assert_eq!(registry.token_requests(), 4, "{expired:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_does_not_cost_a_token_each_time() {
    let registry = registry().await;
    registry.require_tokens(TokenPolicy::bearer().expired(Expired::Missing));
    let mirror = TestMirror::of(&registry).await;
    for tag in 0..5 {
        assert_eq!(mirror.get(&format!("/v2/library/app/manifests/no{tag}")).await.status, 404);
    }
    assert_eq!(registry.token_requests(), 2);
}

#[tokio::test]
async fn a_door_that_is_open_is_not_knocked_at_for_each_missing_image() {
    let folder = tempfile::tempdir().unwrap();
    for keys in [logged_in(&folder), String::new()] {
        let registry = registry().await;
        let mirror = Settings::of(&registry).upstream(&keys).start().await;
        for tag in 0..5 {
            assert_eq!(mirror.get(&format!("/v2/library/app/manifests/no{tag}")).await.status, 404);
        }
        assert_eq!(registry.count_of(&Match::ping()), 1);
        assert!(!showed_a_secret(&registry), "nobody has asked for it");
    }
    // Nor one that wants what nobody here has, or whose token service gives nothing to strangers.
    for challenge in ["Basic realm=x", "Bearer realm=\"REALM\""] {
        let registry = registry().await;
        let challenge = challenge.replace("REALM", &format!("{}/token", registry.url()));
        registry.rule(Rule::on(Match::ping()).refuse(401).header("www-authenticate", &challenge));
        registry.rule(Rule::on(Match::token()).refuse(403));
        let mirror = TestMirror::of(&registry).await;
        for tag in 0..5 {
            assert_eq!(mirror.get(&format!("/v2/library/app/manifests/no{tag}")).await.status, 404, "{challenge}");
        }
        assert_eq!(registry.count_of(&Match::ping()), 1, "{challenge}");
    }
}

#[tokio::test]
async fn a_registry_behind_a_facade_gets_a_token_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (Registry::start().await, Registry::start().await);
    let image = back.add_image("library/app", "1", &[noise(422, 1000)]);
    back.require_tokens(TokenPolicy::bearer());
    front.rule(Rule::on(Match::any()).redirect_to_host(&foreign(&back)));
    let mirror = Settings::of(&front).upstream(&logged_in(&folder)).config("cache.tag_ttl = \"0s\"").start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    assert!(mirror.get(&blob).await.complete);
    assert_eq!(mirror.get("/v2/library/app/tags/list").await.status, 200);
    assert_eq!(back.token_requests(), 1, "and keeps it");
    // A token that has died is renewed, whatever it is told.
    for (renewed, expired) in [(2, Expired::Challenge), (3, Expired::Missing), (4, Expired::Denied)] {
        back.require_tokens(TokenPolicy::bearer().expired(expired));
        back.expire_tokens();
        let response = mirror.get(PATH).await;
        assert_eq!((response.status, response.header("warning")), (200, None), "{expired:?}");
        assert_eq!(back.token_requests(), renewed, "{expired:?}");
    }
    assert!(!showed_a_secret(&front) && !showed_a_secret(&back));
}

#[tokio::test]
async fn a_storage_host_behind_a_facade_is_shown_no_token() {
    let (front, back) = (Registry::start().await, Registry::start().await.with_storage_host().await);
    let image = back.add_image("library/app", "1", &[noise(423, 1000)]);
    back.require_tokens(TokenPolicy::bearer());
    front.rule(Rule::on(Match::any()).redirect_to_host(&foreign(&back)));
    let mirror = TestMirror::of(&front).await;
    assert!(mirror.get(&format!("/v2/library/app/blobs/{}", image.layers[0].digest)).await.complete);
    assert_eq!(back.count_of(&Match::storage().with_header("authorization")), 0);
}

#[tokio::test]
async fn a_credential_that_cannot_be_looked_up_breaks_no_public_image_and_proves_nothing_about_others() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for lines in
        [format!("auth = \"file:{}\"", missing.display()), "auth = \"helper:not-installed-anywhere\"".to_owned()]
    {
        let registry = registry().await;
        registry.add_image("team/secret", "1", &[noise(424, 100)]);
        registry.require_tokens(TokenPolicy::bearer().user("me", "word").private("team/secret"));
        let mirror = Settings::of(&registry).upstream(&lines).start().await;
        assert_eq!(mirror.get(PATH).await.status, 200, "{lines}");
        assert_eq!(mirror.get("/v2/team/secret/manifests/1").await.status, 503, "our own trouble: {lines}");
    }
}

#[tokio::test]
async fn a_private_tag_that_is_stored_outlives_the_trouble_with_its_credential() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry().await;
    registry.require_tokens(TokenPolicy::bearer().user("me", "word").private("library/app"));
    let mirror = Settings::of(&registry).upstream(&logged_in(&folder)).config("cache.tag_ttl = \"0s\"").start().await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    let settings = mirror.stop().await;
    std::fs::remove_file(folder.path().join("login")).unwrap();
    let mirror = settings.start().await;
    let response = mirror.get(PATH).await;
    assert_eq!((response.status, response.header("warning").is_some()), (200, true));
}

#[tokio::test]
async fn a_password_that_is_not_good_any_more_breaks_no_public_image_of_a_registry_that_takes_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // One repository wants a password; the others are for all, and for nobody whose password is wrong.
    let wrong = Match::any().with_header("authorization").and(Match::when(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        true
    }));
    registry.rule(
        Rule::on(Match::repository("team/secret").or(wrong)).refuse(401).header("www-authenticate", "Basic realm=x"),
    );
    let mirror = Settings::of(&registry).upstream(&logged_in(&folder)).start().await;
    assert_eq!(mirror.get("/v2/team/secret/manifests/1").await.status, 404);
    assert_eq!(mirror.get(PATH).await.status, 200);
    assert!(asked.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn a_token_service_that_answers_no_token_and_no_refusal_keeps_back_nothing_that_is_stored() {
    for status in [400, 402, 404, 405, 410, 422, 500] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(422, 100)]);
        registry.require_tokens(TokenPolicy::bearer());
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
        let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
        for path in [PATH, &blob] {
            assert_eq!(mirror.get(path).await.status, 200, "{status} {path}");
        }
        mirror.settled().await;
        registry.expire_tokens();
        registry.rule(Rule::on(Match::token()).refuse(status).before_auth());
        let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
        for _ in 0..2 {
            let stale = mirror.get(PATH).await;
            assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{status}");
            mirror.settled().await;
            for path in [&by_digest, &blob] {
                assert_eq!(mirror.get(path).await.status, 200, "{status} {path}");
            }
        }
    }
}

/// Everything that can be asked for of an image, by either method.
fn questions(image: &Image) -> Vec<(&'static str, String)> {
    let digest = image.manifest.digest;
    let paths = [
        format!("manifests/{}", image.tag),
        format!("manifests/{digest}"),
        format!("blobs/{}", image.layers[0].digest),
        "tags/list".to_owned(),
        format!("referrers/{digest}"),
    ];
    let paths = paths.into_iter().map(|path| format!("/v2/library/app/{path}"));
    paths.flat_map(|path| [("HEAD", path.clone()), ("GET", path)]).collect()
}

#[tokio::test]
async fn whatever_is_asked_for_first_the_door_is_asked_once() {
    for status in [401, 404, 403, 400] {
        let registry = registry().await;
        let image = registry.add_image("library/app", "1", &[noise(420, 100)]);
        registry.require_tokens(TokenPolicy::bearer());
        let elsewhere = Match::when(|request| request.path != "/token" && request.path != "/v2/");
        registry.rule(Rule::on(elsewhere.without_header("authorization")).refuse(status).before_auth());
        for (method, path) in questions(&image) {
            registry.forget_requests();
            let mirror = TestMirror::of(&registry).await;
            let answer = client::request(mirror.address, method, &path, &[]).await;
            let asked = registry.count_of(&Match::ping());
            assert_eq!((answer.status, asked), (200, 1), "{status} {method} {path}");
        }
    }
}

#[tokio::test]
async fn a_dead_token_is_renewed_where_it_came_from_whatever_is_asked_for() {
    let image = registry().await.add_image("library/app", "1", &[noise(420, 100)]);
    for (method, path) in questions(&image) {
        let (registry, other) = (registry().await, Registry::start().await);
        registry.require_tokens(TokenPolicy::bearer().expired(Expired::Challenge));
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 200);
        registry.expire_tokens();
        let challenge = format!("Bearer realm=\"{}/token\"", foreign(&other));
        let dead = Match::any().with_header("authorization");
        registry.rule(Rule::on(dead).once().refuse(401).header("www-authenticate", &challenge).before_auth());
        assert_eq!(client::request(mirror.address, method, &path, &[]).await.status, 200, "{method} {path}");
        assert_eq!((registry.token_requests(), other.requests().len()), (2, 0), "{method} {path}");
    }
}

#[tokio::test]
async fn whatever_is_asked_of_a_facade_gets_a_token_for_nobody() {
    let (front, back) = (Registry::start().await, Registry::start().await);
    let image = back.add_image("library/app", "1", &[noise(422, 1000)]);
    back.require_tokens(TokenPolicy::bearer());
    front.rule(Rule::on(Match::any()).redirect_to_host(&foreign(&back)));
    for (method, path) in questions(&image) {
        let mirror = TestMirror::of(&front).await;
        let answer = client::request(mirror.address, method, &path, &[]).await;
        assert!(answer.status == 200 && answer.complete, "{method} {path}: {}", answer.status);
    }
}
