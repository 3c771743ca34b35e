//! Where an upstream is: behind a prefix, at several addresses that hold a part each.

use std::time::Duration;

use scripted_registry::{Match, Registry, Rule, TokenPolicy, client, noise};

use crate::support::mirror::Settings;

const PATH: &str = "/v2/library/app/manifests/1";
const TAGS: &str = "/v2/library/app/tags/list";

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
async fn a_stale_answer_of_the_first_address_does_not_hide_what_the_next_has() {
    for (name, value) in
        [("warning", "110 - \"Response is Stale\""), ("cache-status", "registry-mirror; hit; detail=stale")]
    {
        let (behind, current) = (Registry::start().await, Registry::start().await);
        let old = behind.add_image("library/app", "1", &[noise(436, 1000)]);
        let new = current.add_image("library/app", "1", &[noise(437, 1000)]);
        current.add_image("library/app", "2", &[noise(438, 1000)]);
        behind.rule(Rule::on(Match::any()).header(name, value));
        let mirror = Settings::of(&behind).or_at(&current).start().await;
        for method in ["HEAD", "GET"] {
            let answer = client::request(mirror.address, method, PATH, &[]).await;
            let digest = new.manifest.digest.to_string();
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{method}: {value}");
            assert_eq!(answer.header("warning"), None, "{method}: {value}");
        }
        for blob in [&new.layers[0], &new.config] {
            assert!(mirror.get(&format!("/v2/library/app/blobs/{}", blob.digest)).await.complete, "{value}");
        }
        assert!(String::from_utf8_lossy(&mirror.get(TAGS).await.body).contains("\"2\""), "{value}");
        // Where the next has nothing, or says nothing, what is stale is better.
        for status in [404, 403, 500] {
            current.clear_rules();
            current.rule(Rule::on(Match::any()).refuse(status));
            let mirror = Settings::of(&behind).or_at(&current).start().await;
            let (answer, digest) = (mirror.get(PATH).await, old.manifest.digest.to_string());
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{status}: {value}");
            assert!(answer.header("warning").is_some_and(|told| told.contains("stale: ")), "{status}: {value}");
        }
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

#[tokio::test]
async fn where_each_address_holds_a_part_what_is_stored_stands_in_and_goes_when_all_say_no() {
    let (mut part, mut whole) = (Registry::start().await, Registry::start().await);
    let image = whole.add_image("library/app", "1", &[noise(7, 3_000_000)]);
    let config = "cache.tag_ttl = \"0s\"\ncache.negative_ttl = \"0s\"";
    let mirror = Settings::of(&part).or_at(&whole).upstream("on_missing = \"next\"").config(config).start().await;
    let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    assert_eq!(mirror.head(PATH).await.status, 200);
    assert_eq!(mirror.get(PATH).await.status, 200);
    // A blob that breaks off is gone on with where it is.
    let size = image.layers[0].size;
    whole.rule(Rule::on(Match::blobs().get().without_header("range")).close_after(size / 2));
    assert!(mirror.get(&layer).await.complete);
    whole.clear_rules();
    assert_eq!(mirror.get(TAGS).await.status, 200);
    // The one that has it is away.
    whole.stop().await;
    let stale = mirror.get(PATH).await;
    assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "whole away");
    let stale = mirror.get(TAGS).await;
    assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "whole away, list");
    assert_eq!(mirror.head("/v2/library/app/manifests/9").await.status, 503);
    whole.restart_on_same_port().await;
    // One that sends what cannot be, is asked past; and so is one that is away.
    part.rule(Rule::on(Match::any()).answer(200, "text/html", "<html>x</html>"));
    mirror.advance(Duration::from_secs(60));
    let answer = mirror.get(PATH).await;
    assert_eq!((answer.status, answer.header("warning")), (200, None), "portal first");
    part.stop().await;
    mirror.advance(Duration::from_secs(60));
    assert_eq!(mirror.get(PATH).await.header("warning"), None, "first away");
    part.restart_on_same_port().await;
    part.clear_rules();
    // Nobody has it any more.
    whole.remove_tag("library/app", "1");
    mirror.advance(Duration::from_secs(60));
    assert_eq!(mirror.get(PATH).await.status, 404);
    let mirror = mirror.restart().await;
    assert_eq!(mirror.get(PATH).await.status, 404);
}

#[tokio::test]
async fn behind_a_prefix_links_of_every_form_lead_to_us() {
    for link in [
        "</v2/proxy/library/app/tags/list?n=1&last=a>; rel=\"next\"",
        "<https://elsewhere.example/v2/proxy/library/app/tags/list?n=1&last=a>; rel=next",
        "<?n=1&last=a>; rel=\"next\"",
        "<tags/list?last=a&n=1>; rel='next'",
        "</artifactory/api/docker/proxy/v2/library/app/tags/list?last=a&n=1>; rel=\"next\"",
    ] {
        let registry = Registry::start().await;
        for tag in ["a", "b"] {
            registry.add_image("proxy/library/app", tag, &[noise(8, 100)]);
        }
        registry.require_tokens(TokenPolicy::bearer());
        let list = "/v2/proxy/library/app/tags/list";
        let first = Match::path(list).and(Match::when(|request| !request.query.contains("last=")));
        let body = r#"{"name":"proxy/library/app","tags":["a"]}"#;
        registry.rule(Rule::on(first).answer(200, "application/json", body).header("link", link));
        let mirror = Settings::of(&registry).at_path("/v2/proxy").start().await;
        for name in ["library/app", "docker.io/library/app", "docker.io/app"] {
            let page = mirror.get(&format!("/v2/{name}/tags/list?n=1")).await;
            assert_eq!(page.status, 200, "{link}");
            let next = page.header("link").expect("more").split(['<', '>']).nth(1).expect("a target").to_owned();
            assert!(next.starts_with(&format!("/v2/{name}/tags/list?")), "{next}");
            let rest = mirror.get(&next).await;
            assert!(String::from_utf8_lossy(&rest.body).contains("[\"b\"]"), "{link}");
        }
    }
}

