//! Tags, histories, pins, frozen tags and denials, as all replicas know them.

use std::time::Duration;

use futures_util::future::join_all;
use registry_mirror::oci::ImageName;
use scripted_registry::bucket::Fault;
use scripted_registry::{Gate, Match, Rule, noise};

use crate::{MANIFEST_TYPES, Scene, TAG, blob_of, is_pointer, key_of, pull, up};

fn app() -> ImageName {
    "app:1".parse().expect("a name")
}

#[tokio::test]
async fn of_two_replicas_one_asks_upstream_where_a_tag_is_no_longer_fresh() {
    let scene = Scene::set().await;
    let image = scene.image(110);
    let (first, second) = (scene.replica().await, scene.replica().await);
    pull(&first, &image).await;
    up(&scene, &image).await;
    pull(&second, &image).await;
    let newer = scene.registry.add_image("library/app", "1", &[noise(115, 500)]);
    first.advance(Duration::from_secs(400));
    second.advance(Duration::from_secs(401));
    pull(&first, &newer).await;
    let moved = |bucket: &scripted_registry::bucket::Bucket| {
        let pointers = bucket.keys().into_iter().filter(|key| is_pointer(key));
        let newest = newer.manifest.digest.to_string();
        pointers.filter_map(|key| bucket.object(&key)).any(|object| String::from_utf8_lossy(&object).contains(&newest))
    };
    scene.bucket.until(moved).await;
    up(&scene, &newer).await;
    scene.registry.forget_requests();
    let answer = second.get_with(TAG, &[MANIFEST_TYPES]).await;
    assert_eq!(answer.header("docker-content-digest"), Some(&*newer.manifest.digest.to_string()));
    assert_eq!(scene.registry.count_of(&Match::manifests()), 0);
}

#[tokio::test]
async fn an_older_pointer_never_takes_the_place_of_a_newer_one() {
    let scene = Scene::set().await;
    let image = scene.image(120);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let key = scene.bucket.keys().into_iter().find(|key| is_pointer(key)).unwrap();
    let mut newer: serde_json::Value = serde_json::from_slice(&scene.bucket.object(&key).unwrap()).unwrap();
    let later = newer["checked_at"].as_u64().unwrap() + 3_600_000;
    newer["checked_at"] = later.into();
    // Seconds that clocks may be apart, and no more: beyond, it is not believed.
    newer["observed_at"] = (newer["observed_at"].as_u64().unwrap() + 4_900).into();
    scene.bucket.put(&key, newer.to_string());
    // Asks again, and knows less than what is there.
    first.advance(Duration::from_secs(1000));
    let tag = scene.registry.add_image("library/app", "2", &[noise(125, 100)]);
    assert_eq!(first.get_with("/v2/library/app/manifests/1", &[MANIFEST_TYPES]).await.status, 200);
    assert_eq!(first.get_with("/v2/library/app/manifests/2", &[MANIFEST_TYPES]).await.status, 200);
    scene.bucket.has(&crate::link_of("library/app", &tag.manifest.digest)).await;
    let there: serde_json::Value = serde_json::from_slice(&scene.bucket.object(&key).unwrap()).unwrap();
    assert_eq!(there["checked_at"], later);
}

#[tokio::test]
async fn what_was_seen_while_the_clock_of_the_store_was_wrong_gives_way_to_what_is_seen_later() {
    let mut scene = Scene::set().await;
    let image = scene.image(126);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let key = scene.bucket.keys().into_iter().find(|key| is_pointer(key)).unwrap();
    let mut wrong: serde_json::Value = serde_json::from_slice(&scene.bucket.object(&key).unwrap()).unwrap();
    wrong["observed_at"] = (wrong["observed_at"].as_u64().unwrap() + 600_000).into();
    scene.bucket.put(&key, wrong.to_string());
    let (second, third) = (scene.replica().await, scene.replica().await);
    pull(&second, &image).await;
    pull(&third, &image).await;
    let newer = scene.registry.add_image("library/app", "1", &[noise(129, 500)]);
    second.advance(Duration::from_secs(400));
    pull(&second, &newer).await;
    up(&scene, &newer).await;
    let digest = newer.manifest.digest.to_string();
    let is_newer = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).contains(&digest);
    let written_over = scene.bucket.until(|bucket| bucket.object(&key).is_some_and(is_newer));
    tokio::time::timeout(Duration::from_secs(30), written_over).await.expect("it is written over");
    second.advance(Duration::from_secs(400));
    scene.registry.stop().await;
    third.advance(Duration::from_secs(400));
    for replica in [second.restart().await, third, scene.replica().await] {
        pull(&replica, &newer).await;
    }
}

