//! A bucket, or a replica, that gives bytes and gives too few: upstream gives the rest, where it is there.

use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::{Gate, Match, Rule, client, noise};

use crate::door::Bend;
use crate::leases::replicas;
use crate::unwell::{DEGRADED, until_told};
use crate::{MANIFEST_TYPES, Scene, TAG, before_long, blob_of, key_of, pull, up};

const TAGS: &str = "/v2/library/app/tags/list";

/// How many bytes a second come of what is slow.
const RATE: usize = 50_000;
/// The same where it has to be waited for, and how many bytes a layer has.
const WAITED_FOR: usize = 300_000;
const LAYER: usize = 1_500_000;
/// However busy the machine is that tests, the bucket is not away.
const PATIENCE: &str = "cache.patience = \"3s\"";

#[tokio::test]
async fn what_comes_slowly_from_the_bucket_goes_on_from_upstream_and_is_waited_for_where_that_is_not_there() {
    for how in ["there", "gone", "silent", "offline"] {
        let mut scene = Scene::set().await;
        let image = scene.registry.add_image("library/app", "1", &[noise(700, LAYER)]);
        let layer = &image.layers[0].digest;
        let first = scene.replica().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        drop(first.stop().await);
        let mode = if how == "offline" { "\ncache.mode = \"offline\"" } else { "" };
        let second = scene.settings().config(&format!("{PATIENCE}{mode}")).start().await;
        let gate = Gate::new();
        match how {
            "gone" => scene.registry.stop().await,
            "silent" => scene.registry.rule(Rule::on(Match::any()).stall_before_headers(&gate)),
            _ => {}
        }
        scene.registry.forget_requests();
        scene.bucket.fault(&["GET"], &key_of(layer), Fault::Drip(if how == "there" { RATE } else { WAITED_FOR }));
        let begun = Instant::now();
        let mut stream = second.stream(&blob_of("library/app", layer)).await;
        let early = stream.read_exactly(1).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{how}: {:?}", begun.elapsed());
        let rest = stream.finish().await;
        assert!(
            rest.complete && [&early[..], &rest.body].concat() == scene.bucket.object(&key_of(layer)).unwrap(),
            "{how}"
        );
        let asked = scene.registry.requests();
        let asked: Vec<_> = asked.iter().filter(|request| Match::blob(layer).matches(request)).collect();
        if how == "there" {
            let all = Duration::from_secs((LAYER / RATE) as u64);
            assert!(begun.elapsed() < all / 2, "{:?}", begun.elapsed());
            assert!(asked.len() == 1 && asked[0].header("range").is_some(), "only the rest: {asked:?}");
        } else {
            assert!(begun.elapsed() > Duration::from_secs(4), "{how}: {:?}", begun.elapsed());
        }
        gate.open();
    }
}

#[tokio::test]
async fn who_follows_a_replica_that_gives_too_little_asks_upstream_for_the_rest_once_for_all() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 3).await;
    let bytes = noise(710, 2_000_000);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    let path = blob_of("library/app", &digest);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&digest).get()).once().stall_after(1_900_000, &gate));
    let first = replicas[0].0.stream(&path).await;
    scene.bucket.until(|bucket| bucket.keys().iter().any(|key| key.contains("/fills/"))).await;
    replicas[0].1.bend(Bend::Drip(RATE));
    let begun = Instant::now();
    let others = replicas[1..].iter().map(|(mirror, _)| mirror.get(&path));
    for answer in futures_util::future::join_all(others).await {
        assert!(answer.complete && answer.body == bytes);
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let gets = scene.registry.requests().into_iter().filter(|request| Match::blob(&digest).get().matches(request));
    let ranges: Vec<_> = gets.map(|request| request.header("range").map(str::to_owned)).collect();
    assert!(matches!(&ranges[..], [None, Some(_)]), "the second asks for the rest: {ranges:?}");
    gate.open();
    first.finish().await;
}

