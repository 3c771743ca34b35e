//! Blobs and manifests: what one replica fetched, all others have.

use scripted_registry::bucket::Fault;
use scripted_registry::{Match, noise};

use crate::{MANIFEST_TYPES, Scene, TAG, blob_of, is_pointer, key_of, link_of, outcome, pull, up};

#[tokio::test]
async fn a_replica_with_an_empty_disk_serves_what_is_in_the_bucket_when_upstream_is_gone() {
    let mut scene = Scene::set().await;
    let image = scene.image(1);
    let first = scene.replica().await;
    assert_eq!(pull(&first, &image).await, ["fill", "fill", "fill", "fill"]);
    up(&scene, &image).await;
    scene.registry.stop().await;

    let second = scene.replica().await;
    let head = second.head(&blob_of("library/app", &image.layers[0].digest)).await;
    assert_eq!((head.status, outcome(&head).as_str()), (200, "tier"));
    let outcomes = pull(&second, &image).await;
    assert_eq!(outcomes[1..], ["tier", "tier", "tier"], "{outcomes:?}");
    second.settled().await;
    assert_eq!(pull(&second, &image).await[1..], ["hit", "hit", "hit"]);
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let third = scene.replica().await;
    assert_eq!(third.head(TAG).await.status, 200);
    let answer = third.get_with(&by_digest, &[MANIFEST_TYPES]).await;
    assert_eq!((answer.status, outcome(&answer).as_str()), (200, "hit"), "taken over for the head");
}

#[tokio::test]
async fn what_one_replica_fetched_another_does_not_ask_upstream_for() {
    let scene = Scene::set().await;
    let image = scene.image(10);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.registry.forget_requests();
    let second = scene.replica().await;
    pull(&second, &image).await;
    assert_eq!(scene.registry.requests().len(), 0, "the tag is fresh for all");
    second.settled().await;
    let puts =
        || scene.bucket.requests().iter().filter(|(method, key)| method == "PUT" && !key.contains("probe")).count();
    let before = puts();
    pull(&second, &image).await;
    assert_eq!(puts(), before, "what came from the bucket does not go up again");
}

#[tokio::test]
async fn a_large_blob_goes_up_in_parts_and_comes_back_in_ranges() {
    let mut scene = Scene::set().await;
    let bytes = noise(20, 40 << 20);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    let path = blob_of("library/app", &digest);
    let first = scene.replica().await;
    assert!(first.get(&path).await.body == bytes);
    scene.bucket.has(&key_of(&digest)).await;
    scene.bucket.has(&link_of("library/app", &digest)).await;
    assert!(scene.bucket.object(&key_of(&digest)).unwrap() == bytes);
    assert_eq!(scene.bucket.uploads(), 0);
    scene.registry.stop().await;
    let second = scene.replica().await;
    let part = second.get_with(&path, &[("range", "bytes=30000000-30000099")]).await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[30_000_000..30_000_100]));
    assert!(second.get(&path).await.body == bytes);
}

#[tokio::test]
async fn a_blob_in_the_bucket_opens_nothing_to_a_repository_that_was_not_proven_to_have_it() {
    let scene = Scene::set().await;
    let image = scene.image(30);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let second = scene.replica().await;
    let digest = &image.layers[0].digest;
    for method in ["GET", "HEAD"] {
        let path = blob_of("library/stranger", digest);
        let answer = scripted_registry::client::request(second.address, method, &path, &[]).await;
        assert_eq!(answer.status, 404, "{method}");
    }
    let manifest = format!("/v2/library/stranger/manifests/{}", image.manifest.digest);
    assert_eq!(second.get_with(&manifest, &[MANIFEST_TYPES]).await.status, 404);
    assert!(scene.bucket.object(&link_of("library/stranger", digest)).is_none());
}

#[tokio::test]
async fn an_object_that_is_not_what_its_name_says_reaches_nobody_and_is_replaced() {
    let scene = Scene::set().await;
    let image = scene.image(40);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let (layer, key) = (&image.layers[0].digest, key_of(&image.layers[0].digest));
    let good = scene.bucket.object(&key).unwrap();
    let mut bad = good.to_vec();
    bad[100_000] ^= 1;
    scene.bucket.put(&key, bad);
    scene.bucket.put(&key_of(&image.manifest.digest), "{}");
    let second = scene.replica().await;
    let cut = second.get(&blob_of("library/app", layer)).await;
    assert!(!cut.complete, "a body with the wrong digest has no end");
    second.settled().await;
    assert_eq!(pull(&second, &image).await.len(), 4);
    scene.bucket.until(|bucket| bucket.object(&key) == Some(good.clone())).await;
}

