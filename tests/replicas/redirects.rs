//! Clients that are sent to the bucket.

use scripted_registry::bucket::Fault;
use scripted_registry::client::{self, Response};

use crate::{MANIFEST_TYPES, Scene, TAG, blob_of, key_of, link_of, outcome, pull, up};

// However busy the machine is that tests, the bucket is not away.
const HERE: &str = "store.bucket.redirect = [\"127.0.0.0/8\"]\ncache.patience = \"60s\"";

fn is_sent(answer: &Response) -> bool {
    let place = answer.header("location").unwrap_or_default();
    match answer.status {
        307 => {
            assert!(place.contains("X-Amz-Signature=") && place.contains("X-Amz-Expires=600"), "{place}");
            assert_eq!(answer.header("cache-control"), Some("private, no-store"));
            assert!(answer.body.is_empty() && answer.complete);
            true
        }
        200 => false,
        status => panic!("{status}"),
    }
}

#[tokio::test]
async fn a_client_of_a_network_that_is_named_is_sent_to_the_bucket_for_a_blob_and_for_nothing_else() {
    let scene = Scene::set().await;
    let image = scene.image(300);
    let first = scene.settings().config(HERE).start().await;
    let path = blob_of("library/app", &image.layers[0].digest);
    assert!(!is_sent(&first.get(&path).await), "it is not there yet");
    pull_by_tag(&first).await;
    for blob in image.blobs() {
        client::get(first.address, &blob_of("library/app", &blob.digest), &[]).await;
    }
    up(&scene, &image).await;
    for mirror in [&first, &scene.settings().config(HERE).start().await] {
        for blob in image.blobs() {
            let answer = mirror.get(&blob_of("library/app", &blob.digest)).await;
            assert!(is_sent(&answer) && outcome(&answer) == "tier");
            let place = answer.header("location").unwrap().strip_prefix(&scene.bucket.url()).unwrap().to_owned();
            let address = scene.bucket.url().strip_prefix("http://").unwrap().parse::<std::net::SocketAddr>().unwrap();
            let there = client::get(address, &place, &[]).await;
            assert_eq!((there.status, there.body.len() as u64), (200, blob.size));
        }
        assert_eq!(mirror.head(&path).await.status, 200, "a signature is for one method");
        pull_by_tag(mirror).await;
        let stranger = blob_of("library/stranger", &image.layers[0].digest);
        assert_eq!(mirror.get(&stranger).await.status, 404, "the bucket opens nothing");
        let below = [("host", "mirror.corp:5000")];
        assert!(is_sent(&mirror.get_with(&path, &below).await), "the bucket is elsewhere");
    }
    scene.bucket.fault(&[], "", Fault::Hang);
    assert!(!is_sent(&first.get(&path).await), "the bucket is away, and it is here");
}

async fn pull_by_tag(mirror: &crate::TestMirror) {
    assert_eq!(mirror.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
}

#[tokio::test]
async fn nobody_else_is_and_nothing_that_is_not_everybodys() {
    let scene = Scene::set().await;
    let image = scene.image(310);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let path = blob_of("library/app", &image.layers[0].digest);
    let elsewhere = scene.settings().config("store.bucket.redirect = [\"10.0.0.0/8\"]").start().await;
    assert!(!is_sent(&elsewhere.get(&path).await));
    let shared = scene.settings().config(HERE).upstream("access = \"shared\"").start().await;
    pull_by_tag(&shared).await;
    assert!(!is_sent(&shared.get(&path).await), "not public");
    let lines =
        "store.bucket.redirect = [\"10.0.0.0/8\"]\ncache.patience = \"60s\"\nserver.trusted_proxies = [\"127.0.0.1\"]";
    let behind = scene.settings().config(lines).start().await;
    assert!(is_sent(&behind.get_with(&path, &[("x-forwarded-for", "10.1.2.3")]).await));
    assert!(!is_sent(&behind.get_with(&path, &[("x-forwarded-for", "192.0.2.1")]).await));
    let https = [("x-forwarded-for", "10.1.2.3"), ("x-forwarded-proto", "https")];
    assert!(!is_sent(&behind.get_with(&path, &https).await), "never from https to http");
}

#[tokio::test]
async fn nobody_is_sent_to_an_object_of_another_size_than_the_blob_has() {
    let scene = Scene::set().await;
    let image = scene.image(320);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let layer = &image.layers[0];
    let (key, link, path) =
        (key_of(&layer.digest), link_of("library/app", &layer.digest), blob_of("library/app", &layer.digest));
    let good = scene.bucket.object(&key).unwrap();
    let said = String::from_utf8(scene.bucket.object(&link).unwrap().to_vec()).unwrap();
    let short = &good[..100_000];
    let wrongly = said.replace(&layer.size.to_string(), &short.len().to_string());
    assert_ne!(said, wrongly);
    // The membership says another size, or the manifest does.
    for (has_manifest, link_says) in [(false, &said), (true, &said), (true, &wrongly)] {
        scene.bucket.put(&key, short.to_vec());
        scene.bucket.put(&link, link_says.clone());
        let mirror = scene.settings().config(HERE).start().await;
        if has_manifest {
            pull_by_tag(&mirror).await;
        }
        let head = mirror.head(&path).await;
        assert_eq!(head.header("content-length"), Some(&*layer.size.to_string()), "{has_manifest} {link_says}");
        let answer = mirror.get(&path).await;
        assert!(!is_sent(&answer) && answer.complete && answer.body == good, "{has_manifest} {link_says}");
        mirror.settled().await;
        scene.bucket.until(|bucket| bucket.object(&key) == Some(good.clone())).await;
        // That the right one is there is known a moment later.
        while !is_sent(&mirror.get(&path).await) {}
    }
}
