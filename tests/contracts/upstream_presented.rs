//! A registry that is asked with what somebody presents, in place of what is configured.

use std::sync::Arc;

use registry_mirror::clock::SystemClock;
use registry_mirror::oci::challenge::Challenge;
use registry_mirror::oci::{AcceptSet, Reference, Repository};
use registry_mirror::upstream::asking::Asking;
use registry_mirror::upstream::credentials::{Auth, Credential, Fingerprint, Presented, Secret};
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use registry_mirror::upstream::settings::Settings;
use registry_mirror::upstream::{Unobserved, Upstream, UpstreamErrorClass, UpstreamObserver};
use scripted_registry::{Match, Registry, Rule, TokenPolicy, noise};

const SECRET: &str = "owner/secret";

fn asking_with(registry: &Registry, configured: Settings) -> Asking {
    let (name, url) = ("registry.example".parse().expect("name"), registry.url().parse().expect("url"));
    let http: Arc<dyn Upstream> =
        Arc::new(HttpUpstream::new(HttpSettings::new(name, url, configured)).expect("settings"));
    let observer: Arc<dyn UpstreamObserver> = Arc::new(Unobserved);
    let addresses = [(registry.authority(), http)];
    Asking::new(&"registry.example".parse().expect("name"), addresses, Arc::new(SystemClock), &observer)
}

fn asking(registry: &Registry) -> Asking {
    asking_with(registry, Settings::default())
}

/// Each credential has its own fingerprint, as whoever presents it makes it.
fn basic(user: &str, password: &str) -> Presented {
    let mut fingerprint = [0; 32];
    let text = format!("{user}:{password}");
    fingerprint[..text.len()].copy_from_slice(text.as_bytes());
    let credential = Credential::Basic { user: user.to_owned(), password: Secret::new(password.to_owned()) };
    Presented { credential, fingerprint: Some(Fingerprint(fingerprint)), since: None }
}

fn token(token: &str) -> Presented {
    Presented {
        credential: Credential::RegistryToken(Secret::new(token.to_owned())),
        fingerprint: Some(Fingerprint([7; 32])),
        since: None,
    }
}

/// The class and the status of what is refused.
async fn resolve(
    upstream: &dyn Upstream,
    presented: &Presented,
    repository: &str,
) -> Result<(), (UpstreamErrorClass, Option<u16>)> {
    let upstream = upstream.presenting(presented).expect("a registry that is asked");
    let (repository, tag): (Repository, Reference) =
        (repository.parse().expect("name"), Reference::Tag("1".parse().expect("tag")));
    let resolved = upstream.resolve(&repository, &tag, AcceptSet::everything()).await;
    resolved.map(drop).map_err(|error| (error.class, error.status))
}

async fn registry() -> Registry {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("bob", "right").private(SECRET));
    registry.add_image(SECRET, "1", &[noise(1, 100)]);
    registry.add_image("owner/open", "1", &[noise(2, 100)]);
    registry
}

const DENIED: (UpstreamErrorClass, Option<u16>) = (UpstreamErrorClass::Denied, Some(401));

#[tokio::test]
async fn a_name_is_not_a_credential() {
    let registry = registry().await;
    let upstream = asking(&registry);
    assert_eq!(resolve(&upstream, &basic("bob", "right"), SECRET).await, Ok(()));
    // His token is at hand, and is for who has his password.
    let refused = resolve(&upstream, &basic("bob", "wrong"), SECRET).await;
    assert_eq!(refused.expect_err("not his password").0, UpstreamErrorClass::Denied);
    assert_eq!(resolve(&upstream, &Presented::NOBODY, SECRET).await, Err(DENIED));
    assert_eq!(resolve(&upstream, &basic("bob", "right"), SECRET).await, Ok(()), "nobody else's trouble is his");
}

#[tokio::test]
async fn what_is_refused_to_a_credential_is_not_asked_for_without_it() {
    let registry = registry().await;
    let upstream = asking(&registry);
    let refused = resolve(&upstream, &basic("bob", "wrong"), "owner/open").await;
    assert_eq!(refused.expect_err("the service refuses him").0, UpstreamErrorClass::Denied);
    let for_nobody = registry.count(|request| request.path == "/token" && request.header("authorization").is_none());
    assert_eq!(for_nobody, 0);
    assert_eq!(resolve(&upstream, &Presented::NOBODY, "owner/open").await, Ok(()));
}

#[tokio::test]
async fn a_token_goes_to_the_registry_as_it_is_and_to_no_service() {
    let registry = registry().await;
    assert_eq!(resolve(&asking(&registry), &token("made-up"), SECRET).await, Err(DENIED));
    assert_eq!(registry.token_requests(), 0);
    assert!(registry.count(|request| request.header("authorization") == Some("Bearer made-up")) > 0);
}

