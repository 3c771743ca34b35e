//! A stop ends within the drain time, whatever is under way.

use std::time::{Duration, Instant};

use scripted_registry::{Gate, Match, Registry, Rule, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::mirror::Settings;

#[tokio::test]
async fn clients_and_fills_that_do_not_end_have_one_drain_time_together() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(81, 1_000_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(300_000, &gate));
    let mirror = Settings::of(&registry).config("server.drain = \"3s\"").start().await;
    let path = format!("/v2/library/app/blobs/{digest}");
    let mut client = TcpStream::connect(mirror.address).await.unwrap();
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes()).await.unwrap();
    gate.reached().await;
    client.read_exact(&mut [0; 100_000]).await.unwrap();
    let begun = Instant::now();
    mirror.stop().await;
    // Two waits in a row take twice as long.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let cut = client.read_to_end(&mut Vec::new()).await;
    assert!(cut.is_err(), "a client that was not served to the end sees a reset");
}
