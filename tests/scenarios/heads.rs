//! HEAD of manifests: clients that look whether a tag has moved cost no pull.

use std::time::Duration;

use scripted_registry::{Gate, Image, Match, Registry, Rule, client, noise};

use crate::support::mirror::{Settings, TestMirror};

const TAG: &str = "/v2/library/app/manifests/1";
const TAGS: &str = "/v2/library/app/tags/list";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EXPIRED: Duration = Duration::from_secs(301);

async fn cold() -> (Registry, TestMirror, Image) {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let mirror = TestMirror::of(&registry).await;
    (registry, mirror, image)
}

fn gets(registry: &Registry) -> usize {
    registry.count_of(&Match::manifests().get())
}

#[tokio::test]
async fn a_head_of_what_is_not_stored_costs_no_pull_and_many_cost_few_questions() {
    for by_digest in [false, true] {
        for at_once in [false, true] {
            let (registry, mirror, image) = cold().await;
            let path =
                if by_digest { format!("/v2/library/app/manifests/{}", image.manifest.digest) } else { TAG.into() };
            let answers = if at_once {
                futures_util::future::join_all((0..30).map(|_| mirror.head(&path))).await
            } else {
                let mut answers = Vec::new();
                for _ in 0..30 {
                    answers.push(mirror.head(&path).await);
                }
                answers
            };
            let asked = registry.count_of(&Match::manifests());
            assert!(gets(&registry) == 0 && asked <= 3, "{path}: {asked} questions, {} pulls", gets(&registry));
            let got = mirror.get(&path).await;
            assert_eq!((got.status, gets(&registry)), (200, 1));
            for head in answers.iter().chain([&mirror.head(&path).await]) {
                assert!(head.status == 200 && head.body.is_empty());
                for name in ["content-length", "content-type", "docker-content-digest", "etag"] {
                    assert_eq!(head.header(name), got.header(name), "{path} {name}");
                }
            }
            assert_eq!(mirror.head(&path).await.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
            mirror.advance(EXPIRED);
            mirror.head(&path).await;
            assert_eq!(gets(&registry), 1, "nor does one that is checked again");
        }
    }
}

#[tokio::test]
async fn a_head_of_a_tag_that_moved_tells_where_it_is_and_costs_no_pull() {
    let (mut registry, mirror, old) = cold().await;
    assert_eq!(mirror.get(TAG).await.status, 200);
    let new = registry.add_image("library/app", "1", &[noise(2, 1000)]);
    let (old, new) = (old.manifest.digest.to_string(), new.manifest.digest.to_string());
    let digest = async |mirror: &TestMirror| {
        let head = mirror.head(TAG).await;
        (
            head.status,
            head.header("docker-content-digest").unwrap_or_default().to_owned(),
            head.header("warning").is_some(),
        )
    };
    assert_eq!(digest(&mirror).await, (200, old.clone(), false), "fresh");
    registry.forget_requests();
    mirror.advance(EXPIRED);
    for _ in 0..5 {
        assert_eq!(digest(&mirror).await, (200, new.clone(), false));
    }
    assert_eq!((gets(&registry), registry.count_of(&Match::manifests())), (0, 1));
    // What could be served without upstream still can.
    registry.stop().await;
    mirror.advance(EXPIRED);
    assert_eq!(digest(&mirror).await, (200, old.clone(), true), "stale");
    let mirror = mirror.restart().await;
    assert_eq!(digest(&mirror).await, (200, old.clone(), true), "stale, restarted");
    assert_eq!(mirror.get(TAG).await.header("docker-content-digest"), Some(old.as_str()));
}

#[tokio::test]
async fn a_head_is_told_no_as_a_get_is() {
    for (status, expected) in [(404, 404), (403, 404), (500, 503)] {
        let (registry, mirror, _) = cold().await;
        registry.rule(Rule::on(Match::manifests()).refuse(status));
        for _ in 0..2 {
            assert_eq!(mirror.head(TAG).await.status, expected, "{status}");
        }
        assert_eq!(mirror.get(TAG).await.status, expected, "{status}");
    }
    // What was told before is not believed after a no.
    let (registry, mirror, _) = cold().await;
    assert_eq!(mirror.head(TAG).await.status, 200);
    registry.remove_tag("library/app", "1");
    assert_eq!(mirror.get(TAG).await.status, 404);
    mirror.advance(Duration::from_secs(31));
    assert_eq!(mirror.head(TAG).await.status, 404);
    let (mut registry, mirror, _) = cold().await;
    registry.stop().await;
    assert_eq!(mirror.head(TAG).await.status, 503, "nothing is stored");
}

#[tokio::test]
async fn a_head_of_a_frozen_tag_and_of_a_client_that_has_it_costs_nothing() {
    let (registry, mirror, image) = cold().await;
    let etag = format!("\"{}\"", image.manifest.digest);
    let has_it = scripted_registry::client::head(mirror.address, TAG, &[("If-None-Match", &etag)]).await;
    assert_eq!((has_it.status, gets(&registry)), (304, 0));
    let without_ttl = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    for _ in 0..3 {
        assert_eq!(without_ttl.head(TAG).await.status, 200);
    }
    assert_eq!(gets(&registry), 0, "asked each time, and pulled never");
}

#[tokio::test]
async fn a_tag_of_which_a_client_took_the_head_is_known_after_a_restart_where_another_name_had_brought_the_manifest() {
    for other in ["library/app", "library/second"] {
        let (mut registry, mirror, image) = cold().await;
        registry.add_image(other, "0", &[noise(1, 1000)]);
        assert_eq!(mirror.get(&format!("/v2/{other}/manifests/0")).await.status, 200);
        mirror.settled().await;
        assert_eq!(mirror.head(TAG).await.status, 200);
        if other == "library/second" {
            let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
            assert_eq!(mirror.get(&by_digest).await.status, 200);
        }
        registry.stop().await;
        let mirror = mirror.restart().await;
        mirror.advance(EXPIRED);
        assert_eq!((mirror.head(TAG).await.status, mirror.get(TAG).await.status), (200, 200), "{other}");
    }
}

/// containerd and docker ask for the head of the tag, and then for the manifest by its digest.
#[tokio::test]
async fn a_tag_of_which_a_client_took_the_head_and_then_the_manifest_can_be_served_without_upstream() {
    let (mut registry, mirror, image) = cold().await;
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    assert_eq!(mirror.head(TAG).await.status, 200);
    assert_eq!(mirror.get(&by_digest).await.status, 200);
    registry.stop().await;
    let mirror = mirror.restart().await;
    mirror.advance(EXPIRED);
    assert_eq!(mirror.head(TAG).await.status, 200);
    let got = mirror.get(TAG).await;
    assert_eq!((got.status, got.header("warning").is_some()), (200, true));
}

/// Another tag, or a pull of all of an index, may bring it, too.
#[tokio::test]
async fn a_tag_of_which_a_client_took_the_head_can_be_served_however_its_manifest_came() {
    for by in ["another tag", "an index"] {
        let (mut registry, mirror, image) = cold().await;
        registry.move_tag("library/app", "2", &image.manifest.digest);
        registry.add_index("library/app", "3", &[(&image, "amd64")]);
        assert_eq!(mirror.head(TAG).await.status, 200);
        let other = if by == "an index" { "3" } else { "2" };
        assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{other}")).await.status, 200);
        if by == "an index" {
            assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{}", image.manifest.digest)).await.status, 200);
        }
        mirror.settled().await;
        registry.stop().await;
        let mirror = mirror.restart().await;
        mirror.advance(EXPIRED);
        let got = mirror.get(TAG).await;
        assert_eq!((got.status, got.header("warning").is_some()), (200, true), "{by}");
    }
}

#[tokio::test]
async fn a_tag_is_as_fresh_as_its_head_was_told_and_not_as_its_manifest_came() {
    let (registry, mirror, image) = cold().await;
    assert_eq!(mirror.head(TAG).await.status, 200);
    mirror.advance(EXPIRED);
    let moved = registry.add_image("library/app", "1", &[noise(3, 1000)]).manifest.digest.to_string();
    assert_eq!(mirror.get(&format!("/v2/library/app/manifests/{}", image.manifest.digest)).await.status, 200);
    assert_eq!(mirror.get(TAG).await.header("docker-content-digest"), Some(moved.as_str()));
}

#[tokio::test]
async fn a_head_that_was_told_stands_in_for_an_upstream_that_went_away() {
    let (mut registry, mirror, image) = cold().await;
    assert_eq!(mirror.head(TAG).await.status, 200);
    registry.stop().await;
    mirror.advance(EXPIRED);
    let head = mirror.head(TAG).await;
    assert_eq!((head.status, head.header("warning").is_some()), (200, true));
    assert_eq!(head.header("docker-content-digest"), Some(image.manifest.digest.to_string().as_str()));
}

#[tokio::test]
async fn a_head_that_fails_in_any_way_is_no_answer_to_get() {
    for status in [201, 204, 206, 300, 302, 304, 307, 400, 401, 403, 404, 405, 410, 451, 500, 501, 502, 504] {
        let registry = Registry::start().await;
        let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
        registry.add_image("library/other", "1", &[noise(1, 1000)]);
        registry.rule(Rule::on(Match::any().head()).refuse(status));
        let mirror = TestMirror::of(&registry).await;
        let layer = image.layers[0].digest;
        assert_eq!(mirror.get(TAG).await.status, 200, "{status}: tag");
        assert!(mirror.get(&format!("/v2/library/app/blobs/{layer}")).await.complete, "{status}");
        mirror.settled().await;
        let other = mirror.get(&format!("/v2/library/other/blobs/{layer}")).await;
        assert_eq!(other.status, 200, "{status}: blob that another repository brought");
        mirror.advance(EXPIRED);
        let again = mirror.get(TAG).await;
        assert_eq!((again.status, again.header("warning")), (200, None), "{status}: expired");
    }
}

#[tokio::test]
async fn a_head_costs_no_pull_whatever_types_are_accepted() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(6, 1000)]);
    registry.add_index("library/app", "2", &[(&image, "amd64")]);
    let mirror = Settings::of(&registry).config("cache.tag_ttl = \"0s\"").start().await;
    for accept in ["*/*", OCI_INDEX, OCI_MANIFEST, ""] {
        for tag in ["1", "2"] {
            for _ in 0..3 {
                let path = format!("/v2/library/app/manifests/{tag}");
                client::request(mirror.address, "HEAD", &path, &[("Accept", accept)]).await;
            }
        }
    }
    assert_eq!(registry.count_of(&Match::manifests().get()), 0);
}

