//! One replica fetches a blob, the others read it from that one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use scripted_registry::bucket::Fault;
use scripted_registry::client::{self, Stream};
use scripted_registry::{Digest, Gate, Match, Rule, noise};

use crate::door::Door;
use crate::{Scene, TestMirror, blob_of, key_of, outcome};

const SIZE: usize = 2_000_000;
const PEER: &str = "x-registry-mirror-peer";

struct Blob {
    bytes: Bytes,
    digest: Digest,
    path: String,
}

fn blob(scene: &Scene, seed: u64) -> Blob {
    let bytes = noise(seed, SIZE);
    let digest = scene.registry.add_blob("library/app", bytes.clone());
    Blob { bytes, digest, path: blob_of("library/app", &digest) }
}

/// What its status says of the bucket.
pub(crate) async fn bucket_of(mirror: &TestMirror) -> serde_json::Value {
    let answer = client::get(mirror.socket(), "/api/v1/status", &[]).await;
    assert_eq!(answer.status, 200);
    let status: serde_json::Value = serde_json::from_slice(&answer.body).expect("a document");
    status["bucket"].clone()
}

async fn leases_of(mirror: &TestMirror) -> serde_json::Value {
    bucket_of(mirror).await["leases"].clone()
}

/// Waits until it can have leases.
pub(crate) async fn has_leases(mirror: &TestMirror) {
    while leases_of(mirror).await.is_null() {
        tokio::task::yield_now().await;
    }
}

/// So many replicas that have leases.
pub(crate) async fn replicas(scene: &Scene, count: usize) -> Vec<(TestMirror, Door)> {
    // However busy the machine is that tests, none of them seems to stand still.
    let replicas = join_all((0..count).map(|_| scene.behind_a_door("cache.patience = \"6s\""))).await;
    for (mirror, _) in &replicas {
        has_leases(mirror).await;
    }
    replicas
}

fn lease_of(digest: &Digest, epoch: u32) -> String {
    format!("mirror/fills/{}/{epoch}", digest.to_string().replace(':', "/"))
}

/// The replica that fetches it.
async fn leader(scene: &Scene, digest: &Digest, epoch: u32, replicas: &[(TestMirror, Door)]) -> usize {
    let key = lease_of(digest, epoch);
    scene.bucket.has(&key).await;
    let lease = String::from_utf8(scene.bucket.object(&key).unwrap().to_vec()).unwrap();
    replicas.iter().position(|(_, door)| lease.contains(&door.url())).expect("one of them")
}

async fn no_leases_left(scene: &Scene) {
    scene.bucket.until(|bucket| !bucket.keys().iter().any(|key| key.contains("/fills/"))).await;
}

