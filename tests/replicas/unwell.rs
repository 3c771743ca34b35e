//! A bucket that answers and does not give content: upstream gives it, it is told, and no pull waits for it again and
//! again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::client::{self, Response};
use scripted_registry::{Image, Match, noise};

use crate::leases::bucket_of;
use crate::trouble::readyz;
use crate::{Scene, TestMirror, before_long, blob_of, key_of, outcome, pull, up};

pub(crate) const DEGRADED: &str = "ok: degraded (bucket)\n";
pub(crate) const LAYERS: u64 = 8;
/// However busy the machine is that tests, the bucket is not away.
pub(crate) const PATIENCE: &str = "cache.patience = \"3s\"";

/// An image whose layers are in the bucket, and nobody has it on a disk.
pub(crate) async fn layers(scene: &Scene, seed: u64, count: u64) -> Image {
    let layers: Vec<_> = (0..count).map(|n| noise(seed + n, 150_000)).collect();
    let image = scene.registry.add_image("library/app", "1", &layers);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(scene, &image).await;
    drop(first.stop().await);
    image
}

/// Which content of the image the bucket was asked for since `before`.
fn asked(scene: &Scene, image: &Image, method: &str, before: usize) -> BTreeSet<String> {
    let keys: BTreeSet<_> = image.layers.iter().map(|layer| key_of(&layer.digest)).collect();
    let asked =
        scene.bucket.requests().into_iter().skip(before).filter(|(how, key)| how == method && keys.contains(key));
    asked.map(|(_, key)| key).collect()
}

async fn errors(mirror: &TestMirror) -> u64 {
    let metrics = mirror.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with("mirror_bucket_errors_total")).expect("it is counted");
    line.rsplit(' ').next().expect("a number").parse().expect("a number")
}

pub(crate) async fn until_told(mirror: &TestMirror, told: &str) {
    let waited_for = async {
        while readyz(mirror).await != told {
            tokio::task::yield_now().await;
        }
    };
    before_long(told, waited_for).await;
}

#[tokio::test]
async fn content_that_never_comes_is_waited_for_twice_and_not_for_each_layer() {
    for (n, fault) in [Fault::Stall, Fault::Status(403), Fault::Status(503), Fault::Hang, Fault::StallAfter(100_000)]
        .into_iter()
        .enumerate()
    {
        let scene = Scene::set().await;
        let image = layers(&scene, 1000 + 20 * n as u64, LAYERS + 3).await;
        let mirror = scene.settings().config(PATIENCE).start().await;
        for layer in &image.layers {
            scene.bucket.fault(&["GET"], &key_of(&layer.digest), fault);
        }
        let (before, begun) = (scene.bucket.requests().len(), Instant::now());
        let (wanted, others) = image.layers.split_at(LAYERS as usize);
        for layer in wanted {
            let answer = mirror.get(&blob_of("library/app", &layer.digest)).await;
            assert!(answer.complete && outcome(&answer) != "tier" || fault == Fault::StallAfter(100_000), "{fault:?}");
        }
        let elapsed = begun.elapsed();
        let waited_for = asked(&scene, &image, "GET", before);
        assert!((1..=2).contains(&waited_for.len()), "{fault:?}: {waited_for:?}");
        assert!(elapsed < Duration::from_secs(3) * 4, "{fault:?}: {elapsed:?}");
        assert_eq!(readyz(&mirror).await, DEGRADED, "{fault:?}");
        let told = bucket_of(&mirror).await["trouble"].to_string();
        assert!(told.contains("it does not give content: "), "{told}");
        assert!(errors(&mirror).await >= 2, "{fault:?}");
        scene.bucket.heal();
        until_told(&mirror, "ok\n").await;
        for layer in others {
            let answer = mirror.get(&blob_of("library/app", &layer.digest)).await;
            assert!(answer.complete && outcome(&answer) == "tier", "{fault:?}: it is asked again");
        }
    }
}

#[tokio::test]
async fn a_replica_that_has_never_had_any_content_of_it_sees_too_that_it_gives_some_again() {
    for (n, methods) in [&["GET", "HEAD"][..], &["GET"]].into_iter().enumerate() {
        let scene = Scene::set().await;
        let image = layers(&scene, 1100 + 20 * n as u64, LAYERS).await;
        scene.bucket.fault(methods, "/blobs/", Fault::Status(403));
        let mirror = scene.settings().config(PATIENCE).start().await;
        let (last, others) = image.layers.split_last().expect("layers");
        assert_eq!(mirror.get_with(crate::TAG, &[crate::MANIFEST_TYPES]).await.status, 200);
        for layer in others {
            assert!(mirror.get(&blob_of("library/app", &layer.digest)).await.complete, "{methods:?}");
        }
        assert_eq!(readyz(&mirror).await, DEGRADED, "{methods:?}");
        scene.bucket.heal();
        until_told(&mirror, "ok\n").await;
        let answer = mirror.get(&blob_of("library/app", &last.digest)).await;
        assert!(answer.complete && outcome(&answer) == "tier", "{methods:?}: {}", outcome(&answer));
    }
}

