//! Lists of tags and referrers that outlive the process: after a restart they stand in for an upstream
//! that is away, as docker 29 needs it, and what is damaged, refused or forgotten does not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use scripted_registry::{Descriptor, Image, Match, Registry, Rule, client, noise};
use serde_json::json;

use crate::support::mirror::{Settings, TestMirror};

const TAGS: &str = "/v2/library/app/tags/list";
const SIGNATURE: &str = "application/vnd.example.signature";
const DAY: Duration = Duration::from_secs(24 * 3600);
const CONSENT: [(&str, &str); 2] = [("Host", "127.0.0.1"), ("X-Registry-Mirror", "1")];

/// An image with a signature, and the path to its referrers.
async fn signed() -> (Registry, Image, String) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(401, 5000)]);
    registry.add_referrer("library/app", &image.manifest, SIGNATURE, noise(402, 50));
    let path = referrers_of(&image.manifest);
    (registry, image, path)
}

fn referrers_of(manifest: &Descriptor) -> String {
    format!("/v2/library/app/referrers/{}?ns=docker.io", manifest.digest)
}

/// What docker from 29.1 on asks for: tag, manifest, referrers, configuration and layers.
fn pull_of_docker_29(image: &Image) -> Vec<String> {
    let digest = &image.manifest.digest;
    let blobs = image.blobs().map(|blob| format!("/v2/library/app/blobs/{}?ns=docker.io", blob.digest));
    let mut paths = vec![
        "/v2/library/app/manifests/1?ns=docker.io".to_owned(),
        format!("/v2/library/app/manifests/{digest}?ns=docker.io"),
        referrers_of(&image.manifest),
    ];
    paths.extend(blobs);
    paths
}

fn list_files(mirror: &TestMirror) -> Vec<PathBuf> {
    let folder = mirror.store().join("repositories/docker.io/library/app/_lists");
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test]
async fn docker_29_pulls_offline_after_a_restart_with_referrers_and_all() {
    let (mut registry, image, referrers) = signed().await;
    for offline in [false, true] {
        let mirror = TestMirror::of(&registry).await;
        let mut bodies = Vec::new();
        for path in pull_of_docker_29(&image) {
            let answer = mirror.get(&path).await;
            assert_eq!(answer.status, 200, "{path}");
            bodies.push(answer.body);
        }
        let list = bodies[2].clone();
        registry.stop().await;
        mirror.advance(DAY);
        let mirror = if offline {
            let settings = mirror.stop().await;
            settings.reconfigured("cache.mode = \"offline\"").start().await
        } else {
            mirror.restart().await
        };
        for (path, body) in pull_of_docker_29(&image).iter().zip(bodies) {
            let answer = mirror.get(path).await;
            assert_eq!((answer.status, answer.body), (200, body), "{path}, offline: {offline}");
        }
        let stale = mirror.get(&referrers).await;
        assert_eq!((&stale.body, stale.header("warning").is_some()), (&list, !offline), "offline: {offline}");
        let never_asked = format!("/v2/library/app/referrers/sha256:{}", "0".repeat(64));
        assert_eq!(mirror.get(&never_asked).await.status, 503, "nothing is made up");
        registry.restart_on_same_port().await;
    }
}

#[tokio::test]
async fn every_page_of_tags_survives_a_restart_by_its_own_question() {
    let (mut registry, image, _) = signed().await;
    for tag in ["2", "3"] {
        registry.move_tag("library/app", tag, &image.manifest.digest);
    }
    let mirror = TestMirror::of(&registry).await;
    let pages = [TAGS.to_owned(), format!("{TAGS}?n=2"), format!("{TAGS}?n=2&last=2")];
    let mut lists = Vec::new();
    for page in &pages {
        let list = mirror.get(page).await;
        assert_eq!(list.status, 200);
        lists.push((list.header("link").map(str::to_owned), list.body));
    }
    let mirror = mirror.restart().await;
    mirror.advance(DAY);
    registry.stop().await;
    for (page, (link, body)) in pages.iter().zip(lists) {
        let stale = mirror.get(page).await;
        assert_eq!((stale.status, stale.header("link").map(str::to_owned), &stale.body), (200, link, &body), "{page}");
        assert!(stale.header("warning").expect("a warning").contains("86400 s"), "{page}");
    }
    assert_eq!(mirror.get(&format!("{TAGS}?n=1")).await.status, 503, "nothing is made up");
}