#[tokio::test]
async fn a_head_that_tells_of_what_is_gone_or_never_was_hides_no_tag() {
    let configs = ["", "cache.mode = \"prefer-cache\"", "cache.tag_ttl = \"0s\""];
    for (config, stored) in configs.into_iter().flat_map(|config| [(config, true), (config, false)]) {
        let registry = Registry::start().await;
        let old = registry.add_image("library/app", "1", &[noise(14, 1000)]);
        let mirror = Settings::of(&registry).config(config).start().await;
        if stored {
            assert_eq!(mirror.get(TAG).await.status, 200);
            mirror.advance(EXPIRED);
        } else {
            mirror.get(TAGS).await;
            registry.remove_manifest("library/app", &old.manifest.digest);
        }
        let new = registry.add_image("library/app", "1", &[noise(15, 1000)]);
        // HEAD still tells of the old one, which is gone by digest; and of one that never was.
        for told in [old.manifest.digest.to_string(), format!("sha256:{}", "1".repeat(64))] {
            registry.rule(Rule::on(Match::manifests().head()).once().header("docker-content-digest", &told));
            let answer = mirror.get(TAG).await;
            assert_eq!(answer.status, 200, "{config} {told}, stored: {stored}");
            mirror.advance(EXPIRED);
        }
        let answer = mirror.get(TAG).await;
        assert_eq!(answer.header("docker-content-digest"), Some(new.manifest.digest.to_string().as_str()), "{config}");
    }
}