#[tokio::test]
async fn who_presents_something_shows_nothing_that_is_configured() {
    let registry = registry().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "bob:right").expect("write");
    let auth = Auth::File(file.path().to_owned());
    let upstream = asking_with(&registry, Settings { auth, ..Settings::default() });
    let (secret, tag): (Repository, Reference) =
        (SECRET.parse().expect("name"), Reference::Tag("1".parse().expect("tag")));
    assert!(upstream.resolve(&secret, &tag, AcceptSet::everything()).await.is_ok(), "as ourselves");
    for presented in [Presented::NOBODY, basic("eve", "x"), token("x")] {
        assert_eq!(
            resolve(&upstream, &presented, SECRET).await.map_err(|(class, _)| class),
            Err(UpstreamErrorClass::Denied)
        );
    }
}

#[tokio::test]
async fn who_is_limited_is_limited_alone() {
    let registry = registry().await;
    let upstream = asking(&registry);
    let his = Match::when(|request| request.header("authorization") == Some("Bearer his"));
    registry.rule(Rule::on(his).before_auth().too_many_requests(Some("600")));
    let limited = resolve(&upstream, &token("his"), "owner/open").await.expect_err("he is limited");
    assert!(matches!(limited.0, UpstreamErrorClass::RateLimited(_)), "{limited:?}");
    let asked = registry.requests().len();
    assert!(resolve(&upstream, &token("his"), "owner/open").await.is_err());
    assert_eq!(registry.requests().len(), asked, "and left alone");
    assert_eq!(resolve(&upstream, &Presented::NOBODY, "owner/open").await, Ok(()));
    let (open, tag): (Repository, Reference) =
        ("owner/open".parse().expect("name"), Reference::Tag("1".parse().expect("tag")));
    assert!(upstream.resolve(&open, &tag, AcceptSet::everything()).await.is_ok(), "we are not");
}

#[tokio::test]
async fn the_door_opens_for_who_may_and_says_what_it_wants() {
    let registry = registry().await;
    let upstream = asking(&registry);
    let enter = async |presented: &Presented| {
        let entered = upstream.presenting(presented).expect("asked").enter().await;
        entered.map_err(|error| error.class)
    };
    assert_eq!(enter(&basic("bob", "right")).await, Ok(()));
    assert_eq!(enter(&basic("bob", "wrong")).await, Err(UpstreamErrorClass::Denied));
    assert_eq!(enter(&token("made-up")).await, Err(UpstreamErrorClass::Denied));
    let secret: Repository = SECRET.parse().expect("name");
    let challenge = upstream.challenge(Some(&secret)).await.expect("an answer");
    let expected = Challenge::Bearer {
        realm: format!("{}/token", registry.url()),
        service: Some("registry.test".to_owned()),
        scope: Some(format!("repository:{SECRET}:pull")),
        error: None,
    };
    assert_eq!(challenge, Some(expected));
    registry.require_tokens(TokenPolicy::basic("bob", "right"));
    let upstream = asking(&registry);
    assert_eq!(
        upstream.challenge(None).await.ok(),
        Some(Some(Challenge::Basic { realm: Some("registry of the test".to_owned()) }))
    );
    assert!(upstream.presenting(&basic("bob", "right")).expect("asked").enter().await.is_ok());
    assert!(upstream.presenting(&basic("bob", "wrong")).expect("asked").enter().await.is_err());
}

#[tokio::test]
async fn a_foreign_token_service_is_not_named_and_gets_nothing_that_is_presented() {
    let foreign = Registry::start().await;
    let registry = registry().await;
    let realm = format!("http://localhost:{}/token", foreign.address().port());
    registry.require_tokens(TokenPolicy::bearer().user("bob", "right").private(SECRET).realm(&realm));
    let upstream = asking(&registry);
    assert_eq!(upstream.challenge(None).await.ok(), Some(None));
    assert!(resolve(&upstream, &basic("bob", "right"), SECRET).await.is_err());
    assert_eq!(foreign.count(|request| request.header("authorization").is_some()), 0);
}