#[tokio::test]
async fn history_comes_with_the_tag_and_has_what_all_saw() {
    let scene = Scene::set().await;
    let image = scene.image(130);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let second = scene.replica().await;
    second.advance(Duration::from_secs(10));
    pull(&second, &image).await;
    let newer = scene.registry.add_image("library/app", "1", &[noise(135, 500)]);
    second.advance(Duration::from_secs(400));
    pull(&second, &newer).await;
    let history = |bucket: &scripted_registry::bucket::Bucket| {
        let key = "mirror/repositories/docker.io/library/app/_tags/1/history";
        bucket.object(key).map(|object| String::from_utf8_lossy(&object).lines().count())
    };
    scene.bucket.until(|bucket| history(bucket) == Some(2)).await;
    // What the tag points at goes up by itself, and may come later.
    let digest = newer.manifest.digest.to_string();
    let has_come = |bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).contains(&digest);
    let come = |bucket: &scripted_registry::bucket::Bucket| {
        bucket.keys().iter().any(|key| is_pointer(key) && bucket.object(key).is_some_and(has_come))
    };
    scene.bucket.until(come).await;
    let third = scene.replica().await;
    third.advance(Duration::from_secs(420));
    pull(&third, &newer).await;
    let known = third.mirror.history(&app()).await.expect("a history");
    assert_eq!(known.history.len(), 2);
}

#[tokio::test]
async fn pins_and_frozen_tags_hold_on_every_replica() {
    let mut scene = Scene::set().await;
    let image = scene.image(140);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    first.mirror.freeze(&app(), None).await.expect("frozen");
    first.mirror.pin(&app()).await.expect("pinned");
    scene.bucket.has("mirror/repositories/docker.io/library/app/_frozen/1").await;
    scene.bucket.has("mirror/repositories/docker.io/library/app/_pins/1").await;
    let newer = scene.registry.add_image("library/app", "1", &[noise(145, 500)]);
    let second = scene.replica().await;
    pull(&second, &image).await;
    while !second.store().join("repositories/docker.io/library/app/_pins/1").exists() {
        tokio::task::yield_now().await;
    }
    first.mirror.unfreeze(&app()).await.expect("it was frozen");
    first.mirror.unpin(&app()).await.expect("it was pinned");
    let gone = |bucket: &scripted_registry::bucket::Bucket| {
        !bucket.keys().iter().any(|key| key.contains("_frozen") || key.contains("_pins"))
    };
    scene.bucket.until(gone).await;
    let third = scene.replica().await;
    third.advance(Duration::from_secs(400));
    scene.bucket.advance(Duration::from_secs(400));
    pull(&third, &newer).await;
    scene.registry.stop().await;
}

