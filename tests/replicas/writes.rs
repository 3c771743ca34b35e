//! A bucket that gives what it has and takes nothing: nobody who reads waits for what is written.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::{Image, noise};

use crate::leases::{bucket_of, has_leases};
use crate::trouble::readyz;
use crate::unwell::{DEGRADED, LAYERS, PATIENCE, layers, until_told};
use crate::{MANIFEST_TYPES, Scene, TAG, before_long, blob_of, is_pointer, key_of, link_of, outcome, pull, up};

const WRITES: &[&str] = &["PUT", "POST", "DELETE"];

/// Of which layers a lease was asked for since `before`.
fn leases_asked_for(scene: &Scene, image: &Image, before: usize) -> BTreeSet<String> {
    let is_of = |key: &str| image.layers.iter().any(|layer| key.contains(&layer.digest.to_string()[7..]));
    let asked = scene.bucket.requests().into_iter().skip(before);
    asked.filter(|(how, key)| how == "PUT" && key.contains("/fills/") && is_of(key)).map(|(_, key)| key).collect()
}

#[tokio::test]
async fn what_is_read_never_waits_for_what_is_written() {
    let faults =
        [Fault::Stall, Fault::Status(503), Fault::Status(403), Fault::Hang, Fault::Slow(Duration::from_secs(8))];
    for (n, fault) in faults.into_iter().enumerate() {
        for is_before_start in [true, false] {
            let mut scene = Scene::set().await;
            let image = layers(&scene, 2000 + 40 * n as u64, LAYERS).await;
            if is_before_start {
                scene.bucket.fault(WRITES, "", fault);
            }
            let (mirror, _door) = scene.behind_a_door(PATIENCE).await;
            if !is_before_start {
                has_leases(&mirror).await;
                scene.bucket.fault(WRITES, "", fault);
            }
            scene.registry.stop().await;
            let begun = Instant::now();
            let outcomes = pull(&mirror, &image).await;
            assert!(outcomes[1..].iter().all(|outcome| outcome == "tier"), "{fault:?} {is_before_start}: {outcomes:?}");
            let elapsed = begun.elapsed();
            assert!(elapsed < Duration::from_secs(3) * 4, "{fault:?} {is_before_start}: {elapsed:?}");
        }
    }
}

#[tokio::test]
async fn a_lease_that_is_not_taken_is_waited_for_twice_and_not_for_each_layer() {
    let slow = Fault::Slow(Duration::from_secs(8));
    let faults = [
        ("", Fault::Stall),
        ("/fills/", Fault::Stall),
        ("", Fault::Status(503)),
        ("/fills/", Fault::Status(403)),
        ("", Fault::Hang),
        ("", slow),
    ];
    for (n, (part, fault)) in faults.into_iter().enumerate() {
        let scene = Scene::set().await;
        let (mirror, _door) = scene.behind_a_door(PATIENCE).await;
        has_leases(&mirror).await;
        let contents: Vec<_> = (0..LAYERS + 2).map(|layer| noise(2300 + 40 * n as u64 + layer, 150_000)).collect();
        let image = scene.registry.add_image("library/app", "1", &contents);
        scene.bucket.fault(&["PUT"], part, fault);
        let (before, begun) = (scene.bucket.requests().len(), Instant::now());
        assert_eq!(pull(&mirror, &image).await.len(), image.layers.len() + 2);
        let elapsed = begun.elapsed();
        let waited_for = leases_asked_for(&scene, &image, before);
        assert!(waited_for.len() <= 2, "{part} {fault:?}: {waited_for:?}");
        assert!(elapsed < Duration::from_secs(3) * 4, "{part} {fault:?}: {elapsed:?}");
        assert_eq!(readyz(&mirror).await, DEGRADED, "{part} {fault:?}");
        let told = bucket_of(&mirror).await["trouble"].to_string();
        assert!(
            ["it does not take what is written", "it takes no leases", "the bucket"]
                .iter()
                .any(|why| told.contains(why)),
            "{part} {fault:?}: {told}"
        );
        scene.bucket.heal();
        before_long("it is well again", until_told(&mirror, "ok\n")).await;
        before_long("there are leases again", has_leases(&mirror)).await;
        before_long("what is owed", up(&scene, &image)).await;
    }
}

