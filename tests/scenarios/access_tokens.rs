//! Tokens of an issuer, whose keys are where its description says.

use std::time::Duration;

use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use scripted_registry::client::{self, Response};
use scripted_registry::{Match, Registry, Rule, TokenPolicy, noise};
use serde_json::{Value, json};

use crate::access_mapped::basic;
use crate::support::mirror::{Settings, TestMirror};

const NOW: u64 = 1_700_000_000;

/// An issuer with one key.
struct Issuer {
    registry: Registry,
    key: KeyPair,
}

fn base64url(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    async fn start() -> Issuer {
        let issuer = Issuer { registry: Registry::start().await, key: KeyPair::generate().expect("a key") };
        issuer.publish("1");
        issuer
    }

    fn url(&self) -> String {
        self.registry.url()
    }

    /// Publishes the key under this name, and no other.
    fn publish(&self, name: &str) {
        self.publish_with(name, json!({ "use": "sig", "alg": "ES256" }), "");
    }

    /// The same, with this said of the key, and of how long it is good for.
    fn publish_with(&self, name: &str, said: Value, cache_control: &str) {
        self.registry.clear_rules();
        let url = self.url();
        let description = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string();
        let point = self.key.public_key_raw();
        let mut key = json!({
            "kty": "EC", "crv": "P-256", "kid": name, "x": base64url(&point[1..33]), "y": base64url(&point[33..]),
        });
        said.as_object().expect("keys").iter().for_each(|(name, value)| key[name] = value.clone());
        let keys = json!({ "keys": [{ "kty": "of tomorrow", "kid": "0" }, key] }).to_string();
        for (path, body) in [("/.well-known/openid-configuration", description), ("/keys", keys)] {
            let rule = Rule::on(Match::when(move |request| request.path == path)).answer(200, "application/json", body);
            let rule = if cache_control.is_empty() { rule } else { rule.header("Cache-Control", cache_control) };
            self.registry.rule(rule.before_auth());
        }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).expect("signed")
    }

    fn claims(&self, subject: &str) -> Value {
        json!({ "iss": self.url(), "aud": ["other", "registry-mirror"], "sub": subject, "exp": NOW + 600 })
    }

    fn fetched(&self) -> usize {
        self.registry.count(|request| request.path == "/keys")
    }
}

async fn ask(mirror: &TestMirror, shown: &str) -> Response {
    client::get(mirror.address, "/v2/acme/app/manifests/1?ns=a.example", &[("Authorization", shown)]).await
}

async fn mirror(registry: &Registry, issuer: &Issuer) -> TestMirror {
    let lines = format!(
        "access.oidc = [{{ issuer = \"{}\" }}]\n\
         access.grant = [{{ who = \"oidc:repo:acme/*\", may = \"a.example/acme/**\" }}]",
        issuer.url()
    );
    let settings = Settings::of(registry).config(&lines).and("a.example", registry).having("access = \"mapped\"");
    settings.start().await
}

#[tokio::test]
async fn a_token_that_is_signed_for_us_and_in_time_is_a_caller_and_no_other_is() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(31, 1000)]);
    let issuer = Issuer::start().await;
    let mirror = mirror(&registry, &issuer).await;
    let right = issuer.token("1", &issuer.claims("repo:acme/app"));
    for shown in [format!("Bearer {right}"), basic("whoever", &right), format!("bearer {right}")] {
        assert_eq!(ask(&mirror, &shown).await.status, 200, "{shown}");
    }
    let other = issuer.token("1", &issuer.claims("repo:other/app"));
    assert_eq!(ask(&mirror, &format!("Bearer {other}")).await.status, 403);
    let with = |key: &str, value: Value| {
        let mut claims = issuer.claims("repo:acme/app");
        claims[key] = value;
        issuer.token("1", &claims)
    };
    let stranger = Issuer { registry: Registry::start().await, key: KeyPair::generate().expect("a key") };
    let symmetric = {
        let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(issuer.key.public_key_raw()).expect("a key");
        encode(&header, &issuer.claims("repo:acme/app"), &key).expect("signed")
    };
    let (head, signature) = right.rsplit_once('.').expect("three parts");
    for wrong in [
        with("iss", json!("https://other.example")),
        with("aud", json!("other")),
        with("aud", Value::Null),
        with("exp", json!(NOW - 61)),
        with("exp", Value::Null),
        with("nbf", json!(NOW + 90)),
        with("sub", Value::Null),
        with("sub", json!("")),
        stranger.token("1", &issuer.claims("repo:acme/app")),
        issuer.token("2", &issuer.claims("repo:acme/app")),
        symmetric,
        format!("{head}.{}", signature.to_uppercase()),
        format!("{head}."),
        "x.y.z".to_owned(),
    ] {
        assert_eq!(ask(&mirror, &format!("Bearer {wrong}")).await.status, 401, "{wrong}");
    }
    assert_eq!(issuer.fetched(), 1, "neither what is wrong nor an unknown key has them fetched again at once");
    // Remembered, and no longer than it lives.
    mirror.advance(Duration::from_secs(600 + 59));
    assert_eq!(ask(&mirror, &format!("Bearer {right}")).await.status, 200);
    mirror.advance(Duration::from_secs(2));
    assert_eq!(ask(&mirror, &format!("Bearer {right}")).await.status, 401);
}

