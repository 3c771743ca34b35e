//! Fills beyond number, and of upstreams that stand still: what they are made of is shared fairly.

use scripted_registry::{Digest, Gate, Match, Registry, Rule, client, noise};
use tokio::runtime::Builder;

use crate::support::mirror::{Settings, TestMirror};

/// So many blobs of which upstream sends a byte, and then nothing until the gate opens.
fn stalling(registry: &Registry, count: usize, gate: &Gate) -> Vec<Digest> {
    let blobs: Vec<_> =
        (0..count as u64).map(|seed| registry.add_blob("library/slow", noise(9000 + seed, 100_000))).collect();
    for blob in &blobs {
        registry.rule(Rule::on(Match::blob(blob).get()).stall_after(1, gate));
    }
    blobs
}

/// Asks for a blob, and hangs up when the answer has begun.
async fn abandon(mirror: &TestMirror, path: &str) {
    let stream = mirror.stream(path).await;
    assert_eq!(stream.status, 200, "{path}");
    stream.reset();
}

/// What the kernel keeps of a file in memory goes, where its file system can: then it has to be read.
fn forget_cached(path: &std::path::Path) {
    let file = std::fs::File::open(path).expect("a stored blob");
    file.sync_all().expect("synced");
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
}

#[test]
fn fills_that_stand_still_keep_no_thread_from_hits_lists_and_other_fills() {
    const THREADS: usize = 4;
    const UPSTREAMS: usize = 3;
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(THREADS).build();
    runtime.expect("a runtime").block_on(async {
        let healthy = Registry::start().await;
        let image = healthy.add_image("library/app", "1", &[noise(1, 300_000)]);
        let mut settings = Settings::of(&healthy);
        let (gate, mut slow) = (Gate::new(), Vec::new());
        for number in 0..UPSTREAMS {
            let registry = Registry::start().await;
            let host = format!("slow{number}.example");
            settings = settings.and(&host, &registry);
            let blobs = stalling(&registry, THREADS, &gate);
            slow.extend(blobs.iter().map(|blob| format!("/v2/{host}/library/slow/blobs/{blob}")));
            // It lives as long as the test.
            std::mem::forget(registry);
        }
        let mirror = settings.start().await;
        let (manifest, list) = ("/v2/library/app/manifests/1", "/v2/library/app/tags/list");
        let layer = image.layers[0].digest;
        let blob = format!("/v2/library/app/blobs/{layer}");
        for path in [manifest, list, &blob] {
            assert_eq!(mirror.get(path).await.status, 200, "{path}");
        }
        // Nothing of it is in memory afterwards.
        let mirror = mirror.restart().await;
        for path in &slow {
            abandon(&mirror, path).await;
        }
        gate.reached_times(slow.len() as u64).await;
        forget_cached(&mirror.store().join("blobs/sha256").join(layer.hex()));
        let cold = format!("/v2/library/app/blobs/{}", image.config.digest);
        for path in [&blob, manifest, list, &cold] {
            let response = mirror.get(path).await;
            assert!(response.status == 200 && response.complete, "{path}");
        }
        assert!(mirror.mirror.fills() >= slow.len(), "they are all under way still");
        gate.open();
        mirror.settled().await;
    });
}

/// Waits until so many fills wait for a place.
async fn waiting(mirror: &TestMirror, count: usize) {
    let line = format!("mirror_fills_waiting {count}\n");
    while !mirror.metrics().await.contains(&line) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_waits_for_a_place_gets_that_of_a_fill_that_nobody_reads() {
    const FILLS: usize = 4;
    let registry = Registry::start().await;
    let gate = Gate::new();
    let mirror = Settings::of(&registry).config(&format!("limits.fills = {FILLS}")).start().await;
    // Three times as many as there are places: those that wait for one are abandoned, too.
    let slow = stalling(&registry, 3 * FILLS, &gate);
    for blob in &slow[..FILLS] {
        abandon(&mirror, &format!("/v2/library/slow/blobs/{blob}")).await;
    }
    for (number, blob) in slow[FILLS..].iter().enumerate() {
        let path = format!("/v2/library/slow/blobs/{blob}");
        let connection = client::Connection::open(mirror.address).await;
        let asked = tokio::spawn(async move { connection.send("GET", &path, &[]).await.is_some() });
        gate.reached_times((FILLS + number + 1) as u64).await;
        asked.abort();
    }
    let honest = registry.add_blob("library/app", noise(1, 1000));
    let response = mirror.get(&format!("/v2/library/app/blobs/{honest}")).await;
    assert!(response.complete && response.status == 200);
    assert!(response.header("cache-status").is_some_and(|status| status.contains("detail=fill")), "it is kept");
}

#[tokio::test]
async fn a_fill_that_nobody_reads_gives_its_place_up_though_it_moves_and_is_gone_on_with_later() {
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).config("limits.fills = 1").start().await;
    let bytes = noise(2, 3_000_000);
    let moving = registry.add_blob("library/app", bytes.clone());
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&moving).get()).once().drip(100, &gate));
    let path = format!("/v2/library/app/blobs/{moving}");
    gate.let_through(6_000);
    let mut stream = mirror.stream(&path).await;
    stream.read_exactly(500_000).await;
    stream.reset();
    let drops = gate.clone();
    let dripping = tokio::spawn(async move {
        loop {
            drops.let_through(1);
            tokio::task::yield_now().await;
        }
    });
    let other = registry.add_blob("library/app", noise(3, 1000));
    let response = mirror.get(&format!("/v2/library/app/blobs/{other}")).await;
    assert!(response.complete);
    assert!(gate.arrivals() < 30_000, "the fill that moved was not waited for");
    dripping.abort();
    let again = mirror.get(&path).await;
    assert!(again.complete && again.body == bytes);
    let requests = registry.requests().into_iter().filter(|request| request.path.ends_with(&moving.to_string()));
    let last = requests.last().expect("asked again");
    assert!(last.headers.contains_key("range"), "only for what was missing");
}