#[tokio::test]
async fn who_waited_in_vain_for_whether_there_are_leases_waits_for_none_of_them() {
    let scene = Scene::set().await;
    // Each too soon to be trouble, and all that is tried at a start together longer than a reader is patient.
    scene.bucket.fault(WRITES, "", Fault::Slow(Duration::from_millis(700)));
    let (mirror, _door) = scene.behind_a_door(PATIENCE).await;
    let contents: Vec<_> = (0..LAYERS).map(|layer| noise(2800 + layer, 1000)).collect();
    let image = scene.registry.add_image("library/app", "1", &contents);
    let (first, others) = image.layers.split_first().expect("layers");
    assert!(mirror.get(&blob_of("library/app", &first.digest)).await.complete);
    let tried = async {
        while bucket_of(&mirror).await["conditions_hold"].is_null() {
            tokio::task::yield_now().await;
        }
    };
    before_long("it is known whether there may be leases", tried).await;
    for layer in others {
        assert!(mirror.get(&blob_of("library/app", &layer.digest)).await.complete);
    }
    let asked = leases_asked_for(&scene, &image, 0);
    assert!(asked.is_empty(), "{asked:?}");
}

#[tokio::test]
async fn an_act_that_is_not_taken_in_time_fails_soon_and_one_that_is_taken_slowly_is_done() {
    let image = "app:1".parse().expect("a name");
    let scene = Scene::set().await;
    let mirror = scene.settings().config("cache.patience = \"1s\"").start().await;
    until_told(&mirror, "ok\n").await;
    scene.bucket.fault(WRITES, "", Fault::Slow(Duration::from_millis(1200)));
    mirror.mirror.pin(&image).await.expect("it is taken");
    scene.bucket.heal();
    scene.bucket.fault(WRITES, "", Fault::Stall);
    for is_known in [false, true] {
        let begun = Instant::now();
        assert!(mirror.mirror.unpin(&image).await.is_err(), "the other replicas are not told");
        assert!(begun.elapsed() < Duration::from_secs(10), "{is_known}: {:?}", begun.elapsed());
    }
    scene.bucket.heal();
    let unpinned = async {
        while mirror.mirror.unpin(&image).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    before_long("it is done when it is tried again", unpinned).await;
}

#[tokio::test]
async fn a_bucket_is_not_called_well_at_a_start_before_it_took_anything() {
    let scene = Scene::set().await;
    scene.bucket.fault(WRITES, "", Fault::Stall);
    let mirror = scene.settings().config("cache.patience = \"8s\"").start().await;
    let looks = || scene.bucket.requests().iter().filter(|(_, key)| key.ends_with("probe/present")).count();
    // When it looks again the first look is over.
    while looks() < 2 {
        assert_eq!(readyz(&mirror).await, DEGRADED);
        tokio::task::yield_now().await;
    }
    scene.bucket.heal();
    before_long("it takes what is written", until_told(&mirror, "ok\n")).await;
}

#[tokio::test]
async fn where_conditions_cannot_be_tried_at_the_start_they_are_soon_after_writes_are_back() {
    let scene = Scene::set().await;
    scene.bucket.fault(WRITES, "", Fault::Status(503));
    let (mirror, _door) = scene.behind_a_door(PATIENCE).await;
    until_told(&mirror, DEGRADED).await;
    let image = scene.image(2600);
    assert_eq!(pull(&mirror, &image).await.len(), 4);
    assert_eq!(mirror.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
    scene.bucket.heal();
    let begun = Instant::now();
    before_long("there are leases", has_leases(&mirror)).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    up(&scene, &image).await;
    until_told(&mirror, "ok\n").await;
    let answer = mirror.get(&blob_of("library/app", &image.layers[0].digest)).await;
    assert_eq!(outcome(&answer), "hit");
}

#[tokio::test]
async fn names_and_other_content_do_not_wait_for_content_that_is_refused_for_good() {
    let scene = Scene::set().await;
    let layers: Vec<_> = (0..LAYERS).map(|layer| noise(2700 + layer, 1000)).collect();
    let image = scene.registry.add_image("library/app", "1", &layers);
    for layer in &image.layers[..6] {
        scene.bucket.fault(&["PUT"], &key_of(&layer.digest), Fault::Status(403));
    }
    let mirror = scene.replica().await;
    pull(&mirror, &image).await;
    let others = async {
        for blob in image.blobs().chain([&image.manifest]) {
            scene.bucket.has(&link_of("library/app", &blob.digest)).await;
        }
        for blob in [&image.layers[6], &image.layers[7], &image.config, &image.manifest] {
            scene.bucket.has(&key_of(&blob.digest)).await;
        }
        scene.bucket.until(|bucket| bucket.keys().iter().any(|key| is_pointer(key))).await;
    };
    before_long("all else goes up", others).await;
    assert_eq!(readyz(&mirror).await, DEGRADED);
    scene.bucket.heal();
    up(&scene, &image).await;
}
