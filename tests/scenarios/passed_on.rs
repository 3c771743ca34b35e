//! Blobs that the store cannot keep: fetched once for all who read them together.

use std::time::Duration;

use futures_util::future::join_all;
use scripted_registry::client::{Response, Stream};
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const CLIENTS: usize = 16;
/// More than is kept in memory of one, and half of it less.
const SIZE: usize = 6_000_000;
/// What is kept from readers until all is verified.
const HELD_BACK: usize = 64 << 10;

async fn full_mirror(registry: &Registry) -> TestMirror {
    Settings::of(registry).config("store.max_size = \"50000B\"\nstore.min_free = \"0\"").start().await
}

fn blob_of(registry: &Registry, size: usize) -> (Digest, bytes::Bytes, String) {
    let bytes = noise(1, size);
    let digest = registry.add_blob("library/app", bytes.clone());
    (digest, bytes, format!("/v2/library/app/blobs/{digest}"))
}

fn is_relayed(response: &Response) -> bool {
    response.header("cache-status").is_some_and(|status| status.contains("detail=relayed"))
}

#[tokio::test]
async fn a_blob_that_cannot_be_kept_is_fetched_once_for_all_who_came_in_time() {
    for without_length in [false, true] {
        let registry = Registry::start().await;
        let mirror = full_mirror(&registry).await;
        let (digest, bytes, path) = blob_of(&registry, SIZE);
        // Nobody is further behind than memory reaches, however long he takes: what comes waits for all of them.
        let (first, half) = (Gate::new(), Gate::new());
        let rule =
            Rule::on(Match::blob(&digest).get()).stall_after(300_000, &first).stall_after(SIZE as u64 / 2, &half);
        registry.rule(if without_length { rule.chunked() } else { rule });
        let mut streams = join_all((0..CLIENTS).map(|_| mirror.stream(&path))).await;
        first.open();
        let begun = SIZE / 2 - HELD_BACK;
        let beginnings = join_all(streams.iter_mut().map(|stream| stream.read_exactly(begun))).await;
        assert!(beginnings.iter().all(|read| *read == bytes[..begun]));
        half.open();
        let responses = join_all(streams.into_iter().map(Stream::finish)).await;
        assert!(responses.iter().all(|response| response.complete && response.body == bytes[begun..]));
        assert!(without_length || responses.iter().all(is_relayed), "else it shows too late");
        assert_eq!(registry.gets_of(&digest), 1, "without length: {without_length}");
        mirror.settled().await;
    }
}

#[tokio::test]
async fn who_reads_alone_what_cannot_be_kept_costs_one_download_however_long_it_is() {
    let registry = Registry::start().await;
    let mirror = full_mirror(&registry).await;
    let (digest, bytes, path) = blob_of(&registry, 5 * SIZE);
    let whole = mirror.get(&path).await;
    assert!(whole.complete && whole.body == bytes);
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn a_blob_that_finds_no_room_on_its_way_is_fetched_once_all_the_same() {
    let registry = Registry::start().await;
    let settings = Settings::of(&registry).config("store.max_size = \"10MB\"\nstore.min_free = \"0\"");
    let mirror = settings.start().await;
    // Held by a pin, so that nothing of it may go.
    let pinned = registry.add_image("library/pinned", "1", &[noise(5, 5_000_000)]);
    for path in pinned
        .blobs()
        .map(|blob| format!("/v2/library/pinned/blobs/{}", blob.digest))
        .chain(["/v2/library/pinned/manifests/1".to_owned()])
    {
        assert!(mirror.get(&path).await.complete);
    }
    mirror.settled().await;
    let pin = serde_json::json!({"images": ["docker.io/library/pinned:1"]}).to_string();
    let headers = [("x-registry-mirror", "1"), ("content-type", "application/json")];
    assert_eq!(scripted_registry::client::post(mirror.socket(), "/api/v1/pin", &headers, &pin).await.status, 200);
    let (digest, bytes, path) = blob_of(&registry, SIZE);
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(300_000, &gate));
    let streams = join_all((0..CLIENTS).map(|_| mirror.stream(&path))).await;
    gate.open();
    let responses = join_all(streams.into_iter().map(Stream::finish)).await;
    assert!(responses.iter().all(|response| response.complete && response.body == bytes));
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn who_does_not_read_what_is_passed_on_is_left_behind_and_has_it_alone() {
    let registry = Registry::start().await;
    let mirror = full_mirror(&registry).await;
    let (digest, bytes, path) = blob_of(&registry, 3 * SIZE);
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).once().stall_after(300_000, &gate));
    let slow = scripted_registry::client::Connection::open_narrow(mirror.address, 4096)
        .await
        .send("GET", &path, &[])
        .await
        .expect("an answer");
    // One, because of several fast ones any might be slow once.
    let fast = mirror.stream(&path).await;
    gate.open();
    let fast = fast.finish().await;
    assert!(fast.complete && fast.body == bytes);
    assert_eq!(registry.gets_of(&digest), 1);
    let slow = slow.finish().await;
    assert!(slow.complete && slow.body == bytes);
    assert_eq!(registry.gets_of(&digest), 2);
}

