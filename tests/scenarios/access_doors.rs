//! The door of an upstream that each asks with his own credential: where it sends who wants to log in, and what it
//! means that he gets no token there.

use scripted_registry::client::{self, Response};
use scripted_registry::{Match, Registry, Rule, TokenPolicy, noise};

use crate::access_mapped::basic;
use crate::access_passing::{ask, paths, policy, pull, scene, token};
use crate::support::mirror::{Settings, TestMirror};

/// The token service of a registry, as one of another site than `127.0.0.1`.
fn foreign(registry: &Registry) -> String {
    format!("{}/token", registry.url().replace("127.0.0.1", "localhost"))
}

/// The door of the listener that is for the upstream.
async fn knock(mirror: &TestMirror, method: &str, shown: &str) -> Response {
    let headers = [("Authorization", shown)];
    client::request(mirror.addresses[1], method, "/v2/", if shown.is_empty() { &[] } else { &headers }).await
}

#[track_caller]
fn sends_nobody_anywhere(answer: &Response, why: &str, of: &str) {
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, None), "{of}");
    assert_eq!(answer.header("cache-control"), Some("private, no-store"), "{of}");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.is_empty() || text.contains(why), "{of}: {text}");
}

#[tokio::test]
async fn nothing_goes_to_a_token_service_of_another_site_and_who_is_not_let_in_is_told_why() {
    let elsewhere = Registry::start().await;
    elsewhere.require_tokens(policy());
    for (realm, why) in [
        (foreign(&elsewhere), "auth_realms"),
        (elsewhere.url().replace("http://", "http://u:p@"), "with a user name in its address"),
        ("nowhere".to_owned(), "whose address is not valid"),
        ("http://169.254.169.254/token".to_owned(), "169.254.169.254"),
    ] {
        let (registry, image, mirror) = scene("access.grant_ttl = \"0s\"").await;
        registry.require_tokens(policy().realm(&realm));
        let (ann, bearer) = (basic("ann", "ann"), token(&registry, "ann").await);
        let open = paths(&image).into_iter().map(|path| path.replace("team/private", "team/open"));
        let all: Vec<_> = paths(&image).into_iter().chain(open).collect();
        // Nobody comes to a token by an address that is none.
        let rounds: &[_] = if why == "auth_realms" { &["cold", "stored"] } else { &["cold"] };
        for round in rounds {
            for shown in ["", &ann, &basic("ann", "wrong"), "Bearer made-up"] {
                for method in ["GET", "HEAD"] {
                    let of = format!("{realm} {round}: {method} {shown}");
                    sends_nobody_anywhere(&knock(&mirror, method, shown).await, why, &of);
                    for path in &all {
                        sends_nobody_anywhere(&ask(&mirror, method, path, shown).await, why, &format!("{of} {path}"));
                    }
                }
            }
            if rounds.len() > 1 {
                // Who has a token of it, from wherever, is a caller like others.
                assert_eq!(knock(&mirror, "GET", &bearer).await.status, 200, "{realm}");
                assert_eq!(pull(&mirror, &image, &bearer).await, vec![200; paths(&image).len() - 2], "{realm}");
                mirror.settled().await;
            }
        }
        assert_eq!(elsewhere.requests().len(), 0, "{realm}");
    }
}

#[tokio::test]
async fn who_asks_is_sent_to_a_token_service_of_another_site_that_the_operator_allows() {
    let elsewhere = Registry::start().await;
    elsewhere.require_tokens(policy());
    let registry = Registry::start().await;
    registry.require_tokens(policy().realm(&foreign(&elsewhere)));
    let listen = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]";
    let keys = "access = \"pass-through\"\nauth_realms = [\"localhost\"]";
    let mirror = Settings::of(&registry).config(listen).and("a.example", &registry).having(keys).start().await;
    let answer = knock(&mirror, "GET", "").await;
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(answer.status == 401 && challenge.contains(&foreign(&elsewhere)), "{challenge}");
    assert!(elsewhere.token_requests() > 0);
}

#[tokio::test]
async fn what_takes_no_token_is_given_behind_a_door_that_nobody_can_open() {
    let elsewhere = Registry::start().await;
    let foreign = format!("Bearer realm=\"{}\"", foreign(&elsewhere));
    for (status, challenge) in [(401, foreign.as_str()), (401, ""), (403, "")] {
        let (registry, _, mirror) = scene("").await;
        registry.require_nothing();
        let shut = Rule::on(Match::ping()).refuse(status);
        registry.rule(if challenge.is_empty() { shut } else { shut.header("www-authenticate", challenge) });
        for shown in ["", &basic("ann", "ann"), "Bearer made-up"] {
            let answer = knock(&mirror, "GET", shown).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, None), "{status} {challenge} {shown}");
        }
        let path = "/v2/team/open/manifests/1?ns=a.example";
        assert_eq!(ask(&mirror, "GET", path, "").await.status, 200, "{status} {challenge}");
        assert_eq!(elsewhere.requests().len(), 0);
    }
}

#[tokio::test]
async fn a_registry_abroad_sends_no_caller_to_a_token_service_of_a_third() {
    for (realm_is_its_own, status) in [(true, 200), (false, 401)] {
        let (front, back, third) = (Registry::start().await, Registry::start().await, Registry::start().await);
        let image = back.add_image("team/private", "1", &[noise(66, 1000)]);
        third.require_tokens(TokenPolicy::bearer());
        let own = foreign(&back);
        // To the registry that is called localhost, 127.0.0.1 is another site.
        let realm = if realm_is_its_own { own } else { format!("{}/token", third.url()) };
        back.require_tokens(TokenPolicy::bearer().realm(&realm));
        front.rule(Rule::on(Match::any()).redirect_to_host(&back.url().replace("127.0.0.1", "localhost")));
        for shown in ["", &basic("ann", "ann"), "Bearer made-up"] {
            let settings = Settings::of(&front).and("a.example", &front).having("access = \"pass-through\"");
            let mirror = settings.start().await;
            for path in paths(&image) {
                let answer = ask(&mirror, "GET", &path, shown).await;
                assert_eq!((answer.status, answer.header("www-authenticate")), (status, None), "{path} {shown}");
            }
        }
        assert_eq!(third.requests().len(), 0);
    }
}