#[tokio::test]
async fn a_registry_without_a_list_of_referrers_is_remembered_as_such_across_a_restart() {
    let (mut registry, image, referrers) = signed().await;
    registry.options(|options| options.referrers = false);
    let mirror = TestMirror::of(&registry).await;
    for path in pull_of_docker_29(&image) {
        assert_eq!(mirror.get(&path).await.status, if path == referrers { 404 } else { 200 });
    }
    registry.stop().await;
    let mirror = mirror.restart().await;
    mirror.advance(DAY);
    assert_eq!(mirror.get(&referrers).await.status, 404);
    // Until it is there again and has one.
    registry.restart_on_same_port().await;
    registry.options(|options| options.referrers = true);
    mirror.advance(DAY);
    assert_eq!(mirror.get(&referrers).await.status, 200);
}

#[tokio::test]
async fn a_damaged_list_is_asked_for_again_and_never_served() {
    let (mut registry, image, referrers) = signed().await;
    let mirror = TestMirror::of(&registry).await;
    for path in [&pull_of_docker_29(&image)[1], &referrers, TAGS] {
        mirror.get(path).await;
    }
    let settings = mirror.stop().await;
    let mirror = settings.clone().start().await;
    let files = list_files(&mirror);
    assert_eq!(files.len(), 2);
    for file in &files {
        let mut bytes = fs::read(file).expect("read");
        let last = bytes.len() - 5;
        bytes[last] ^= 0x20;
        fs::write(file, bytes).expect("written");
    }
    registry.stop().await;
    for path in [referrers.as_str(), TAGS] {
        assert_eq!(mirror.get(path).await.status, 503, "{path}");
    }
    registry.restart_on_same_port().await;
    mirror.advance(Duration::from_secs(60));
    for path in [referrers.as_str(), TAGS] {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
    registry.stop().await;
    let mirror = mirror.restart().await;
    for path in [referrers.as_str(), TAGS] {
        assert_eq!(mirror.get(path).await.status, 200, "{path}, which is kept again");
    }
}

#[tokio::test]
async fn what_upstream_refuses_or_somebody_forgets_does_not_come_back_after_a_restart() {
    for forget in [false, true] {
        let (mut registry, image, referrers) = signed().await;
        let mirror = TestMirror::of(&registry).await;
        for path in pull_of_docker_29(&image).iter().map(String::as_str).chain([TAGS]) {
            assert_eq!(mirror.get(path).await.status, 200);
        }
        let mirror = mirror.restart().await;
        assert_eq!(list_files(&mirror).len(), 2);
        if forget {
            mirror.get(TAGS).await;
            mirror.get(&referrers).await;
            let body = json!({ "images": ["app:1"] }).to_string();
            assert_eq!(client::post(mirror.socket(), "/api/v1/forget", &CONSENT, &body).await.status, 200);
        } else {
            mirror.advance(DAY);
            registry.rule(Rule::on(Match::when(|_| true)).refuse(403));
            assert_eq!(mirror.get(TAGS).await.status, 404);
            // A refusal until it is known to be one for all of the repository.
            assert!([403, 404].contains(&mirror.get(&referrers).await.status));
        }
        registry.stop().await;
        for path in [referrers.as_str(), TAGS] {
            assert_eq!(mirror.get(path).await.status, 503, "{path}, forgotten: {forget}");
        }
        let mirror = mirror.restart().await;
        for path in [referrers.as_str(), TAGS] {
            assert_eq!(mirror.get(path).await.status, 503, "{path}, forgotten: {forget}");
        }
        assert_eq!(list_files(&mirror), [] as [PathBuf; 0]);
    }
}

#[tokio::test]
async fn a_digest_that_is_no_manifest_of_ours_fills_no_disk_and_a_disk_that_fails_delays_nobody() {
    let (registry, image, referrers) = signed().await;
    let mirror = TestMirror::of(&registry).await;
    for n in 10..20 {
        let path = format!("/v2/library/app/referrers/sha256:{}", n.to_string().repeat(32));
        assert_eq!(mirror.get(&path).await.status, 200);
    }
    let mirror = mirror.restart().await;
    assert_eq!(list_files(&mirror), [] as [PathBuf; 0]);

    mirror.get(&pull_of_docker_29(&image)[1]).await;
    mirror.settled().await;
    let folder = mirror.store().join("repositories/docker.io/library/app/_lists");
    fs::write(&folder, "in the way").expect("written");
    for path in [referrers.as_str(), TAGS] {
        assert_eq!(mirror.get(path).await.status, 200, "{path}");
    }
    let settings = mirror.stop().await;
    let mirror = Settings::start(settings).await;
    assert_eq!(mirror.get(TAGS).await.status, 200);
}

#[tokio::test]
async fn each_page_of_a_list_stands_in_for_itself() {
    let mut registry = Registry::start().await;
    for tag in ["a", "b", "c", "d"] {
        registry.add_image("library/app", tag, &[noise(8, 100)]);
    }
    let mirror = TestMirror::of(&registry).await;
    let pages = [format!("{TAGS}?n=2"), format!("{TAGS}?n=2&last=b"), TAGS.to_owned()];
    let mut bodies = Vec::new();
    for page in &pages {
        bodies.push(mirror.get(page).await.body);
    }
    mirror.settled().await;
    registry.stop().await;
    let mirror = mirror.restart().await;
    mirror.advance(Duration::from_secs(31));
    for (page, body) in pages.iter().zip(&bodies) {
        let stale = mirror.get(page).await;
        assert!(stale.body == *body && stale.header("warning").is_some(), "{page}");
    }
    assert_eq!(mirror.get(&format!("{TAGS}?n=3")).await.status, 503);
}

/// As who verifies signatures asks, before anybody pulls.
#[tokio::test]
async fn a_list_about_a_manifest_that_is_pulled_later_is_kept_from_then_on() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(91, 1000)]);
    registry.add_referrer("library/app", &image.manifest, SIGNATURE, noise(92, 50));
    let mirror = TestMirror::of(&registry).await;
    let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    assert_eq!(mirror.head("/v2/library/app/manifests/1").await.status, 200);
    let list = mirror.get(&referrers).await;
    mirror.settled().await;
    assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{}", image.manifest.digest)).await.status, 200);
    mirror.advance(Duration::from_secs(31));
    assert_eq!(mirror.get(&referrers).await.body, list.body);
    registry.stop().await;
    let mirror = mirror.restart().await;
    mirror.advance(Duration::from_secs(31));
    let stale = mirror.get(&referrers).await;
    assert_eq!((stale.status, stale.header("warning").is_some()), (200, true));
    assert_eq!(stale.body, list.body);
}

