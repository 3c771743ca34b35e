//! One fill, many readers: one download, own paces, nobody waits for anybody.

use futures_util::future::join_all;
use scripted_registry::client::Stream;
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const SIZE: usize = 2_000_000;

async fn registry_with_blob() -> (Registry, Digest, bytes::Bytes, String) {
    registry_with_blob_of(SIZE).await
}

async fn registry_with_blob_of(size: usize) -> (Registry, Digest, bytes::Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(11, size);
    let digest = registry.add_layer("library/app", "1", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

#[tokio::test]
async fn fifty_clients_of_one_missing_blob_cost_one_download() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(100_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    // Everybody has an answer before upstream sends the rest.
    let streams = join_all((0..50).map(|_| mirror.stream(&path))).await;
    gate.open();
    let responses = join_all(streams.into_iter().map(Stream::finish)).await;
    assert!(responses.iter().all(|response| response.complete && response.body == bytes));
    let outcome = |word: &str| {
        responses.iter().filter(|response| response.header("cache-status").is_some_and(|s| s.contains(word))).count()
    };
    assert_eq!((outcome("detail=fill"), outcome("detail=join")), (1, 49));
    assert_eq!(registry.gets_of(&digest), 1);
    assert_eq!(registry.body_bytes_sent(&digest), SIZE as u64);
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("mirror_"), "{metrics}");
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_nobody() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let mirror = TestMirror::of(&registry).await;
    let mut slow = scripted_registry::client::Connection::open_narrow(mirror.address, 4096)
        .await
        .send("GET", &path, &[])
        .await
        .expect("an answer");
    slow.read_exactly(1000).await;
    let fast = mirror.get(&path).await;
    assert!(fast.complete && fast.body == bytes);
    mirror.settled().await;
    let rest = slow.finish().await;
    assert!(rest.complete);
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn the_first_client_hanging_up_changes_nothing_for_the_others() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(400_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut first = mirror.stream(&path).await;
    first.read_exactly(10_000).await;
    let second = mirror.stream(&path).await;
    first.reset();
    gate.open();
    let second = second.finish().await;
    assert!(second.complete && second.body == bytes);
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn a_fill_goes_on_when_every_client_has_left() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(400_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut only = mirror.stream(&path).await;
    only.read_exactly(10_000).await;
    only.reset();
    gate.open();
    mirror.settled().await;
    let later = mirror.get(&path).await;
    assert_eq!((later.header("cache-status"), &later.body), (Some("registry-mirror; hit; detail=hit"), &bytes));
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn first_bytes_flow_while_upstream_still_sends() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(500_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut stream = mirror.stream(&path).await;
    assert_eq!(stream.header("content-length"), Some(SIZE.to_string().as_str()));
    assert_eq!(stream.read_exactly(400_000).await, bytes.slice(..400_000), "while the gate is closed");
    gate.open();
    assert!(stream.finish().await.complete);
}

#[tokio::test]
async fn what_clients_got_is_counted_while_it_is_sent_as_what_is_fetched_is() {
    let (registry, digest, _, path) = registry_with_blob_of(8_000_000).await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(6_000_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut stream = mirror.stream(&path).await;
    stream.read_exactly(5_500_000).await;
    let counted = mirror.metrics().await;
    let sent = counted.lines().find(|line| line.starts_with("mirror_sent_bytes_total{") && line.contains("\"fill\""));
    let sent = sent.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    assert!(sent.is_some_and(|sent: u64| sent >= 4_000_000), "{sent:?}: {counted}");
    gate.open();
    assert!(stream.finish().await.complete);
    mirror.settled().await;
    let counted = mirror.metrics().await;
    assert!(counted.lines().any(|line| line.contains("\"fill\"") && line.ends_with(" 8000000")), "once: {counted}");
}

#[tokio::test]
async fn a_range_of_a_filling_blob_joins_the_fill() {
    // Of a smaller one a part waits until all is verified.
    let (registry, digest, bytes, path) = registry_with_blob_of(5_000_000).await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(500_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    let whole = mirror.stream(&path).await;
    let part = mirror.get_with(&path, &[("Range", "bytes=100000-199999")]).await;
    assert_eq!((part.status, &part.body), (206, &bytes.slice(100_000..200_000)), "while the gate is closed");
    let rest = Stream::get(mirror.address, &path, &[("Range", "bytes=300000-")]).await;
    assert_eq!(rest.header("content-range"), Some("bytes 300000-4999999/5000000"));
    gate.open();
    let rest = rest.finish().await;
    assert!(rest.complete && rest.body == bytes.slice(300_000..));
    assert!(whole.finish().await.complete);
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn concurrent_tag_lookups_share_one_request() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(12, 1000)]);
    let gate = Gate::new();
    registry.rule(Rule::on(Match::manifest("library/app", "1").head()).stall_before_headers(&gate));
    let mirror = TestMirror::that_heard(&registry).await;
    let pulls = (0..20).map(|_| mirror.get("/v2/library/app/manifests/1"));
    let release = async {
        gate.reached().await;
        gate.open();
    };
    let (responses, ()) = tokio::join!(join_all(pulls), release);
    assert!(responses.iter().all(|response| response.status == 200));
    let digest = image.manifest.digest.to_string();
    assert!(responses.iter().all(|response| response.header("docker-content-digest") == Some(&digest)));
    assert_eq!(registry.count_of(&Match::manifest("library/app", "1").head()), 1);
    assert_eq!(registry.gets_of(&image.manifest.digest), 1);
}

#[tokio::test]
async fn an_upstream_that_stalls_takes_no_place_from_the_others() {
    let (stalled, healthy) = (Registry::start().await, Registry::start().await);
    let stuck = stalled.add_blob("library/app", noise(13, 100_000));
    let well = healthy.add_blob("library/app", noise(14, 100_000));
    let gate = Gate::new();
    stalled.rule(Rule::on(Match::blob(&stuck).get()).stall_after(100, &gate));
    let settings = Settings::of(&stalled).and("other.example", &healthy).config("limits.fills = 1");
    let mirror = settings.start().await;
    let waiting = mirror.stream(&format!("/v2/library/app/blobs/{stuck}")).await;
    let response = mirror.get(&format!("/v2/other.example/library/app/blobs/{well}")).await;
    assert!(response.complete, "while the only place of the other upstream is taken");
    gate.open();
    assert!(waiting.finish().await.complete);
}
