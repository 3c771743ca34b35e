//! An upstream that turns out to be away by the very request: the bucket, which was passed over as long as that might have
//! answered, is asked after all.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use scripted_registry::bucket::Fault;
use scripted_registry::client::{self, Stream};
use scripted_registry::{Gate, Image, Match, Rule, TokenPolicy, base64, noise};

use crate::leases::has_leases;
use crate::trouble::readyz;
use crate::unwell::{DEGRADED, PATIENCE, until_told};
use crate::{Door, MANIFEST_TYPES, Scene, TAG, TestMirror, before_long, blob_of, key_of, link_of, outcome, pull, up};

const TAGS: &str = "/v2/library/app/tags/list";

/// An image with a signature in the bucket, with all its names and both lists, and the path to the second.
async fn in_bucket(scene: &Scene, seed: u64) -> (Image, String) {
    let image = scene.image(seed);
    scene.registry.add_referrer("library/app", &image.manifest, "application/vnd.example.signature", noise(seed, 50));
    let first = scene.replica().await;
    pull(&first, &image).await;
    let referrers = format!("/v2/library/app/referrers/{}", image.manifest.digest);
    for path in [TAGS, &referrers] {
        assert_eq!(first.get(path).await.status, 200, "{path}");
    }
    up(scene, &image).await;
    scene.bucket.until(|bucket| bucket.keys().iter().filter(|key| key.contains("/_lists/")).count() == 2).await;
    drop(first.stop().await);
    (image, referrers)
}

/// From now on the bucket is slow, and these leave it alone because of that: a third of what clients wait is no help
/// beside an upstream.
async fn leave_it_alone(scene: &Scene, mirrors: &[&TestMirror]) {
    for mirror in mirrors {
        before_long("it is well", until_told(mirror, "ok\n")).await;
    }
    scene.bucket.fault(&["GET", "HEAD"], "", Fault::Slow(Duration::from_secs(1)));
    let asked = mirrors.iter().flat_map(|mirror| {
        (0..6).map(async |n| mirror.get_with(&format!("/v2/library/none{n}/manifests/1"), &[MANIFEST_TYPES]).await)
    });
    join_all(asked).await;
    for mirror in mirrors {
        assert_eq!(readyz(mirror).await, DEGRADED);
    }
}

async fn start(scene: &Scene) -> TestMirror {
    scene.settings().config(PATIENCE).start().await
}

#[tokio::test]
async fn the_first_image_of_an_outage_comes_from_a_bucket_that_was_left_alone() {
    let served = [("refusing", true), ("refusing", false), ("gone", false), ("silent", false)].map(
        |(how, has_peers)| async move {
            let mut scene = Scene::set().await;
            let (image, _) = in_bucket(&scene, 3000).await;
            let (mirror, _door) = if has_peers {
                let (mirror, door) = scene.behind_a_door(PATIENCE).await;
                has_leases(&mirror).await;
                (mirror, Some(door))
            } else {
                (start(&scene).await, None::<Door>)
            };
            leave_it_alone(&scene, &[&mirror]).await;
            let gate = Gate::new();
            match how {
                "refusing" => scene.registry.rule(Rule::on(Match::any()).refuse(503)),
                "gone" => scene.registry.stop().await,
                _ => scene.registry.rule(Rule::on(Match::any()).stall_before_headers(&gate)),
            }
            let begun = Instant::now();
            let layer = mirror.get(&blob_of("library/app", &image.layers[0].digest)).await;
            assert_eq!((layer.status, layer.complete, outcome(&layer).as_str()), (200, true, "tier"), "{how}");
            // For as long as clients wait, and then what the bucket takes for a name and for the blob.
            assert!(begun.elapsed() < Duration::from_secs(20), "{how}: {:?}", begun.elapsed());
            let outcomes = pull(&mirror, &image).await;
            assert_eq!(outcomes.len(), 4, "{how} {has_peers}: {outcomes:?}");
            gate.open();
        },
    );
    join_all(served).await;
}

