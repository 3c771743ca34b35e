//! Kind: the first of several addresses gives something and then not the rest, or what is not it, each time. The next
//! is asked, and the first last for that thing.

use bytes::Bytes;
use scripted_registry::{Algorithm, Digest, Image, Match, Registry, Rule, client, noise};
use serde_json::json;

use crate::support::mirror::{Settings, TestMirror};

const APP: &str = "library/app";

struct Scene {
    first: Registry,
    second: Registry,
    digest: Digest,
    bytes: Bytes,
    path: String,
}

impl Scene {
    async fn of(size: usize) -> Scene {
        let (first, second) = (Registry::start().await, Registry::start().await);
        let bytes = noise(91, size);
        let digest = first.add_blob(APP, bytes.clone());
        second.add_blob(APP, bytes.clone());
        let path = format!("/v2/{APP}/blobs/{digest}");
        Scene { first, second, digest, bytes, path }
    }

    async fn mirror(&self, keys: &str) -> TestMirror {
        Settings::of(&self.first).or_at(&self.second).upstream(keys).start().await
    }
}

/// What the first address does to each question, of a blob of so many bytes.
type Misdeed = fn(&Registry, &Digest, u64);

fn cuts(registry: &Registry, digest: &Digest, size: u64) {
    registry.rule(Rule::on(Match::blob(digest).get()).ignore_range().close_after(size / 2));
}

fn cuts_chunks(registry: &Registry, digest: &Digest, size: u64) {
    registry.rule(Rule::on(Match::blob(digest).get()).ignore_range().chunked().close_after(size / 2));
}

fn refuses_the_rest(registry: &Registry, digest: &Digest, size: u64, status: u16) {
    registry.rule(Rule::on(Match::blob(digest).get()).once().close_after(size / 2));
    registry.rule(Rule::on(Match::blob(digest).get()).refuse(status));
}

const MISDEEDS: [(&str, Misdeed); 6] = [
    ("cuts", cuts),
    ("cuts chunks", cuts_chunks),
    ("404 to the rest", |registry, digest, size| refuses_the_rest(registry, digest, size, 404)),
    ("403 to the rest", |registry, digest, size| refuses_the_rest(registry, digest, size, 403)),
    ("416 to the rest", |registry, digest, size| refuses_the_rest(registry, digest, size, 416)),
    ("500 to the rest", |registry, digest, size| refuses_the_rest(registry, digest, size, 500)),
];

#[tokio::test]
async fn a_blob_that_the_first_address_cuts_each_time_comes_from_the_second() {
    for size in [3000, 300_000] {
        for keys in ["", "on_missing = \"next\""] {
            for (name, misdeed) in MISDEEDS {
                let scene = Scene::of(size).await;
                misdeed(&scene.first, &scene.digest, size as u64);
                let mirror = scene.mirror(keys).await;
                let answer = mirror.get(&scene.path).await;
                assert!(answer.complete && answer.body == scene.bytes, "{name}, {size}, {keys}: {}", answer.status);
                assert!(scene.first.gets_of(&scene.digest) <= 2, "{name}, {size}, {keys}");
            }
        }
    }
}

#[tokio::test]
async fn who_cannot_give_the_rest_does_not_keep_it_from_who_gave_the_beginning() {
    for status in [404, 403, 416, 500] {
        let scene = Scene::of(300_000).await;
        scene.first.rule(Rule::on(Match::blob(&scene.digest).get()).once().close_after(150_000));
        scene.second.rule(Rule::on(Match::any()).refuse(status));
        let answer = scene.mirror("").await.get(&scene.path).await;
        assert!(answer.complete && answer.body == scene.bytes, "{status}: {}", answer.status);
    }
}

#[tokio::test]
async fn wrong_bytes_of_the_first_address_are_fetched_from_the_second() {
    for (size, whole_at_once) in [(300, true), (60_000, true), (300_000, false)] {
        for wrong in [|rule: Rule| rule.flip_bit_at(0), |rule: Rule| rule.chunked().flip_last_byte()] {
            let scene = Scene::of(size).await;
            scene.first.rule(wrong(Rule::on(Match::blob(&scene.digest).get())));
            let mirror = scene.mirror("").await;
            let answer = mirror.get(&scene.path).await;
            assert_eq!(answer.complete, whole_at_once, "{size}: bytes that a client has cannot be taken back");
            mirror.settled().await;
            let again = mirror.get(&scene.path).await;
            assert!(again.complete && again.body == scene.bytes, "{size}");
            assert_eq!(scene.first.gets_of(&scene.digest), 1, "{size}");
        }
    }
}