#[tokio::test]
async fn what_upstream_denies_to_all_no_replica_serves() {
    let scene = Scene::set().await;
    let image = scene.image(150);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.registry.rule(Rule::on(Match::repository("library/app")).refuse(403));
    first.advance(Duration::from_secs(400));
    assert_ne!(first.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
    scene.bucket.has("mirror/repositories/docker.io/library/app/_denied").await;
    let second = scene.replica().await;
    for digest in image.blobs().map(|blob| blob.digest) {
        assert_ne!(second.get(&blob_of("library/app", &digest)).await.status, 200);
    }
    assert_ne!(second.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
}

#[tokio::test]
async fn nothing_is_taken_over_of_a_repository_while_it_is_not_known_whether_it_is_denied() {
    let mut scene = Scene::set().await;
    let image = scene.image(160);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.registry.stop().await;
    scene.bucket.fault(&["GET"], "_denied", Fault::Status(403));
    let second = scene.replica().await;
    let path = blob_of("library/app", &image.layers[0].digest);
    assert_eq!(second.get(&path).await.status, 503);
    assert_eq!(second.get_with(TAG, &[MANIFEST_TYPES]).await.status, 503);
    scene.bucket.heal();
    assert_eq!(second.get(&path).await.status, 200);
    assert_eq!(second.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
}

#[tokio::test]
async fn what_is_asked_for_on_one_replica_reaches_those_that_run() {
    let scene = Scene::set().await;
    let image = scene.image(170);
    let (first, second) = (scene.replica().await, scene.replica().await);
    pull(&first, &image).await;
    up(&scene, &image).await;
    pull(&second, &image).await;
    let newer = scene.registry.add_image("library/app", "1", &[noise(175, 500)]);
    let pinned =
        |mirror: &crate::TestMirror| mirror.store().join("repositories/docker.io/library/app/_pins/1").exists();
    first.mirror.freeze(&app(), None).await.expect("frozen");
    first.mirror.pin(&app()).await.expect("pinned");
    second.advance(Duration::from_secs(400));
    pull(&second, &image).await;
    assert!(pinned(&second));
    first.mirror.unfreeze(&app()).await.expect("it was frozen");
    assert!(first.mirror.unpin(&app()).await.expect("it was pinned"));
    pull(&second, &image).await;
    second.advance(Duration::from_secs(31));
    pull(&second, &newer).await;
    assert!(!pinned(&second));
}

#[tokio::test]
async fn an_act_that_the_bucket_cannot_take_changes_nothing() {
    let scene = Scene::set().await;
    let image = scene.image(180);
    let mirror = scene.settings().config("cache.patience = \"200ms\"").start().await;
    pull(&mirror, &image).await;
    up(&scene, &image).await;
    let folder = mirror.store().join("repositories/docker.io/library/app");
    let state = || ["_pins/1", "_frozen/1", "_tags/1"].map(|name| folder.join(name).exists());
    let owed = |mirror: &crate::TestMirror| {
        let list = std::fs::read_to_string(mirror.store().join("owed")).expect("a list");
        list.lines().filter(|line| line.starts_with("a ") || line.contains("_pins") || line.contains("_frozen")).count()
    };
    for is_done in [false, true] {
        for fault in [Fault::Hang, Fault::Stall, Fault::Status(403), Fault::NoBucket] {
            let before = (state(), owed(&mirror));
            assert_eq!(before.0, [is_done, is_done, true]);
            scene.bucket.fault(&[], "", fault);
            assert!(mirror.mirror.pin(&app()).await.is_err(), "{fault:?}");
            assert!(mirror.mirror.unpin(&app()).await.is_err(), "{fault:?}");
            assert!(mirror.mirror.freeze(&app(), None).await.is_err(), "{fault:?}");
            assert!(mirror.mirror.unfreeze(&app()).await.is_err(), "{fault:?}");
            assert!(mirror.mirror.forget(&app()).await.is_err(), "{fault:?}");
            let headers = [("X-Registry-Mirror", "1")];
            let order = "{\"images\":[\"app:1\"]}";
            let answer = scripted_registry::client::post(mirror.socket(), "/api/v1/pin", &headers, order).await;
            assert_eq!(answer.status, 500, "{fault:?}");
            assert_eq!((state(), owed(&mirror)), before, "{fault:?}");
            scene.bucket.heal();
            while mirror.mirror.history(&app()).await.is_err() || mirror.mirror.unpin(&image_of_nobody()).await.is_err()
            {
                tokio::task::yield_now().await;
            }
        }
        if !is_done {
            while mirror.mirror.pin(&app()).await.is_err() || mirror.mirror.freeze(&app(), None).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    }
    // It may be left alone for a moment more, on a busy machine.
    let forgotten = loop {
        match mirror.mirror.forget(&app()).await {
            Ok(forgotten) => break forgotten,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert!(forgotten.changed);
    assert_eq!(state()[..2], [false, false]);
    assert!(!scene.bucket.keys().iter().any(|key| is_pointer(key) || key.contains("_pins")));
}

fn image_of_nobody() -> ImageName {
    "nobody:1".parse().expect("a name")
}

#[tokio::test]
async fn what_a_replica_was_told_before_it_stood_still_does_not_win_over_what_another_was_told_since() {
    let scene = Scene::set().await;
    let image = scene.image(170);
    let frozen = scene.settings().config("cache.patience = \"60s\"").start().await;
    let other = scene.replica().await;
    pull(&frozen, &image).await;
    up(&scene, &image).await;
    pull(&other, &image).await;
    let pass = |seconds| {
        let by = Duration::from_secs(seconds);
        scene.bucket.advance(by);
        frozen.advance(by);
        other.advance(by);
    };
    pass(400);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::manifests().head()).once().stall_before_headers(&gate));
    let asks = frozen.get_with(TAG, &[MANIFEST_TYPES]);
    let meanwhile = async {
        gate.reached().await;
        let newer = scene.registry.add_image("library/app", "1", &[noise(175, 500)]);
        pass(30);
        pull(&other, &newer).await;
        up(&scene, &newer).await;
        pass(30);
        gate.open();
        newer
    };
    let (_, newer) = tokio::join!(asks, meanwhile);
    let digest = newer.manifest.digest.to_string();
    while crate::leases::bucket_of(&frozen).await["backlog"] != 0 {
        tokio::task::yield_now().await;
    }
    let pointers: Vec<_> = scene.bucket.keys().into_iter().filter(|key| is_pointer(key)).collect();
    for key in &pointers {
        let object = scene.bucket.object(key).unwrap();
        assert!(String::from_utf8_lossy(&object).contains(&digest), "{key}");
    }
    scene.registry.forget_requests();
    pass(250);
    let answer = frozen.get_with(TAG, &[MANIFEST_TYPES]).await;
    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
    assert_eq!(scene.registry.count_of(&Match::manifests()), 0, "told by the other one");
}

#[tokio::test]
async fn a_tag_is_asked_for_by_one_replica_for_all() {
    let scene = Scene::set().await;
    let replicas = crate::leases::replicas(&scene, 3).await;
    let image = scene.image(180);
    // Who has not heard of the registry asks by GET.
    join_all(replicas.iter().map(|(mirror, _)| mirror.get("/v2/library/app/tags/list"))).await;
    let ask = || join_all(replicas.iter().map(|(mirror, _)| mirror.get_with(TAG, &[MANIFEST_TYPES])));
    for _ in 0..2 {
        let gate = Gate::new();
        scene.registry.rule(Rule::on(Match::manifests().head()).once().stall_before_headers(&gate));
        scene.registry.forget_requests();
        let opens = async {
            gate.reached().await;
            gate.open();
        };
        let (answers, ()) = tokio::join!(ask(), opens);
        for answer in answers {
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            assert_eq!(answer.header("docker-content-digest"), Some(&*image.manifest.digest.to_string()));
        }
        assert_eq!(scene.registry.count_of(&Match::manifests().head()), 1);
        assert!(scene.registry.count_of(&Match::manifests().get()) <= 1);
        up_of_manifest(&scene, &image).await;
        scene.bucket.advance(Duration::from_secs(400));
        replicas.iter().for_each(|(mirror, _)| mirror.advance(Duration::from_secs(400)));
    }
    let gone = |bucket: &scripted_registry::bucket::Bucket| !bucket.keys().iter().any(|key| key.contains("/fills/"));
    scene.bucket.until(gone).await;
}

async fn up_of_manifest(scene: &Scene, image: &scripted_registry::Image) {
    scene.bucket.has(&crate::key_of(&image.manifest.digest)).await;
    scene.bucket.has(&crate::link_of("library/app", &image.manifest.digest)).await;
}

#[tokio::test]
async fn what_is_pinned_or_frozen_while_the_collector_takes_it_away_is_there_again() {
    for freezes in [false, true] {
        let scene = Scene::set().await;
        let image = scene.image(460);
        let first = scene.replica().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        first.settled().await;
        let names = || scene.bucket.keys().into_iter().filter(|key| key.contains("_links") || is_pointer(key));
        let mut before: Vec<String> = names().collect();
        // As where its round is under way: all is marked, and no name is left.
        names().for_each(|name| scene.bucket.remove(&name));
        for digest in image.blobs().map(|blob| blob.digest).chain([image.manifest.digest]) {
            let mark = key_of(&digest).replace("/blobs/", "/collector/marks/");
            scene.bucket.put(&mark, "{\"marked_at\":1}");
        }
        if freezes {
            first.mirror.freeze(&app(), None).await.expect("frozen");
        } else {
            first.mirror.pin(&app()).await.expect("pinned");
        }
        before.sort();
        let is_marked = |key: &String| key.contains("/collector/marks/");
        scene.bucket.until(|bucket| !bucket.keys().iter().any(is_marked)).await;
        scene.bucket.until(|bucket| before.iter().all(|name| bucket.object(name).is_some())).await;
    }
}
