//! A repository that upstream denies: what one replica finds out holds on all of them.

use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::client;
use scripted_registry::{Match, Rule};

use crate::mirror::TestMirror;
use crate::{MANIFEST_TYPES, Scene, TAG, before_long, blob_of, pull, up};

const DENIED: &str = "mirror/repositories/docker.io/library/app/_denied";
const LISTED: &str = "/v2/library/app/tags/list";
/// Nobody is answered by what was looked at so long ago.
const TOO_LONG: Duration = Duration::from_secs(26);
const SENT_ON: &str = "store.bucket.redirect = [\"127.0.0.0/8\"]\ncache.patience = \"60s\"";

fn refuse(scene: &Scene) {
    scene.registry.rule(Rule::on(Match::repository("library/app")).refuse(403));
}

/// Asks until the answer has this status: what is found out behind an answer shows with a later one.
async fn becomes(mirror: &TestMirror, path: &str, wanted: u16) {
    let wait = async {
        while mirror.get_with(path, &[MANIFEST_TYPES]).await.status != wanted {
            tokio::task::yield_now().await;
        }
    };
    before_long(path, wait).await;
}

/// One replica finds out that upstream denies the repository, and tells all.
async fn found_out(scene: &Scene, by: &TestMirror) {
    refuse(scene);
    by.advance(Duration::from_secs(400));
    assert_eq!(by.get_with(TAG, &[MANIFEST_TYPES]).await.status, 404);
    before_long("the denial in the bucket", scene.bucket.has(DENIED)).await;
}

#[tokio::test]
async fn a_denial_reaches_replicas_that_have_content_and_those_that_have_names_alone_whatever_they_are_asked_for() {
    let scene = Scene::set().await;
    let image = scene.image(1500);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let second = scene.settings().config("cache.tag_ttl = \"1d\"").start().await;
    pull(&second, &image).await;
    let third = scene.settings().config(SENT_ON).start().await;
    let (blob, manifest) = (blob_of("library/app", &image.layers[0].digest), image.manifest.digest);
    let by_digest = format!("/v2/library/app/manifests/{manifest}");
    let referrers = format!("/v2/library/app/referrers/{manifest}");
    let of_all = ["GET", "HEAD"].into_iter().flat_map(|method| {
        [TAG, &by_digest, &blob, LISTED, &referrers].map(|path| (&second, method, path, ("accept", "*/*"), 200))
    });
    let others = [
        (&second, "GET", &*blob, ("range", "bytes=5-9"), 206),
        (&second, "GET", &*blob, ("if-none-match", "\"x\""), 200),
        (&third, "GET", &*blob, ("accept", "*/*"), 307),
    ];
    for (replica, method, path, header, given) in of_all.chain(others) {
        let what = format!("{method} {path} {header:?}");
        let ask = async || client::request(replica.address, method, path, &[MANIFEST_TYPES, header]).await.status;
        scene.registry.clear_rules();
        scene.bucket.remove(DENIED);
        replica.advance(Duration::from_secs(31));
        assert_eq!(ask().await, given, "{what}");
        // It is not from upstream that this one hears it.
        scene.registry.rule(Rule::on(Match::any()).refuse(503));
        scene.bucket.put(DENIED, "1700000000000");
        replica.advance(TOO_LONG);
        assert_eq!(ask().await, 503, "{what}");
    }
}

#[tokio::test]
async fn a_denial_that_was_found_out_while_a_replica_was_down_holds_when_it_is_back_and_is_over_for_all_at_once() {
    let scene = Scene::set().await;
    let image = scene.image(1510);
    let (first, second) = (scene.replica().await, scene.replica().await);
    pull(&first, &image).await;
    up(&scene, &image).await;
    pull(&second, &image).await;
    let down = second.stop().await;
    found_out(&scene, &first).await;
    let second = down.start().await;
    let blob = blob_of("library/app", &image.layers[0].digest);
    assert_eq!(second.get(&blob).await.status, 404);
    // It stays so where the bucket does not tell.
    scene.bucket.fault(&[], "_denied", Fault::Status(403));
    let second = second.restart().await;
    assert_eq!(second.get(&blob).await.status, 404);
    scene.bucket.heal();

    scene.registry.clear_rules();
    becomes(&second, TAG, 200).await;
    before_long("no denial in the bucket", scene.bucket.until(|bucket| bucket.object(DENIED).is_none())).await;
    scene.registry.rule(Rule::on(Match::any()).refuse(503));
    first.advance(TOO_LONG);
    for blob in image.blobs() {
        assert_eq!(first.get(&blob_of("library/app", &blob.digest)).await.status, 200);
    }
}

#[tokio::test]
async fn who_is_asked_all_the_time_hears_of_a_denial_behind_its_answers() {
    let scene = Scene::set().await;
    let image = scene.image(1520);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    refuse(&scene);
    scene.bucket.put(DENIED, "1700000000000");
    // It does not wait for a look that is young enough, and is at hand.
    scene.bucket.fault(&["GET"], "_denied", Fault::Stall);
    first.advance(Duration::from_secs(16));
    let blob = blob_of("library/app", &image.layers[1].digest);
    assert_eq!(first.get(&blob).await.status, 200);
    scene.bucket.heal();
    first.advance(Duration::from_secs(6));
    becomes(&first, &blob, 404).await;
}

#[tokio::test]
async fn a_bucket_that_does_not_tell_of_denials_breaks_and_holds_up_no_pull() {
    for fault in [Fault::Stall, Fault::Hang, Fault::Status(403), Fault::Status(503)] {
        let scene = Scene::set().await;
        let image = scene.image(1530);
        let first = scene.settings().config("cache.patience = \"200ms\"").start().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        scene.registry.rule(Rule::on(Match::any()).refuse(503));
        scene.bucket.fault(&["GET"], "_denied", fault);
        let looks = || scene.bucket.requests().iter().filter(|(_, key)| key == DENIED).count();
        let begun = Instant::now();
        first.advance(TOO_LONG);
        assert_eq!(pull(&first, &image).await, ["hit"; 4], "{fault:?}");
        let before = looks();
        assert_eq!(pull(&first, &image).await, ["hit"; 4], "{fault:?}");
        assert!(looks() <= before + 3, "{fault:?}: it is not asked by each who comes: {before} {}", looks());
        assert!(begun.elapsed() < Duration::from_secs(20), "{fault:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn what_a_replica_found_out_holds_there_before_the_bucket_knows_of_it() {
    let scene = Scene::set().await;
    let image = scene.image(1540);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.bucket.fault(&["PUT"], "_denied", Fault::Status(403));
    refuse(&scene);
    first.advance(Duration::from_secs(400));
    let blob = blob_of("library/app", &image.layers[0].digest);
    assert_eq!(first.get_with(TAG, &[MANIFEST_TYPES]).await.status, 404);
    becomes(&first, &blob, 404).await;
    for _ in 0..3 {
        first.advance(TOO_LONG);
        assert_eq!(first.get(&blob).await.status, 404);
    }
    scene.bucket.heal();
    before_long("the denial in the bucket", scene.bucket.has(DENIED)).await;
    // And the other way round: it is given again, and still denied there.
    scene.bucket.fault(&["DELETE"], "_denied", Fault::Status(403));
    scene.registry.clear_rules();
    becomes(&first, TAG, 200).await;
    for _ in 0..3 {
        first.advance(TOO_LONG);
        assert_eq!(first.get(&blob).await.status, 200);
    }
}
