//! Where an upstream is: behind a prefix, at several addresses that hold a part each.

use scripted_registry::{Match, Registry, Rule, TokenPolicy, noise};

use crate::support::mirror::Settings;

const PATH: &str = "/v2/library/app/manifests/1";

#[tokio::test]
async fn a_path_behind_the_interface_stands_before_every_repository_name() {
    for (path, prefix) in [("/v2/proxy-hub/", "proxy-hub"), ("/v2/team/proxy_hub", "team/proxy_hub"), ("/v2/", "")] {
        let there = if prefix.is_empty() { "library/app".to_owned() } else { format!("{prefix}/library/app") };
        let registry = Registry::start().await;
        let image = registry.add_image(&there, "1", &[noise(430, 1000)]);
        for tag in ["2", "3"] {
            registry.add_image(&there, tag, &[noise(431, 100)]);
        }
        registry.options(|options| options.largest_page = Some(2));
        registry.require_tokens(TokenPolicy::bearer());
        let mirror = Settings::of(&registry).at_path(path).start().await;
        assert_eq!(mirror.get(PATH).await.status, 200, "{path}");
        assert!(mirror.get(&format!("/v2/library/app/blobs/{}", image.layers[0].digest)).await.complete, "{path}");
        let page = mirror.get("/v2/library/app/tags/list").await;
        assert!(String::from_utf8_lossy(&page.body).contains("\"name\":\"library/app\""), "{path}");
        let next = page.header("link").expect("more").split(['<', '>']).nth(1).expect("a target").to_owned();
        assert!(next.starts_with("/v2/library/app/tags/list?"), "{next}");
        let rest = mirror.get(&next).await;
        assert!(String::from_utf8_lossy(&rest.body).contains("[\"3\"]"), "{path}");
        assert_eq!(mirror.get(&format!("/v2/library/app/referrers/{}", image.manifest.digest)).await.status, 200);
        let scope = format!("repository:{there}:pull");
        let asked = registry.requests();
        let scopes =
            asked.iter().filter(|request| request.path == "/token").filter_map(|request| request.query("scope"));
        assert!(scopes.clone().count() > 0 && scopes.into_iter().all(|asked| asked == scope), "{path}");
    }
}

#[tokio::test]
async fn a_mirror_that_holds_a_part_sends_on_to_the_next_address() {
    for (keys, cold) in [("on_missing = \"next\"", 200), ("", 404)] {
        let (part, whole) = (Registry::start().await, Registry::start().await);
        let here = part.add_image("library/here", "1", &[noise(432, 1000)]);
        let image = whole.add_image("library/app", "1", &[noise(433, 1000)]);
        let mirror = Settings::of(&part).or_at(&whole).upstream(keys).start().await;
        assert_eq!(mirror.get("/v2/library/here/manifests/1").await.status, 200);
        assert!(mirror.get(&format!("/v2/library/here/blobs/{}", here.layers[0].digest)).await.complete);
        assert_eq!(whole.requests().len(), 0, "the first address has it");
        assert_eq!(mirror.get(PATH).await.status, cold, "{keys}");
        let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
        assert_eq!(mirror.head(&blob).await.status, cold, "{keys}");
        assert_eq!(mirror.get(&blob).await.status, cold, "{keys}");
        assert_eq!(mirror.get("/v2/library/app/tags/list").await.status, cold, "{keys}");
        let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
        assert_eq!(mirror.get(&referrers).await.status, cold, "{keys}");
        assert_eq!(mirror.get("/v2/library/app/manifests/none").await.status, 404, "{keys}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_first_address_stays_an_answer() {
    for status in [401, 403] {
        let (part, whole) = (Registry::start().await, Registry::start().await);
        whole.add_image("library/app", "1", &[noise(434, 1000)]);
        part.rule(Rule::on(Match::any()).refuse(status));
        let mirror = Settings::of(&part).or_at(&whole).upstream("on_missing = \"next\"").start().await;
        assert_eq!(mirror.get(PATH).await.status, 404);
        assert_eq!(whole.requests().len(), 0, "{status}");
    }
}

#[tokio::test]
async fn what_the_address_that_is_away_may_have_is_not_called_missing() {
    let (mut away, part) = (Registry::start().await, Registry::start().await);
    away.add_image("library/app", "1", &[noise(435, 1000)]);
    let mirror = Settings::of(&away)
        .or_at(&part)
        .upstream("on_missing = \"next\"")
        .config("cache.tag_ttl = \"0s\"")
        .start()
        .await;
    assert_eq!(mirror.get(PATH).await.status, 200);
    away.stop().await;
    let stale = mirror.get(PATH).await;
    assert_eq!((stale.status, stale.header("warning").is_some()), (200, true));
    assert_eq!(mirror.get("/v2/library/app/manifests/2").await.status, 503);
}

#[tokio::test]
async fn capitals_in_a_name_are_for_the_upstream_to_judge() {
    let (hub, mut models) = (Registry::start().await, Registry::start().await);
    let image = models.add_image("Org/Model-7B", "latest", &[noise(436, 1000)]);
    let mirror = Settings::of(&hub).and("models.example", &models).config("cache.tag_ttl = \"0s\"").start().await;
    let path = "/v2/models.example/Org/Model-7B";
    assert_eq!(mirror.get(&format!("{path}/manifests/latest")).await.status, 200);
    assert!(mirror.get(&format!("{path}/blobs/{}", image.layers[0].digest)).await.complete);
    assert_eq!(mirror.get("/v2/Org/Model-7B/manifests/latest?ns=models.example").await.status, 200);
    // Another name is another repository.
    assert_eq!(mirror.get("/v2/models.example/org/model-7b/manifests/latest").await.status, 404);
    assert_eq!(mirror.get("/v2/Org/Model-7B/manifests/latest").await.status, 400, "Docker Hub knows no capitals");
    assert_eq!(hub.requests().len(), 0);
    let mirror = mirror.restart().await;
    models.stop_now();
    assert_eq!(mirror.get(&format!("{path}/manifests/latest")).await.status, 200);
}

#[tokio::test]
async fn nothing_leads_to_our_own_listeners_by_whatever_name() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(437, 1000)]);
    let mirror = Settings::of(&registry).start().await;
    let own = mirror.address.port();
    let blob = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433"] {
        for port in [own, mirror.admin.port()] {
            registry.clear_rules();
            registry.rule(Rule::on(Match::blobs()).redirect(&format!("http://{host}:{port}{blob}")));
            let challenge = format!("Bearer realm=\"http://{host}:{port}/token\"");
            registry.rule(Rule::on(Match::manifests()).refuse(401).header("www-authenticate", &challenge));
            let redirected = mirror.get(&blob).await;
            assert_eq!(redirected.status, 502, "{host}:{port}");
            assert!(String::from_utf8_lossy(&redirected.body).contains("this mirror itself"), "{host}:{port}");
            let sent_for_a_token = mirror.get(PATH).await;
            assert!([404, 502].contains(&sent_for_a_token.status), "{host}:{port}");
        }
    }
}
