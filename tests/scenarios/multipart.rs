//! Several ranges in one request, as lazy readers of layers ask: on stored, filling and cold blobs.

use bytes::Bytes;
use scripted_registry::client::{Connection, Response};
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use tokio::time::Instant;

use crate::support::mirror::{Settings, TestMirror};

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
        assert_eq!(stored.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
        assert_eq!(stored.header("docker-content-digest"), Some(&*digest.to_string()));
        assert_eq!(registry.gets_of(&digest), 1);
    }
}

#[tokio::test]
async fn parts_that_reach_the_end_of_a_wrong_blob_never_complete() {
    let (registry, digest, _, path) = scene().await;
    registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
    let mirror = TestMirror::of(&registry).await;
    let answer = mirror.get_with(&path, &[("Range", &header())]).await;
    assert!(answer.status == 502 || !answer.complete, "{}", answer.status);
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

#[tokio::test]
async fn a_part_of_a_blob_whose_size_nobody_tells_is_waited_for_and_not_for_ever() {
    let (registry, digest, bytes, path) = scene().await;
    let gate = Gate::new();
    let blob = || Match::blob(&digest);
    registry.rule(Rule::on(blob().head()).without_header("content-length"));
    registry.rule(Rule::on(blob().get()).ignore_range().chunked().stall_after(300_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    tokio::time::pause();
    let asked = Instant::now();
    let headers = [("Range", "bytes=10-19")];
    let mut waited = Connection::open(mirror.address).await.send("GET", &path, &headers).await.expect("an answer");
    assert_eq!((waited.status, asked.elapsed().as_secs()), (200, 20), "all of it");
    assert_eq!(waited.read_exactly(1000).await, bytes[..1000]);
    gate.open();
    let rest = waited.finish().await;
    assert!(rest.complete && rest.body == bytes[1000..]);
    let part = mirror.get_with(&path, &headers).await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[10..20]));
}

#[tokio::test]
async fn ranges_at_the_edges_are_what_the_standard_says_cold_and_stored() {
    let registry = Registry::start().await;
    let bytes = noise(4, 100_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    for warm in [false, true] {
        for (ranges, status, parts) in [
            ("0-0,-1", 206, 2),
            ("-1,0-0", 206, 2),
            ("99999-,0-0", 206, 2),
            ("0-0,100000-", 206, 1),
            ("100000-,200000-300000", 416, 0),
            ("-0,5-5", 206, 1),
            ("-0", 416, 0),
            ("0-9,10-19", 206, 2),
            ("0-9, 20-29 ,40-49", 206, 3),
            ("0-9,,20-29", 206, 2),
            ("5-1,0-9", 206, 1),
            ("0-9,x", 200, 0),
            ("0-99999,0-99999", 206, 1),
            ("-200000", 206, 1),
            ("18446744073709551615-,0-0", 206, 1),
            ("0-18446744073709551616", 206, 1),
        ] {
            let mirror = TestMirror::of(&registry).await;
            if warm {
                mirror.get(&path).await;
                mirror.settled().await;
            }
            let answer = mirror.get_with(&path, &[("Range", &format!("bytes={ranges}"))]).await;
            assert_eq!((answer.status, answer.complete), (status, true), "{warm} {ranges}");
            let multipart = answer.header("content-type").is_some_and(|kind| kind.starts_with("multipart/"));
            assert_eq!(multipart, parts > 1, "{warm} {ranges}");
            if parts > 1 {
                let count =
                    answer.body.windows(14).filter(|window| window.eq_ignore_ascii_case(b"content-range:")).count();
                assert_eq!(count, parts, "{ranges}");
                assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
            }
        }
    }
}

#[tokio::test]
async fn parts_of_a_wrong_blob_that_is_not_large_never_complete_whatever_they_are() {
    for size in [100, 60_000, 70_000, 300_000, 4_000_000] {
        for ranges in ["0-0", "0-9", "0-9,20-29", &format!("0-{}", size - 2)] {
            for flip in [|rule: Rule| rule.flip_bit_at(0), |rule: Rule| rule.flip_bit_at(0).chunked()] {
                let registry = Registry::start().await;
                let digest = registry.add_blob("library/app", noise(6, size));
                registry.rule(flip(Rule::on(Match::blob(&digest).get()).ignore_range()));
                let path = format!("/v2/library/app/blobs/{digest}");
                let mirror = TestMirror::of(&registry).await;
                let answer = mirror.get_with(&path, &[("Range", &format!("bytes={ranges}"))]).await;
                assert!(answer.status == 502 || !answer.complete, "{size} {ranges}: {}", answer.status);
                if size <= 64 << 10 {
                    assert_eq!(answer.status, 502, "{ranges}: nothing was sent yet");
                }
            }
        }
    }
}

#[tokio::test]
async fn several_ranges_ahead_of_a_fill_come_at_once_and_prove_nothing_about_the_whole() {
    for flip in [false, true] {
        let registry = Registry::start().await;
        let bytes = noise(5, 5_000_000);
        let digest = registry.add_layer("library/app", "1", bytes.clone());
        let path = format!("/v2/library/app/blobs/{digest}");
        let gate = Gate::new();
        let rule = Rule::on(Match::blob(&digest).get().without_header("range")).stall_after(200_000, &gate);
        registry.rule(if flip { rule.flip_last_byte() } else { rule });
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.get("/v2/library/app/manifests/1").await.status, 200);
        let mut first = mirror.stream(&path).await;
        first.read_exactly(1000).await;
        let parts = mirror.get_with(&path, &[("Range", "bytes=0-9,1000-1999,300000-300999")]).await;
        assert!(parts.status == 206 && parts.complete);
        assert!(parts.body.windows(1000).any(|window| window == &bytes[300_000..301_000]));
        gate.open();
        let whole = first.finish().await;
        assert_eq!(whole.complete, !flip);
    }
}

#[tokio::test]
async fn parts_come_of_what_cannot_be_kept_too() {
    let registry = Registry::start().await;
    let bytes = noise(1, 3_000_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    for rule in [None, Some(Rule::chunked as fn(Rule) -> Rule), Some(Rule::ignore_range)] {
        registry.clear_rules();
        if let Some(rule) = rule {
            registry.rule(rule(Rule::on(Match::blob(&digest))));
        }
        let mirror = Settings::of(&registry).config("store.max_size = \"1MB\"").start().await;
        for ranges in ["0-9,100-109", "5-9", "100-", "-5", "10-19,2999990-2999999", "0-999999,2000000-2999999"] {
            let answer = mirror.get_with(&path, &[("Range", &format!("bytes={ranges}"))]).await;
            assert!(answer.complete && answer.status == 206, "{ranges}: {}", answer.status);
            let (_, last) = ranges.rsplit_once(',').unwrap_or(("", ranges));
            let part = match last.split_once('-').unwrap() {
                ("", last) => bytes.slice(bytes.len() - last.parse::<usize>().unwrap()..),
                (first, "") => bytes.slice(first.parse::<usize>().unwrap()..),
                (first, last) => bytes.slice(first.parse::<usize>().unwrap()..=last.parse::<usize>().unwrap()),
            };
            let found = if ranges.contains(',') { holds(&answer.body, &part) } else { answer.body == part };
            assert!(found, "{ranges}");
        }
    }
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    let first = &part[..part.len().min(16)];
    body.windows(first.len()).enumerate().any(|(at, window)| window == first && body[at..].starts_with(part))
}