#[tokio::test]
async fn what_is_damaged_on_its_way_to_one_replica_stays_for_all_others() {
    let mut scene = Scene::set().await;
    let image = scene.image(45);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let (layer, manifest) = (image.layers[0].digest, image.manifest.digest);
    for fault in [Fault::FlipOnce, Fault::HalveOnce] {
        for digest in [&layer, &manifest] {
            scene.bucket.fault(&["GET"], &key_of(digest), fault);
        }
        // However busy the machine is that tests, it is the bucket that is asked.
        let other = scene.settings().config("cache.patience = \"3s\"").start().await;
        let came = other.get(&blob_of("library/app", &layer)).await;
        assert!(!came.complete || scene.bucket.object(&key_of(&layer)).unwrap() == came.body, "{fault:?}");
        other.settled().await;
        assert_eq!(pull(&other, &image).await.len(), 4, "{fault:?}");
        other.settled().await;
    }
    scene.registry.stop().await;
    let last = scene.replica().await;
    assert_eq!(pull(&last, &image).await.len(), 4);
    let objects = [key_of(&layer), key_of(&manifest)];
    let removed = |(method, key): &(String, String)| method == "DELETE" && objects.iter().any(|it| key.contains(it));
    assert_eq!(scene.bucket.requests().into_iter().filter(removed).collect::<Vec<_>>(), []);
}

#[tokio::test]
async fn what_a_path_damages_lastingly_stays_where_nobody_else_has_it() {
    let mut scene = Scene::set().await;
    let image = scene.image(430);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    scene.registry.stop().await;
    let (layer, small) = (&image.layers[0].digest, &image.layers[1].digest);
    let behind_it = scene.settings().config("cache.patience = \"3s\"").start().await;
    for digest in [layer, small, &image.manifest.digest] {
        scene.bucket.fault(&["GET"], &key_of(digest), Fault::Flip);
    }
    for digest in [layer, small] {
        let answer = behind_it.get(&blob_of("library/app", digest)).await;
        assert!(!answer.complete || answer.status == 503, "{digest}: {}", answer.status);
    }
    let by_digest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    assert_eq!(behind_it.get_with(&by_digest, &[MANIFEST_TYPES]).await.status, 503);
    for digest in [layer, small, &image.manifest.digest] {
        // It was looked at again: if the right bytes were here, they would go up now.
        let mark = format!("collector/marks/{}", digest.to_string().replace(':', "/"));
        let goes_up =
            |bucket: &scripted_registry::bucket::Bucket| bucket.requests().iter().any(|(_, key)| key.ends_with(&mark));
        scene.bucket.until(goes_up).await;
        assert!(scene.bucket.object(&key_of(digest)).is_some(), "{digest}");
    }
    let other = scene.settings().config("cache.patience = \"3s\"").start().await;
    scene.bucket.heal();
    for mirror in [&behind_it, &other] {
        assert_eq!(pull(mirror, &image).await[1..], ["tier", "tier", "tier"]);
    }
}

#[tokio::test]
async fn an_object_of_a_length_that_cannot_be_is_none_and_nobody_notices() {
    let scene = Scene::set().await;
    let image = scene.image(60);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let key = key_of(&image.layers[0].digest);
    let good = scene.bucket.object(&key).unwrap();
    let long = [&good[..], b"more"].concat();
    for bad in [&b""[..], &good[..100_000], &long] {
        scene.bucket.put(&key, bad.to_vec());
        let other = scene.replica().await;
        let head = other.head(&blob_of("library/app", &image.layers[0].digest)).await;
        assert_eq!(head.header("content-length"), Some(&*good.len().to_string()));
        assert_eq!(pull(&other, &image).await.len(), 4, "{} bytes in the bucket", bad.len());
        scene.bucket.until(|bucket| bucket.object(&key) == Some(good.clone())).await;
    }
}

#[tokio::test]
async fn of_a_tag_that_stands_for_what_nobody_has_upstream_is_asked() {
    let scene = Scene::set().await;
    let image = scene.image(70);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let pointer = scene.bucket.keys().into_iter().find(|key| is_pointer(key)).unwrap();
    let text = String::from_utf8(scene.bucket.object(&pointer).unwrap().to_vec()).unwrap();
    let nothing = format!("sha256:{}", "0".repeat(64));
    scene.bucket.put(&pointer, text.replace(&image.manifest.digest.to_string(), &nothing));
    let second = scene.replica().await;
    assert_eq!(pull(&second, &image).await.len(), 4);
}