#[tokio::test]
async fn one_cold_blob_on_three_replicas_costs_one_download_and_comes_to_all_as_it_comes() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 3).await;
    let blob = blob(&scene, 1);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).stall_after(1_000_000, &gate));
    let all: Vec<&TestMirror> = (0..15).map(|n| &replicas[n % 3].0).collect();
    let mut streams = join_all(all.iter().map(|mirror| mirror.stream(&blob.path))).await;
    for stream in &mut streams {
        assert_eq!(stream.header("content-length"), Some(&*SIZE.to_string()));
        assert!(stream.read_exactly(500_000).await == blob.bytes[..500_000], "before upstream has sent the rest");
    }
    gate.open();
    let answers = join_all(streams.into_iter().map(Stream::finish)).await;
    assert!(answers.iter().all(|answer| answer.complete && answer.body == blob.bytes[500_000..]));
    let count = |word: &str| answers.iter().filter(|answer| outcome(answer) == word).count();
    assert_eq!((count("fill"), count("tier"), count("join")), (1, 2, 12));
    assert_eq!(scene.registry.gets_of(&blob.digest), 1);
    let asked = scene.registry.requests();
    assert!(asked.iter().all(|request| request.header(PEER).is_none()), "it is for replicas alone");

    scene.bucket.has(&key_of(&blob.digest)).await;
    no_leases_left(&scene).await;
    let key = key_of(&blob.digest);
    let raised = scene.bucket.requests().iter().filter(|(method, of)| method == "PUT" && *of == key).count();
    assert_eq!(raised, 1, "who fetched it brings it up");
    for (mirror, _) in &replicas {
        mirror.settled().await;
        assert_eq!(outcome(&mirror.get(&blob.path).await), "hit");
        let metrics = mirror.metrics().await;
        let requests: f64 = metrics
            .lines()
            .filter(|line| line.starts_with("mirror_requests_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        assert_eq!(requests, 6.0, "other replicas are no clients: {metrics}");
    }
    assert_eq!(scene.registry.gets_of(&blob.digest), 1);
}

#[tokio::test]
async fn when_the_leading_replica_dies_another_goes_on_from_there_and_everybody_finishes() {
    let scene = Scene::set().await;
    let mut replicas = replicas(&scene, 3).await;
    let blob = blob(&scene, 2);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).once().stall_after(1_000_000, &gate));
    let first = replicas[0].0.stream(&blob.path).await;
    let leading = leader(&scene, &blob.digest, 1, &replicas).await;
    assert_eq!(leading, 0);
    let others: Vec<&TestMirror> = (0..10).map(|n| &replicas[1 + n % 2].0).collect();
    let mut streams = join_all(others.iter().map(|mirror| mirror.stream(&blob.path))).await;
    for stream in &mut streams {
        stream.read_exactly(800_000).await;
    }
    let (dead, door) = replicas.remove(0);
    door.close().await;
    let answers = join_all(streams.into_iter().map(Stream::finish)).await;
    assert!(answers.iter().all(|answer| answer.complete && answer.body == blob.bytes[800_000..]));
    let gets = scene.registry.requests().into_iter().filter(|request| Match::blob(&blob.digest).get().matches(request));
    let ranges: Vec<_> = gets.map(|request| request.header("range").map(str::to_owned)).collect();
    assert!(matches!(&ranges[..], [None, Some(_)]), "the second asks for the rest: {ranges:?}");
    gate.open();
    first.finish().await;
    scene.bucket.has(&key_of(&blob.digest)).await;
    assert!(scene.bucket.object(&key_of(&blob.digest)).unwrap() == blob.bytes);
    assert_eq!(scene.bucket.uploads(), 0);
    drop(dead);
    let taken: f64 = join_all(replicas.iter().map(|(mirror, _)| mirror.metrics()))
        .await
        .iter()
        .map(|metrics| taken_over(metrics))
        .sum();
    assert_eq!(taken, 1.0);
}

#[tokio::test]
async fn when_the_leading_replica_stands_still_one_of_the_others_goes_on_from_there_and_the_rest_follow_it() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 3).await;
    let blob = blob(&scene, 8);
    let (gate, again) = (Gate::new(), Gate::new());
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).once().stall_after(1_000_000, &gate));
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).once().stall_before_headers(&again));
    let first = replicas[0].0.stream(&blob.path).await;
    leader(&scene, &blob.digest, 1, &replicas).await;
    let others: Vec<&TestMirror> = (0..4).map(|n| &replicas[1 + n % 2].0).collect();
    let mut streams = join_all(others.iter().map(|mirror| mirror.stream(&blob.path))).await;
    for stream in &mut streams {
        stream.read_exactly(800_000).await;
    }
    replicas[0].1.freeze();
    let begun = Instant::now();
    again.reached().await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let leading = leader(&scene, &blob.digest, 2, &replicas).await;
    // Both have left the one that stands still, and the other one waits for this one.
    let asked = |door: &Door| door.seen().iter().any(|question| question.contains(&blob.digest.to_string()));
    while !asked(&replicas[leading].1) {
        tokio::task::yield_now().await;
    }
    again.open();
    let answers = join_all(streams.into_iter().map(Stream::finish)).await;
    assert!(answers.iter().all(|answer| answer.complete && answer.body == blob.bytes[800_000..]));
    let gets = scene.registry.requests().into_iter().filter(|request| Match::blob(&blob.digest).get().matches(request));
    let ranges: Vec<_> = gets.map(|request| request.header("range").map(str::to_owned)).collect();
    assert!(matches!(&ranges[..], [None, Some(_)]), "one of them asks for the rest: {ranges:?}");
    gate.open();
    first.finish().await;
    scene.bucket.has(&key_of(&blob.digest)).await;
    no_leases_left(&scene).await;
}

#[tokio::test]
async fn a_replica_that_waits_for_its_upstream_is_waited_for_by_the_others() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 2).await;
    let blob = blob(&scene, 9);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).stall_after(1_000_000, &gate));
    let first = replicas[0].0.stream(&blob.path).await;
    leader(&scene, &blob.digest, 1, &replicas).await;
    let second = replicas[1].0.stream(&blob.path).await;
    // It asks whether the first lives, more than once.
    while replicas[0].1.seen().len() < 3 {
        tokio::task::yield_now().await;
    }
    gate.open();
    for answer in join_all([first, second].map(Stream::finish)).await {
        assert!(answer.complete && answer.body == blob.bytes);
    }
    assert_eq!(scene.registry.gets_of(&blob.digest), 1);
}

