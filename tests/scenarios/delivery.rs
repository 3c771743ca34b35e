//! How bodies get to the socket: by the kernel where a file is large, from memory where it is small,
//! and never silently in a slower way.

use std::fs::OpenOptions;
use std::path::PathBuf;

use scripted_registry::client::Connection;
use scripted_registry::{Gate, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

/// The file of a stored blob.
fn stored(mirror: &TestMirror, digest: &scripted_registry::Digest) -> PathBuf {
    mirror.store().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

/// How many bodies went each way: sendfile, copy, memory.
async fn ways(mirror: &TestMirror) -> [u64; 3] {
    let metrics = mirror.metrics().await;
    ["sendfile", "copy", "memory"].map(|path| {
        let series = format!("mirror_bodies_total{{path=\"{path}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(series.as_str()));
        line.expect("the series exists from the start").parse().expect("a count")
    })
}

#[tokio::test]
async fn stored_and_filling_blobs_are_sent_by_the_kernel() {
    let registry = Registry::start().await;
    let bytes = noise(81, 9_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    for (request, outcome) in [(1, "fwd=miss"), (2, "hit"), (3, "hit")] {
        let response = mirror.get(&path).await;
        assert!(response.header("cache-status").is_some_and(|status| status.contains(outcome)));
        assert!(response.complete && response.body == bytes, "{outcome}");
        mirror.settled().await;
        assert_eq!(ways(&mirror).await, [request, 0, 0], "a {outcome} fell back to copying");
    }
    let part = mirror.get_with(&path, &[("Range", "bytes=1234567-8000000")]).await;
    assert!(part.complete && part.body == bytes.slice(1_234_567..8_000_001));
    assert_eq!(ways(&mirror).await, [4, 0, 0]);
}

#[tokio::test]
async fn requests_follow_one_another_on_one_connection() {
    let registry = Registry::start().await;
    let (large, small) = (noise(82, 5_000_000), noise(83, 5_000));
    let paths = [&large, &small]
        .map(|bytes| format!("/v2/library/app/blobs/{}", registry.add_blob("library/app", bytes.clone())));
    let mirror = TestMirror::of(&registry).await;
    let mut connection = Connection::open(mirror.address).await;
    for _ in 0..3 {
        for (path, bytes) in paths.iter().zip([&large, &small]) {
            let mut stream = connection.send("GET", path, &[]).await.expect("a response");
            assert!(stream.read_exactly(bytes.len()).await == *bytes);
            connection = stream.done().await.expect("the body ends as announced");
        }
    }
    drop(connection);
    let [sendfile, copy, memory] = ways(&mirror).await;
    assert_eq!((sendfile, copy), (3, 0));
    assert!(memory <= 3, "a small blob that is still arriving may be sent by the kernel");
}

#[tokio::test]
async fn small_blobs_and_manifests_are_sent_from_memory() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(84, 60_000));
    registry.add_image("library/app", "1", &[noise(85, 10)]);
    let mirror = TestMirror::of(&registry).await;
    mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
    mirror.get("/v2/library/app/manifests/1").await;
    assert_eq!(ways(&mirror).await, [0, 0, 2]);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_served_cuts_one_body_and_nothing_else() {
    let registry = Registry::start().await;
    let bytes = noise(86, 20_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    mirror.get(&path).await;
    mirror.settled().await;
    let connection = Connection::open_narrow(mirror.address, 64 << 10).await;
    let mut stream = connection.send("GET", &path, &[]).await.expect("a response");
    let begin = stream.read_exactly(100_000).await;
    let file = OpenOptions::new().write(true).open(stored(&mirror, &digest)).expect("ours");
    file.set_len(200_000).expect("cut");
    let rest = stream.finish().await;
    assert!(!rest.complete, "a cut body never looks whole");
    assert!(bytes.starts_with(&begin));
    let again = mirror.get(&path).await;
    assert!(again.complete && again.body == bytes, "the next one is filled again");
}

#[tokio::test]
async fn a_client_that_hangs_up_is_not_counted_as_served() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(87, 30_000_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(1_000_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let mut stream = mirror.stream(&path).await;
    stream.read_exactly(100_000).await;
    stream.reset();
    gate.open();
    mirror.settled().await;
    while ways(&mirror).await == [0, 0, 0] {
        tokio::task::yield_now().await;
    }
    let metrics = mirror.metrics().await;
    let series = r#"mirror_sent_bytes_total{upstream="docker.io",outcome="fill"} "#;
    let sent: u64 =
        metrics.lines().find_map(|line| line.strip_prefix(series)).expect("counted").parse().expect("bytes");
    assert!((100_000..30_000_000).contains(&sent), "{sent} bytes");
}
