//! The bucket away: pulls go on, and nothing is lost.

use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::client;
use scripted_registry::noise;

use crate::{Scene, before_long, blob_of, is_pointer, key_of, pull, up};

pub(crate) async fn readyz(mirror: &crate::TestMirror) -> String {
    let answer = client::get(mirror.admin, "/readyz", &[]).await;
    assert_eq!(answer.status, 200);
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[tokio::test]
async fn while_the_bucket_is_away_pulls_go_on_and_when_it_is_back_nothing_is_lost() {
    for fault in [Fault::Stall, Fault::Hang, Fault::Status(503)] {
        let scene = Scene::set().await;
        scene.bucket.fault(&[], "", fault);
        let image = scene.image(60);
        let mirror = scene.settings().config("cache.patience = \"200ms\"").start().await;
        let begun = Instant::now();
        assert_eq!(pull(&mirror, &image).await, ["fill", "fill", "fill", "fill"]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", begun.elapsed());
        mirror.settled().await;
        let again = Instant::now();
        assert_eq!(pull(&mirror, &image).await, ["hit", "hit", "hit", "hit"]);
        assert!(again.elapsed() < Duration::from_secs(1), "{fault:?}: what is here asks nobody");
        while readyz(&mirror).await != "ok: degraded (bucket)\n" {
            tokio::task::yield_now().await;
        }
        assert!(scene.bucket.keys().is_empty());
        scene.bucket.heal();
        up(&scene, &image).await;
        while readyz(&mirror).await != "ok\n" {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_is_owed_survives_a_restart() {
    let scene = Scene::set().await;
    scene.bucket.fault(&[], "", Fault::Hang);
    let image = scene.image(70);
    let mirror = scene.settings().config("cache.patience = \"200ms\"").start().await;
    pull(&mirror, &image).await;
    let settings = mirror.stop().await;
    scene.bucket.heal();
    let _again = settings.start().await;
    before_long("what was owed before the restart", up(&scene, &image)).await;
}

#[tokio::test]
async fn an_upload_that_failed_is_aborted_and_done_again() {
    let scene = Scene::set().await;
    let bytes = noise(80, 20 << 20);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    scene.bucket.fault(&["PUT"], &key_of(&digest), Fault::Status(403));
    let mirror = scene.replica().await;
    assert!(mirror.get(&blob_of("library/app", &digest)).await.body == bytes);
    let tried = |bucket: &scripted_registry::bucket::Bucket| {
        bucket.requests().iter().any(|(method, key)| method == "DELETE" && *key == key_of(&digest))
    };
    scene.bucket.until(tried).await;
    assert!(scene.bucket.object(&key_of(&digest)).is_none(), "no half of it");
    scene.bucket.heal();
    scene.bucket.has(&key_of(&digest)).await;
    assert!(scene.bucket.object(&key_of(&digest)).unwrap() == bytes);
    assert_eq!(scene.bucket.uploads(), 0);
}

#[tokio::test]
async fn what_a_stop_left_of_an_upload_is_aborted_at_the_next_start() {
    let scene = Scene::set().await;
    let bytes = noise(81, 20 << 20);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    scene.bucket.fault(&["PUT"], &key_of(&digest), Fault::Stall);
    let mirror = scene.replica().await;
    assert!(mirror.get(&blob_of("library/app", &digest)).await.body == bytes);
    // That it began is written down before the first part goes.
    let sends = |(method, key): &(String, String)| method == "PUT" && key.contains(&key_of(&digest));
    scene.bucket.until(|bucket| bucket.requests().iter().any(sends)).await;
    let settings = mirror.stop().await;
    assert_eq!(scene.bucket.uploads(), 1);
    scene.bucket.heal();
    let _again = settings.start().await;
    scene.bucket.has(&key_of(&digest)).await;
    // Neither the first nor the second is left.
    scene.bucket.until(|bucket| bucket.uploads() == 0).await;
}

#[tokio::test]
async fn an_answer_that_was_lost_does_no_harm() {
    let scene = Scene::set().await;
    let image = scene.image(90);
    scene.bucket.fault(&["PUT"], "", Fault::LoseAnswer);
    let mirror = scene.replica().await;
    pull(&mirror, &image).await;
    scene.bucket.has(&key_of(&image.manifest.digest)).await;
    scene.bucket.heal();
    up(&scene, &image).await;
}

#[tokio::test]
async fn with_a_store_that_lies_about_conditions_all_stays_right() {
    let mut scene = Scene::set().await;
    scene.bucket.lie();
    let image = scene.image(95);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.registry.stop().await;
    pull(&scene.replica().await, &image).await;
    assert!(scene.bucket.keys().iter().any(|key| is_pointer(key)));
}

#[tokio::test]
async fn without_a_bucket_there_is_no_list_of_what_is_owed() {
    let scene = Scene::set().await;
    let image = scene.image(99);
    let mirror = crate::TestMirror::of(&scene.registry).await;
    pull(&mirror, &image).await;
    assert!(!mirror.store().join("owed").exists());
    assert!(scene.bucket.requests().is_empty());
    assert_eq!(readyz(&mirror).await, "ok\n");
}

#[tokio::test]
async fn a_bucket_that_answers_slowly_delays_no_pull_beyond_patience_the_first_ones_included() {
    // A third of what clients wait: no answer of it is too late by itself.
    const PATIENCE: Duration = Duration::from_millis(2400);
    const EACH: Duration = Duration::from_millis(800);
    let scene = Scene::set().await;
    let image = scene.image(65);
    let (mirror, _door) = scene.behind_a_door("cache.patience = \"2400ms\"").await;
    crate::leases::has_leases(&mirror).await;
    scene.bucket.fault(&[], "", Fault::Slow(EACH));
    let begun = Instant::now();
    assert_eq!(pull(&mirror, &image).await, ["fill", "fill", "fill", "fill"]);
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(readyz(&mirror).await, "ok: degraded (bucket)\n");
    scene.bucket.heal();
    up(&scene, &image).await;
}

#[tokio::test]
async fn each_look_up_waits_for_a_bucket_with_holes_no_longer_than_for_one_answer() {
    const PATIENCE: Duration = Duration::from_secs(2);
    let scene = Scene::set().await;
    let image = scene.image(66);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let newer = scene.registry.add_image("library/app", "1", &[noise(67, 300_000)]);
    let (mirror, _door) = scene.behind_a_door("cache.patience = \"2s\"\ncache.tag_ttl = \"0s\"").await;
    crate::leases::has_leases(&mirror).await;
    // What names others have is told at once, and nothing else ever.
    for part in ["_denied", "_frozen", "/fills/", "_links", "/blobs/"] {
        scene.bucket.fault(&[], part, Fault::Stall);
    }
    let head = scripted_registry::client::head(mirror.address, crate::TAG, &[crate::MANIFEST_TYPES]);
    let begun = Instant::now();
    assert_eq!(head.await.status, 200);
    assert!(begun.elapsed() < 2 * PATIENCE, "HEAD: {:?}", begun.elapsed());
    let begun = Instant::now();
    pull(&mirror, &newer).await;
    let look_ups = u32::try_from(newer.blobs().count() + 1).unwrap();
    assert!(begun.elapsed() < PATIENCE * look_ups * 3 / 2, "{:?}", begun.elapsed());
}
