//! The listener: deadlines, limits, and how it stops.

use std::sync::{Arc, Mutex};

use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::mirror::{Settings, TestMirror};

const SIZE: usize = 1_000_000;

async fn gated_blob() -> (Registry, Gate, String) {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(61, SIZE));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(200_000, &gate));
    (registry, gate, format!("/v2/library/app/blobs/{digest}"))
}

#[tokio::test]
async fn a_stop_lets_running_responses_end_and_refuses_new_ones() {
    let (registry, gate, path) = gated_blob().await;
    let mirror = TestMirror::of(&registry).await;
    let mut running = mirror.stream(&path).await;
    running.read_exactly(1000).await;
    let address = mirror.address;
    let stopping = tokio::spawn(mirror.stop());
    // The listener is closed as the first step of the stop.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!stopping.is_finished(), "it waits for the running response");
    gate.open();
    let response = running.finish().await;
    assert!(response.complete && response.body.len() == SIZE - 1000);
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_request_is_dropped() {
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).config("server.header_timeout = \"50ms\"").start().await;
    let mut slow = TcpStream::connect(mirror.address).await.unwrap();
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX-Slow").await.unwrap();
    let mut rest = Vec::new();
    // Ends when the mirror hangs up; without a deadline it would never end.
    let _ = slow.read_to_end(&mut rest).await;
    assert_eq!(client::get(mirror.address, "/v2/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off_and_makes_room() {
    let registry = Registry::start().await;
    // More than the buffers of both ends of a connection take.
    let digest = registry.add_blob("library/app", noise(62, 32 << 20));
    let settings = "server.send_timeout = \"100ms\"\nserver.max_connections = 1";
    let mirror = Settings::of(&registry).config(settings).start().await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let mut deaf = TcpStream::connect(mirror.address).await.unwrap();
    deaf.write_all(format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 12];
    deaf.peek(&mut head).await.unwrap();
    // The only place is taken until the deaf one has lost it. What comes then is short: under load nobody reads
    // so much within so short a time as not to be taken for deaf himself.
    assert_eq!(client::get(mirror.address, "/v2/", &[]).await.status, 200);
    let mut came = Vec::new();
    let _ = deaf.read_to_end(&mut came).await;
    assert!(came.len() < 32 << 20, "he was not cut off");
}

#[tokio::test]
async fn no_more_connections_than_the_limit_are_served_at_a_time() {
    let (registry, gate, path) = gated_blob().await;
    let mirror = Settings::of(&registry).config("server.max_connections = 1").start().await;
    let first = mirror.stream(&path).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let second = tokio::spawn({
        let (order, address) = (Arc::clone(&order), mirror.address);
        async move {
            let response = client::get(address, "/v2/", &[]).await;
            order.lock().unwrap().push("second");
            response.status
        }
    });
    // Ample opportunity to answer the second one too early.
    for _ in 0..20 {
        mirror.metrics().await;
    }
    order.lock().unwrap().push("first");
    gate.open();
    assert!(first.finish().await.complete);
    assert_eq!(second.await.unwrap(), 200);
    assert_eq!(*order.lock().unwrap(), ["first", "second"]);
}

#[tokio::test]
async fn what_happened_is_counted() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(62, 100_000));
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    for _ in 0..3 {
        mirror.get(&path).await;
        mirror.settled().await;
    }
    mirror.get("/v2/library/app/manifests/none").await;
    let metrics = mirror.metrics().await;
    for line in [
        r#"mirror_requests_total{upstream="docker.io",kind="blob",outcome="fill",status="200"} 1"#,
        r#"mirror_requests_total{upstream="docker.io",kind="blob",outcome="hit",status="200"} 2"#,
        r#"mirror_sent_bytes_total{upstream="docker.io",outcome="hit"} 200000"#,
        r#"mirror_upstream_received_bytes_total{upstream="docker.io"} 100000"#,
        r#"mirror_fills_total{result="stored"} 1"#,
        "mirror_fills_in_flight 0",
        r#"mirror_errors_total{class="not_found"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/nothing", 404)] {
        assert_eq!(client::get(mirror.admin, path, &[]).await.status, status, "{path}");
    }
}