#[tokio::test]
async fn who_follows_a_slow_replica_goes_on_where_upstream_is_gone() {
    let mut scene = Scene::set().await;
    let replicas = replicas(&scene, 2).await;
    let bytes = noise(720, 1_000_000);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    let path = blob_of("library/app", &digest);
    // All of it comes, and goes up when it may.
    scene.bucket.fault(&["PUT"], &key_of(&digest), Fault::Status(403));
    assert!(replicas[0].0.get(&path).await.body == bytes);
    scene.registry.stop().await;
    replicas[0].1.bend(Bend::Drip(RATE));
    let answer = replicas[1].0.get(&path).await;
    assert!(answer.complete && answer.body == bytes);
}

#[tokio::test]
async fn who_has_nobody_else_is_served_by_a_bucket_that_answers_slowly() {
    let served = ["gone", "found to be gone", "offline"].map(|how| async move {
        let mut scene = Scene::set().await;
        let image = scene.image(720);
        let first = scene.replica().await;
        pull(&first, &image).await;
        let tags = first.get(TAGS).await.body;
        up(&scene, &image).await;
        scene.bucket.until(|bucket| bucket.keys().iter().any(|key| key.contains("/_lists/"))).await;
        drop(first.stop().await);
        let mode = if how == "offline" { "\ncache.mode = \"offline\"" } else { "" };
        let second = scene.settings().config(&format!("{PATIENCE}{mode}")).start().await;
        // A third of what clients wait is no help beside an upstream.
        scene.bucket.fault(&["GET", "HEAD"], "", Fault::Slow(Duration::from_secs(1)));
        before_long("it is too slow to be of help", until_told(&second, DEGRADED)).await;
        if how != "offline" {
            scene.registry.stop().await;
        }
        if how == "gone" {
            assert_eq!(second.get("/v2/library/app/manifests/2").await.status, 503);
        }
        if how != "found to be gone" {
            let layer = blob_of("library/app", &image.layers[0].digest);
            let size = client::request(second.address, "HEAD", &layer, &[]).await;
            assert_eq!((size.status, how), (200, how));
            let head = client::request(second.address, "HEAD", TAG, &[MANIFEST_TYPES]).await;
            assert_eq!((head.status, how), (200, how));
            let answer = second.get(TAGS).await;
            assert_eq!((answer.status, &answer.body), (200, &tags), "{how}");
        }
        assert_eq!(pull(&second, &image).await.len(), 4, "{how}");
    });
    futures_util::future::join_all(served).await;
}

#[tokio::test]
async fn a_bucket_that_answers_late_costs_a_pull_of_many_layers_the_patience_of_one_reader() {
    let scene = Scene::set().await;
    let mirror = scene.settings().config(PATIENCE).start().await;
    before_long("it is well", until_told(&mirror, "ok\n")).await;
    let contents: Vec<_> = (0..22).map(|n| noise(740 + n, 1000)).collect();
    let image = scene.registry.add_image("library/app", "1", &contents);
    // Less than a quarter of what clients wait.
    scene.bucket.fault(&["GET", "HEAD"], "", Fault::Slow(Duration::from_millis(500)));
    let begun = Instant::now();
    pull(&mirror, &image).await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    before_long("that is known", until_told(&mirror, DEGRADED)).await;
    before_long("what is owed goes up all the same", up(&scene, &image)).await;
    scene.bucket.heal();
    before_long("it is well again", until_told(&mirror, "ok\n")).await;
}

#[tokio::test]
async fn a_bucket_that_is_a_little_away_gives_all_it_has() {
    let scene = Scene::set().await;
    let contents: Vec<_> = (0..22).map(|n| noise(770 + n, 1000)).collect();
    let image = scene.registry.add_image("library/app", "1", &contents);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    scene.bucket.fault(&["GET", "HEAD"], "", Fault::Slow(Duration::from_millis(100)));
    let second = scene.settings().config(PATIENCE).start().await;
    assert!(pull(&second, &image).await.iter().all(|outcome| outcome == "tier"));
}

#[tokio::test]
async fn what_trickles_from_the_bucket_is_not_waited_for_where_nobody_else_gives_it_either() {
    let mut scene = Scene::set().await;
    let image = scene.image(800);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let second = scene.settings().config(PATIENCE).start().await;
    scene.registry.stop().await;
    let layer = &image.layers[0].digest;
    scene.bucket.fault(&["GET"], &key_of(layer), Fault::Drip(5));
    let begun = Instant::now();
    assert!(!second.get(&blob_of("library/app", layer)).await.complete);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}