#[tokio::test]
async fn issuers_come_and_go_with_a_reload_and_keys_that_are_known_stay_with_theirs() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(33, 1000)]);
    let issuer = Issuer::start().await;
    let mut mirror = mirror(&registry, &issuer).await;
    let shown = format!("Bearer {}", issuer.token("1", &issuer.claims("repo:acme/app")));
    assert_eq!(ask(&mirror, &shown).await.status, 200);
    let grant = "access.grant = [{ who = \"oidc:repo:acme/*\", may = \"a.example/acme/**\" }]";
    let with = |more: &str| format!("access.oidc = [{{ issuer = \"{}\"{more} }}]\n{grant}", issuer.url());
    let as_before = with("");
    let limited = format!("{as_before}\nlimits.requests_per_client = 100");
    for (lines, status, changed) in [
        (limited, 200, "limits"),
        (grant.to_owned(), 401, "access.oidc"),
        (as_before.clone(), 200, "access.oidc"),
        (with(", audience = \"another\""), 401, "access.oidc"),
        (as_before, 200, "access.oidc"),
    ] {
        let fetched = issuer.fetched();
        let answer = mirror.reload(|settings| settings.reconfigured(&lines)).await;
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(told["changed"].to_string().contains(changed), "{told}");
        // A token that was judged a moment ago is judged again.
        assert_eq!(ask(&mirror, &shown).await.status, status, "{lines}");
        assert!(changed != "limits" || issuer.fetched() == fetched, "its keys are known");
    }
}

#[tokio::test]
async fn keys_that_are_new_are_fetched_and_known_ones_outlive_their_issuer() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(32, 1000)]);
    let mut issuer = Issuer::start().await;
    let mirror = mirror(&registry, &issuer).await;
    let claims = |now: u64| json!({ "iss": issuer.url(), "aud": "registry-mirror", "sub": "repo:acme/app", "exp": now + 600, "jti": now });
    let (claims, later, latest) = (claims(NOW), claims(NOW + 31), claims(NOW + 7000));
    assert_eq!(ask(&mirror, &format!("Bearer {}", issuer.token("1", &claims))).await.status, 200);
    issuer.publish("2");
    let rotated = issuer.token("2", &later);
    assert_eq!(ask(&mirror, &format!("Bearer {rotated}")).await.status, 401, "a moment after they were fetched");
    mirror.advance(Duration::from_secs(31));
    assert_eq!(ask(&mirror, &format!("Bearer {rotated}")).await.status, 200);
    assert_eq!(issuer.fetched(), 2);
    issuer.registry.stop().await;
    mirror.advance(Duration::from_secs(7000));
    assert_eq!(ask(&mirror, &format!("Bearer {}", issuer.token("2", &latest))).await.status, 200);
}

/// A token that was not judged before.
fn another(issuer: &Issuer, kid: &str, number: usize) -> String {
    let mut claims = issuer.claims("repo:acme/app");
    (claims["exp"], claims["jti"]) = (json!(NOW + 100_000), json!(number));
    format!("Bearer {}", issuer.token(kid, &claims))
}

#[tokio::test]
async fn a_key_that_is_replaced_under_its_name_is_fetched_and_the_one_before_counts_no_more() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(35, 1000)]);
    let mut issuer = Issuer::start().await;
    let mirror = mirror(&registry, &issuer).await;
    let before = [0, 1, 4].map(|number| another(&issuer, "1", number));
    assert_eq!(ask(&mirror, &before[0]).await.status, 200);
    issuer.key = KeyPair::generate().expect("a key");
    issuer.publish("1");
    let after = another(&issuer, "1", 2);
    for shown in [&after, &after, &before[1]] {
        let expected = if *shown == after { 401 } else { 200 };
        assert_eq!(ask(&mirror, shown).await.status, expected, "a moment after they were fetched");
    }
    assert_eq!(issuer.fetched(), 1);
    mirror.advance(Duration::from_secs(31));
    let made_up = format!("{}x", &after[..after.len() - 1]);
    let (one, other) = tokio::join!(ask(&mirror, &made_up), ask(&mirror, &after));
    assert_eq!((one.status, other.status, issuer.fetched()), (401, 200, 2), "once for all");
    let stranger = Issuer { registry: Registry::start().await, key: KeyPair::generate().expect("a key") };
    let made_up = format!("Bearer {}", stranger.token("1", &issuer.claims("repo:acme/app")));
    for shown in [&made_up, &before[2]] {
        assert_eq!(ask(&mirror, shown).await.status, 401);
    }
    assert_eq!(issuer.fetched(), 2, "a moment after they were fetched");
}

