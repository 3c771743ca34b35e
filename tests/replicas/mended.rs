//! Content that was found wrong in the bucket is written over by who has the right one, whatever comes between: a bucket
//! that takes nothing, a stop, a kill, an order to push.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use scripted_registry::bucket::{Bucket, Fault};
use scripted_registry::{Image, noise};

use crate::carried::{carried, carried_by};
use crate::{Scene, before_long, blob_of, key_of, pull, up};

/// An image with a layer of so many bytes in a bucket, and its objects with a byte of each turned.
async fn wrong(scene: &Scene, seed: u64, size: usize) -> (Image, Vec<(String, Bytes)>) {
    let image = scene.registry.add_image("library/app", "1", &[noise(seed, size), noise(seed + 1, 40)]);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(scene, &image).await;
    drop(first.stop().await);
    let of = |digest| (key_of(digest), scene.bucket.object(&key_of(digest)).unwrap());
    let good: Vec<_> = image.blobs().chain([&image.manifest]).map(|blob| of(&blob.digest)).collect();
    good.iter().for_each(|(key, good)| turn(&scene.bucket, key, good));
    (image, good)
}

/// The same size, and another content.
fn turn(bucket: &Bucket, key: &str, good: &[u8]) {
    let mut bad = good.to_vec();
    bad[good.len() / 2] ^= 1;
    bucket.put(key, bad);
}

fn is_mended(bucket: &Bucket, good: &[(String, Bytes)]) -> bool {
    good.iter().all(|(key, good)| bucket.object(key).as_ref() == Some(good))
}

/// What a kill leaves of a store.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let (name, kind) = (entry.file_name(), entry.file_type().unwrap());
        if kind.is_dir() && name != "metadata" {
            copied(&entry.path(), &to.join(name));
        } else if kind.is_file() && name != "lock" {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_found_wrong_is_mended_also_after_a_stop_before_the_right_content_went_up() {
    for (n, (is_killed, is_pushed)) in
        [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
    {
        let scene = Scene::set().await;
        let (image, good) = wrong(&scene, 3000 + 10 * n as u64, 60_000).await;
        // Nobody has any of it before it is verified.
        scene.bucket.fault(&["PUT", "POST"], "/blobs/", Fault::Status(503));
        let replica = scene.settings().config("cache.patience = \"60s\"").start().await;
        pull(&replica, &image).await;
        replica.settled().await;
        for (key, _) in &good {
            let tried = |(method, of): &(String, String)| method == "PUT" && of == key;
            scene.bucket.until(|bucket| bucket.requests().iter().any(tried)).await;
        }
        let killed = scene.folder.path().join("killed");
        copied(replica.store(), &killed);
        let settings = replica.stop().await;
        let settings = if is_killed { settings.store_at(&killed) } else { settings };
        scene.bucket.heal();
        let what = format!("killed: {is_killed}, pushed: {is_pushed}");
        if is_pushed {
            let (code, end) = carried(&scene, "push", settings.store()).await;
            assert_eq!((code, &end["failed"]), (Some(0), &0.into()), "{what}: {end}");
            assert!(is_mended(&scene.bucket, &good), "{what}");
        } else {
            let again = settings.start().await;
            before_long(&what, scene.bucket.until(|bucket| is_mended(bucket, &good))).await;
            assert_eq!(carried_by(&again, "push").await["failed"], 0, "{what}");
        }
    }
}

#[tokio::test]
async fn what_was_found_wrong_and_is_not_here_is_not_said_to_be_done_until_somebody_has_put_it_right() {
    let scene = Scene::set().await;
    let (image, good) = wrong(&scene, 3100, 300_000).await;
    let layer = &image.layers[0].digest;
    let (key, right) = good.iter().find(|(key, _)| *key == key_of(layer)).unwrap().clone();
    // Only what is asked for here is found.
    good.iter().filter(|(of, _)| *of != key).for_each(|(of, good)| scene.bucket.put(of, good.clone()));
    let offline = "cache.mode = \"offline\"\ncache.patience = \"60s\"";
    let replica = scene.settings().config(offline).start().await;
    assert!(!replica.get(&blob_of("library/app", layer)).await.complete);
    let settings = replica.stop().await;
    for is_daemon in [false, true, false] {
        let end = if is_daemon {
            let replica = settings.clone().start().await;
            let end = carried_by(&replica, "push").await;
            drop(replica.stop().await);
            end
        } else {
            let (code, end) = carried(&scene, "push", settings.store()).await;
            assert_eq!(code, Some(6), "{end}");
            end
        };
        assert_eq!((&end["failed"], &end["damaged"]), (&1.into(), &1.into()), "{end}");
        let problem = &end["problems"][0];
        assert_eq!(
            (&problem["digest"], problem["reason"].as_str()),
            (&layer.to_string().into(), Some("damaged in the bucket, and not here")),
            "{end}"
        );
    }
    // Another replica puts it right.
    scene.bucket.put(&key, right.clone());
    assert_eq!(carried(&scene, "push", settings.store()).await.0, Some(0));
    // It is found wrong again, and comes from its registry after a restart.
    turn(&scene.bucket, &key, &right);
    let replica = settings.start().await;
    assert!(!replica.get(&blob_of("library/app", layer)).await.complete);
    let settings = replica.stop().await.reconfigured(&scene.lines()).config("cache.patience = \"60s\"");
    let replica = settings.start().await;
    let begun = std::time::Instant::now();
    let came = replica.get(&blob_of("library/app", layer)).await;
    assert!(came.complete && came.body == right, "what was found wrong before the stop is not read there again");
    before_long("the right one", scene.bucket.until(|bucket| is_mended(bucket, &good))).await;
    assert!(begun.elapsed() < Duration::from_secs(60));
}
