//! Traps 5 to 9, 12 and 30: blobs on their way through.

use bytes::Bytes;
use futures_util::future::join_all;
use scripted_registry::client::Stream;
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const SIZE: usize = 1_000_000;

async fn registry_with_blob() -> (Registry, Digest, Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(91, SIZE);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

fn is_stored(mirror: &TestMirror, digest: &Digest) -> bool {
    mirror.store().join("blobs/sha256").join(digest.hex()).exists()
}

#[tokio::test]
async fn trap_05_content_is_asked_for_and_sent_as_it_is() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    registry.add_image("library/app", "1", &[noise(92, 100)]);
    let mirror = TestMirror::of(&registry).await;
    let offered = [("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
    for path in [path.as_str(), "/v2/library/app/manifests/1", "/v2/library/app/tags/list"] {
        for _ in 0..2 {
            let answer = mirror.get_with(path, &offered).await;
            assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{path}");
            assert!(!path.contains("/blobs/") || answer.body == bytes);
            mirror.settled().await;
        }
    }
    assert!(registry.requests().iter().all(|request| request.header("accept-encoding") == Some("identity")));

    let (registry, other, _, path) = registry_with_blob().await;
    assert_eq!(digest, other);
    registry.rule(Rule::on(Match::any()).gzip());
    let mirror = TestMirror::of(&registry).await;
    for path in [path.as_str(), "/v2/library/app/manifests/1"] {
        assert!(matches!(mirror.get_with(path, &offered).await.status, 404 | 502), "{path}");
    }
    assert!(!is_stored(&mirror, &other));
}

#[tokio::test]
async fn trap_06_no_wrong_body_ends_well_and_nothing_wrong_is_stored() {
    type Misbehaviour = fn(Rule) -> Rule;
    let misbehaviours: [(&str, Misbehaviour); 5] = [
        ("the last byte is wrong", Rule::flip_last_byte),
        ("the first byte is wrong", |rule| rule.flip_bit_at(0)),
        ("shorter than announced", |rule| rule.declare_length(SIZE as u64 - 1)),
        ("longer than the blob", |rule| rule.extra("x").declare_length(SIZE as u64 + 1)),
        ("wrong, of unknown length", |rule| rule.chunked().flip_last_byte()),
    ];
    for (what, misbehave) in misbehaviours {
        let (registry, digest, bytes, path) = registry_with_blob().await;
        registry.rule(misbehave(Rule::on(Match::blob(&digest).get())));
        let mirror = TestMirror::of(&registry).await;
        let answer = mirror.get(&path).await;
        assert!(!answer.complete || answer.status >= 500, "{what}");
        mirror.settled().await;
        assert!(!is_stored(&mirror, &digest), "{what}");
        let before = registry.gets_of(&digest);
        registry.clear_rules();
        let answer = mirror.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "{what}");
        assert!(registry.gets_of(&digest) > before, "{what}");
    }
}

#[tokio::test]
async fn trap_06_a_store_that_cannot_write_passes_through() {
    let (registry, _, bytes, path) = registry_with_blob().await;
    let mirror = TestMirror::of(&registry).await;
    std::fs::remove_dir_all(mirror.store().join("ingest")).unwrap();
    std::fs::write(mirror.store().join("ingest"), "in the way").unwrap();
    let answer = mirror.get(&path).await;
    assert!(answer.status == 200 && answer.complete && answer.body == bytes);
    assert!(answer.header("cache-status").unwrap().contains("relayed"));
}

#[tokio::test]
async fn trap_07_headers_and_first_bytes_come_as_soon_as_upstream_sends_them() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).drip(1000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut stream = mirror.stream(&path).await;
    assert_eq!((stream.status, stream.header("content-length")), (200, Some("1000000")), "before the first byte");
    gate.let_through(1);
    assert_eq!(stream.read_exactly(1000).await, bytes.slice(..1000), "while upstream stands still again");
    gate.open();
    assert!(stream.finish().await.complete);
}