#[tokio::test]
async fn a_fill_that_is_begun_right_after_a_start_is_shared_too() {
    let scene = Scene::set().await;
    scene.bucket.fault(&["PUT"], "/probe/", Fault::Slow(Duration::from_millis(300)));
    let replicas = join_all((0..2).map(|_| scene.behind_a_door("cache.patience = \"60s\""))).await;
    let blob = blob(&scene, 10);
    let answers = join_all(replicas.iter().map(|(mirror, _)| mirror.get(&blob.path))).await;
    assert!(answers.iter().all(|answer| answer.complete && answer.body == blob.bytes));
    assert_eq!(scene.registry.gets_of(&blob.digest), 1);
}

fn taken_over(metrics: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with("mirror_leases_taken_over_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_replica_that_is_silent_is_waited_for_no_longer_than_one_is_patient_and_another_takes_the_next_lease() {
    let scene = Scene::set().await;
    let (mirror, _door) = scene.behind_a_door("cache.patience = \"300ms\"").await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (gone, gone_door) = {
        let door = Door::shut().await;
        door.lead_to(silent.local_addr().unwrap());
        let settings = scene.settings().config(&scene.told_others(&door));
        (settings.start().await, door)
    };
    has_leases(&mirror).await;
    has_leases(&gone).await;
    let (gate, blob) = (Gate::new(), blob(&scene, 3));
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).once().stall_after(1_000_000, &gate));
    drop(gone.stream(&blob.path).await);
    scene.bucket.has(&lease_of(&blob.digest, 1)).await;
    assert!(mirror.get(&blob.path).await.body == blob.bytes);
    let was_taken = |(method, key): &(String, String)| method == "PUT" && *key == lease_of(&blob.digest, 2);
    assert!(scene.bucket.requests().iter().any(was_taken));
    gate.open();
    drop(gone_door);
}

#[tokio::test]
async fn who_proves_nothing_is_refused_and_what_is_not_fetched_is_not_given() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 2).await;
    let blob = blob(&scene, 5);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).stall_after(1_000_000, &gate));
    let (first, door) = &replicas[0];
    let leading = first.stream(&blob.path).await;
    leader(&scene, &blob.digest, 1, &replicas).await;
    let following = replicas[1].0.stream(&blob.path).await;
    let seen = door.seen();
    let question = seen.first().expect("the other one asked");
    let path = question.split(' ').nth(1).unwrap();
    let proof = question.lines().find_map(|line| line.strip_prefix("x-registry-mirror-peer: ")).unwrap();
    let status = async |path: &str, shown: &[&str]| {
        let headers: Vec<_> = shown.iter().map(|shown| (PEER, *shown)).collect();
        let stream = Stream::get(first.address, path, &headers).await;
        stream.status
    };
    assert_eq!(status(path, &[proof]).await, 200, "the same once more, which is good for half a minute");
    for shown in [&["x"][..], &[""], &[proof, proof], &[&proof[..proof.len() - 1]]] {
        assert_eq!(status(path, shown).await, 403, "{shown:?}");
    }
    assert_eq!(status(&blob.path, &[proof]).await, 403, "another path");
    let before = scene.registry.requests().len();
    assert_eq!(status("/v2/library/app/manifests/1", &["x"]).await, 403);
    assert_eq!(client::request(first.address, "HEAD", path, &[(PEER, proof)]).await.status, 403, "another method");
    assert_eq!(client::get(replicas[1].0.address, path, &[(PEER, proof)]).await.status, 403, "another replica");
    let plain = scene.replica().await;
    assert_eq!(client::get(plain.address, path, &[(PEER, proof)]).await.status, 403, "who has no secret");
    assert_eq!(scene.registry.requests().len(), before, "nobody was asked for them");

    gate.open();
    let answers = join_all([leading, following].map(Stream::finish)).await;
    assert!(answers.iter().all(|answer| answer.complete && answer.body == blob.bytes));
    scene.bucket.has(&key_of(&blob.digest)).await;
    no_leases_left(&scene).await;
    assert_eq!(status(path, &[proof]).await, 404, "it is fetched no more");
    scene.bucket.advance(Duration::from_secs(32));
    // It hears of the time when it asks for something.
    first.get(&blob_of("library/app", &Digest::of(scripted_registry::Algorithm::Sha256, b"no such"))).await;
    assert_eq!(status(path, &[proof]).await, 403, "too late");
    let metrics = first.metrics().await;
    assert!(metrics.contains("mirror_replica_answers_total{result=\"given\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_replica_that_may_read_something_opens_it_to_no_client_of_another_and_to_no_other_repository() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 2).await;
    let lines = "[[access.grant]]\nwho = [\"anonymous\"]\nmay = [\"docker.io/library/other\"]";
    let door = Door::shut().await;
    let strict = scene.settings().config(&scene.told_others(&door)).config(lines).upstream("access = \"mapped\"");
    let strict = strict.start().await;
    door.lead_to(strict.address);
    has_leases(&strict).await;
    let blob = blob(&scene, 6);
    let gate = Gate::new();
    scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).once().stall_after(1_000_000, &gate));
    let leading = replicas[0].0.stream(&blob.path).await;
    leader(&scene, &blob.digest, 1, &replicas).await;
    assert!(matches!(strict.get(&blob.path).await.status, 401 | 403));
    assert!(replicas[0].1.seen().is_empty(), "a permit comes first");
    let stranger = blob_of("library/other", &blob.digest);
    assert_eq!(strict.get(&stranger).await.status, 404, "that repository has not got it");
    assert_eq!(replicas[1].0.get(&stranger).await.status, 404);
    gate.open();
    assert!(leading.finish().await.body == blob.bytes);
}

