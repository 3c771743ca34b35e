//! Traps 28 and 29: lists of tags and of referrers.

use std::time::Duration;

use scripted_registry::client::Response;
use scripted_registry::{Descriptor, Match, Registry, Rule, noise};
use serde_json::Value;

use crate::support::mirror::{Settings, TestMirror};

const TAGS: &str = "/v2/library/app/tags/list";
const SIGNATURE: &str = "application/vnd.example.signature";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SBOM: &str = "application/vnd.example.sbom";

async fn registry_with_tags(tags: &[&str]) -> Registry {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", tags[0], &[noise(51, 100)]);
    for tag in tags {
        registry.move_tag("library/app", tag, &image.manifest.digest);
    }
    registry
}

fn tags_of(response: &Response) -> Vec<String> {
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(response.status, 200, "{body}");
    body["tags"].as_array().expect("a list").iter().map(|tag| tag.as_str().expect("text").to_owned()).collect()
}

/// Follows `Link` as a client does: only at the mirror.
async fn walk(mirror: &TestMirror, first: &str) -> (Vec<String>, Vec<String>) {
    let (mut path, mut tags, mut paths) = (Some(first.to_owned()), Vec::new(), Vec::new());
    while let Some(next) = path.take() {
        let response = mirror.get(&next).await;
        tags.extend(tags_of(&response));
        path = response.header("link").map(|link| {
            let link = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect(link);
            assert!(link.starts_with('/'), "{link} leads away from the mirror");
            link.to_owned()
        });
        paths.push(next);
        assert!(paths.len() < 20, "the pages have no end: {paths:?}");
    }
    (tags, paths)
}

#[tokio::test]
async fn trap_28_pages_of_tags_lead_to_us_under_the_name_that_the_client_used() {
    let registry = registry_with_tags(&["a", "b", "c", "d", "e"]).await;
    registry.options(|options| options.largest_page = Some(2));
    for base in [String::new(), registry.url(), "https://elsewhere.example".to_owned()] {
        registry.options(|options| options.link_base = base);
        for (path, stem) in [
            (format!("{TAGS}?n=2"), "/v2/library/app/tags/list?"),
            ("/v2/docker.io/app/tags/list?n=2".to_owned(), "/v2/docker.io/app/tags/list?"),
            ("/docker.io/v2/library/app/tags/list?n=2".to_owned(), "/docker.io/v2/library/app/tags/list?"),
        ] {
            let mirror = TestMirror::of(&registry).await;
            let (tags, paths) = walk(&mirror, &path).await;
            assert_eq!(tags.concat(), "abcde", "{path}");
            assert!(paths.len() == 3 && paths.iter().all(|path| path.starts_with(stem)), "{paths:?}");
        }
        let mirror = TestMirror::of(&registry).await;
        let (tags, paths) = walk(&mirror, &format!("{TAGS}?n=2&ns=index.docker.io")).await;
        assert_eq!(tags.concat(), "abcde");
        assert!(paths.iter().all(|path| path.ends_with("ns=index.docker.io")), "{paths:?}");
    }
}

