//! What the key may do in the bucket: what is missing is named, and what is left of it is used.

use scripted_registry::bucket::Fault;

use crate::commands::run;
use crate::{Scene, pull, up};

#[tokio::test]
async fn a_key_that_may_not_list_reads_and_writes_all_the_same() {
    let mut scene = Scene::set().await;
    let image = scene.image(5400);
    scene.bucket.fault(&["GET", "HEAD"], "", Fault::NoList);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let second = scene.replica().await;
    // By then it knows what it may not.
    let another = scene.registry.add_image("library/other", "1", &[scripted_registry::noise(5410, 1000)]);
    assert_eq!(second.get(&crate::blob_of("library/other", &another.layers[0].digest)).await.status, 200);
    scene.bucket.has(&crate::key_of(&another.layers[0].digest)).await;
    scene.registry.stop().await;
    assert!(pull(&second, &image).await.iter().all(|outcome| outcome == "tier"));
}

#[tokio::test]
async fn the_right_that_is_missing_is_named() {
    let refused = Fault::Status(403);
    for (methods, fault, right) in [
        (&["PUT"][..], refused, "s3:PutObject"),
        (&["GET"], refused, "s3:GetObject"),
        (&["DELETE"], refused, "s3:DeleteObject"),
        (&["GET", "HEAD"], Fault::NoList, "s3:ListBucket"),
    ] {
        let scene = Scene::set().await;
        scene.bucket.fault(methods, "", fault);
        let output = run(&scene, &["store", "test"], &scene.lines()).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.code() == Some(1) && said.contains(right), "{right}: {said}");
    }
}
