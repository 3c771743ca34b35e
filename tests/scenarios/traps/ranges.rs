//! Traps 10 and 11: resuming, lazy reading, and chunks in parallel, of blobs in every state.

use bytes::Bytes;
use futures_util::future::join_all;
use scripted_registry::client::{Response, Stream};
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

const SIZE: usize = 12_000_000;

async fn registry_with_blob(size: usize) -> (Registry, Digest, Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(71, size);
    let digest = registry.add_layer("library/app", "1", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

/// A mirror that has served the manifest, as it has to who reads lazily.
async fn mirror_of(registry: &Registry) -> TestMirror {
    let mirror = TestMirror::of(registry).await;
    assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
    mirror
}

/// The request of the fill, which wants everything.
fn fill(digest: &Digest) -> Match {
    Match::blob(digest).get().without_header("range")
}

/// What dockerd 1.13 and containers/image check before they go on at `from`.
fn assert_resumes(response: &Response, bytes: &Bytes, from: usize) {
    let size = bytes.len();
    assert_eq!(response.status, 206, "a 200 makes them start again, or fail");
    let range = format!("bytes {from}-{}/{size}", size - 1);
    assert_eq!(response.header("content-range"), Some(range.as_str()));
    assert_eq!(response.header("content-length"), Some((size - from).to_string().as_str()));
    assert!(response.complete && response.body == bytes.slice(from..));
}

#[tokio::test]
async fn trap_10_a_broken_download_goes_on_where_it_broke_cold_filling_and_stored() {
    let (registry, digest, bytes, path) = registry_with_blob(1_000_000).await;
    let gate = Gate::new();
    registry.rule(Rule::on(fill(&digest)).stall_after(500_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    // Cold: the client began elsewhere.
    let cold = Stream::get(mirror.address, &path, &[("Range", "bytes=300000-")]).await;
    let mut broken = mirror.stream(&path).await;
    broken.read_exactly(400_000).await;
    broken.reset();
    let filling = Stream::get(mirror.address, &path, &[("Range", "bytes=400000-")]).await;
    gate.open();
    assert_resumes(&cold.finish().await, &bytes, 300_000);
    assert_resumes(&filling.finish().await, &bytes, 400_000);
    mirror.settled().await;
    assert_resumes(&mirror.get_with(&path, &[("Range", "bytes=999999-")]).await, &bytes, 999_999);
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn trap_11_a_lazy_read_of_a_cold_blob_is_answered_while_the_fill_stands() {
    for stands_before_headers in [false, true] {
        let (registry, digest, bytes, path) = registry_with_blob(SIZE).await;
        let gate = Gate::new();
        let rule = Rule::on(fill(&digest));
        let rule = if stands_before_headers { rule.stall_before_headers(&gate) } else { rule.stall_after(0, &gate) };
        registry.rule(rule);
        let mirror = mirror_of(&registry).await;
        let middle = SIZE / 2;
        for (range, part) in [
            ("bytes=0-1".to_owned(), 0..2),
            ("bytes=-16".to_owned(), SIZE - 16..SIZE),
            (format!("bytes={middle}-{}", middle + 49_999), middle..middle + 50_000),
            (format!("bytes={}-{}", SIZE - 5, SIZE + 5), SIZE - 5..SIZE),
        ] {
            let answer = mirror.get_with(&path, &[("Range", &range)]).await;
            assert_eq!((answer.status, answer.complete), (206, true), "{range}");
            assert!(answer.body == bytes.slice(part.clone()), "{range}");
            let said = format!("bytes {}-{}/{SIZE}", part.start, part.end - 1);
            assert_eq!(answer.header("content-range"), Some(said.as_str()));
            assert!(answer.header("cache-status").unwrap().contains("relayed"), "{range}");
        }
        assert_eq!(mirror.get_with(&path, &[("Range", "bytes=12000000-12000001")]).await.status, 416);
        assert!(!mirror.store().join("blobs/sha256").join(digest.hex()).exists(), "what was passed on is not stored");
        gate.open();
        mirror.settled().await;
        let whole = mirror.get(&path).await;
        assert_eq!(whole.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
        assert!(whole.complete && whole.body == bytes);
        assert_eq!(registry.count_of(&fill(&digest)), 1, "one fill ran behind");
        assert!(!mirror.metrics().await.contains("relayed-mismatch"));
    }
}

#[tokio::test]
async fn trap_11_other_bytes_in_a_lazy_read_are_found_out_once_the_blob_is_verified() {
    let (registry, digest, bytes, path) = registry_with_blob(SIZE).await;
    let gate = Gate::new();
    registry.rule(Rule::on(fill(&digest)).stall_after(0, &gate));
    registry.rule(Rule::on(Match::blob(&digest).with_header("range")).flip_last_byte());
    let mirror = mirror_of(&registry).await;
    let lie = mirror.get_with(&path, &[("Range", "bytes=-16")]).await;
    assert_eq!((lie.status, lie.body == bytes.slice(SIZE - 16..)), (206, false), "nobody can tell yet");
    gate.open();
    mirror.settled().await;
    let line = r#"mirror_errors_total{class="relayed-mismatch"} 1"#;
    while !mirror.metrics().await.contains(line) {
        tokio::task::yield_now().await;
    }
    assert!(mirror.get(&path).await.body == bytes, "the lie was not stored");
}

#[tokio::test]
async fn trap_11_an_upstream_without_ranges_is_read_once() {
    let (registry, digest, bytes, path) = registry_with_blob(SIZE).await;
    let gate = Gate::new();
    registry.rule(Rule::on(fill(&digest)).stall_after(0, &gate));
    registry.rule(Rule::on(Match::blob(&digest).with_header("range")).ignore_range());
    let mirror = TestMirror::of(&registry).await;
    let part = Stream::get(mirror.address, &path, &[("Range", "bytes=-16")]).await;
    assert_eq!(part.status, 206);
    gate.open();
    assert_eq!(part.finish().await.body, bytes.slice(SIZE - 16..));
    mirror.settled().await;
}

#[tokio::test]
async fn trap_11_parallel_chunks_with_early_close_cost_one_download() {
    let (registry, digest, bytes, path) = registry_with_blob(SIZE).await;
    let mirror = TestMirror::of(&registry).await;
    let chunk = SIZE / 8;
    let chunks = (0..8).map(|number| {
        let (address, path, start) = (mirror.address, path.clone(), number * chunk);
        async move {
            let range = format!("bytes={start}-");
            let mut stream = Stream::get(address, &path, &[("Range", &range)]).await;
            assert_eq!(stream.status, 206);
            let piece = stream.read_exactly(chunk).await;
            stream.reset();
            piece
        }
    });
    let pieces = join_all(chunks).await;
    assert!(pieces.concat() == bytes);
    mirror.settled().await;
    let cost = registry.body_bytes_sent(&digest);
    assert!(cost as f64 <= SIZE as f64 * 1.1, "{cost} bytes for a blob of {SIZE}");
}

#[tokio::test]
async fn trap_11_several_ranges_at_once_are_answered_with_as_many_parts() {
    let (registry, digest, bytes, path) = registry_with_blob(100_000).await;
    let mirror = TestMirror::of(&registry).await;
    for _ in 0..2 {
        let answer = mirror.get_with(&path, &[("Range", "bytes=0-9,50000-50009,-5")]).await;
        assert_eq!((answer.status, answer.header("content-range")), (206, None));
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("multipart/byteranges; boundary=")));
        let part = |part: &[u8]| answer.body.windows(part.len()).any(|window| window == part);
        assert!(answer.complete && part(&bytes[..10]) && part(&bytes[50_000..50_010]) && part(&bytes[99_995..]));
        mirror.settled().await;
    }
    let none = mirror.get_with(&path, &[("Range", "bytes=100000-,200000-")]).await;
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */100000")));
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn trap_11_exotic_ranges_of_cold_and_empty_blobs() {
    for (range, status, part) in [
        ("bytes=500-1499", 206, 500..1500),
        ("bytes=500-", 206, 500..3000),
        ("bytes=-500", 206, 2500..3000),
        ("bytes=2000-5000", 206, 2000..3000),
        ("bytes=500-0", 416, 0..0),
        ("bytes=5000-10000", 416, 0..0),
        ("bytes=nonsense", 200, 0..3000),
    ] {
        let (registry, _, bytes, path) = registry_with_blob(3000).await;
        let mirror = TestMirror::of(&registry).await;
        let cold = mirror.get_with(&path, &[("Range", range)]).await;
        assert_eq!(cold.status, status, "{range}");
        if status == 416 {
            assert_eq!(cold.header("content-range"), Some("bytes */3000"), "{range}");
        } else {
            assert!(cold.complete && cold.body == bytes.slice(part), "{range}");
        }
    }
    let (registry, _, _, path) = registry_with_blob(0).await;
    let mirror = TestMirror::of(&registry).await;
    for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
        assert_eq!(mirror.get_with(&path, &[("Range", range)]).await.status, 416, "{range}");
        mirror.settled().await;
    }
}