#[tokio::test]
async fn trap_08_a_client_that_leaves_wastes_nothing() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(SIZE as u64 / 2, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut first = mirror.stream(&path).await;
    first.read_exactly(SIZE / 2 - 100_000).await;
    first.reset();
    let second = mirror.stream(&path).await;
    gate.open();
    let second = second.finish().await;
    assert!(second.complete && second.body == bytes);
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn trap_08_with_the_policy_stop_upstream_is_let_go_and_what_came_is_kept() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get().without_header("range")).stall_after(SIZE as u64 / 2, &gate));
    let mirror = Settings::of(&registry).config("cache.finish_unread = \"0%\"").start().await;
    let mut first = mirror.stream(&path).await;
    let mut other = mirror.stream(&path).await;
    first.read_exactly(SIZE / 2 - 100_000).await;
    first.reset();
    other.read_exactly(SIZE / 2 - 100_000).await;
    assert_eq!(mirror.mirror.fills(), 1, "one reader is left");
    other.reset();
    // The gate stays closed: the fill ends because it is given up, not because upstream goes on.
    mirror.settled().await;
    assert!(mirror.metrics().await.contains("result=\"abandoned\"} 1"));
    let again = mirror.get(&path).await;
    assert!(again.complete && again.body == bytes);
    assert_eq!(registry.gets_of(&digest), 2);
    assert!(registry.requests().last().expect("a request").header("range").is_some(), "it goes on where it was");
    gate.open();
}

#[tokio::test]
async fn trap_09_fifty_clients_are_one_download_and_survive_its_break() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let gate = Gate::new();
    registry.rule(
        Rule::on(Match::blob(&digest).get().without_header("range"))
            .stall_after(100_000, &gate)
            .close_after(SIZE as u64 / 2),
    );
    let mirror = TestMirror::of(&registry).await;
    let streams = join_all((0..50).map(|_| mirror.stream(&path))).await;
    gate.open();
    for answer in join_all(streams.into_iter().map(Stream::finish)).await {
        assert!(answer.complete && answer.body == bytes);
    }
    assert_eq!(registry.gets_of(&digest), 2, "one download, and one resumption");
    assert!(registry.body_bytes_sent(&digest) <= SIZE as u64);
}

#[tokio::test]
async fn trap_12_head_of_a_cold_blob_is_true_and_cheap() {
    for misbehaviour in ["none", "storage refuses HEAD", "storage sends 400 to HEAD"] {
        let registry = Registry::start().await.with_storage_host().await;
        let digest = registry.add_blob("library/app", noise(93, SIZE));
        let refused = match misbehaviour {
            "none" => None,
            "storage refuses HEAD" => Some(403),
            _ => Some(400),
        };
        if let Some(status) = refused {
            registry.rule(Rule::on(Match::stored(&digest).head()).refuse(status));
        }
        let mirror = TestMirror::of(&registry).await;
        let head = mirror.head(&format!("/v2/library/app/blobs/{digest}")).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("1000000")), "{misbehaviour}");
        assert_eq!(head.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert!(registry.body_bytes_sent(&digest) < 1000, "{misbehaviour}");
        assert_eq!(mirror.mirror.fills(), 0);
        let missing = mirror.head(&format!("/v2/library/app/blobs/sha256:{}", "0".repeat(64))).await;
        assert_eq!(missing.status, 404);
    }
}

#[tokio::test]
async fn trap_30_a_file_that_lost_its_end_is_a_miss() {
    let (registry, digest, bytes, path) = registry_with_blob().await;
    let mirror = TestMirror::of(&registry).await;
    mirror.get(&path).await;
    mirror.settled().await;
    let file = mirror.store().join("blobs/sha256").join(digest.hex());
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes[..SIZE / 2]).unwrap();
    let answer = mirror.get(&path).await;
    assert!(answer.complete && answer.body == bytes);
    assert_eq!(registry.gets_of(&digest), 2);
}
