//! Who may read a tag and nothing else of a repository: what it leads to is his, whoever asked for the tag, and where.

use std::time::Duration;

use scripted_registry::client::{self, Response};
use scripted_registry::{Digest, Image, Match, Registry, noise};

use crate::access_mapped::{ask, basic, mapped, told, users};

fn at(rest: &str) -> String {
    format!("/v2/app/{rest}?ns=a.example")
}

/// Every way to ask for a part of an image by its digest.
fn by_digest(manifests: &[&Digest], image: &Image) -> Vec<(&'static str, String)> {
    let manifests = manifests.iter().flat_map(|it| ["manifests", "referrers"].map(|kind| at(&format!("{kind}/{it}"))));
    let blobs = image.blobs().map(|blob| at(&format!("blobs/{}", blob.digest)));
    let paths: Vec<_> = manifests.chain(blobs).collect();
    let of = |method| paths.iter().map(move |path| (method, path.clone()));
    of("GET").chain(of("HEAD")).collect()
}

async fn a_range(address: std::net::SocketAddr, user: &str, path: &str) -> Response {
    client::get(address, path, &[("Authorization", &basic(user, user)), ("Range", "bytes=1-9")]).await
}

#[tokio::test]
async fn what_a_tag_leads_to_is_given_where_nobody_has_asked_for_the_tag() {
    let registry = Registry::start().await;
    let image = registry.add_image("app", "0", &[noise(400, 1000), noise(401, 1000)]);
    let index = registry.add_index("app", "1", &[(&image, "linux/amd64")]);
    registry.add_image("app", "2", &[noise(402, 1000)]);
    let (_folder, users) = users(&["ann", "eve"]);
    let grants = "{ who = \"user:ann\", may = \"a.example/app:1\" }, { who = \"user:eve\", may = \"a.example/app:2\" }";
    let layer = at(&format!("blobs/{}", image.layers[0].digest));
    let ways = by_digest(&[&index.digest, &image.manifest.digest], &image);
    for (method, path) in ways.into_iter().chain([("a range", layer)]) {
        let mirror = mapped(&registry, &users, grants).start().await;
        let asked = async |user| match method {
            "a range" => a_range(mirror.address, user, &path).await,
            _ => ask(&mirror, method, user, &path).await,
        };
        let before = asked("eve").await;
        assert_eq!(before.status, 403, "{method} {path}");
        let status = if method == "a range" { 206 } else { 200 };
        assert_eq!(asked("ann").await.status, status, "{method} {path}");
        mirror.settled().await;
        assert_eq!(asked("ann").await.status, status, "stored: {method} {path}");
        mirror.clock.advance(Duration::from_secs(5));
        assert_eq!(told(&asked("eve").await), told(&before), "stored and not stored are told alike");
    }
}

#[tokio::test]
async fn a_tag_that_is_asked_for_in_vain_is_left_alone_for_a_while_and_few_are_asked_for() {
    let registry = Registry::start().await;
    let images: Vec<_> = (0..10).map(|n| registry.add_image("app", &n.to_string(), &[noise(410 + n, 1000)])).collect();
    let (_folder, users) = users(&["ann", "eve"]);
    let tags = (0..10).map(|n| format!("\"a.example/app:{n}\"")).collect::<Vec<_>>().join(", ");
    let grants =
        format!("{{ who = \"user:ann\", may = \"a.example/app:0\" }}, {{ who = \"user:eve\", may = [{tags}] }}");
    let mirror = mapped(&registry, &users, &grants).config("cache.tag_ttl = \"0s\"").start().await;
    let made_up = async |n: u64| {
        let digest = Digest::of(scripted_registry::Algorithm::Sha256, &n.to_le_bytes());
        for kind in ["manifests", "blobs", "referrers"] {
            let refused = ask(&mirror, "GET", "ann", &at(&format!("{kind}/{digest}"))).await;
            assert_eq!(refused.status, 403, "{kind}");
        }
    };
    made_up(0).await;
    let once = registry.requests().len();
    for n in 1..10 {
        made_up(n).await;
    }
    assert_eq!(registry.requests().len(), once, "it was asked for in vain a moment ago");
    mirror.clock.advance(Duration::from_secs(5));
    made_up(10).await;
    assert!(registry.requests().len() > once, "the tag may have moved");
    mirror.clock.advance(Duration::from_secs(5));
    for (n, image) in images.iter().enumerate().rev() {
        let status = if n < 8 { 200 } else { 403 };
        let path = at(&format!("manifests/{}", image.manifest.digest));
        assert_eq!(ask(&mirror, "HEAD", "eve", &path).await.status, status, "{}", image.tag);
        mirror.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(registry.count_of(&Match::manifest("app", "9")), 0, "it is beyond what is asked for");
}

#[tokio::test]
async fn who_may_read_all_of_a_repository_leaves_nothing_to_remember_of_what_its_tags_led_to() {
    let registry = Registry::start().await;
    let all: Vec<_> = (0..5).map(|n| registry.add_image("app", &n.to_string(), &[noise(430 + n, 1000)])).collect();
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let grants = "{ who = [\"user:ann\", \"user:eve\"], may = \"a.example/app:1\" }, \
                  { who = \"user:bob\", may = [\"a.example/app:1\", \"a.example/app\"] }";
    let mirror = mapped(&registry, &users, grants).start().await;
    // Counted every few seconds.
    let is = async |count: &dyn Fn(&str) -> bool| {
        let counted = async {
            loop {
                let metrics = mirror.metrics().await;
                let line = metrics.lines().find_map(|line| line.strip_prefix("mirror_entries{table=\"led\"} "));
                if let Some(count) = line.filter(|line| count(line)) {
                    return count.to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), counted).await.expect("it is counted")
    };
    assert_eq!(ask(&mirror, "GET", "ann", &at("manifests/1")).await.status, 200);
    assert_eq!(is(&|count| count != "0").await, "1");
    for image in &all {
        for method in ["HEAD", "GET"] {
            let path = at(&format!("manifests/{}", image.tag));
            assert_eq!(ask(&mirror, method, "bob", &path).await.status, 200, "{path}");
        }
    }
    assert_eq!(ask(&mirror, "HEAD", "eve", &at("manifests/1")).await.status, 200);
    assert_eq!(is(&|count| count != "1").await, "2", "of ann and eve");
}
