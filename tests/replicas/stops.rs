//! A replica that is stopped, and whose disk may go with it: what it owes goes up first, as long as the bucket takes it.

use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::{Image, noise};

use crate::unwell::{DEGRADED, LAYERS, PATIENCE, until_told};
use crate::{Scene, before_long, is_pointer, key_of, link_of, pull, up};

fn new_image(scene: &Scene, seed: u64) -> Image {
    let contents: Vec<_> = (0..LAYERS).map(|n| noise(seed + n, 50_000)).collect();
    scene.registry.add_image("library/app", "1", &contents)
}

#[tokio::test]
async fn what_is_owed_goes_up_before_a_replica_ends() {
    let mut scene = Scene::set().await;
    let image = new_image(&scene, 5000);
    let mirror = scene.replica().await;
    scene.bucket.fault(&["PUT"], "", Fault::Slow(Duration::from_millis(300)));
    pull(&mirror, &image).await;
    // Its disk goes along.
    drop(mirror.stop().await);
    for digest in image.blobs().map(|blob| blob.digest).chain([image.manifest.digest]) {
        for key in [key_of(&digest), link_of("library/app", &digest)] {
            assert!(scene.bucket.object(&key).is_some(), "{key} was owed");
        }
    }
    assert!(scene.bucket.keys().iter().any(|key| is_pointer(key)), "so was what its tag points at");
    scene.bucket.heal();
    scene.registry.stop().await;
    let another = scene.replica().await;
    assert!(pull(&another, &image).await.iter().all(|outcome| outcome == "tier"));
}

#[tokio::test]
async fn a_bucket_that_takes_nothing_keeps_no_replica_from_ending() {
    for (n, fault) in [Fault::Stall, Fault::Status(503), Fault::Status(403), Fault::Hang].into_iter().enumerate() {
        let scene = Scene::set().await;
        let image = new_image(&scene, 5100 + 20 * n as u64);
        let mirror = scene.settings().config(PATIENCE).start().await;
        before_long("it is well", until_told(&mirror, "ok\n")).await;
        scene.bucket.fault(&["PUT", "POST"], "", fault);
        pull(&mirror, &image).await;
        before_long("it takes nothing", until_told(&mirror, DEGRADED)).await;
        let begun = Instant::now();
        let settings = mirror.stop().await;
        // The time for running pulls is half a minute.
        assert!(begun.elapsed() < Duration::from_secs(15), "{fault:?}: {:?}", begun.elapsed());
        scene.bucket.heal();
        let again = settings.start().await;
        before_long("what is owed still", up(&scene, &image)).await;
        drop(again);
    }
}
