//! Who may read a tag and nothing else of a repository: what it leads to is his, whoever asked for the tag, and where.

use std::time::Duration;

use scripted_registry::client::{self, Response};
use scripted_registry::{Digest, Image, Match, Registry, noise};

use crate::access_mapped::{ask, basic, mapped, told, users};
use crate::support::mirror::TestMirror;

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

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const EITHER: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Bob asks for the tag, as one who accepts these types, and is told that it is this.
async fn is_told(mirror: &TestMirror, method: &str, accept: &str, manifest: &Digest) {
    let headers = [("Authorization", &*basic("bob", "bob")), ("Accept", accept)];
    let told = client::request(mirror.address, method, &at("manifests/1"), &headers).await;
    assert_eq!(told.header("docker-content-digest"), Some(&*manifest.to_string()), "{method} {accept}");
    mirror.settled().await;
}

/// What she gets by digest of an image, each way.
async fn each_way(mirror: &TestMirror, user: &str, manifests: &[&Digest], image: &Image, status: u16, why: &str) {
    for (method, path) in by_digest(manifests, image) {
        assert_eq!(ask(mirror, method, user, &path).await.status, status, "{why}: {method} {path}");
    }
}

const ONE_TAG: &str = "{ who = [\"user:ann\", \"user:eve\"], may = \"a.example/app:1\" }, \
                       { who = \"user:bob\", may = \"a.example/app\" }";
const A_WHILE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn what_a_tag_led_to_before_is_given_to_nobody_although_others_who_accept_other_types_have_not_asked_since() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    for (first, then) in [(IMAGE, EITHER), (EITHER, IMAGE)] {
        for seen_by in ["GET", "HEAD"] {
            let registry = Registry::start().await;
            let mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"1m\"").start().await;
            let old = registry.add_image("app", "1", &[noise(440, 1000)]);
            is_told(&mirror, "GET", first, &old.manifest.digest).await;
            let new = registry.add_image("app", "1", &[noise(441, 1000)]);
            mirror.advance(A_WHILE);
            is_told(&mirror, seen_by, then, &new.manifest.digest).await;
            let why = format!("{first}, then by {seen_by}");
            each_way(&mirror, "eve", &[&old.manifest.digest], &old, 403, &why).await;
            mirror.advance(A_WHILE);
            each_way(&mirror, "eve", &[&new.manifest.digest], &new, 200, &why).await;
            each_way(&mirror, "eve", &[&old.manifest.digest], &old, 403, &why).await;
            let mirror = mirror.restart().await;
            each_way(&mirror, "eve", &[&old.manifest.digest], &old, 403, "after a restart").await;
        }
    }
}

#[tokio::test]
async fn an_index_and_what_it_names_are_both_what_a_tag_leads_to_whoever_asked_last() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    for index_first in [true, false] {
        let registry = Registry::start().await;
        let mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"1m\"").start().await;
        let one = registry.add_image("app", "one", &[noise(442, 1000)]);
        let index = registry.add_index("app", "1", &[(&one, "linux/amd64")]);
        let both = [&index.digest, &one.manifest.digest];
        registry.negotiate_tag("app", "1", &both.map(Clone::clone));
        let told = [(EITHER, both[0]), (IMAGE, both[1])];
        for (accept, manifest) in if index_first { told } else { [told[1], told[0]] } {
            mirror.advance(A_WHILE);
            is_told(&mirror, "GET", accept, manifest).await;
        }
        registry.forget_requests();
        each_way(&mirror, "eve", &both, &one, 200, &format!("{index_first}")).await;
        assert_eq!(registry.count_of(&Match::manifest("app", "1")), 0, "nothing speaks against either");
    }
}

#[tokio::test]
async fn where_a_registry_tells_clients_different_things_each_of_them_is_asked_for_again_before_it_is_refused() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let registry = Registry::start().await;
    let mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"1m\"").start().await;
    let image = registry.add_image("app", "oci", &[noise(443, 1000)]);
    let [docker, later] =
        [444, 445].map(|n| registry.add_docker_image("app", &format!("docker{n}"), &[noise(n, 1000)]));
    let told = |docker: &Image| registry.negotiate_tag("app", "1", &[image.manifest.digest, docker.manifest.digest]);
    told(&docker);
    is_told(&mirror, "GET", DOCKER, &docker.manifest.digest).await;
    mirror.advance(A_WHILE);
    is_told(&mirror, "GET", IMAGE, &image.manifest.digest).await;
    each_way(&mirror, "eve", &[&docker.manifest.digest], &docker, 200, "it is what docker is told").await;
    // It moves for docker alone, and nobody who accepts that asks.
    told(&later);
    mirror.advance(A_WHILE);
    is_told(&mirror, "GET", IMAGE, &image.manifest.digest).await;
    each_way(&mirror, "ann", &[&docker.manifest.digest], &docker, 403, "it was").await;
}

#[tokio::test]
async fn a_tag_that_is_fresh_is_asked_for_once_more_before_what_it_leads_to_now_is_refused() {
    let (_folder, users) = users(&["ann", "bob", "eve"]);
    let registry = Registry::start().await;
    let mirror = mapped(&registry, &users, ONE_TAG).config("cache.tag_ttl = \"1h\"").start().await;
    let old = registry.add_image("app", "1", &[noise(446, 1000)]);
    each_way(&mirror, "eve", &[&old.manifest.digest], &old, 200, "pinned, and now it is known").await;
    mirror.settled().await;
    let new = registry.add_image("app", "1", &[noise(447, 1000)]);
    mirror.advance(Duration::from_secs(60));
    registry.forget_requests();
    each_way(&mirror, "eve", &[&new.manifest.digest], &new, 200, "pinned").await;
    assert_eq!(registry.count_of(&Match::manifest("app", "1")), 1, "and then it is known");
    each_way(&mirror, "ann", &[&old.manifest.digest], &old, 403, "it was checked a moment ago").await;
    assert_eq!(registry.count_of(&Match::manifest("app", "1")), 1);
    assert_eq!(
        ask(&mirror, "GET", "eve", &at("manifests/1")).await.header("docker-content-digest"),
        Some(&*new.manifest.digest.to_string())
    );
}
