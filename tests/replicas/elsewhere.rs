//! A bucket that sends who asks it elsewhere.

use bytes::Bytes;
use futures_util::StreamExt as _;
use registry_mirror::carrier::Carrier;
use registry_mirror::oci::{Algorithm, Digest, Span};
use registry_mirror::tier::settings::{Credentials, Settings};
use registry_mirror::tier::{Bucket, Pace};
use scripted_registry::bucket::Fault;

use crate::leases::bucket_of;
use crate::{MANIFEST_TYPES, Scene, TAG, before_long, blob_of, pull, up};

fn bucket(scene: &Scene) -> Bucket {
    let settings = Settings {
        name: "shared".to_owned(),
        endpoint: Some(scene.bucket.url().parse().unwrap()),
        region: None,
        prefix: "mirror/".to_owned(),
        credentials: Credentials::File(scene.key()),
        ca: None,
        patience: std::time::Duration::from_secs(60),
    };
    Bucket::open(&settings, &Carrier::default(), |_| None).unwrap()
}

#[tokio::test]
async fn whatever_it_is_asked_nobody_goes_where_the_bucket_sends_us_and_the_error_says_where_that_is() {
    let scene = Scene::set().await;
    let trap = scripted_registry::bucket::Bucket::start().await;
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let nothing = Bytes::new;
    for answered_before in [false, true] {
        for what in ["read", "stat", "blob", "list", "write", "create", "replace", "remove", "abort"] {
            // One that was not asked before is asked.
            let asked = bucket(&scene);
            scene.bucket.heal();
            if answered_before {
                asked.write("a", Bytes::from_static(b"x")).await.unwrap();
            }
            scene.bucket.fault(&[], "", Fault::Elsewhere(trap.address()));
            let failed = match what {
                "read" => asked.read("a", 9).await.map(drop),
                "stat" => asked.stat(&digest).await.map(drop),
                "blob" => asked.blob(&digest, Span { start: 0, end: None }, Pace::Any).await.map(drop),
                "list" => asked.list("a").next().await.unwrap().map(drop),
                "write" => asked.write("a", nothing()).await,
                "create" => asked.create("a", nothing()).await,
                "replace" => asked.replace("a", nothing(), "\"1\"").await,
                "remove" => asked.remove("a").await,
                _ => asked.abort("a", "1").await,
            };
            let why = failed.expect_err(what).to_string();
            assert!(why.contains(&format!("sends us to {}", trap.address())), "{what}: {why}");
        }
    }
    assert_eq!(trap.requests(), []);
}

#[tokio::test]
async fn pulls_go_on_without_a_bucket_that_sends_us_elsewhere_and_nothing_is_taken_from_there() {
    let mut scene = Scene::set().await;
    let image = scene.image(1600);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let trap = scripted_registry::bucket::Bucket::start().await;
    for key in scene.bucket.keys() {
        trap.put(&key, scene.bucket.object(&key).unwrap());
    }
    scene.bucket.fault(&[], "", Fault::Elsewhere(trap.address()));
    let second = scene.replica().await;
    assert_eq!(pull(&second, &image).await, ["fill"; 4]);
    let says_so = async {
        while !bucket_of(&second).await["trouble"].as_str().is_some_and(|why| why.contains("no redirect of a bucket")) {
            tokio::task::yield_now().await;
        }
    };
    before_long("what is wrong with it", says_so).await;
    scene.registry.stop().await;
    let third = scene.replica().await;
    assert_eq!(third.get(&blob_of("library/app", &image.layers[0].digest)).await.status, 503);
    assert_eq!(third.get_with(TAG, &[MANIFEST_TYPES]).await.status, 503);
    assert_eq!(trap.requests(), []);
}