#[tokio::test]
async fn keys_are_looked_at_again_as_often_as_their_issuer_says_within_bounds() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(36, 1000)]);
    for (said, life) in
        [("", 3600), ("max-age=600", 600), ("max-age=5", 300), ("no-store", 300), ("max-age=90000", 3600)]
    {
        let issuer = Issuer::start().await;
        issuer.publish_with("1", json!({}), said);
        let mirror = mirror(&registry, &issuer).await;
        for (number, (advance, fetched)) in [(0, 1), (life - 1, 1), (1, 2)].into_iter().enumerate() {
            mirror.advance(Duration::from_secs(advance));
            assert_eq!(ask(&mirror, &another(&issuer, "1", number)).await.status, 200, "{said}");
            assert_eq!(issuer.fetched(), fetched, "{said}: {number}");
        }
    }
}

#[tokio::test]
async fn a_key_is_used_for_what_its_issuer_says_that_it_is_for() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(37, 1000)]);
    for (said, status) in [
        (json!({}), 200),
        (json!({ "key_ops": ["verify"] }), 200),
        (json!({ "use": "sig", "alg": "ES256", "key_ops": ["sign", "verify"] }), 200),
        (json!({ "use": "enc" }), 401),
        (json!({ "key_ops": ["sign"] }), 401),
        (json!({ "key_ops": ["encrypt", "wrapKey"] }), 401),
        (json!({ "key_ops": [] }), 401),
        (json!({ "alg": "ES384" }), 401),
        (json!({ "alg": "RSA-OAEP" }), 401),
    ] {
        let issuer = Issuer::start().await;
        issuer.publish_with("1", said.clone(), "");
        let mirror = mirror(&registry, &issuer).await;
        assert_eq!(ask(&mirror, &another(&issuer, "1", 0)).await.status, status, "{said}");
    }
}

#[tokio::test]
async fn a_token_whose_keys_cannot_be_had_is_not_called_wrong() {
    let registry = Registry::start().await;
    registry.add_image("acme/app", "1", &[noise(33, 1000)]);
    let mut issuer = Issuer::start().await;
    let token = issuer.token("1", &issuer.claims("repo:acme/app"));
    let mirror = mirror(&registry, &issuer).await;
    issuer.registry.stop().await;
    let answer = ask(&mirror, &format!("Bearer {token}")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert!(!String::from_utf8_lossy(&answer.body).contains(&token));
}

#[tokio::test]
async fn no_token_of_an_issuer_is_shown_to_an_upstream_in_whatever_form() {
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "ann").private("acme/app"));
    registry.add_image("acme/app", "1", &[noise(34, 1000)]);
    let issuer = Issuer::start().await;
    let lines = format!("access.oidc = [{{ issuer = \"{}\" }}]", issuer.url());
    let settings = Settings::of(&registry).config(&lines).and("a.example", &registry);
    let mirror = settings.having("access = \"pass-through\"").start().await;
    assert_eq!(ask(&mirror, &basic("ann", "ann")).await.status, 200);
    let right = issuer.token("1", &issuer.claims("repo:acme/app"));
    let [head, payload, signature] = right.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let odd = json!({ "iss": format!("{}/ ", issuer.url()), "sub": "x" }).to_string();
    for token in [
        right.clone(),
        format!("{head}.{payload}"),
        format!("{right}.more"),
        format!("{head}.{payload}==.{signature}"),
        format!("{head}.{}.{signature}", base64url(odd.as_bytes())),
        format!("{head}.{}.{signature}", scripted_registry::base64(&odd)),
    ] {
        for shown in [
            format!("Bearer {token}"),
            format!("BEARER   {token}"),
            format!("Bearer x, Bearer {token}"),
            basic("whoever", &token),
            basic(&token, "x"),
        ] {
            assert_eq!(ask(&mirror, &shown).await.status, 401, "{shown}");
        }
    }
    let shown: Vec<_> =
        registry.requests().iter().filter_map(|it| it.header("authorization").map(str::to_owned)).collect();
    let known = |shown: &String| *shown == basic("ann", "ann") || shown.starts_with("Bearer token-");
    assert!(shown.iter().all(known), "{shown:?}");
}
