//! The end of a body is never a lie: whatever frames it, whatever its length, whoever reads along.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::mirror::{Settings, TestMirror};

/// What a client got, as it sees it.
struct Got {
    head: String,
    body: Vec<u8>,
    /// Whether the connection ended in order; else it was reset.
    in_order: bool,
}

impl Got {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn length(&self) -> Option<usize> {
        let line = self.head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        line.parse().ok()
    }

    /// Whether the client takes it for a whole answer: so many bytes as were announced, or everything up to an
    /// orderly end.
    fn is_taken_for_whole(&self) -> bool {
        match self.length() {
            Some(length) => self.body.len() == length,
            None => self.in_order,
        }
    }
}

/// A request as clients made them before 1997, and as proxies still do.
async fn get_as_1_0(address: SocketAddr, path: &str) -> Got {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read: io::Result<usize> = stream.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let body = answer.split_off(end);
    Got { head: String::from_utf8(answer).unwrap().to_lowercase(), body, in_order: read.is_ok() }
}

async fn registry_with(size: usize) -> (Registry, Digest, Bytes, String) {
    let registry = Registry::start().await;
    let bytes = noise(41, size);
    let digest = registry.add_blob("library/app", bytes.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    (registry, digest, bytes, path)
}

/// A mirror whose store takes nothing.
async fn full(registry: &Registry) -> TestMirror {
    Settings::of(registry).config("store.max_size = \"1B\"\nstore.min_free = \"0\"").start().await
}

#[tokio::test]
async fn an_empty_answer_is_no_blob_of_any_size_for_no_method_framing_or_reader() {
    for size in [1, 64 << 10, 300_000] {
        let (registry, digest, bytes, path) = registry_with(size).await;
        let empty = || Rule::on(Match::blob(&digest)).answer(200, "application/octet-stream", "");
        for rule in
            [empty(), empty().chunked(), empty().without_length(), empty().header("content-range", "bytes 0-0/0")]
        {
            registry.rule(rule);
            for mirror in [TestMirror::of(&registry).await, full(&registry).await] {
                for headers in [&[][..], &[("Range", "bytes=0-")][..], &[("Connection", "close")][..]] {
                    let (one, other) = tokio::join!(mirror.get_with(&path, headers), mirror.get(&path));
                    for answer in [one, other] {
                        let cut = matches!(answer.status, 200 | 206) && !answer.complete;
                        assert!(cut || answer.status == 502, "{} of {size} bytes: complete", answer.status);
                    }
                    mirror.settled().await;
                }
                let old = get_as_1_0(mirror.address, &path).await;
                assert!(old.status() == "502" || !old.is_taken_for_whole(), "{}", old.head);
            }
            registry.clear_rules();
        }
        registry.rule(Rule::on(Match::blob(&digest)).answer(200, "application/octet-stream", ""));
        let mirror = TestMirror::of(&registry).await;
        assert_eq!(mirror.head(&path).await.status, 502, "nor for HEAD");
        registry.clear_rules();
        let answer = mirror.get(&path).await;
        assert!(answer.complete && answer.body == bytes, "and nothing of it stays");
    }
}

#[tokio::test]
async fn the_empty_blob_is_served() {
    let (registry, _, _, path) = registry_with(0).await;
    for mirror in [TestMirror::of(&registry).await, full(&registry).await] {
        for _ in 0..2 {
            let answer = mirror.get(&path).await;
            assert_eq!((answer.status, answer.complete, answer.body.len()), (200, true, 0));
            mirror.settled().await;
        }
    }
}

#[tokio::test]
async fn who_sees_only_the_end_of_the_connection_gets_nothing_before_it_is_verified() {
    for size in [0, 1, 1000, 500_000] {
        let (registry, digest, bytes, path) = registry_with(size).await;
        let on = || Rule::on(Match::blob(&digest).get());
        let without_length = [|rule: Rule| rule.chunked(), |rule: Rule| rule.without_length()];
        for frame in without_length {
            for mirror in [TestMirror::of(&registry).await, full(&registry).await] {
                let mut wrong = vec![frame(on()).extra("more")];
                if size > 0 {
                    wrong.push(frame(on()).flip_last_byte());
                    wrong.push(frame(on()).flip_bit_at(0));
                }
                if size > 1 {
                    wrong.push(frame(on()).close_after(size as u64 - 1));
                }
                for rule in wrong {
                    registry.rule(rule);
                    let got = get_as_1_0(mirror.address, &path).await;
                    let is_right = got.body == bytes;
                    assert!(got.status() != "200" || !got.is_taken_for_whole() || is_right, "{size}: {}", got.head);
                    mirror.settled().await;
                    registry.clear_rules();
                }
                registry.rule(frame(on()));
                let got = get_as_1_0(mirror.address, &path).await;
                assert_eq!((got.status(), got.length(), got.in_order), ("200", Some(size), true), "{}", got.head);
                assert!(got.body == bytes);
                registry.clear_rules();
            }
        }
    }
}

#[tokio::test]
async fn a_cut_is_a_reset() {
    let (registry, digest, _, path) = registry_with(2_000_000).await;
    registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
    let mirror = TestMirror::of(&registry).await;
    let got = get_as_1_0(mirror.address, &path).await;
    assert_eq!((got.status(), got.length()), ("200", Some(2_000_000)));
    assert!(!got.in_order && got.body.len() < 2_000_000);
}

#[tokio::test]
async fn a_manifest_is_whole_or_an_error_for_old_clients_too() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(42, 1000)]);
    let path = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let on = || Rule::on(Match::manifests().get());
    for rule in [on().chunked().flip_last_byte(), on().without_length().close_after(10), on().answer(200, "", "")] {
        registry.rule(rule);
        let got = get_as_1_0(TestMirror::of(&registry).await.address, &path).await;
        assert!(got.status().starts_with('5'), "{}", got.head);
        registry.clear_rules();
    }
}

