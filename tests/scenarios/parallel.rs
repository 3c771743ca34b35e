//! One large blob through several connections: each byte once, in order for readers, and never a
//! worse pull than through one.

use bytes::Bytes;
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

/// What is asked for at a time, in bytes.
const PIECE: u64 = 8 << 20;
/// Five pieces, the last one short.
const SIZE: usize = (4 << 23) + 3_000_000;

struct Scene {
    registry: Registry,
    bytes: Bytes,
    digest: Digest,
    path: String,
}

async fn scene() -> Scene {
    let registry = Registry::start().await;
    let bytes = noise(21, SIZE);
    let digest = registry.add_blob("library/app", bytes.clone());
    Scene { registry, bytes, digest, path: format!("/v2/library/app/blobs/{digest}") }
}

impl Scene {
    async fn mirror(&self, parallel: u8) -> TestMirror {
        Settings::of(&self.registry).upstream(&format!("parallel = {parallel}")).start().await
    }

    /// GETs of the blob.
    fn gets(&self) -> Match {
        Match::blob(&self.digest).get()
    }

    /// The GET of the piece that begins here.
    fn piece_at(&self, start: u64) -> Match {
        let range = format!("bytes={start}-");
        let begins = move |value: &http::HeaderValue| value.to_str().is_ok_and(|value| value.starts_with(&range));
        self.gets().and(Match::when(move |request| request.headers.get("range").is_some_and(&begins)))
    }

    async fn is_pulled(&self, mirror: &TestMirror) {
        let response = mirror.get(&self.path).await;
        assert!(response.complete && response.body == self.bytes);
    }

    fn is_stored(&self, mirror: &TestMirror) -> bool {
        mirror.store().join("blobs/sha256").join(self.digest.hex()).exists()
    }
}

#[tokio::test]
async fn pieces_come_at_once_each_byte_once_and_clients_read_them_in_order() {
    let scene = scene().await;
    let gate = Gate::new();
    scene.registry.rule(Rule::on(scene.piece_at(0)).stall_after(1_000_000, &gate));
    let mirror = scene.mirror(4).await;
    let mut first = mirror.stream(&scene.path).await;
    let second = mirror.stream(&scene.path).await;
    // Three others are under way while the first piece stands still.
    scene.registry.seen(&scene.gets(), 4).await;
    for start in [PIECE, 2 * PIECE, 3 * PIECE] {
        scene.registry.seen(&scene.piece_at(start), 1).await;
    }
    let head = first.read_exactly(900_000).await;
    assert_eq!(head, scene.bytes.slice(..900_000));
    gate.open();
    let (first, second) = (first.finish().await, second.finish().await);
    assert!(first.complete && [head, first.body].concat() == scene.bytes);
    assert!(second.complete && second.body == scene.bytes);
    mirror.settled().await;
    assert_eq!(scene.registry.body_bytes_sent(&scene.digest), SIZE as u64);
    assert_eq!(scene.registry.count_of(&scene.gets()), 5);
    let metrics = mirror.metrics().await;
    assert!(metrics.contains("mirror_parallel_streams_total 3"), "{metrics}");
    assert!(metrics.contains("mirror_parallel_streams_given_up_total 0"), "{metrics}");
    assert!(scene.is_stored(&mirror));
}

#[tokio::test]
async fn one_connection_is_used_where_no_more_are_allowed_or_upstream_does_no_ranges() {
    for (parallel, rule, gets) in [
        (1, None, 1),
        (4, Some(Rule::on(Match::blobs().get()).ignore_range()), 1),
        (4, Some(Rule::on(Match::blobs().get().with_header("range")).refuse(416)), 2),
    ] {
        let scene = scene().await;
        scene.registry.rule(rule.unwrap_or(Rule::on(Match::ping())));
        let mirror = scene.mirror(parallel).await;
        scene.is_pulled(&mirror).await;
        mirror.settled().await;
        assert_eq!(scene.registry.count_of(&scene.gets()), gets, "{parallel}");
        assert!(mirror.metrics().await.contains("mirror_parallel_streams_total 0"));
        assert!(scene.is_stored(&mirror));
    }
}

