//! Several ranges in one request, as lazy readers of layers ask: on stored, filling and cold blobs.

use bytes::Bytes;
use scripted_registry::client::Response;
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::TestMirror;

const SIZE: usize = 1_000_000;
const RANGES: [(usize, usize); 4] = [(0, 99), (50_000, 50_999), (400_000, 699_999), (999_000, 999_999)];

async fn scene() -> (Registry, Digest, Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(71, SIZE);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

fn header() -> String {
    let ranges: Vec<_> = RANGES.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    format!("bytes={}", ranges.join(","))
}

/// The parts of an answer, as a client reads them: by the boundary, each by its own range.
fn parts(answer: &Response) -> Vec<(String, Bytes)> {
    assert_eq!(answer.status, 206);
    assert!(answer.complete);
    let kind = answer.header("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect(kind);
    assert_eq!(answer.header("content-range"), None);
    let (separator, end) = (format!("\r\n--{boundary}\r\n"), format!("\r\n--{boundary}--\r\n"));
    let find = |bytes: &Bytes, what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let mut rest = answer.body.clone();
    let mut parts = Vec::new();
    assert_eq!(find(&rest, separator.as_bytes()), Some(0));
    while rest.starts_with(separator.as_bytes()) {
        let mut part = rest.split_off(separator.len());
        let head = part.split_to(find(&part, b"\r\n\r\n").expect("a head") + 4);
        let head = String::from_utf8(head.to_vec()).unwrap().to_lowercase();
        let range = head.lines().find_map(|line| line.strip_prefix("content-range: bytes ")).expect("a range");
        let (span, total) = range.split_once('/').unwrap();
        assert_eq!(total, SIZE.to_string());
        let (first, last) = span.split_once('-').unwrap();
        let length = last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap();
        rest = part.split_off(length);
        parts.push((span.to_owned(), part));
    }
    assert_eq!(rest, end.as_bytes());
    parts
}

fn are_right(answer: &Response, bytes: &Bytes) {
    let expected: Vec<_> =
        RANGES.iter().map(|(first, last)| (format!("{first}-{last}"), bytes.slice(*first..=*last))).collect();
    assert!(parts(answer) == expected);
}

#[tokio::test]
async fn several_ranges_come_of_a_cold_a_filling_and_a_stored_blob() {
    for unknown_length in [false, true] {
        let (registry, digest, bytes, path) = scene().await;
        let gate = Gate::new();
        let rule = Rule::on(Match::blob(&digest).get()).once().stall_after(300_000, &gate);
        registry.rule(if unknown_length { rule.chunked() } else { rule });
        let mirror = TestMirror::of(&registry).await;
        let range = header();
        let ranges = [("Range", &*range)];
        let open = async {
            gate.reached().await;
            gate.open();
        };
        let (cold, joined, ()) = tokio::join!(mirror.get_with(&path, &ranges), mirror.get_with(&path, &ranges), open);
        are_right(&cold, &bytes);
        are_right(&joined, &bytes);
        mirror.settled().await;
        let stored = mirror.get_with(&path, &ranges).await;
        are_right(&stored, &bytes);
        assert_eq!(stored.header("cache-status"), Some("registry-mirror; hit"));
        assert_eq!(stored.header("docker-content-digest"), Some(&*digest.to_string()));
        assert_eq!(registry.gets_of(&digest), 1);
    }
}

#[tokio::test]
async fn parts_that_reach_the_end_of_a_wrong_blob_never_complete() {
    let (registry, digest, _, path) = scene().await;
    registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
    let mirror = TestMirror::of(&registry).await;
    assert!(!mirror.get_with(&path, &[("Range", &header())]).await.complete);
}

#[tokio::test]
async fn what_is_one_range_after_all_or_too_many_comes_as_such() {
    let (registry, _, bytes, path) = scene().await;
    let mirror = TestMirror::of(&registry).await;
    mirror.get(&path).await;
    mirror.settled().await;
    for (ranges, expected) in [("0-9,5-19", 0..20), ("0-9,2000000-", 0..10), ("0-,0-,0-", 0..SIZE)] {
        let answer = mirror.get_with(&path, &[("Range", &format!("bytes={ranges}"))]).await;
        let range = format!("bytes {}-{}/{SIZE}", expected.start, expected.end - 1);
        assert_eq!((answer.status, answer.header("content-range")), (206, Some(&*range)), "{ranges}");
        assert!(answer.body == bytes.slice(expected));
    }
    let many: Vec<_> = (0..1000).map(|n| format!("{}-{}", n * 10, n * 10 + 1)).collect();
    let answer = mirror.get_with(&path, &[("Range", &format!("bytes={}", many.join(",")))]).await;
    assert!(answer.status == 200 && answer.body == bytes);
    let answer = mirror.get_with(&path, &[("Range", "bytes=2000000-,3000000-")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, Some(&*format!("bytes */{SIZE}"))));
}