#[tokio::test]
async fn where_a_token_service_gives_no_token_its_status_says_whether_that_is_a_word_on_rights() {
    use UpstreamErrorClass::{Denied, Protocol, RateLimited, Unavailable};
    let (word, none) = ((Denied, None), |status| (Denied, Some(status)));
    for (status, to_him, to_nobody, to_us) in [
        (401, word, word, word),
        (403, word, word, word),
        (400, none(400), none(400), (Protocol, Some(400))),
        (402, none(402), none(402), (Protocol, None)),
        (404, none(404), none(404), (Protocol, None)),
        (405, none(405), none(405), (Protocol, None)),
        (410, none(410), none(410), (Protocol, None)),
        (422, none(422), none(422), (Protocol, None)),
        (200, (Protocol, None), (Protocol, None), (Protocol, None)),
        (302, (Protocol, None), (Protocol, None), (Protocol, None)),
        (407, (Protocol, None), (Protocol, None), (Protocol, None)),
        (408, (Unavailable, None), (Unavailable, None), (Unavailable, None)),
        (429, (RateLimited(None), None), (RateLimited(None), None), (RateLimited(None), None)),
        (500, (Unavailable, None), (Unavailable, None), (Unavailable, None)),
    ] {
        let registry = registry().await;
        registry.rule(Rule::on(Match::token()).answer(status, "text/html", "<html>no token</html>"));
        let name = "registry.example".parse().expect("name");
        let settings = HttpSettings::new(name, registry.url().parse().expect("url"), Settings::default());
        let upstream = HttpUpstream::new(settings).expect("settings");
        for (presented, expected) in [(basic("bob", "right"), to_him), (Presented::NOBODY, to_nobody)] {
            assert_eq!(resolve(&upstream, &presented, SECRET).await, Err(expected), "{status}");
        }
        let (secret, tag) = (SECRET.parse().expect("name"), Reference::Tag("1".parse().expect("tag")));
        let error = upstream.resolve(&secret, &tag, AcceptSet::everything()).await.expect_err("no token");
        assert_eq!((error.class, error.status), to_us, "{status}");
    }
}

#[tokio::test]
async fn a_400_of_a_token_service_is_a_word_on_rights_where_it_says_that_what_is_shown_is_not_valid() {
    for (said, is_his) in [
        (r#"{"error":"invalid_grant","error_description":"the refresh token is expired"}"#, true),
        (r#"{"error":"invalid_client"}"#, true),
        (r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#, true),
        (r#"{"errors":[{"code":"OTHER"},{"code":"DENIED"}]}"#, true),
        (r#"{"code":"UNAUTHORIZED"}"#, true),
        (r#"{"error":"invalid_request"}"#, false),
        (r#"{"error":"unsupported_grant_type"}"#, false),
        (r#"{"error":"invalid_scope"}"#, false),
        (r#"{"errors":[{"code":"UNSUPPORTED"}]}"#, false),
        (r#"["invalid_grant"]"#, false),
        ("invalid_grant", false),
        ("", false),
    ] {
        let registry = registry().await;
        registry.rule(Rule::on(Match::token()).answer(400, "application/json", said));
        let name = "registry.example".parse().expect("name");
        let settings = HttpSettings::new(name, registry.url().parse().expect("url"), Settings::default());
        let upstream = HttpUpstream::new(settings).expect("settings");
        let status = (!is_his).then_some(400);
        let told = resolve(&upstream, &basic("bob", "right"), SECRET).await;
        assert_eq!(told, Err((UpstreamErrorClass::Denied, status)), "{said}");
        let to_nobody = resolve(&upstream, &Presented::NOBODY, SECRET).await;
        assert_eq!(to_nobody, Err((UpstreamErrorClass::Denied, Some(400))), "{said}");
    }
}

#[tokio::test]
async fn what_is_presented_stays_with_the_registry_where_that_sends_us_elsewhere() {
    let registry = Registry::start().await.with_storage_host().await;
    registry.require_tokens(TokenPolicy::bearer().user("bob", "right").private(SECRET));
    let digest = registry.add_blob(SECRET, noise(1, 100));
    let upstream = asking(&registry).presenting(&basic("bob", "right")).expect("asked");
    let size = upstream.stat(&SECRET.parse().expect("name"), &digest.to_string().parse().expect("digest")).await;
    assert_eq!(size.ok().flatten(), Some(100));
    assert_eq!(registry.count_of(&Match::storage().with_header("authorization")), 0);
    assert!(registry.count_of(&Match::storage()) > 0);
}

#[tokio::test]
async fn a_demand_that_cannot_be_met_is_not_kept() {
    let foreign = Registry::start().await;
    foreign.rule(Rule::on(Match::token()).answer(200, "application/json", r#"{"token":"theirs"}"#));
    let dead = Registry::start().await;
    dead.rule(Rule::on(Match::token()).refuse(500).before_auth());
    let refusing = Registry::start().await;
    refusing.rule(Rule::on(Match::token()).refuse(401).before_auth());
    let elsewhere = format!("http://localhost:{}/token", foreign.address().port());
    for realm in [elsewhere, format!("{}/token", dead.url()), format!("{}/token", refusing.url()), "nowhere".to_owned()]
    {
        let registry = registry().await;
        let right = TokenPolicy::bearer().user("bob", "right").private(SECRET);
        registry.require_tokens(right.clone().realm(&realm));
        let upstream = asking(&registry);
        for presented in [Presented::NOBODY, basic("bob", "right")] {
            assert!(resolve(&upstream, &presented, SECRET).await.is_err(), "{realm}");
            let _refused = upstream.presenting(&presented).expect("asked").enter().await;
        }
        registry.require_tokens(right);
        assert_eq!(resolve(&upstream, &basic("bob", "right"), SECRET).await, Ok(()), "{realm}");
    }
}