#[tokio::test]
async fn whatever_is_asked_for_first_comes_from_there() {
    let scene = Scene::set().await;
    let (image, referrers) = in_bucket(&scene, 3100).await;
    let layer = blob_of("library/app", &image.layers[0].digest);
    let manifest = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let kinds = [
        ("GET", &*layer, 200),
        ("HEAD", &layer, 200),
        ("RANGE", &layer, 206),
        ("GET", &manifest, 200),
        ("HEAD", &manifest, 200),
        ("GET", TAG, 200),
        ("HEAD", TAG, 200),
        ("GET", TAGS, 200),
        ("GET", &referrers, 200),
    ];
    let mirrors = join_all(kinds.map(|_| start(&scene))).await;
    leave_it_alone(&scene, &mirrors.iter().collect::<Vec<_>>()).await;
    scene.registry.rule(Rule::on(Match::any()).refuse(503));
    let asked = kinds.iter().zip(&mirrors).map(async |((kind, path, status), mirror)| {
        let (method, range) = if *kind == "RANGE" { ("GET", &[("range", "bytes=5-9")][..]) } else { (*kind, &[][..]) };
        let headers = [&[MANIFEST_TYPES][..], range].concat();
        let answer = client::request(mirror.address, method, path, &headers).await;
        assert_eq!(answer.status, *status, "{kind} {path}: {}", String::from_utf8_lossy(&answer.body));
    });
    join_all(asked).await;
}

#[tokio::test]
async fn the_rest_of_what_upstream_began_comes_from_there_for_all_who_wait() {
    let mut scene = Scene::set().await;
    let bytes = noise(3200, 1_500_000);
    let image = scene.registry.add_image("library/app", "1", &[bytes]);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let (mirror, layer) = (start(&scene).await, image.layers[0].digest);
    leave_it_alone(&scene, &[&mirror]).await;
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&layer).get()).stall_after(700_000, &gate));
    let path = blob_of("library/app", &layer);
    let mut streams = [mirror.stream(&path).await, mirror.stream(&path).await];
    for stream in &mut streams {
        stream.read_exactly(500_000).await;
    }
    scene.registry.stop().await;
    let rest = scene.bucket.object(&key_of(&layer)).unwrap().slice(500_000..);
    for answer in join_all(streams.map(Stream::finish)).await {
        assert!(answer.complete && answer.body == rest);
    }
}

