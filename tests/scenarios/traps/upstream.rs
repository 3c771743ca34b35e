//! Traps 13 to 17: redirects, tokens and credentials. Their tables are in the tests of the adapter.

use scripted_registry::{Digest, Expired, Listener, Match, Registry, Rule, TokenPolicy, noise};

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";

async fn with_storage(size: usize) -> (Registry, Digest, bytes::Bytes, String) {
    let registry = Registry::start().await.with_storage_host().await;
    let bytes = noise(101, size);
    let digest = registry.add_layer("library/app", "1", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

#[tokio::test]
async fn trap_13_credentials_stay_with_the_registry_when_it_redirects() {
    let (registry, _, bytes, path) = with_storage(100_000).await;
    registry.require_tokens(TokenPolicy::bearer());
    let mirror = TestMirror::of(&registry).await;
    // The storage host answers 400 to whoever sends it a token, as S3 does.
    let answer = mirror.get_with(&path, &[("Authorization", "Bearer of-the-client"), ("Cookie", "a=b")]).await;
    assert!(answer.status == 200 && answer.complete && answer.body == bytes);
    let requests = registry.requests();
    let storage: Vec<_> = requests.iter().filter(|request| request.listener == Listener::Storage).collect();
    assert!(!storage.is_empty());
    for request in storage {
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None));
    }
}

#[tokio::test]
async fn trap_13_a_part_is_asked_for_behind_the_redirect_too_and_a_loop_ends() {
    let (registry, digest, bytes, path) = with_storage(9_000_000).await;
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    let gate = scripted_registry::Gate::new();
    registry.rule(Rule::on(Match::stored(&digest).without_header("range")).stall_after(0, &gate));
    let part = mirror.get_with(&path, &[("Range", "bytes=-16")]).await;
    assert_eq!((part.status, &part.body), (206, &bytes.slice(8_999_984..)));
    gate.open();

    let looping = Registry::start().await;
    looping.add_blob("library/app", bytes);
    looping.rule(Rule::on(Match::blobs()).redirect(&format!("{path}?again")));
    let mirror = TestMirror::of(&looping).await;
    assert_eq!(mirror.get(&path).await.status, 502);
    assert!(looping.count_of(&Match::blobs()) <= 11);
}

#[tokio::test]
async fn trap_14_an_address_of_the_storage_is_used_once_and_told_nobody() {
    let (registry, digest, bytes, path) = with_storage(1_000_000).await;
    registry.rule(Rule::on(Match::stored(&digest)).once().close_after(500_000));
    let mirror = TestMirror::of(&registry).await;
    let answer = mirror.get(&path).await;
    assert!(answer.complete && answer.body == bytes, "each address is good for one use");
    assert_eq!((answer.status, answer.header("location")), (200, None));
    assert_eq!(registry.gets_of(&digest), 2, "the registry is asked for a new address");
    let addresses: Vec<_> =
        registry.requests().into_iter().filter(|r| r.listener == Listener::Storage).map(|r| r.query).collect();
    assert!(addresses.len() == 2 && addresses[0] != addresses[1]);

    let (registry, digest, _, path) = with_storage(1000).await;
    registry.rule(Rule::on(Match::stored(&digest)).refuse(500));
    let mirror = TestMirror::of(&registry).await;
    let refused = mirror.get(&path).await;
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    assert_eq!(refused.status, 503);
    let queries = registry.requests().into_iter().filter(|r| r.listener == Listener::Storage).map(|r| r.query);
    for query in queries {
        assert!(!said.contains(&query), "{said}");
    }
}

#[tokio::test]
async fn trap_15_no_request_of_who_has_a_credential_goes_to_a_realm_of_somebody_else() {
    let (registry, elsewhere) = (Registry::start().await, Registry::start().await);
    registry.add_image("library/app", "1", &[noise(102, 100)]);
    let realm = elsewhere.url().replace("127.0.0.1", "localhost") + "/token";
    registry.require_tokens(TokenPolicy::bearer().realm(&realm));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("login");
    std::fs::write(&file, "me:word").unwrap();
    let mirror = Settings::of(&registry).upstream(&format!("auth = \"file:{}\"", file.display())).start().await;
    let answer = mirror.get(TAG).await;
    assert_eq!(answer.status, 502);
    assert!(String::from_utf8_lossy(&answer.body).contains("auth_realms"), "{:?}", answer.body);
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn trap_16_one_token_for_a_scope_in_every_form_and_never_for_another() {
    for policy in [
        TokenPolicy::bearer().only_access_token(),
        TokenPolicy::bearer().only_token().expires_in(None),
        TokenPolicy::bearer().issued_at("2001-01-01T00:00:00Z"),
        TokenPolicy::bearer().issued_at("2999-01-01T00:00:00Z").without_scope(),
    ] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(103, 100)]);
        registry.add_image("library/other", "1", &[noise(104, 100)]);
        registry.require_tokens(policy);
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get(TAG).await.status, 200);
        let blobs: Vec<_> = image.blobs().map(|blob| format!("/v2/library/app/blobs/{}", blob.digest)).collect();
        let pulls = futures_util::future::join_all(blobs.iter().map(|path| mirror.get(path))).await;
        assert!(pulls.iter().all(|answer| answer.status == 200));
        assert_eq!(registry.token_requests(), 1);
        assert_eq!(mirror.get("/v2/library/other/manifests/1").await.status, 200);
        assert_eq!(registry.token_requests(), 2);
        let scopes: Vec<_> = registry.requests().iter().filter_map(|request| request.query("scope")).collect();
        assert_eq!(scopes, ["repository:library/app:pull", "repository:library/other:pull"]);
    }
}

#[tokio::test]
async fn trap_17_an_expired_token_is_renewed_once_whatever_the_registry_says() {
    for expired in [Expired::Challenge, Expired::ChallengeBasic, Expired::Denied, Expired::BadRequest] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(105, 100)]);
        registry.require_tokens(TokenPolicy::bearer().expired(expired));
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get(TAG).await.status, 200);
        registry.expire_tokens();
        let blob = format!("/v2/library/app/blobs/{}", image.config.digest);
        assert_eq!(mirror.get(&blob).await.status, 200, "{expired:?}");
        assert_eq!(registry.token_requests(), 2, "{expired:?}");
    }
}

#[tokio::test]
async fn trap_17_a_wrong_password_does_not_break_a_public_image() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(106, 100)]);
    registry.require_tokens(TokenPolicy::bearer().user("robot", "right"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let entry = serde_json::json!({"auths": {registry.authority(): {"username": "robot", "password": "wrong"}}});
    std::fs::write(&file, entry.to_string()).unwrap();
    let auth = format!("auth = \"file:{}\"", file.display());
    let mirror = Settings::of(&registry).upstream(&auth).start().await;
    let answer = mirror.get(TAG).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}