#[tokio::test]
async fn what_is_passed_on_ends_when_nobody_reads_it_any_more() {
    let registry = Registry::start().await;
    let mirror = full_mirror(&registry).await;
    let (digest, bytes, path) = blob_of(&registry, SIZE);
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).once().stall_after(300_000, &gate));
    let mut only = mirror.stream(&path).await;
    assert_eq!(only.read_exactly(100_000).await, bytes.slice(..100_000));
    only.reset();
    mirror.settled().await;
    gate.open();
    let later = mirror.get(&path).await;
    assert!(later.complete && later.body == bytes);
}

#[tokio::test]
async fn a_wrong_byte_in_what_is_passed_on_never_ends_as_a_complete_body() {
    let registry = Registry::start().await;
    let mirror = full_mirror(&registry).await;
    let (digest, _, path) = blob_of(&registry, SIZE);
    registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
    let responses = join_all((0..4).map(|_| mirror.get(&path))).await;
    assert!(responses.iter().all(|response| !response.complete));
}

#[tokio::test]
async fn who_asks_for_everything_by_a_range_of_what_cannot_be_kept_costs_one_download() {
    let registry = Registry::start().await;
    let bytes = noise(9, 3_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).once().stall_after(10_000, &gate));
    let mirror = Settings::of(&registry).config("store.max_size = \"1MB\"").start().await;
    let clients = (0..16).map(|_| mirror.get_with(&path, &[("Range", "bytes=0-")]));
    let open = async {
        gate.reached().await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(clients), open);
    assert!(answers.iter().all(|answer| answer.status == 206 && answer.body == bytes));
    assert_eq!(registry.gets_of(&digest), 1);
}

#[tokio::test]
async fn a_part_of_what_cannot_be_kept_waits_for_nothing_that_never_comes() {
    for (begin, end) in [(0, 10), (0, 1_000_000), (100_000, 200_000), (SIZE - 20, SIZE - 10)] {
        for wrong in [false, true] {
            let registry = Registry::start().await;
            let mirror = full_mirror(&registry).await;
            let (digest, bytes, path) = blob_of(&registry, SIZE);
            if wrong {
                registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
            }
            let range = format!("bytes={begin}-{}", end - 1);
            let asked = [("range", range.as_str())];
            let answers = join_all((0..3).map(|_| mirror.get_with(&path, &asked)));
            let answers = tokio::time::timeout(Duration::from_secs(60), answers).await.expect("they end");
            for answer in answers {
                if wrong {
                    assert!(!answer.complete || answer.status >= 500, "{range}: {}", answer.status);
                } else {
                    let wanted = if answer.status == 206 { &bytes[begin..end] } else { &bytes[..] };
                    assert!(answer.complete && answer.body == wanted, "{range}: {}", answer.status);
                }
            }
            mirror.settled().await;
        }
    }
}

#[tokio::test]
async fn a_body_without_length_and_end_drives_nothing_out_of_the_store() {
    let registry = Registry::start().await;
    let settings = Settings::of(&registry).config("store.max_size = \"20MB\"\nstore.min_free = \"0\"");
    let mirror = settings.start().await;
    let kept = registry.add_image("library/kept", "1", &[noise(7, 12_000_000)]);
    let paths: Vec<_> = kept.blobs().map(|blob| format!("/v2/library/kept/blobs/{}", blob.digest)).collect();
    for path in &paths {
        assert!(mirror.get(path).await.complete);
    }
    mirror.settled().await;
    for endless in [|rule: Rule| rule.without_length(), |rule: Rule| rule.chunked()] {
        let (digest, _, path) = blob_of(&registry, SIZE);
        registry.clear_rules();
        registry.rule(endless(Rule::on(Match::blob(&digest).get())).endless());
        let mut stream = mirror.stream(&path).await;
        stream.read_exactly(40_000_000).await;
        drop(stream);
        mirror.settled().await;
    }
    for path in &paths {
        assert_eq!(mirror.get(path).await.header("cache-status"), Some("registry-mirror; hit; detail=hit"), "{path}");
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_kept_is_fetched_once_for_all_who_came_in_time() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(9, 1000)]);
    for reference in ["1".to_owned(), image.manifest.digest.to_string()] {
        // One that has nothing in hand of what was asked for before.
        let mirror = Settings::of(&registry).config("store.max_size = \"1B\"\nstore.min_free = \"0\"").start().await;
        registry.clear_rules();
        registry.forget_requests();
        let gate = Gate::new();
        registry.rule(Rule::on(Match::manifests().get()).stall_before_headers(&gate));
        let path = format!("/v2/library/app/manifests/{reference}");
        let opened = async {
            gate.reached().await;
            // All the others have come by now, or find what is in hand.
            mirror.metrics().await;
            gate.open();
        };
        let (answers, ()) = futures_util::future::join(join_all((0..CLIENTS).map(|_| mirror.get(&path))), opened).await;
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.complete), "{reference}");
        assert_eq!(registry.count_of(&Match::manifests().get()), 1, "{reference}");
    }
}
