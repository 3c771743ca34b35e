//! What a replica serves from its disk is known to be used in the bucket, too: whoever makes room there goes by that.

use crate::{Scene, before_long, key_of, pull, up};

#[tokio::test]
async fn it_is_said_in_the_bucket_which_images_are_served_from_a_disk_once_for_many_pulls() {
    let scene = Scene::set().await;
    let image = scene.image(5300);
    let mirror = scene.replica().await;
    for _ in 0..3 {
        pull(&mirror, &image).await;
    }
    up(&scene, &image).await;
    let used = |key: &str| key.replace("/blobs/", "/usage/");
    before_long("it is said", scene.bucket.has(&used(&key_of(&image.manifest.digest)))).await;
    for _ in 0..3 {
        assert!(pull(&mirror, &image).await.iter().all(|outcome| outcome == "hit"));
    }
    // All that is noted is told in the end.
    drop(mirror.stop().await);
    let told = scene.bucket.requests().into_iter().filter(|(how, key)| how == "PUT" && key.contains("/usage/"));
    let told: Vec<_> = told.map(|(_, key)| key).collect();
    assert_eq!(told, [used(&key_of(&image.manifest.digest))], "the image, and once");
}