#[tokio::test]
async fn a_bucket_that_stood_still_once_is_asked_once_more() {
    for (n, fault) in [Fault::Stall, Fault::StallAfter(700_000)].into_iter().enumerate() {
        let scene = Scene::set().await;
        let image = scene.registry.add_image("library/app", "1", &[noise(3500 + n as u64, 1_500_000)]);
        let first = scene.replica().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        drop(first.stop().await);
        let (mirror, layer) = (start(&scene).await, image.layers[0].digest);
        until_told(&mirror, "ok\n").await;
        scene.registry.rule(Rule::on(Match::any()).refuse(503));
        let (key, path) = (key_of(&layer), blob_of("library/app", &layer));
        scene.bucket.fault(&["GET"], &key, fault);
        let was_asked = || scene.bucket.requests().iter().any(|(how, of)| how == "GET" && *of == key);
        let heals = async {
            while !was_asked() {
                tokio::task::yield_now().await;
            }
            scene.bucket.heal();
        };
        let (answer, ()) = tokio::join!(mirror.get(&path), heals);
        assert_eq!((answer.status, answer.complete), (200, true), "{fault:?}");
        assert!(Some(answer.body) == scene.bucket.object(&key), "{fault:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_stood_still_for_a_manifest_is_asked_once_more_however_the_time_of_its_name_was_up() {
    let scene = Scene::set().await;
    let (image, _) = in_bucket(&scene, 3600).await;
    let (mirror, gate) = (start(&scene).await, Gate::new());
    until_told(&mirror, "ok\n").await;
    scene.registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
    let key = key_of(&image.manifest.digest);
    scene.bucket.fault(&["GET"], &key, Fault::Stall);
    let was_asked = || scene.bucket.requests().iter().any(|(how, of)| how == "GET" && *of == key);
    let heals = async {
        while !was_asked() {
            tokio::task::yield_now().await;
        }
        scene.bucket.heal();
    };
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(mirror.get_with(TAG, &[MANIFEST_TYPES]), heals);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    gate.open();
}

#[tokio::test]
async fn what_another_repository_brought_here_is_given_where_only_the_bucket_says_that_it_may_be() {
    let scene = Scene::set().await;
    let image = scene.image(3300);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    drop(first.stop().await);
    let layer = image.layers[0].digest;
    scene.registry.add_blob("library/other", scene.bucket.object(&key_of(&layer)).unwrap());
    let mirror = start(&scene).await;
    assert!(mirror.get(&blob_of("library/other", &layer)).await.complete);
    leave_it_alone(&scene, &[&mirror]).await;
    scene.registry.rule(Rule::on(Match::any()).refuse(503));
    let answer = mirror.get(&blob_of("library/app", &layer)).await;
    assert_eq!((answer.status, outcome(&answer).as_str()), (200, "hit"));
}

#[tokio::test]
async fn who_was_let_in_before_and_what_everybody_may_have_is_served_from_there() {
    for access in ["pass-through", "public"] {
        let scene = Scene::set().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("auth"), "us:secret").unwrap();
        let repository = "team/app";
        let policy = TokenPolicy::bearer().user("us", "secret").user("ann", "ann");
        let policy = if access == "public" { policy } else { policy.private_to(repository, &["ann"]) };
        scene.registry.require_tokens(policy);
        let image = scene.registry.add_image(repository, "1", &[noise(3400, 300_000), noise(3401, 50)]);
        let auth = match access {
            "public" => format!("auth = \"file:{}\"\n", folder.path().join("auth").display()),
            _ => String::new(),
        };
        let listen = "server.listen = [\"127.0.0.1:0\", \"127.0.0.1:0=a.example\"]";
        let settings = || {
            let settings = scene.settings().config(PATIENCE).config(listen).and("a.example", &scene.registry);
            settings.having(&format!("{auth}access = \"{access}\""))
        };
        let shown = format!("Basic {}", base64("ann:ann"));
        let shown: &[_] = if access == "public" { &[] } else { &[("Authorization", &*shown)] };
        let below = |rest: &str| format!("/v2/{repository}/{rest}?ns=a.example");
        let get = async |mirror: &TestMirror, rest: &str| {
            let headers = [&[("Accept", "*/*")], shown].concat();
            client::get(mirror.address, &below(rest), &headers).await
        };
        let first = settings().start().await;
        let blobs: Vec<_> = image.blobs().map(|blob| format!("blobs/{}", blob.digest)).collect();
        for part in ["manifests/1".to_owned()].iter().chain(&blobs) {
            assert_eq!(get(&first, part).await.status, 200, "{access}: {part}");
        }
        for blob in image.blobs() {
            scene.bucket.has(&key_of(&blob.digest)).await;
            let link = link_of(repository, &blob.digest).replace("docker.io", "a.example");
            scene.bucket.has(&link).await;
        }
        first.settled().await;
        while crate::leases::bucket_of(&first).await["backlog"] != 0 {
            tokio::task::yield_now().await;
        }
        let second = settings().start().await;
        if access == "pass-through" {
            assert_eq!(get(&second, "manifests/1").await.status, 200);
        }
        leave_it_alone(&scene, &[&second]).await;
        second.advance(Duration::from_secs(600));
        scene.registry.rule(Rule::on(Match::any()).before_auth().refuse(503));
        for part in &blobs {
            let answer = get(&second, part).await;
            let said = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
            assert_eq!((answer.status, answer.complete), (200, true), "{access}: {part}: {said}");
        }
    }
}