#[tokio::test]
async fn a_fill_that_somebody_reads_keeps_its_place_and_who_waits_gets_the_next() {
    let registry = Registry::start().await;
    let gate = Gate::new();
    let mirror = Settings::of(&registry).config("limits.fills = 1").start().await;
    let slow = stalling(&registry, 1, &gate);
    let read = mirror.stream(&format!("/v2/library/slow/blobs/{}", slow[0])).await;
    let other = registry.add_blob("library/app", noise(3, 1000));
    let other = format!("/v2/library/app/blobs/{other}");
    let release = async {
        waiting(&mirror, 1).await;
        gate.open();
    };
    let (response, ()) = tokio::join!(mirror.get(&other), release);
    assert!(response.complete && response.header("cache-status").is_some_and(|status| status.contains("detail=fill")));
    assert!(read.finish().await.complete);
}

#[tokio::test]
async fn who_finds_no_place_in_time_is_passed_on_and_beyond_that_told_to_come_again() {
    // What may be under way to an upstream besides its fills.
    const RELAYS: usize = 24;
    let registry = Registry::start().await;
    let gate = Gate::new();
    let mirror = Settings::of(&registry).config("limits.fills = 1\nlimits.fill_wait = \"0s\"").start().await;
    let slow = stalling(&registry, 1 + RELAYS, &gate);
    let mut read = vec![mirror.stream(&format!("/v2/library/slow/blobs/{}", slow[0])).await];
    let other = registry.add_blob("library/app", noise(3, 1000));
    let other = format!("/v2/library/app/blobs/{other}");
    let passed = mirror.get(&other).await;
    assert!(passed.complete);
    assert_eq!(passed.header("cache-status").map(|status| status.contains("detail=relayed")), Some(true));
    mirror.settled_but(1).await;
    for blob in &slow[1..] {
        read.push(mirror.stream(&format!("/v2/library/slow/blobs/{blob}")).await);
    }
    let refused = mirror.get(&other).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    let error: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(error["errors"][0]["code"], "UNAVAILABLE");
    gate.open();
    for stream in read {
        assert!(stream.finish().await.complete);
    }
    mirror.settled().await;
    assert!(mirror.get(&other).await.complete);
}

#[tokio::test]
async fn the_many_requests_of_one_client_do_not_stand_before_the_one_of_another() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let registry = Registry::start().await;
    let gate = Gate::new();
    let mirror = Settings::of(&registry).config("limits.fills = 1").start().await;
    let slow = stalling(&registry, 1, &gate);
    let read = mirror.stream(&format!("/v2/library/slow/blobs/{}", slow[0])).await;
    let mut wanted = Vec::new();
    for (number, host) in [1, 1, 1, 2].into_iter().enumerate() {
        let blob = registry.add_blob("library/app", noise(10 + number as u64, 1000));
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(std::net::SocketAddr::from(([127, 0, 0, host], 0))).expect("an address of the loopback");
        let mut connection = socket.connect(mirror.address).await.expect("somebody listens");
        let head =
            format!("GET /v2/library/app/blobs/{blob} HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n\r\n");
        connection.write_all(head.as_bytes()).await.expect("sent");
        waiting(&mirror, number + 1).await;
        wanted.push((blob, connection));
    }
    gate.open();
    for (_, connection) in &mut wanted {
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(read.finish().await.complete);
    let asked: Vec<_> =
        registry.requests().into_iter().filter(|request| request.path.contains("/library/app/")).collect();
    let place =
        |blob: &Digest| asked.iter().position(|request| request.path.ends_with(&blob.to_string())).expect("asked");
    let places: Vec<_> = wanted.iter().map(|(blob, _)| place(blob)).collect();
    assert_eq!(places, [0, 2, 3, 1]);
}

#[tokio::test]
async fn who_waits_for_a_place_waits_no_longer_than_he_was_told() {
    use std::time::Duration;
    let registry = Registry::start().await;
    let gate = Gate::new();
    let mirror = Settings::of(&registry).config("limits.fills = 1\nlimits.fill_wait = \"3s\"").start().await;
    let slow = stalling(&registry, 1, &gate);
    let read = mirror.stream(&format!("/v2/library/slow/blobs/{}", slow[0])).await;
    tokio::time::pause();
    for (number, (method, range)) in
        [("GET", ""), ("GET", "bytes=0-9"), ("GET", "bytes=0-9,20-29"), ("HEAD", "")].into_iter().enumerate()
    {
        let blob = registry.add_blob("library/app", noise(30 + number as u64, 1000));
        let headers = [("Range", range)];
        let headers = if range.is_empty() { &[][..] } else { &headers };
        let asked = tokio::time::Instant::now();
        let connection = client::Connection::open_from([127, 0, 0, 2], mirror.address).await;
        let path = format!("/v2/library/app/blobs/{blob}");
        let answer = connection.send(method, &path, headers).await.expect("an answer");
        let (waited, most) = (asked.elapsed(), if method == "HEAD" { 500 } else { 3_100 });
        assert!(waited <= Duration::from_millis(most), "{method} {range}: {waited:?}");
        assert_eq!(answer.status, if range.is_empty() { 200 } else { 206 }, "{method} {range}");
        assert!(answer.finish().await.complete, "{method} {range}");
    }
    tokio::time::resume();
    gate.open();
    assert!(read.finish().await.complete);
}
