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

/// What a token service says in place of a token, and nothing else of why.
const NONE_FOR_HIM: [u16; 11] = [400, 401, 402, 403, 404, 405, 406, 409, 410, 422, 451];

#[tokio::test]
async fn who_gets_no_token_is_not_let_in_and_told_where_to_log_in() {
    for status in NONE_FOR_HIM {
        let (registry, image, mirror) = scene("").await;
        registry.rule(Rule::on(Match::token()).answer(status, "text/html", "<html>no token</html>"));
        for shown in ["", &basic("ann", "ann")] {
            let refused = knock(&mirror, "GET", shown).await;
            let challenge = refused.header("www-authenticate").unwrap_or_default();
            assert!(refused.status == 401 && challenge.contains("/token"), "{status} {shown}: {refused:?}");
            for path in paths(&image) {
                let refused = ask(&mirror, "GET", &path, shown).await;
                let challenge = refused.header("www-authenticate").unwrap_or_default();
                assert!(refused.status == 401 && challenge.contains("/token"), "{status} {path} {shown}: {refused:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_service_that_is_away_or_says_what_is_no_answer_turns_nobody_away_at_the_door_and_opens_nothing() {
    let page = |status| (status, Rule::on(Match::token()).answer(status, "text/html", "<html>back soon</html>"));
    let pages = [200, 203, 302, 407, 408, 416, 425, 429, 500, 501, 502, 503, 504].map(page);
    let cut = (0, Rule::on(Match::token()).close_at_once());
    let empty = (1, Rule::on(Match::token()).answer(200, "application/json", "{}"));
    for (what, rule) in pages.into_iter().chain([cut, empty]) {
        let (registry, image, mirror) = scene("").await;
        assert_eq!(pull(&mirror, &image, &token(&registry, "ann").await).await, vec![200; paths(&image).len() - 2]);
        mirror.settled().await;
        registry.rule(rule);
        for shown in ["", &basic("ann", "ann")] {
            assert_eq!(knock(&mirror, "GET", shown).await.status, 200, "{what} {shown}");
            for path in paths(&image) {
                assert_ne!(ask(&mirror, "GET", &path, shown).await.status, 200, "{what} {shown} {path}");
            }
        }
    }
}

#[tokio::test]
async fn only_a_word_on_his_rights_takes_from_a_caller_what_he_was_given_before() {
    let refused = |status| (Rule::on(Match::token()).refuse(status), status);
    let not_valid = Rule::on(Match::token()).answer(400, "application/json", r#"{"error":"invalid_grant"}"#);
    for (rule, status, is_word) in [401, 403]
        .map(|status| (Rule::on(Match::token()).refuse(status), status, true))
        .into_iter()
        .chain([(not_valid, 400, true)])
        .chain([400, 404, 405, 410, 422, 500].map(refused).map(|(rule, status)| (rule, status, false)))
    {
        let (mut registry, image, mirror) = scene("access.grant_ttl = \"0s\"").await;
        let (ann, path) = (basic("ann", "ann"), paths(&image)[1].clone());
        assert_eq!(ask(&mirror, "GET", &path, &ann).await.status, 200);
        mirror.settled().await;
        registry.rule(rule);
        assert_eq!(knock(&mirror, "GET", &ann).await.status, if status == 500 { 200 } else { 401 }, "{status}");
        let meanwhile = ask(&mirror, "GET", &path, &ann).await;
        assert_eq!(meanwhile.status, if is_word { 401 } else { 200 }, "{status}");
        registry.stop().await;
        let afterwards = ask(&mirror, "GET", &path, &ann).await;
        assert_eq!(afterwards.status, if is_word { 503 } else { 200 }, "{status}");
    }
}

#[tokio::test]
async fn while_a_token_service_says_nothing_of_rights_who_had_a_yes_within_a_day_gets_what_is_stored_as_stale() {
    let page = |status| (status, Rule::on(Match::token()).answer(status, "text/html", "<html>no token</html>"));
    let json = |text: &'static str| (200, Rule::on(Match::token()).answer(200, "application/json", text));
    let odd = [json("{}"), json(""), json(r#"{"token":""}"#), json(r#"{"token":"a b"}"#)];
    for (status, rule) in [200, 302, 400, 404, 405, 410, 422].map(page).into_iter().chain(odd) {
        let (registry, image, mirror) = scene("access.grant_ttl = \"0s\"\ncache.tag_ttl = \"0s\"").await;
        let cold = registry.add_image("team/private", "cold", &[noise(64, 1000)]);
        let open: Vec<_> = ["manifests/1"].map(|path| format!("/v2/team/open/{path}?ns=a.example")).into();
        let (ann, bob) = (basic("ann", "ann"), basic("bob", "bob"));
        let (by_tag, by_digest) = (&paths(&image)[0], &paths(&image)[1]);
        for (path, shown) in [(by_tag, &*ann), (by_digest, &ann), (&open[0], "")] {
            assert_eq!(ask(&mirror, "GET", path, shown).await.status, 200, "{path}");
            mirror.settled().await;
        }
        registry.expire_tokens();
        registry.rule(rule);
        for (path, shown) in [(by_tag, &*ann), (by_digest, &ann), (&open[0], ""), (&open[0], &bob)] {
            for method in ["GET", "HEAD"] {
                let answer = ask(&mirror, method, path, shown).await;
                assert_eq!(answer.status, 200, "{status}: {method} {path} to {shown}");
                let is_tag = path != by_digest;
                assert!(!is_tag || answer.header("warning").is_some(), "{status}: {method} {path} is stale");
            }
        }
        let cold = format!("/v2/team/private/manifests/{}?ns=a.example", cold.manifest.digest);
        for (path, shown) in [(by_digest, &*bob), (by_digest, ""), (&cold, &ann)] {
            assert_ne!(ask(&mirror, "GET", path, shown).await.status, 200, "{status}: {path} to {shown}");
        }
    }
}

#[tokio::test]
async fn a_door_that_is_none_lets_in_nobody_who_shows_something() {
    for (status, expected) in [(400, 401), (404, 401), (405, 401), (410, 401), (500, 200), (429, 200)] {
        for needs_token in [true, false] {
            let (registry, _, mirror) = scene("").await;
            if !needs_token {
                registry.require_nothing();
                registry.rule(Rule::on(Match::ping()).refuse(status));
                assert_eq!(knock(&mirror, "GET", "").await.status, 200, "{status}: it asks for nothing");
            }
            registry.rule(Rule::on(Match::ping().with_header("authorization")).refuse(status).before_auth());
            for shown in [basic("ann", "ann"), "Bearer made-up".to_owned()] {
                assert_eq!(knock(&mirror, "GET", &shown).await.status, expected, "{status} {needs_token} {shown}");
            }
        }
    }
}

#[tokio::test]
async fn who_shows_nothing_gets_what_takes_nothing_where_the_token_service_gives_him_none() {
    for status in NONE_FOR_HIM {
        let (registry, _, mirror) = scene("").await;
        registry.require_nothing();
        let challenge = format!("Bearer realm=\"{}/token\"", registry.url());
        registry.rule(Rule::on(Match::ping()).refuse(401).header("www-authenticate", &challenge));
        registry.rule(Rule::on(Match::token()).refuse(status));
        assert_eq!(knock(&mirror, "GET", "").await.header("www-authenticate"), Some(challenge.as_str()), "{status}");
        for path in ["manifests/1", "tags/list"] {
            let path = format!("/v2/team/open/{path}?ns=a.example");
            assert_eq!(ask(&mirror, "GET", &path, "").await.status, 200, "{status} {path}");
        }
    }
}