#[tokio::test]
async fn capitals_are_for_every_kind_of_request_and_every_way_to_name_an_upstream() {
    let (hub, models) = (Registry::start().await, Registry::start().await);
    let image = models.add_image("Org/Model", "V1", &[noise(13, 1000)]);
    models.require_tokens(TokenPolicy::bearer());
    let mirror = Settings::of(&hub).and("models.example", &models).start().await;
    for base in ["/v2/models.example/Org/Model", "/models.example/v2/Org/Model", "/v2/MODELS.example:443/Org/Model"] {
        for rest in [
            "manifests/V1".to_owned(),
            format!("manifests/{}", image.manifest.digest),
            format!("blobs/{}", image.layers[0].digest),
            "tags/list".to_owned(),
            format!("referrers/{}", image.manifest.digest),
        ] {
            for method in ["HEAD", "GET"] {
                assert_eq!(
                    client::request(mirror.address, method, &format!("{base}/{rest}"), &[]).await.status,
                    200,
                    "{base}/{rest}"
                );
            }
        }
    }
    let scopes: Vec<_> = models.requests().iter().filter_map(|request| request.query("scope")).collect();
    assert!(scopes.iter().all(|scope| scope == "repository:Org/Model:pull"), "{scopes:?}");
    assert_eq!(mirror.get("/v2/models.example/Org/Model/manifests/v1").await.status, 404, "a tag is what it is");
    let restarted = mirror.restart().await;
    assert_eq!(restarted.get("/v2/Org/Model/manifests/V1?ns=Models.Example").await.status, 200);
}

#[tokio::test]
async fn behind_a_prefix_with_storage_and_tokens_everything_is_kept_for_later() {
    let mut registry = Registry::start().await.with_storage_host().await;
    let image = registry.add_image("proxy/library/app", "1", &[noise(6, 100_000)]);
    registry.add_referrer("proxy/library/app", &image.manifest, "application/vnd.x", noise(7, 10));
    registry.require_tokens(TokenPolicy::bearer().uses(2));
    let mirror = Settings::of(&registry).at_path("/v2/proxy/").start().await;
    let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    for method in ["GET", "HEAD"] {
        for path in [PATH, "/v2/app/manifests/1", TAGS, &referrers, &layer] {
            assert_eq!(client::request(mirror.address, method, path, &[]).await.status, 200, "{method} {path}");
        }
    }
    mirror.settled().await;
    registry.stop().await;
    let mirror = mirror.restart().await;
    mirror.advance(Duration::from_secs(400));
    for path in [PATH, TAGS, &referrers, &layer] {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn where_each_address_holds_a_part_trouble_of_the_last_is_known_to_who_comes_next() {
    for trouble in [|rule: Rule| rule.refuse(500), |rule: Rule| rule.close_at_once()] {
        let (part, whole) = (Registry::start().await, Registry::start().await);
        whole.add_image("library/app", "1", &[noise(8, 1000)]);
        let config = "cache.tag_ttl = \"0s\"\ncache.negative_ttl = \"0s\"";
        let mirror = Settings::of(&part).or_at(&whole).upstream("on_missing = \"next\"").config(config).start().await;
        for path in [PATH, TAGS] {
            assert_eq!(mirror.get(path).await.status, 200);
        }
        whole.rule(trouble(Rule::on(Match::any())));
        for path in [PATH, TAGS] {
            assert!(mirror.get(path).await.header("warning").is_some(), "stale");
            [&part, &whole].into_iter().for_each(Registry::forget_requests);
            for _ in 0..5 {
                let stale = mirror.get(path).await;
                assert_eq!((stale.status, stale.header("warning").is_some()), (200, true));
            }
            let asked = [&part, &whole].map(|registry| registry.requests().len());
            assert_eq!(asked, [0, 0], "{path}");
        }
        whole.clear_rules();
        mirror.advance(std::time::Duration::from_secs(61));
        for path in [PATH, TAGS] {
            assert_eq!(mirror.get(path).await.header("warning"), None, "one finds out, and is heard");
        }
    }
}

/// What the first has is not hidden by trouble of the second with something else, or with the same before.
#[tokio::test]
async fn where_each_address_holds_a_part_trouble_of_the_first_hides_nothing_of_the_last() {
    let (part, whole) = (Registry::start().await, Registry::start().await);
    whole.add_image("library/app", "1", &[noise(8, 1000)]);
    let config = "cache.tag_ttl = \"0s\"";
    let mirror = Settings::of(&part).or_at(&whole).upstream("on_missing = \"next\"").config(config).start().await;
    part.rule(Rule::on(Match::any()).refuse(500));
    for _ in 0..5 {
        let answer = mirror.get(PATH).await;
        assert_eq!((answer.status, answer.header("warning")), (200, None));
    }
}