#[tokio::test]
async fn trap_28_links_in_the_words_of_the_upstream_are_carried_and_given_back() {
    let registry = registry_with_tags(&["a", "b"]).await;
    let of = |page: &'static str| Match::when(move |r| r.path.ends_with("/tags/list") && r.query == page);
    let first = "</x>; rel=\"first\", <https://elsewhere.example/x?n=1&next_page=a%2Fb>; title=\"1, 2\"; rel=next";
    registry.rule(
        Rule::on(of("n=1")).answer(200, "application/json", r#"{"name":"app","tags":["a"]}"#).header("link", first),
    );
    registry.rule(Rule::on(of("n=1&next_page=a%2Fb")).answer(200, "text/plain", r#"{"tags":["b"]}"#));
    let mirror = TestMirror::of(&registry).await;
    let (tags, paths) = walk(&mirror, &format!("{TAGS}?n=1")).await;
    assert_eq!((tags.concat().as_str(), paths.len()), ("ab", 2), "{paths:?}");
}

#[tokio::test]
async fn trap_28_n_is_what_the_client_asked_for_whatever_the_upstream_can() {
    let registry = registry_with_tags(&["a", "b", "c", "d", "e"]).await;
    let mirror = TestMirror::of(&registry).await;
    for (query, expected) in
        [("n=0", ""), ("n=2", "ab"), ("n=2&last=b", "cd"), ("last=c", "de"), ("n=9", "abcde"), ("last=zz", "")]
    {
        assert_eq!(tags_of(&mirror.get(&format!("{TAGS}?{query}")).await).concat(), expected, "{query}");
    }
    assert_eq!(mirror.get(&format!("{TAGS}?n=0")).await.header("link"), None);
    assert_eq!(mirror.get(&format!("{TAGS}?n=x")).await.status, 400);

    registry.options(|options| options.largest_page = Some(2));
    mirror.advance(Duration::from_secs(31));
    let (tags, _) = walk(&mirror, &format!("{TAGS}?n=100000")).await;
    assert_eq!(tags.concat(), "abcde", "the upstream refuses so large a page");
}

#[tokio::test]
async fn trap_28_a_new_tag_shows_within_half_a_minute_and_null_is_an_empty_list() {
    let registry = registry_with_tags(&["a"]).await;
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(tags_of(&mirror.get(TAGS).await), ["a"]);
    let digest = registry.content(|content| content.repository("library/app").tags["a"][0]);
    registry.move_tag("library/app", "b", &digest);
    let remembered = mirror.get(TAGS).await;
    assert_eq!(
        (tags_of(&remembered), remembered.header("cache-status")),
        (vec!["a".into()], Some("registry-mirror; hit; detail=hit"))
    );
    mirror.advance(Duration::from_secs(30));
    assert_eq!(tags_of(&mirror.get(TAGS).await), ["a", "b"]);

    registry.rule(Rule::on(Match::path(TAGS)).answer(200, "application/json", r#"{"name":"app","tags":null}"#));
    mirror.advance(Duration::from_secs(31));
    let body = mirror.get(TAGS).await.body;
    assert_eq!(body, r#"{"name":"library/app","tags":[]}"#);
}

#[tokio::test]
async fn trap_28_the_last_known_list_stands_in_for_an_upstream_that_is_away_and_says_so() {
    let mut registry = registry_with_tags(&["a", "b"]).await;
    let mirror = TestMirror::of(&registry).await;
    mirror.get(TAGS).await;
    registry.stop().await;
    mirror.advance(Duration::from_secs(3600));
    let stale = mirror.get(TAGS).await;
    assert_eq!(tags_of(&stale), ["a", "b"]);
    assert!(stale.header("warning").expect("a warning").contains("3600 s"));
    assert!(stale.header("cache-status").expect("a status").contains("stale"));
    let unknown = mirror.get("/v2/library/other/tags/list").await;
    assert_eq!(unknown.status, 503, "nothing is made up");

    registry.restart_on_same_port().await;
    mirror.advance(Duration::from_secs(1));
    registry.rule(Rule::on(Match::path(TAGS)).refuse(404));
    assert_eq!(mirror.get(TAGS).await.status, 404, "no is an answer");
    registry.stop().await;
    mirror.advance(Duration::from_secs(31));
    assert_eq!(mirror.get(TAGS).await.status, 503, "and the old list is forgotten");
}

async fn signed() -> (Registry, String, Descriptor) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(52, 100)]);
    registry.add_referrer("library/app", &image.manifest, SIGNATURE, noise(53, 50));
    registry.add_referrer("library/app", &image.manifest, SBOM, noise(54, 50));
    let path = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    (registry, path, image.manifest)
}

fn types_of(response: &Response) -> Vec<String> {
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((response.status, &body["schemaVersion"]), (200, &Value::from(2)), "{body}");
    assert_eq!(response.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    let list = body["manifests"].as_array().expect("a list").iter();
    let mut types: Vec<_> = list.map(|entry| entry["artifactType"].as_str().expect("text").to_owned()).collect();
    types.sort_unstable();
    types
}

#[tokio::test]
async fn trap_29_referrers_are_what_the_upstream_says_filtered_only_if_it_filtered() {
    let (registry, path, _) = signed().await;
    let mirror = TestMirror::of(&registry).await;
    let all = mirror.get(&path).await;
    assert_eq!((types_of(&all), all.header("oci-filters-applied")), (vec![SBOM.into(), SIGNATURE.into()], None));
    let filter = format!("{path}?artifactType={SIGNATURE}");
    let some = mirror.get(&filter).await;
    assert_eq!((types_of(&some), some.header("oci-filters-applied")), (vec![SIGNATURE.into()], Some("artifactType")));
    let none = mirror.get(&format!("{path}?artifactType=other")).await;
    assert_eq!((types_of(&none).len(), none.status), (0, 200));

    registry.options(|options| options.referrers_filter = false);
    mirror.advance(Duration::from_secs(31));
    let unfiltered = mirror.get(&filter).await;
    assert_eq!((types_of(&unfiltered).len(), unfiltered.header("oci-filters-applied")), (2, None));
}

#[tokio::test]
async fn trap_29_no_referrers_api_is_404_an_empty_list_is_200_and_an_outage_is_neither() {
    let (mut registry, path, manifest) = signed().await;
    let empty = format!("/v2/library/app/referrers/sha256:{}", "0".repeat(64));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(types_of(&mirror.get(&empty).await).len(), 0);

    registry.options(|options| options.referrers = false);
    mirror.advance(Duration::from_secs(31));
    let missing = mirror.get(&path).await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("application/json")));
    let list = r#"{"schemaVersion":2,"manifests":[]}"#;
    registry.add_manifest("library/app", &[&manifest.digest.to_string().replace(':', "-")], list, INDEX);
    let fallback = format!("/v2/library/app/manifests/{}", manifest.digest.to_string().replace(':', "-"));
    assert_eq!(mirror.get(&fallback).await.status, 200, "the tag that clients fall back to");

    for (status, expected) in [(405, 404), (400, 404), (403, 403), (500, 503), (429, 503)] {
        registry.clear_rules();
        registry.rule(Rule::on(Match::path(&path)).refuse(status));
        mirror.advance(Duration::from_secs(31));
        assert_eq!(mirror.get(&path).await.status, expected, "upstream said {status}");
    }
    let null = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#;
    for (media_type, body, is_stale) in
        [(INDEX, null, false), ("text/html", "<html>welcome</html>", true), ("application/json", "{}", true)]
    {
        registry.clear_rules();
        registry.rule(Rule::on(Match::path(&path)).answer(200, media_type, body));
        // As long as an upstream is left alone that said 429 and not for how long.
        mirror.advance(Duration::from_secs(60));
        let answer = mirror.get(&path).await;
        let told = (answer.status, answer.header("warning").is_some());
        assert_eq!(told, (200, is_stale), "upstream answered {body}: that is no list, and says nothing about one");
    }
    registry.clear_rules();
    assert_eq!(mirror.get(&path).await.status, 404);
    registry.stop().await;
    mirror.advance(Duration::from_secs(31));
    assert_eq!(mirror.get(&path).await.status, 404, "it was the last answer that there is no such list");
    let never_asked = format!("/v2/library/app/referrers/sha256:{}", "1".repeat(64));
    assert_eq!(mirror.get(&never_asked).await.status, 503);
}

#[tokio::test]
async fn trap_29_a_signature_pushed_after_an_empty_answer_is_seen_soon_and_stale_lists_say_so() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(55, 100)]);
    let path = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(types_of(&mirror.get(&path).await).len(), 0);
    registry.add_referrer("library/app", &image.manifest, SIGNATURE, noise(56, 50));
    assert_eq!(types_of(&mirror.get(&path).await).len(), 0);
    mirror.advance(Duration::from_secs(30));
    assert_eq!(types_of(&mirror.get(&path).await), [SIGNATURE]);

    registry.rule(Rule::on(Match::path(&path)).refuse(429));
    mirror.advance(Duration::from_secs(60));
    let stale = mirror.get(&path).await;
    assert_eq!(types_of(&stale), [SIGNATURE]);
    assert!(stale.header("warning").expect("a warning").starts_with("299 - "));
    registry.clear_rules();
    mirror.advance(Duration::from_secs(60));
    registry.rule(Rule::on(Match::path(&path)).refuse(403));
    assert_eq!(mirror.get(&path).await.status, 403, "no is an answer");
}

