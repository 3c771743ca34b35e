//! What an upstream says beside its answers: that they are stale, as a mirror like this one says it, and
//! warnings for people. Neither is lost on the way.

use std::time::Duration;

use scripted_registry::client::{self, Response};
use scripted_registry::{Image, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const TAGS: &str = "/v2/library/app/tags/list";
const DEPRECATED: &str = "299 - \"library/app is deprecated, use library/other\"";

fn outcome(response: &Response) -> &str {
    let status = response.header("cache-status").unwrap_or_default();
    status.rsplit_once("detail=").map_or(status, |(_, detail)| detail)
}

fn warnings(response: &Response) -> Vec<&str> {
    let lines = response.headers.get_all("warning").iter();
    lines.filter_map(|line| line.to_str().ok()).collect()
}

fn assert_stale(response: &Response, what: &str) {
    assert_eq!((response.status, outcome(response)), (200, "stale"), "{what}");
    let told = warnings(response);
    assert!(matches!(told[..], [only] if only.contains("stale: ")), "{what}: {told:?}");
}

fn referrers(image: &Image) -> String {
    format!("/v2/library/app/referrers/{}", image.manifest.digest)
}

/// A mirror whose registry is gone and of which nothing is fresh, and one in front of it that believes a tag
/// for an hour.
async fn two_mirrors() -> (Registry, TestMirror, TestMirror, Image) {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(931, 1000)]);
    let inner = TestMirror::of(&registry).await;
    for path in [TAG, TAGS, &referrers(&image)] {
        assert_eq!(inner.get(path).await.status, 200);
    }
    inner.settled().await;
    inner.advance(Duration::from_secs(400));
    registry.stop().await;
    let outer = Settings::of(&registry).config("cache.tag_ttl = \"1h\"").in_front_of(inner.address).start().await;
    (registry, inner, outer, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_behind_another_mirror_is_stale_here_and_is_asked_for_again() {
    for first in ["GET", "HEAD"] {
        let (mut registry, _inner, outer, image) = two_mirrors().await;
        let list = referrers(&image);
        let paths = [(first, TAG), ("HEAD", TAG), ("GET", TAG), ("GET", TAGS), ("GET", list.as_str())];
        for round in ["cold", "warm", "warm again"] {
            for (method, path) in paths {
                let answer = client::request(outer.address, method, path, &[]).await;
                assert_stale(&answer, &format!("{first} first, {round}: {method} {path}"));
                let age = warnings(&answer)[0].contains("last checked 400 s ago");
                assert!(age, "the age is that since the registry said so: {:?}", warnings(&answer));
            }
        }
        let outer = outer.restart().await;
        for (method, path) in paths {
            let answer = client::request(outer.address, method, path, &[]).await;
            assert_stale(&answer, &format!("{first} first, restarted: {method} {path}"));
        }
        // The registry is back, and has moved on.
        registry.restart_on_same_port().await;
        let moved = registry.add_image("library/app", "1", &[noise(932, 1000)]);
        registry.add_image("library/app", "2", &[noise(933, 1000)]);
        let found = async {
            while outcome(&outer.get(TAG).await) == "stale" || outcome(&outer.get(TAGS).await) == "stale" {
                _inner.advance(Duration::from_secs(61));
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found).await.expect("it is asked again");
        let digest = moved.manifest.digest.to_string();
        for method in ["HEAD", "GET"] {
            let answer = client::request(outer.address, method, TAG, &[]).await;
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()), "{method}");
            assert!(warnings(&answer).is_empty(), "{method}: {:?}", warnings(&answer));
        }
        assert!(outer.get(TAGS).await.body.windows(3).any(|window| window == b"\"2\""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stale_behind_another_mirror_stands_in_when_that_is_gone_too() {
    let (_registry, inner, outer, image) = two_mirrors().await;
    let list = referrers(&image);
    for path in [TAG, TAGS, &list] {
        assert_stale(&outer.get(path).await, path);
    }
    outer.settled().await;
    drop(inner.stop().await);
    let outer = outer.restart().await;
    for (method, path) in [("GET", TAG), ("HEAD", TAG), ("GET", TAGS), ("GET", list.as_str())] {
        assert_stale(&client::request(outer.address, method, path, &[]).await, &format!("{method} {path}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_must_be_complete_is_pulled_through_a_mirror_whose_answers_are_stale() {
    let (registry, inner, outer, image) = two_mirrors().await;
    for part in image.layers.iter().chain([&image.config]) {
        // Nothing of it was pulled through either mirror, and it would be refused if the one behind were away.
        assert_eq!(inner.get(&format!("/v2/library/app/blobs/{}", part.digest)).await.status, 503);
    }
    drop(outer);
    let strict = Settings::of(&registry).config("cache.complete_only = true").in_front_of(inner.address).start().await;
    assert_stale(&strict.get(TAG).await, "refused");
    drop(inner.stop().await);
    assert_eq!(strict.get(TAG).await.status, 503, "now it is away, and parts are missing");
}

#[tokio::test]
async fn staleness_is_recognised_in_whatever_form_a_cache_tells_it() {
    for (name, value) in [
        ("cache-status", "other; hit; detail=stale"),
        ("cache-status", "\"edge\"; hit; ttl=-90"),
        ("warning", "110 proxy.example \"Response is Stale\""),
        ("warning", "112 - \"Disconnected Operation\", 299 - \"stale: since yesterday\""),
    ] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(934, 1000)]);
        registry.rule(Rule::on(Match::any()).header(name, value));
        let mirror = TestMirror::of(&registry).await;
        for (method, path) in [("HEAD", TAG), ("GET", TAG), ("GET", TAG), ("GET", TAGS), ("GET", &referrers(&image))] {
            assert_stale(
                &client::request(mirror.address, method, path, &[]).await,
                &format!("{value} {method} {path}"),
            );
        }
        registry.clear_rules();
        assert_ne!(outcome(&mirror.get(TAG).await), "stale", "{value}");
        assert_eq!(outcome(&mirror.get(TAG).await), "hit", "{value}");
        // What is addressed by its digest is never stale.
        registry.rule(Rule::on(Match::any()).header(name, value));
        let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
        let child = format!("/v2/library/app/manifests/{}", image.config.digest);
        assert_ne!(outcome(&mirror.get(&layer).await), "stale", "{value}");
        assert_eq!(mirror.get(&child).await.status, 404);
    }
}

#[tokio::test]
async fn a_warning_of_a_registry_is_told_on_with_every_answer_until_it_is_taken_back() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(935, 1000)]);
    registry.rule(Rule::on(Match::any()).header("warning", DEPRECATED));
    let mirror = TestMirror::of(&registry).await;
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let layer = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    let list = referrers(&image);
    let paths = [
        ("HEAD", layer.as_str()),
        ("GET", layer.as_str()),
        ("HEAD", TAG),
        ("GET", TAG),
        ("HEAD", by_digest.as_str()),
        ("GET", by_digest.as_str()),
        ("GET", TAGS),
        ("GET", list.as_str()),
    ];
    for round in ["cold", "warm", "from memory", "stale"] {
        if round == "stale" {
            registry.clear_rules();
            registry.rule(Rule::on(Match::any()).refuse(500));
            mirror.advance(Duration::from_secs(400));
        }
        for (method, path) in paths {
            let answer = client::request(mirror.address, method, path, &[]).await;
            mirror.settled().await;
            let told = warnings(&answer);
            assert!(answer.status == 200 && told.contains(&DEPRECATED), "{round} {method} {path}: {told:?}");
            let stale = round == "stale" && [TAG, TAGS, &list].contains(&path);
            assert_eq!(told.len(), if stale { 2 } else { 1 }, "{round} {method} {path}: {told:?}");
        }
    }
    registry.clear_rules();
    mirror.advance(Duration::from_secs(400));
    for (method, path) in [("HEAD", TAG), ("GET", TAGS), ("GET", list.as_str())] {
        let answer = client::request(mirror.address, method, path, &[]).await;
        assert_eq!((answer.status, warnings(&answer)), (200, if path == TAG { vec![DEPRECATED] } else { vec![] }));
    }
}

#[tokio::test]
async fn a_warning_that_only_one_method_has_reaches_those_who_use_the_other() {
    for only in ["HEAD", "GET"] {
        let registry = Registry::start().await;
        registry.add_image("library/app", "1", &[noise(936, 1000)]);
        let on = Match::manifests();
        registry.rule(
            Rule::on(if only == "HEAD" { on.head() } else { on.get() })
                .header("warning", "199 - \"soon\", 299 - \"d\u{e9}pr\u{e9}ci\u{e9}\"")
                .header("cache-status", "edge; hit; ttl=20"),
        );
        let mirror = TestMirror::that_heard(&registry).await;
        let answer = mirror.get(TAG).await;
        assert_eq!(answer.headers.get_all("warning").iter().count(), 2, "{only}");
        assert_ne!(outcome(&answer), "stale");
    }
}

#[tokio::test]
async fn a_client_that_has_it_is_told_how_stale_it_is_and_what_it_is_warned_of() {
    let mut registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(937, 1000)]);
    registry.rule(Rule::on(Match::any()).header("warning", DEPRECATED));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    registry.stop().await;
    mirror.advance(Duration::from_secs(400));
    for method in ["HEAD", "GET"] {
        let answer = client::request(mirror.address, method, TAG, &[("If-None-Match", "*")]).await;
        let told = warnings(&answer);
        assert_eq!((answer.status, outcome(&answer), told.len()), (304, "stale", 2), "{method}: {told:?}");
    }
}