#[tokio::test]
async fn one_object_that_never_comes_does_not_keep_the_others_unused() {
    for (n, fault) in [Fault::Status(500), Fault::Stall, Fault::Hang].into_iter().enumerate() {
        let scene = Scene::set().await;
        let image = layers(&scene, 1700 + 20 * n as u64, LAYERS).await;
        let mirror = scene.settings().config(PATIENCE).start().await;
        for layer in &image.layers[..3] {
            assert!(mirror.get(&blob_of("library/app", &layer.digest)).await.complete, "{fault:?}");
        }
        until_told(&mirror, "ok\n").await;
        scene.bucket.fault(&["GET"], &key_of(&image.layers[3].digest), fault);
        assert!(mirror.get(&blob_of("library/app", &image.layers[3].digest)).await.complete, "{fault:?}");
        // It is looked at, as what was asked for last.
        until_told(&mirror, DEGRADED).await;
        until_told(&mirror, "ok\n").await;
        for layer in &image.layers[4..] {
            let answer = mirror.get(&blob_of("library/app", &layer.digest)).await;
            assert!(answer.complete && outcome(&answer) == "tier", "{fault:?}: {}", outcome(&answer));
        }
    }
}

#[tokio::test]
async fn several_objects_that_always_break_off_do_not_keep_the_shorter_ones_unused() {
    let scene = Scene::set().await;
    let long: Vec<_> = (0..3).map(|n| noise(1800 + n, 1_500_000)).collect();
    let long = scene.registry.add_image("library/long", "1", &long);
    let first = scene.replica().await;
    for blob in long.blobs() {
        assert!(first.get(&blob_of("library/long", &blob.digest)).await.complete);
        scene.bucket.has(&key_of(&blob.digest)).await;
        scene.bucket.has(&crate::link_of("library/long", &blob.digest)).await;
    }
    let image = layers(&scene, 1810, 3 * LAYERS).await;
    let mirror = scene.settings().config(PATIENCE).start().await;
    until_told(&mirror, "ok\n").await;
    assert!(mirror.get(&blob_of("library/app", &image.layers[0].digest)).await.complete);
    for blob in &long.layers[..2] {
        scene.bucket.fault(&["GET"], &key_of(&blob.digest), Fault::StallAfter(700_000));
        assert!(mirror.get(&blob_of("library/long", &blob.digest)).await.complete, "upstream has the rest");
    }
    until_told(&mirror, DEGRADED).await;
    let looks = || scene.bucket.requests().iter().filter(|(how, key)| how == "GET" && key.contains("/blobs/")).count();
    let (mut outcomes, long_one) = (Vec::new(), blob_of("library/long", &long.layers[2].digest));
    for layer in &image.layers[1..] {
        let answer = mirror.get(&blob_of("library/app", &layer.digest)).await;
        assert!(answer.complete);
        outcomes.push(outcome(&answer));
        if outcomes.ends_with(&["tier".to_owned()]) {
            break;
        }
        let before = looks();
        let looked = async {
            while looks() < before + 2 {
                tokio::task::yield_now().await;
            }
        };
        before_long("it is looked at content", looked).await;
    }
    assert_eq!(outcomes.last().map(String::as_str), Some("tier"), "{outcomes:?}");
    assert_eq!(readyz(&mirror).await, DEGRADED, "it is told all the same");
    assert_ne!(outcome(&mirror.get(&long_one).await), "tier", "what is as long as what broke off is not asked for");
    scene.bucket.heal();
    until_told(&mirror, "ok\n").await;
}

#[tokio::test]
async fn what_comes_too_slowly_is_no_longer_waited_for_either() {
    let scene = Scene::set().await;
    let image = layers(&scene, 1200, LAYERS).await;
    let mirror = scene.settings().config("cache.patience = \"1s\"").start().await;
    for layer in &image.layers {
        scene.bucket.fault(&["GET"], &key_of(&layer.digest), Fault::Drip(20_000));
    }
    let before = scene.bucket.requests().len();
    pull(&mirror, &image).await;
    let waited_for = asked(&scene, &image, "GET", before);
    assert!(waited_for.len() <= 2, "{waited_for:?}");
    assert_eq!(readyz(&mirror).await, DEGRADED);
}

#[tokio::test]
async fn manifests_ranges_and_heads_do_not_wait_for_it_either() {
    let scene = Scene::set().await;
    let image = layers(&scene, 1300, LAYERS).await;
    for (method, headers) in [("HEAD", &[][..]), ("GET", &[("range", "bytes=5-9")][..])] {
        let mirror = scene.settings().config(PATIENCE).start().await;
        scene.bucket.fault(&[method], "/blobs/", Fault::Stall);
        let before = scene.bucket.requests().len();
        for layer in &image.layers {
            let path = blob_of("library/app", &layer.digest);
            let answer = client::request(mirror.address, method, &path, headers).await;
            assert!(matches!(answer.status, 200 | 206), "{method}: {}", answer.status);
        }
        let waited_for = asked(&scene, &image, method, before);
        assert!((1..=2).contains(&waited_for.len()), "{method}: {waited_for:?}");
        assert_eq!(readyz(&mirror).await, DEGRADED, "{method}");
        let before = scene.bucket.requests().len();
        assert_eq!(mirror.get_with(crate::TAG, &[crate::MANIFEST_TYPES]).await.status, 200);
        let manifest = key_of(&image.manifest.digest);
        let was_asked = scene.bucket.requests().into_iter().skip(before).any(|(_, key)| key == manifest);
        assert_eq!(was_asked, method == "HEAD", "{method}");
        scene.bucket.heal();
    }
}

