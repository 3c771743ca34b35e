//! Kind: what the challenge of a registry names is not what we computed. Clients ask for a token for both.

use scripted_registry::{Match, Recorded, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const TAGS: &str = "/v2/library/app/tags/list";

/// A registry that wants a token whose scopes hold `wanted` for what matches, and names `named` in its challenge; anything else
/// it gives to everybody.
fn wants(registry: &Registry, on: Match, wanted: &'static str, named: &str) {
    let is_good = move |request: &Recorded| request.header("authorization") == Some("Bearer good");
    let challenge =
        format!(r#"Bearer realm="{}/token",service="s",scope="{named}",error="insufficient_scope""#, registry.url());
    let refused = on.and(Match::when(move |request| !is_good(request)));
    registry.rule(Rule::on(refused).refuse(401).header("www-authenticate", &challenge));
    let holds = move |request: &Recorded| request.queries("scope").iter().any(|scope| scope == wanted);
    let token = |name: &str| format!(r#"{{"token":"{name}"}}"#);
    registry.rule(Rule::on(Match::token().and(Match::when(holds))).answer(200, "application/json", token("good")));
    let holds_not = Match::token().and(Match::when(move |request| !holds(request)));
    registry.rule(Rule::on(holds_not).answer(200, "application/json", token("bad")));
}

fn refusals(registry: &Registry) -> usize {
    registry.count(|request| request.path.starts_with("/v2/") && request.header("authorization") != Some("Bearer good"))
}

#[tokio::test]
async fn lists_that_want_another_action_are_read_with_it_and_with_nothing_that_writes() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(471, 1000)]);
    let scope = "repository:library/app:metadata_read";
    wants(&registry, Match::lists(), scope, &format!("{scope},pull,push,delete registry:catalog:*"));
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    assert_eq!(mirror.get(TAGS).await.status, 200);
    assert_eq!(mirror.get(&format!("/v2/library/app/referrers/{}", image.manifest.digest)).await.status, 200);
    registry.forget_requests();
    assert_eq!(mirror.get(TAGS).await.status, 200);
    assert_eq!((registry.token_requests(), refusals(&registry)), (0, 0), "it is known by then");
    registry.forget_requests();
    assert_eq!(mirror.restart().await.get(TAGS).await.status, 200);
    let scopes: Vec<_> = registry.requests().iter().flat_map(|request| request.queries("scope")).collect();
    assert!(scopes.iter().all(|scope| [scope.as_str(), "repository:library/app:pull"].contains(&scope.as_str())));
    assert!(
        scopes.contains(&scope.to_owned()) && !scopes.iter().any(|scope| scope.contains("push") || scope.contains('*')),
        "{scopes:?}"
    );
}

#[tokio::test]
async fn a_repository_that_has_another_name_there_is_pulled_by_the_name_that_the_challenge_names() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(472, 1000)]);
    wants(&registry, Match::repository("library/app"), "repository:proj/app:pull", "repository:proj/app:pull");
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.head(TAG).await.status, 200);
    assert_eq!(mirror.get(TAG).await.status, 200);
    for blob in image.blobs() {
        assert_eq!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.status, 200);
    }
    assert_eq!(mirror.get(TAGS).await.status, 200);
    registry.forget_requests();
    mirror.get("/v2/library/app/manifests/2").await;
    assert_eq!(refusals(&registry), 0, "it is known by then");
}

#[tokio::test]
async fn behind_a_facade_the_scope_of_the_challenge_counts_as_well() {
    let (facade, registry) = (Registry::start().await, Registry::start().await);
    registry.add_image("library/app", "1", &[noise(473, 1000)]);
    let scope = "repository:proj/app:pull";
    wants(&registry, Match::repository("library/app"), scope, scope);
    facade.rule(Rule::on(Match::any()).redirect_to_host(&registry.url()));
    let mirror = TestMirror::of(&facade).await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    assert_eq!(mirror.get(TAGS).await.status, 200);
}