#[tokio::test]
async fn a_list_of_tags_stands_in_for_an_upstream_that_fails_in_any_way() {
    for status in [500, 501, 502, 503, 504, 505, 507, 511, 599] {
        let (registry, _, _) = signed().await;
        let mirror = TestMirror::of(&registry).await;
        let list = mirror.get(TAGS).await;
        mirror.advance(DAY);
        registry.rule(Rule::on(Match::any()).refuse(status));
        let stale = mirror.get(TAGS).await;
        assert_eq!((stale.status, stale.header("warning").is_some()), (200, true), "{status}");
        assert_eq!(stale.body, list.body, "{status}");
    }
}

#[tokio::test]
async fn a_list_of_referrers_stands_in_for_an_upstream_that_does_not_know_such_lists_any_more() {
    let (registry, _, path) = signed().await;
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    let list = mirror.get(&path).await;
    mirror.settled().await;
    registry.rule(Rule::on(Match::any()).refuse(501));
    let mirror = mirror.restart().await;
    mirror.advance(DAY);
    for _ in 0..2 {
        let stale = mirror.get(&path).await;
        assert_eq!((stale.status, stale.header("warning").is_some()), (200, true));
        assert_eq!(stale.body, list.body);
    }
    // Who never sent one keeps none.
    let other = format!("/v2/library/app/referrers/sha256:{}", "0".repeat(64));
    assert_eq!(mirror.get(&other).await.status, 404);
}