#[tokio::test]
async fn a_bucket_that_breaks_off_is_followed_by_upstream_and_nobody_notices() {
    for (fault, range) in
        [(Fault::StallAfter(100_000), true), (Fault::Stall, false), (Fault::Status(503), false), (Fault::Hang, false)]
    {
        let scene = Scene::set().await;
        let image = scene.image(50);
        let first = scene.replica().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        scene.registry.forget_requests();
        // Longer than a machine that tests is busy with something else.
        let second = scene.settings().config("cache.patience = \"3s\"").start().await;
        let layer = &image.layers[0].digest;
        scene.bucket.fault(&["GET"], &key_of(layer), fault);
        let answer = second.get(&blob_of("library/app", layer)).await;
        assert!(answer.complete && answer.status == 200, "{fault:?}");
        assert_eq!(Some(answer.body), scene.bucket.object(&key_of(layer)), "{fault:?}");
        assert_eq!(scene.registry.gets_of(layer), 1, "{fault:?}");
        let asked = scene.registry.requests();
        let asked = asked.iter().find(|request| Match::blob(layer).matches(request)).unwrap();
        assert_eq!(asked.header("range").is_some(), range, "{fault:?}: only what was missing");
    }
}

#[tokio::test]
async fn a_small_object_that_is_wrong_is_replaced_in_the_answer_that_meets_it() {
    let scene = Scene::set().await;
    let image = scene.registry.add_image("library/app", "1", &[noise(400, 60_000), noise(401, 40)]);
    assert!(image.blobs().all(|blob| blob.size <= 64 << 10), "no reader has any of it before it is verified");
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let objects: Vec<_> = image.blobs().chain([&image.manifest]).map(|blob| key_of(&blob.digest)).collect();
    let good: Vec<_> = objects.iter().map(|key| scene.bucket.object(key).unwrap()).collect();
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("turned", |good| good.iter().map(|byte| byte ^ 1).collect()),
        ("cut", |good| good[..good.len() / 2].to_vec()),
        ("longer", |good| [good, b"more"].concat()),
        ("empty", |_| Vec::new()),
    ];
    for (how, damage) in damages {
        for (key, good) in objects.iter().zip(&good) {
            scene.bucket.put(key, damage(good));
        }
        let other = scene.replica().await;
        for blob in image.blobs() {
            let answer = other.get(&blob_of("library/app", &blob.digest)).await;
            assert!(answer.complete && answer.body.len() as u64 == blob.size, "{how}: {answer:?}");
        }
        assert_eq!(pull(&other, &image).await.len(), 2 + image.layers.len(), "{how}");
        let head = other.head(&blob_of("library/app", &image.layers[0].digest)).await;
        assert_eq!(head.header("content-length"), Some(&*image.layers[0].size.to_string()), "{how}");
        let all_good = |bucket: &scripted_registry::bucket::Bucket| {
            objects.iter().zip(&good).all(|(key, good)| bucket.object(key).as_ref() == Some(good))
        };
        scene.bucket.until(all_good).await;
    }
}

#[tokio::test]
async fn who_was_given_a_wrong_object_is_told_before_it_is_looked_at_again() {
    let scene = Scene::set().await;
    let image = scene.image(410);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let (layer, key) = (&image.layers[0].digest, key_of(&image.layers[0].digest));
    let good = scene.bucket.object(&key).unwrap();
    let mut bad = good.to_vec();
    bad[100_000] ^= 1;
    scene.bucket.put(&key, bad.clone());
    // The second look takes as long as it may.
    scene.bucket.fault(&["HEAD"], &key, Fault::Stall);
    let second = scene.settings().config("cache.patience = \"60s\"").start().await;
    let begun = std::time::Instant::now();
    assert!(!second.get(&blob_of("library/app", layer)).await.complete);
    let again = second.get(&blob_of("library/app", layer)).await;
    assert!(again.complete && again.body == good, "who asks again is not given the same");
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(scene.bucket.object(&key).unwrap(), bad, "nobody has looked again yet");
}

#[tokio::test]
async fn from_a_store_that_lies_nothing_is_deleted_and_the_right_object_takes_the_place_of_the_wrong_one() {
    let mut scene = Scene::set().await;
    scene.bucket.lie();
    let image = scene.image(420);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let (layer, key) = (&image.layers[0].digest, key_of(&image.layers[0].digest));
    let good = scene.bucket.object(&key).unwrap();
    let mut bad = good.to_vec();
    bad[100_000] ^= 1;
    scene.bucket.put(&key, bad);
    let second = scene.replica().await;
    while crate::leases::bucket_of(&second).await["conditions_hold"].is_null() {
        tokio::task::yield_now().await;
    }
    assert!(!second.get(&blob_of("library/app", layer)).await.complete);
    assert!(second.get(&blob_of("library/app", layer)).await.body == good, "it is not asked for it again");
    scene.bucket.until(|bucket| bucket.object(&key) == Some(good.clone())).await;
    let deleted = |(method, of): &(String, String)| method == "DELETE" && of.contains("/blobs/");
    assert_eq!(scene.bucket.requests().into_iter().filter(deleted).collect::<Vec<_>>(), []);
    scene.registry.stop().await;
    assert_eq!(pull(&scene.replica().await, &image).await.len(), 4);
}
