//! Stores and replicas that send without end: nobody waits for them, and what they send is read up to a bound.

use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::{Digest, Gate, Match, Rule, client, noise};

use crate::door::Bend;
use crate::leases::replicas;
use crate::{MANIFEST_TYPES, Scene, TAG, before_long, blob_of, pull, up};

async fn until_told(mirror: &crate::TestMirror, words: &str) {
    loop {
        let answer = client::get(mirror.socket(), "/api/v1/status", &[]).await;
        let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        if status["bucket"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(words)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn lists_that_are_too_long_or_go_in_a_circle_are_left_and_all_else_goes_on() {
    const LENGTH: usize = 450 << 20;
    for (fault, words) in [(Fault::LongList(LENGTH), "more than"), (Fault::SameList, "again and again")] {
        let mut scene = Scene::set().await;
        let image = scene.image(800);
        let first = scene.replica().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        drop(first.stop().await);
        scene.bucket.fault(&["GET"], "", fault);
        // One with an empty disk lists the acts of all others when it starts.
        let second = scene.settings().config("cache.patience = \"60s\"").start().await;
        before_long(words, until_told(&second, words)).await;
        assert_eq!(&client::get(second.admin, "/readyz", &[]).await.body[..], b"ok: degraded (bucket)\n");
        scene.registry.stop().await;
        assert_eq!(pull(&second, &image).await[1..], ["tier", "tier", "tier"]);
        let lines = format!(
            "cache.patience = \"60s\"\nstore.path = \"{}\"\n{}",
            scene.folder.path().join("down").display(),
            scene.lines()
        );
        let begun = Instant::now();
        let output = crate::commands::run(&scene, &["store", "pull"], &lines).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(words), "{output:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let tested = crate::commands::run(&scene, &["store", "test"], &lines).await;
        assert_eq!(tested.status.code(), Some(1), "{tested:?}");
        assert!(scene.bucket.taken() < LENGTH / 2, "{} bytes were taken", scene.bucket.taken());
        scene.bucket.heal();
        assert_eq!(crate::commands::run(&scene, &["store", "pull"], &lines).await.status.code(), Some(0));
    }
}

/// What a replica says that is no blob, and never ends.
const FLOODS: [(&str, &str); 6] = [
    ("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\n", "X-More: more\r\n"),
    ("HTTP/1.1 200 OK\r\nX-More: ", "more"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", "more"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0"),
    ("HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nmore\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_that_sends_without_end_is_left_and_upstream_gives_the_blob() {
    for (begin, again) in FLOODS {
        let scene = Scene::set().await;
        let image = scene.image(810);
        let replicas = replicas(&scene, 2).await;
        let layer = &image.layers[0].digest;
        let path = blob_of("library/app", layer);
        let gate = Gate::new();
        scene.registry.rule(Rule::on(Match::blob(layer).get()).once().stall_after(100_000, &gate));
        let first = replicas[0].0.stream(&path).await;
        scene.bucket.until(|bucket| bucket.keys().iter().any(|key| key.contains("/fills/"))).await;
        replicas[0].1.bend(Bend::Flood(begin, again));
        assert_eq!(replicas[1].0.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
        let begun = Instant::now();
        let answer = before_long(&format!("{begin:?} {again:?}"), replicas[1].0.get(&path)).await;
        assert!(answer.complete && answer.status == 200, "{begin:?} {again:?}");
        assert!(begun.elapsed() < Duration::from_secs(40), "{begin:?} {again:?}: {:?}", begun.elapsed());
        assert!(scene.registry.gets_of(layer) <= 2, "{begin:?} {again:?}");
        let ended = tokio::time::timeout(Duration::from_secs(30), replicas[0].1.has_no_floods()).await;
        assert!(ended.is_ok(), "{begin:?} {again:?}: nobody reads it, and it is read on");
        gate.open();
        first.finish().await;
    }
}

#[tokio::test]
async fn small_wrong_bytes_of_a_replica_are_followed_by_those_of_upstream_in_the_same_answer() {
    for wrong in [0, -1, 1] {
        let scene = Scene::set().await;
        let image = scene.registry.add_image("library/app", "1", &[noise(830, 60_000)]);
        let replicas = replicas(&scene, 2).await;
        let layer = &image.layers[0].digest;
        let path = blob_of("library/app", layer);
        let gate = Gate::new();
        scene.registry.rule(Rule::on(Match::blob(layer).get()).once().stall_after(30_000, &gate));
        let first = replicas[0].0.stream(&path).await;
        scene.bucket.until(|bucket| bucket.keys().iter().any(|key| key.contains("/fills/"))).await;
        let size = image.layers[0].size;
        replicas[0].1.bend(Bend::Zeros(size.saturating_add_signed(wrong)));
        assert_eq!(replicas[1].0.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
        let answer = before_long("upstream has it", replicas[1].0.get(&path)).await;
        assert!(answer.complete && answer.status == 200, "{wrong}: {}", answer.status);
        assert_eq!(Digest::of(scripted_registry::Algorithm::Sha256, &answer.body), *layer, "{wrong}");
        assert!(!replicas[0].1.seen().is_empty(), "{wrong}: the other replica was asked");
        assert_eq!(scene.registry.gets_of(layer), 2, "{wrong}");
        gate.open();
        first.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_whose_chunks_never_end_ends_with_the_size_that_the_blob_has() {
    let scene = Scene::set().await;
    let image = scene.image(820);
    let replicas = replicas(&scene, 2).await;
    let layer = &image.layers[0].digest;
    let path = blob_of("library/app", layer);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(layer).get()).once().stall_after(100_000, &gate));
    let first = replicas[0].0.stream(&path).await;
    scene.bucket.until(|bucket| bucket.keys().iter().any(|key| key.contains("/fills/"))).await;
    replicas[0].1.bend(Bend::Flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nmore\r\n"));
    assert_eq!(replicas[1].0.get_with(TAG, &[MANIFEST_TYPES]).await.status, 200);
    let answer = before_long("it has what the blob has", replicas[1].0.get(&path)).await;
    assert!(!answer.complete && answer.body.len() as u64 <= image.layers[0].size, "{}", answer.body.len());
    let ended = tokio::time::timeout(Duration::from_secs(30), replicas[0].1.has_no_floods()).await;
    assert!(ended.is_ok(), "nobody reads it, and it is read on");
    gate.open();
    first.finish().await;
}