#[tokio::test]
async fn a_head_of_a_list_and_of_a_blob_on_its_way_says_what_get_says() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(5, 500_000)]);
    let layer = image.layers[0].digest;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&layer).get()).chunked().stall_after(100_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{layer}");
    let mut stream = mirror.stream(&path).await;
    stream.read_exactly(1000).await;
    assert_eq!(mirror.head(&path).await.status, 200);
    gate.open();
    assert!(stream.finish().await.complete);
    mirror.settled().await;
    let head = mirror.head(&path).await;
    assert_eq!(head.header("content-length"), Some(image.layers[0].size.to_string().as_str()));
    for list in [TAGS.to_owned(), format!("/v2/library/app/referrers/{}", image.manifest.digest)] {
        let head = mirror.head(&list).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        let get = mirror.get(&list).await;
        assert_eq!(get.header("content-length"), head.header("content-length"), "{list}");
        assert_eq!(get.header("content-type"), head.header("content-type"), "{list}");
    }
}

fn blob(image: &Image) -> String {
    format!("/v2/library/app/blobs/{}", image.layers[0].digest)
}

fn size(image: &Image) -> String {
    image.layers[0].size.to_string()
}

#[tokio::test]
async fn a_head_of_a_blob_is_found_out_by_get_where_head_is_answered_with_trouble() {
    for status in [500, 502, 503, 504] {
        let (registry, mirror, image) = cold().await;
        registry.rule(Rule::on(Match::blobs().head()).refuse(status));
        let head = mirror.head(&blob(&image)).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some(size(&image).as_str())), "{status}");
    }
}