#[tokio::test]
async fn a_page_for_people_at_the_first_address_does_not_hide_a_blob_of_the_second() {
    let scene = Scene::of(3000).await;
    for (kind, body) in [("text/html", "<html>log in</html>"), ("application/json", "{\"errors\":[]}")] {
        scene.first.clear_rules();
        scene.first.rule(Rule::on(Match::blob(&scene.digest)).answer(200, kind, body));
        let mirror = scene.mirror("").await;
        let part = mirror.get_with(&scene.path, &[("Range", "bytes=10-19")]).await;
        mirror.settled().await;
        let answer = mirror.get(&scene.path).await;
        assert!(answer.complete && answer.body == scene.bytes, "{kind}");
        // Of another length than the client was told it is cut, and never wrong.
        assert!(!part.complete || part.status >= 400 || part.body[..] == scene.bytes[10..20], "{kind}");
    }
}

#[tokio::test]
async fn an_address_that_broke_off_one_blob_is_first_for_the_others() {
    let scene = Scene::of(300_000).await;
    cuts(&scene.first, &scene.digest, 300_000);
    let other = scene.first.add_blob(APP, noise(92, 1000));
    scene.second.add_blob(APP, noise(92, 1000));
    let mirror = scene.mirror("").await;
    assert!(mirror.get(&scene.path).await.complete);
    assert!(mirror.get(&format!("/v2/{APP}/blobs/{other}")).await.complete);
    assert_eq!((scene.first.gets_of(&other), scene.second.gets_of(&other)), (1, 0));
}