#[tokio::test]
async fn streams_that_help_take_no_places_that_fills_need() {
    let scene = scene().await;
    let settings = Settings::of(&scene.registry).upstream("parallel = 4").config("limits.fills = 2");
    let mirror = settings.start().await;
    scene.is_pulled(&mirror).await;
    assert!(mirror.metrics().await.contains("mirror_parallel_streams_total 0"));
    assert_eq!(scene.registry.count_of(&scene.gets()), 2, "the first piece and the rest");
}

#[tokio::test]
async fn a_blob_that_is_not_large_is_read_through_one_connection() {
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).upstream("parallel = 4").start().await;
    for (seed, size, gets) in [(1, 0, 2), (2, 100_000, 1), (3, PIECE as usize, 1), (4, 3 * PIECE as usize, 2)] {
        let digest = registry.add_blob("library/app", noise(seed, size));
        let response = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
        assert!(response.complete && response.body == noise(seed, size), "{size}");
        assert_eq!(registry.gets_of(&digest), gets, "{size}");
    }
    assert!(mirror.metrics().await.contains("mirror_parallel_streams_total 0"));
}

#[tokio::test]
async fn a_lie_in_a_piece_never_ends_as_a_complete_body() {
    let scene = scene().await;
    scene.registry.rule(Rule::on(scene.gets()).flip_bit_at(2 * PIECE + 12_345));
    let mirror = scene.mirror(4).await;
    let response = mirror.get(&scene.path).await;
    assert!(!response.complete);
    mirror.settled().await;
    assert!(!scene.is_stored(&mirror));
    scene.registry.clear_rules();
    scene.is_pulled(&mirror).await;
}

#[tokio::test]
async fn a_piece_that_breaks_off_is_gone_on_with_where_it_broke() {
    let scene = scene().await;
    scene.registry.rule(Rule::on(scene.piece_at(2 * PIECE)).once().close_after(1_000_000));
    let mirror = scene.mirror(4).await;
    scene.is_pulled(&mirror).await;
    assert_eq!(scene.registry.body_bytes_sent(&scene.digest), SIZE as u64);
    assert!(mirror.metrics().await.contains("mirror_parallel_streams_given_up_total 0"));
}

#[tokio::test]
async fn a_piece_that_cannot_be_had_is_left_to_the_stream_that_leads() {
    for rule in [
        |rule: Rule| rule.refuse(403),
        |rule: Rule| rule.ignore_range(),
        |rule: Rule| rule.header("content-range", "bytes 16777216-25165823/99999999"),
    ] {
        let scene = scene().await;
        scene.registry.rule(rule(Rule::on(scene.piece_at(2 * PIECE)).once()));
        let mirror = scene.mirror(3).await;
        scene.is_pulled(&mirror).await;
        mirror.settled().await;
        assert!(scene.is_stored(&mirror));
        let metrics = mirror.metrics().await;
        assert!(metrics.contains("mirror_parallel_streams_given_up_total 1"), "{metrics}");
    }
}

#[tokio::test]
async fn what_lies_behind_a_gap_is_not_relied_on_after_a_stop() {
    let scene = scene().await;
    let gate = Gate::new();
    scene.registry.rule(Rule::on(scene.piece_at(0)).once().stall_after(3_000_000, &gate));
    let settings = Settings::of(&scene.registry).upstream("parallel = 4").config("server.drain = \"10ms\"");
    let mirror = settings.start().await;
    let mut stream = mirror.stream(&scene.path).await;
    stream.read_exactly(2_000_000).await;
    let ahead = |registry: &Registry| registry.body_bytes_sent(&scene.digest) >= 3_000_000 + 2 * PIECE;
    scene.registry.until(ahead).await;
    let mirror = mirror.restart().await;
    gate.open();
    scene.registry.forget_requests();
    scene.is_pulled(&mirror).await;
    let asked = scene.registry.requests().into_iter().find(|request| request.method == "GET").expect("a request");
    let range = asked.headers.get("range").and_then(|range| range.to_str().ok()).expect("a range").to_owned();
    let start: u64 = range.trim_start_matches("bytes=").split('-').next().expect("a start").parse().expect("a number");
    assert!((1_900_000..=3_000_000).contains(&start), "{range}");
}