#[tokio::test]
async fn a_size_that_was_told_cannot_change_for_who_reads_along_or_is_relayed_to() {
    let (registry, digest, _, path) = registry_with(900_000).await;
    // First as long as it is, then longer and without a length.
    registry.rule(Rule::on(Match::blob(&digest).get()).skip(1).chunked().extra(noise(43, 200_000)));
    for mirror in [TestMirror::of(&registry).await, full(&registry).await] {
        registry.rule(Rule::on(Match::blob(&digest).get()).once().close_after(300_000));
        let answer = mirror.get(&path).await;
        assert!(!answer.complete || answer.body.len() == 900_000, "{} bytes", answer.body.len());
        registry.clear_rules();
        registry.rule(Rule::on(Match::blob(&digest).get()).skip(1).chunked().extra(noise(43, 200_000)));
    }
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_written_is_neither_served_nor_stored() {
    const SIZE: usize = 1_500_000;
    let (registry, digest, bytes, path) = registry_with(SIZE).await;
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).once().stall_after(800_000, &gate));
    let mirror = TestMirror::of(&registry).await;
    let mut reading = mirror.stream(&path).await;
    reading.read_exactly(700_000).await;
    for entry in std::fs::read_dir(mirror.store().join("ingest")).unwrap() {
        let file = std::fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap();
        file.set_len(4096).unwrap();
    }
    gate.open();
    assert!(!reading.finish().await.complete);
    mirror.settled().await;
    assert!(!mirror.store().join("blobs/sha256").join(digest.hex()).exists(), "zeros were stored");
    let answer = mirror.get(&path).await;
    assert!(answer.complete && answer.body == bytes);
}

#[tokio::test]
async fn a_client_that_reads_late_gets_what_was_sent_before_its_connection_was_let_go() {
    let (registry, _, bytes, path) = registry_with(300_000).await;
    let settings = "server.header_timeout = \"100ms\"\nserver.max_connections = 1";
    let mirror = Settings::of(&registry).config(settings).start().await;
    mirror.get(&path).await;
    mirror.settled().await;
    let mut stream = TcpStream::connect(mirror.address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes()).await.unwrap();
    // Served when the mirror waits no longer for a next request on the only connection that it has.
    assert_eq!(mirror.get("/v2/").await.status, 200);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(&bytes));
}
