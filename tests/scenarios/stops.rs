//! A stop ends within the drain time, whatever is under way.

use std::time::{Duration, Instant};

use scripted_registry::{Gate, Match, Registry, Rule, client, noise};
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

#[tokio::test]
async fn probes_are_told_that_it_stops_as_long_as_a_pull_runs() {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(82, 1_000_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&digest).get()).stall_after(300_000, &gate));
    let mirror = Settings::of(&registry).start().await;
    let pull = mirror.stream(&format!("/v2/library/app/blobs/{digest}")).await;
    gate.reached().await;
    let (admin, socket) = (mirror.admin, mirror.socket());
    assert_eq!(client::get(admin, "/readyz", &[]).await.status, 200);
    let probed = async {
        let told = loop {
            let told = client::get(admin, "/readyz", &[]).await;
            if told.status != 200 {
                break told;
            }
        };
        assert_eq!((told.status, told.body.starts_with(b"not ready: it stops")), (503, true));
        assert_eq!(client::get(socket, "/readyz", &[]).await.status, 503);
        for path in ["/livez", "/metrics"] {
            assert_eq!(client::get(admin, path, &[]).await.status, 200, "{path}");
        }
        gate.open();
        pull.finish().await
    };
    let (_, pulled) = tokio::join!(mirror.stop(), probed);
    assert!(pulled.complete);
    assert!(TcpStream::connect(admin).await.is_err(), "then it is over");
}