#[tokio::test]
async fn a_head_of_a_blob_that_contradicts_what_is_known_of_it_is_none() {
    const BYTES: &str = "application/octet-stream";
    // Known from the manifest, from that after a restart, or from another repository of that upstream.
    for known in 0..3 {
        let (registry, mut mirror, image) = cold().await;
        registry.add_image("library/other", "1", &[noise(1, 1000)]);
        if known == 2 {
            assert_eq!(mirror.get(&blob(&image).replace("app", "other")).await.status, 200);
        } else {
            assert_eq!(mirror.get(TAG).await.status, 200);
        }
        mirror.settled().await;
        if known == 1 {
            mirror = mirror.restart().await;
        }
        registry.rule(Rule::on(Match::blobs().head()).answer(200, BYTES, vec![0; 99]));
        let head = mirror.head(&blob(&image)).await;
        let told = (head.status, head.header("content-length"));
        assert_eq!(told, (200, Some(size(&image).as_str())), "GET knows better: {known}");
        registry.rule(Rule::on(Match::blobs().get()).answer(200, BYTES, vec![0; 99]));
        assert_eq!(mirror.head(&blob(&image)).await.status, 502, "{known}");
    }
}

#[tokio::test]
async fn what_comes_by_digest_takes_nothing_back_of_what_a_tag_was_said_to_point_at_since() {
    const ONE: &str = "application/vnd.oci.image.manifest.v1+json";
    const OTHER: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let tag = "/v2/library/app/manifests/1";
    for (seen, status) in [("GET", 200), ("HEAD", 503)] {
        let mut registry = Registry::start().await;
        let old = registry.add_image("library/app", "1", &[noise(90, 1000)]).manifest.digest;
        let mirror = Settings::of(&registry).config("cache.tag_ttl = \"1m\"").start().await;
        let ask = async |method: &str, path: &str, accept: &str| {
            client::request(mirror.address, method, path, &[("Accept", accept)]).await
        };
        assert_eq!(ask("HEAD", tag, ONE).await.status, 200);
        let new = registry.add_image("library/app", "1", &[noise(91, 1000)]).manifest.digest;
        mirror.clock.advance(Duration::from_secs(90));
        let moved = ask(seen, tag, OTHER).await;
        assert_eq!(moved.header("docker-content-digest"), Some(new.to_string().as_str()), "{seen}");
        mirror.settled().await;
        assert_eq!(ask("GET", &format!("/v2/library/app/manifests/{old}"), ONE).await.status, 200, "{seen}");
        mirror.settled().await;
        registry.stop().await;
        mirror.clock.advance(Duration::from_secs(90));
        let now = ask("GET", tag, ONE).await;
        assert_eq!(now.status, status, "{seen}: {:?}", now.header("docker-content-digest"));
        assert_ne!(now.header("docker-content-digest"), Some(old.to_string().as_str()), "{seen}: it has moved");
    }
}