#[tokio::test]
async fn nobody_is_sent_to_a_bucket_that_gives_no_content() {
    let scene = Scene::set().await;
    let image = layers(&scene, 1400, LAYERS).await;
    let lines = format!("{PATIENCE}\nstore.bucket.redirect = [\"127.0.0.0/8\"]");
    let mirror = scene.settings().config(&lines).start().await;
    until_told(&mirror, "ok\n").await;
    let path = |n: usize| blob_of("library/app", &image.layers[n].digest);
    let is_sent = |answer: Response| answer.status == 307;
    assert!(is_sent(mirror.get(&path(0)).await));
    scene.bucket.fault(&["GET"], "/blobs/", Fault::Status(403));
    // Nobody reads it through us: that it gives none is seen all the same.
    until_told(&mirror, DEGRADED).await;
    let answer = mirror.get(&path(1)).await;
    assert!(answer.status == 200 && answer.complete, "{}", answer.status);
    scene.bucket.heal();
    until_told(&mirror, "ok\n").await;
    assert!(is_sent(mirror.get(&path(2)).await));
}

#[tokio::test]
async fn where_upstream_is_gone_it_is_asked_all_the_same() {
    let mut scene = Scene::set().await;
    let image = layers(&scene, 1500, LAYERS).await;
    let mirror = scene.settings().config(PATIENCE).start().await;
    scene.bucket.fault(&["GET"], "/blobs/", Fault::Status(503));
    for layer in &image.layers[..3] {
        assert_eq!(mirror.get(&blob_of("library/app", &layer.digest)).await.status, 200);
    }
    scene.bucket.heal();
    scene.registry.stop().await;
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let manifest = mirror.get_with(&by_digest, &[crate::MANIFEST_TYPES]).await;
    assert_eq!((manifest.status, outcome(&manifest).as_str()), (200, "tier"));
    for layer in &image.layers[3..] {
        let answer = mirror.get(&blob_of("library/app", &layer.digest)).await;
        assert!(answer.complete && outcome(&answer) == "tier", "{}", String::from_utf8_lossy(&answer.body));
    }
}

#[tokio::test]
async fn while_blobs_are_not_taken_it_is_told_however_many_names_are() {
    let scene = Scene::set().await;
    let image = scene.image(1600);
    scene.bucket.fault(&["PUT"], &key_of(&image.layers[0].digest), Fault::Status(403));
    let mirror = scene.replica().await;
    pull(&mirror, &image).await;
    until_told(&mirror, DEGRADED).await;
    // Names go up meanwhile, and the trouble stays.
    let another = scene.registry.add_image("library/another", "1", &[noise(1610, 100)]);
    let path = format!("/v2/library/another/manifests/{}", another.manifest.digest);
    assert_eq!(mirror.get_with(&path, &[crate::MANIFEST_TYPES]).await.status, 200);
    scene.bucket.has(&crate::link_of("library/another", &another.manifest.digest)).await;
    assert_eq!(readyz(&mirror).await, DEGRADED);
    assert!(errors(&mirror).await > 0);
    scene.bucket.heal();
    up(&scene, &image).await;
    until_told(&mirror, "ok\n").await;
}

#[tokio::test]
async fn how_the_bucket_is_is_known_soon_after_a_start_and_while_nobody_uses_it() {
    for fault in [Fault::Stall, Fault::Hang, Fault::Status(503), Fault::Status(403), Fault::NoBucket] {
        let scene = Scene::set().await;
        scene.bucket.fault(&[], "", fault);
        let begun = Instant::now();
        let mirror = scene.settings().config("cache.patience = \"1s\"").start().await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", begun.elapsed());
        assert_eq!(readyz(&mirror).await, DEGRADED, "{fault:?}: it is not called well before anybody has looked");
        until_told(&mirror, DEGRADED).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{fault:?}: {:?}", begun.elapsed());
        while errors(&mirror).await == 0 {
            tokio::task::yield_now().await;
        }
    }
    let scene = Scene::set().await;
    let mirror = scene.settings().config(PATIENCE).start().await;
    until_told(&mirror, "ok\n").await;
    for fault in [Fault::Hang, Fault::Status(403)] {
        scene.bucket.fault(&["GET"], "", fault);
        until_told(&mirror, DEGRADED).await;
        scene.bucket.heal();
        until_told(&mirror, "ok\n").await;
    }
    assert!(scene.registry.requests().iter().all(|request| !Match::manifests().matches(request)));
}