#[tokio::test]
async fn trap_29_pages_of_referrers_lead_to_us() {
    let (registry, path, _) = signed().await;
    let link = "<https://elsewhere.example/v2/library/app/referrers/x?page=2>; rel=\"next\"";
    registry.rule(Rule::on(Match::path(&path)).once().header("link", link));
    let mirror = TestMirror::of(&registry).await;
    let first = mirror.get(&format!("{path}?ns=docker.io")).await;
    let next = format!("{path}?cursor=page%3D2&ns=docker.io");
    assert_eq!(first.header("link"), Some(format!("<{next}>; rel=\"next\"").as_str()));
    assert_eq!(mirror.get(&next).await.status, 200);
    assert_eq!(registry.requests().last().expect("a request").query, "page=2");
}

#[tokio::test]
async fn trap_28_and_29_twenty_clients_at_once_are_one_request_and_no_cache_means_no_cache() {
    let registry = registry_with_tags(&["a"]).await;
    let mirror = TestMirror::of(&registry).await;
    let gate = scripted_registry::Gate::new();
    registry.rule(Rule::on(Match::path(TAGS)).once().stall_before_headers(&gate));
    let lists = futures_util::future::join_all((0..20).map(|_| mirror.get(TAGS)));
    let release = async {
        gate.reached().await;
        gate.open();
    };
    let (lists, ()) = tokio::join!(lists, release);
    assert!(lists.iter().all(|list| tags_of(list) == ["a"]));
    assert_eq!(registry.count_of(&Match::path(TAGS)), 1);

    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    for _ in 0..2 {
        mirror.get(TAGS).await;
    }
    assert_eq!(registry.count_of(&Match::path(TAGS)), 3, "with tag_ttl = 0 nothing is remembered");
}