#[tokio::test]
async fn where_there_can_be_no_leases_each_replica_fetches_for_itself_and_all_is_right() {
    for how in ["lies", "away", "off", "no secret", "none told"] {
        let mut scene = Scene::set().await;
        let replicas = match how {
            "lies" => {
                scene.bucket.lie();
                join_all((0..3).map(|_| scene.replica_with_door())).await
            }
            "away" => {
                scene.bucket.fault(&[], "", Fault::Hang);
                join_all((0..3).map(|_| scene.behind_a_door("cache.patience = \"200ms\""))).await
            }
            "off" => join_all((0..3).map(|_| scene.behind_a_door("store.bucket.leases = \"off\""))).await,
            how => {
                let mut replicas = Vec::new();
                for _ in 0..3 {
                    let door = Door::shut().await;
                    let lines = scene.told_others(&door);
                    let line = lines.lines().nth(usize::from(how == "no secret")).map(str::to_owned);
                    let kept = lines.lines().filter(|one| Some(*one) != line.as_deref()).collect::<Vec<_>>().join("\n");
                    replicas.push((scene.settings().config(&kept).start().await, door));
                }
                replicas
            }
        };
        let blob = blob(&scene, 7);
        let answers = join_all(replicas.iter().map(|(mirror, _)| mirror.get(&blob.path))).await;
        assert!(answers.iter().all(|answer| answer.complete && answer.body == blob.bytes), "{how}");
        assert!(scene.registry.gets_of(&blob.digest) <= 3, "{how}");
        assert!(!scene.bucket.requests().iter().any(|(_, key)| key.contains("/fills/")), "{how}");
        for (mirror, _) in &replicas {
            assert!(leases_of(mirror).await.is_null(), "{how}");
        }
        scene.registry.stop().await;
    }
}

#[tokio::test]
async fn what_upstream_has_not_got_leaves_no_lease() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 2).await;
    let absent = Digest::of(scripted_registry::Algorithm::Sha256, b"no such");
    for (mirror, _) in &replicas {
        assert_eq!(mirror.get(&blob_of("library/app", &absent)).await.status, 404);
    }
    no_leases_left(&scene).await;
}

#[tokio::test]
async fn a_replica_that_says_nothing_is_waited_for_once_and_not_for_each_layer() {
    let scene = Scene::set().await;
    let replicas = replicas(&scene, 2).await;
    let (blobs, gate) = ([30, 31, 32, 33].map(|seed| blob(&scene, seed)), Gate::new());
    let mut streams = Vec::new();
    for blob in &blobs {
        scene.registry.rule(Rule::on(Match::blob(&blob.digest).get()).once().stall_after(1_000_000, &gate));
        streams.push(replicas[0].0.stream(&blob.path).await);
        assert_eq!(leader(&scene, &blob.digest, 1, &replicas).await, 0);
    }
    replicas[0].1.freeze();
    let begun = Instant::now();
    for blob in &blobs {
        let answer = replicas[1].0.get(&blob.path).await;
        assert!(answer.complete && answer.body == blob.bytes);
    }
    assert!(begun.elapsed() < Duration::from_secs(6) * 2, "{:?}", begun.elapsed());
    gate.open();
    join_all(streams.into_iter().map(Stream::finish)).await;
}