fn images() -> (fn(&Registry) -> Image, [&'static str; 2]) {
    (|registry| registry.add_image(APP, "1", &[noise(93, 1000)]), ["GET", "HEAD"])
}

#[tokio::test]
async fn manifests_and_lists_that_the_first_address_cuts_or_makes_up_come_from_the_second() {
    let (image, methods) = images();
    for misdeed in [
        |rule: Rule| rule.close_after(10),
        |rule: Rule| rule.chunked().close_after(10),
        |rule: Rule| rule.flip_bit_at(0),
        |rule: Rule| rule.answer(200, "text/html", "<html>log in</html>"),
        |rule: Rule| rule.answer(200, "application/json", ""),
    ] {
        let (first, second) = (Registry::start().await, Registry::start().await);
        let manifest = image(&first).manifest.digest;
        image(&second);
        first.rule(misdeed(Rule::on(Match::any())));
        for method in methods {
            for path in [
                format!("/v2/{APP}/manifests/1"),
                format!("/v2/{APP}/manifests/{manifest}"),
                format!("/v2/{APP}/tags/list"),
                format!("/v2/{APP}/referrers/{manifest}"),
            ] {
                let mirror = Settings::of(&first).or_at(&second).start().await;
                let answer = client::request(mirror.address, method, &path, &[]).await;
                assert_eq!((answer.status, answer.complete), (200, true), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_that_breaks_off_with_another_length_gives_way_to_the_next_before_a_client_has_anything() {
    for size in [3000, 60_000, 300_000] {
        for length in [415, 200_000, 400_000] {
            let scene = Scene::of(size).await;
            let rule = Rule::on(Match::blob(&scene.digest).get()).ignore_range();
            scene.first.rule(rule.declare_length(length).close_after(5));
            let mirror = scene.mirror("").await;
            let answer = mirror.get(&scene.path).await;
            assert!(answer.complete && answer.body == scene.bytes, "{size} as {length}: {}", answer.status);
            assert_eq!(scene.first.gets_of(&scene.digest), 1, "{size} as {length}");
        }
    }
}

#[tokio::test]
async fn a_body_without_a_length_that_ends_early_is_gone_on_with_at_the_next_address() {
    for (size, came) in [(300, 100), (60_000, 5), (300_000, 5), (300_000, 150_000)] {
        let scene = Scene::of(size).await;
        let rule = Rule::on(Match::blob(&scene.digest).get()).ignore_range();
        scene.first.rule(rule.without_length().close_after(came));
        let mirror = scene.mirror("").await;
        let answer = mirror.get(&scene.path).await;
        assert!(answer.complete && answer.body == scene.bytes, "{came} of {size}: {}", answer.status);
        assert_eq!(scene.first.gets_of(&scene.digest), 1, "{came} of {size}");
    }
}

#[tokio::test]
async fn who_sends_something_of_another_length_does_not_keep_the_rest_from_who_gave_the_beginning() {
    let scene = Scene::of(300_000).await;
    scene.first.rule(Rule::on(Match::blob(&scene.digest).get()).once().close_after(150_000));
    scene.second.rule(Rule::on(Match::any()).answer(200, "application/json", "{}"));
    let answer = scene.mirror("").await.get(&scene.path).await;
    assert!(answer.complete && answer.body == scene.bytes, "{}", answer.status);
}

#[tokio::test]
async fn a_long_page_for_people_in_place_of_a_blob_comes_from_the_next_address_or_is_an_error() {
    let page = format!("\u{feff}\n<!DOCTYPE HTML><title>Log in</title>{}", "x".repeat(200_000));
    for (second, rule) in [(true, Rule::chunked as fn(Rule) -> Rule), (true, |rule| rule), (false, Rule::chunked)] {
        let scene = Scene::of(300_000).await;
        scene.first.rule(rule(Rule::on(Match::blob(&scene.digest).get()).answer(200, "text/html", page.clone())));
        let mirror = if second { scene.mirror("").await } else { TestMirror::of(&scene.first).await };
        let answer = mirror.get(&scene.path).await;
        assert_eq!((answer.status, answer.complete), (if second { 200 } else { 502 }, true));
        assert_eq!(answer.body == scene.bytes, second);
    }
    // It may be one all the same.
    let registry = Registry::start().await;
    let digest = registry.add_blob(APP, page.clone());
    let answer = TestMirror::of(&registry).await.get(&format!("/v2/{APP}/blobs/{digest}")).await;
    assert!(answer.complete && answer.body == page);
}

#[tokio::test]
async fn where_each_address_holds_a_part_a_silent_one_is_asked_for_what_the_others_have_not_got() {
    let (first, second) = (Registry::start().await, Registry::start().await);
    first.rule(Rule::on(Match::any()).close_at_once());
    let images: Vec<_> = (0..6).map(|n| second.add_image(APP, &n.to_string(), &[noise(70 + n, 1000)])).collect();
    let mirror = Settings::of(&first).or_at(&second).upstream("on_missing = \"next\"").start().await;
    for (n, image) in images.iter().enumerate() {
        assert_eq!(mirror.get(&format!("/v2/{APP}/manifests/{n}")).await.status, 200);
        assert!(mirror.get(&format!("/v2/{APP}/blobs/{}", image.layers[0].digest)).await.complete);
    }
    assert_eq!(first.requests().len(), 1, "what is known of it is used by the next question");
    // It may be the one that has it.
    let answer = mirror.get(&format!("/v2/{APP}/manifests/none")).await;
    assert!(answer.status == 503 && first.requests().len() > 1);
    mirror.advance(std::time::Duration::from_secs(61));
    first.clear_rules();
    first.add_image(APP, "6", &[noise(80, 1000)]);
    second.forget_requests();
    assert_eq!(mirror.get(&format!("/v2/{APP}/manifests/6")).await.status, 200);
    assert_eq!(second.requests().len(), 0, "it is asked first again");
}

#[tokio::test]
async fn an_address_that_contradicts_the_manifest_gives_way_to_the_next_before_a_client_has_anything() {
    const BYTES: &str = "application/octet-stream";
    type Lie = fn(Rule, &Bytes) -> Rule;
    let lies: [(&str, Lie); 3] = [
        ("more", |rule, bytes| rule.answer(200, BYTES, [&bytes[..], &bytes[..]].concat())),
        ("less", |rule, bytes| rule.answer(200, BYTES, bytes.slice(..150_000))),
        ("chunks that end early", |rule, bytes| rule.answer(200, BYTES, bytes.slice(..150_000)).chunked()),
    ];
    for (name, lie) in lies {
        let (first, second) = (Registry::start().await, Registry::start().await);
        let bytes = noise(94, 300_000);
        let [digest, _] = [&first, &second].map(|registry| registry.add_layer(APP, "1", bytes.clone()));
        first.rule(lie(Rule::on(Match::blob(&digest).get()), &bytes));
        let mirror = Settings::of(&first).or_at(&second).start().await;
        assert_eq!(mirror.get(&format!("/v2/{APP}/manifests/1")).await.status, 200);
        let answer = mirror.get(&format!("/v2/{APP}/blobs/{digest}")).await;
        assert!(answer.complete && answer.body == bytes, "{name}: {}", answer.status);
    }
}

#[tokio::test]
async fn a_manifest_that_is_wrong_about_a_size_hides_no_blob() {
    let (first, second) = (Registry::start().await, Registry::start().await);
    let bytes = noise(95, 300_000);
    for registry in [&first, &second] {
        let [digest, config] = [bytes.clone(), Bytes::from_static(b"{}")].map(|bytes| registry.add_blob(APP, bytes));
        let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": 299_998});
        let config =
            json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2});
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        registry.add_manifest(APP, &["1"], manifest.to_string(), "application/vnd.oci.image.manifest.v1+json");
    }
    let one = Settings::of(&first).start().await;
    for mirror in [one, Settings::of(&first).or_at(&second).start().await] {
        assert_eq!(mirror.get(&format!("/v2/{APP}/manifests/1")).await.status, 200);
        let answer = mirror.get(&format!("/v2/{APP}/blobs/{}", Digest::of(Algorithm::Sha256, &bytes))).await;
        assert!(answer.complete && answer.body == bytes, "{}", answer.status);
    }
}
