//! Lists of tags and referrers, as all replicas know them.

use std::time::Duration;

use scripted_registry::{Match, Rule, noise};

use crate::{Scene, TestMirror, outcome, pull, up};

const TAGS: &str = "/v2/library/app/tags/list";
/// However busy the machine is that tests, the bucket is not away.
const PATIENT: &str = "cache.patience = \"60s\"";

/// An image with a signature in the bucket, with both lists, and the path to the second.
async fn listed(scene: &Scene, first: &TestMirror) -> String {
    let image = scene.image(400);
    scene.registry.add_referrer("library/app", &image.manifest, "application/vnd.example.signature", noise(410, 50));
    pull(first, &image).await;
    let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    for path in [TAGS, &referrers] {
        assert_eq!(first.get(path).await.status, 200, "{path}");
    }
    up(scene, &image).await;
    scene.bucket.until(|bucket| bucket.keys().iter().filter(|key| key.contains("/_lists/")).count() == 2).await;
    referrers
}

#[tokio::test]
async fn a_replica_with_an_empty_disk_serves_the_lists_of_others_when_upstream_is_gone() {
    for mode in ["online", "offline"] {
        let mut scene = Scene::set().await;
        let first = scene.replica().await;
        let referrers = listed(&scene, &first).await;
        let bodies = [first.get(TAGS).await.body, first.get(&referrers).await.body];
        scene.registry.stop().await;
        let second = scene.settings().config(&format!("cache.mode = \"{mode}\"\n{PATIENT}")).start().await;
        second.advance(Duration::from_secs(3600));
        for (path, body) in [TAGS, &referrers].into_iter().zip(&bodies) {
            let answer = second.get(path).await;
            assert_eq!((answer.status, &answer.body), (200, body), "{mode} {path}");
            let expected = if mode == "online" { "stale" } else { "hit" };
            assert_eq!(outcome(&answer), expected, "{mode} {path}");
        }
        let never_asked = format!("{TAGS}?n=1");
        assert_eq!(second.get(&never_asked).await.status, 503, "nothing is made up");
        // It has them itself by now.
        scene.bucket.fault(&[], "", scripted_registry::bucket::Fault::Hang);
        let again = second.restart().await;
        assert_eq!(again.get(TAGS).await.body, bodies[0], "{mode}");
    }
}

#[tokio::test]
async fn a_list_that_upstream_takes_back_leaves_the_bucket_and_one_of_a_denied_repository_is_not_given() {
    let scene = Scene::set().await;
    let first = scene.replica().await;
    let referrers = listed(&scene, &first).await;
    first.advance(Duration::from_secs(60));
    scene.registry.rule(Rule::on(Match::path(TAGS)).refuse(404));
    assert_eq!(first.get(TAGS).await.status, 404);
    scene.bucket.until(|bucket| !bucket.keys().iter().any(|key| key.contains("/_lists/tags."))).await;
    scene.bucket.put("mirror/repositories/docker.io/library/app/_denied", "1700000000000");
    scene.registry.rule(Rule::on(Match::any()).refuse(503));
    let second = scene.replica().await;
    assert_eq!(second.get(&referrers).await.status, 503);
}

#[tokio::test]
async fn of_two_lists_the_later_one_stays_and_what_is_wrong_is_none() {
    let scene = Scene::set().await;
    let second = scene.settings().config(PATIENT).start().await;
    let first = scene.replica().await;
    listed(&scene, &first).await;
    let key = scene.bucket.keys().into_iter().find(|key| key.contains("/_lists/tags.")).unwrap();
    let before = scene.bucket.object(&key).unwrap();
    // Taken over, and asked for anew when it is no longer fresh.
    assert_eq!(outcome(&second.get(TAGS).await), "hit");
    let again = scene.replica().await;
    scene.registry.add_image("library/app", "2", &[noise(420, 100)]);
    second.advance(Duration::from_secs(700));
    assert_eq!(outcome(&second.get(TAGS).await), "fill");
    scene.bucket.until(|bucket| bucket.object(&key).is_some_and(|now| now != before)).await;
    let later = scene.bucket.object(&key).unwrap();
    // One that has an older list to tell.
    scene.bucket.fault(&["GET"], "_lists", scripted_registry::bucket::Fault::Status(403));
    again.advance(Duration::from_secs(100));
    assert_eq!(outcome(&again.get(TAGS).await), "fill");
    scene.bucket.heal();
    while crate::leases::bucket_of(&again).await["backlog"] != 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.bucket.object(&key), Some(later));
    scene.bucket.put(&key, "what is no list");
    let third = scene.replica().await;
    assert_eq!(outcome(&third.get(TAGS).await), "fill");
}
