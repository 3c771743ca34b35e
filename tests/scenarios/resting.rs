//! Connections on which nothing is asked: they make room when others wait for a place.

use std::time::Duration;

use scripted_registry::client::{self, Connection};
use scripted_registry::{Gate, Match, Registry, Rule, noise};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::mirror::{Settings, TestMirror};

/// Longer than anything here takes, and shorter than a client may take for a head.
const LONG: Duration = Duration::from_secs(30);

async fn idle(from: u8, to: std::net::SocketAddr, begun: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, from], 0).into()).expect("an address of this machine");
    let mut stream = socket.connect(to).await.expect("somebody listens");
    stream.write_all(begun.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn connections_on_which_nothing_is_asked_make_room_and_answers_under_way_go_on() {
    let registry = Registry::start().await;
    let blob = registry.add_blob("library/app", noise(1, 300_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&blob).get()).stall_after(100_000, &gate));
    let index = "application/vnd.oci.image.index.v1+json";
    let list = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"x":"{}"}}}}"#, "x".repeat(7 << 20));
    let referrers = format!("/v2/library/app/referrers/{blob}");
    registry.rule(Rule::on(Match::path(&referrers)).answer(200, index, list.clone()));
    let config = "server.max_connections = 5\nserver.header_timeout = \"60s\"";
    let mirror = Settings::of(&registry).config(config).start().await;
    let held = Connection::open_from([127, 0, 0, 31], mirror.address).await;
    let held = held.send("GET", &format!("/v2/library/app/blobs/{blob}"), &[]).await.expect("an answer");
    // All of it is on its way, and he takes it slowly.
    let slow = Connection::open_narrow(mirror.address, 4096).await;
    let slow = slow.send("GET", &referrers, &[]).await.expect("an answer");
    let kept = Connection::open_from([127, 0, 0, 32], mirror.address).await;
    let kept = kept.send("GET", "/v2/", &[]).await.expect("an answer").done().await;
    let mut silent =
        vec![idle(33, mirror.address, "").await, idle(34, mirror.address, "GET /v2/ HTTP/1.1\r\nHo").await];
    for _ in 0..3 {
        let asked = async {
            let connection = Connection::open_from([127, 0, 0, 35], mirror.address).await;
            connection.send("GET", "/v2/", &[]).await.expect("an answer").finish().await.status
        };
        assert_eq!(tokio::time::timeout(LONG, asked).await.expect("in time"), 200);
        silent.push(idle(33, mirror.address, "").await);
    }
    gate.open();
    assert!(held.finish().await.complete);
    let whole = slow.finish().await;
    assert!(whole.complete && whole.body == list);
    drop((kept, silent));
}

#[tokio::test]
async fn two_clients_that_have_all_places_and_read_nothing_lock_nobody_out() {
    let registry = Registry::start().await;
    let blob = registry.add_blob("library/app", noise(2, 16 << 20));
    let path = format!("/v2/library/app/blobs/{blob}");
    let mirror = Settings::of(&registry).config("server.max_connections = 6").start().await;
    assert!(mirror.get(&path).await.complete);
    let request = format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n");
    let mut deaf = Vec::new();
    for number in 0..6 {
        deaf.push(idle(41 + number % 2, mirror.address, &request).await);
        deaf.last().expect("one").readable().await.expect("an answer begins");
    }
    let asked = async {
        let connection = Connection::open_from([127, 0, 0, 43], mirror.address).await;
        connection.send("GET", "/v2/", &[]).await.expect("an answer").finish().await.status
    };
    assert_eq!(tokio::time::timeout(LONG, asked).await.expect("long before server.send_timeout"), 200);
    drop(deaf);
}

#[tokio::test]
async fn clients_that_wait_for_a_silent_upstream_keep_no_place_from_who_asks_for_what_is_stored() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(3, 1000)]);
    let blob = registry.add_blob("library/app", noise(4, 300_000));
    let silent = Gate::new();
    registry.rule(Rule::on(Match::when(|asked| asked.path.contains("/silent"))).stall_before_headers(&silent));
    registry.rule(Rule::on(Match::blob(&blob).get()).stall_after(100_000, &silent));
    let warm = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    for (clients, seats) in [(2, 6), (3, 6), (8, 6)] {
        let mirror = Settings::of(&registry).config(&format!("server.max_connections = {seats}")).start().await;
        assert_eq!(mirror.get(&warm).await.status, 200);
        let mut waiting = Vec::new();
        for number in 0..2 * seats {
            // Nothing of an answer, or a part of a body.
            let path = match number % 3 {
                0 => format!("/v2/library/app/blobs/{blob}"),
                _ => format!("/v2/library/silent{number}/manifests/1"),
            };
            let request = format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n");
            waiting.push(idle(50 + number % clients, mirror.address, &request).await);
        }
        let asked = async {
            for _ in 0..2 {
                let connection = Connection::open_from([127, 0, 0, 49], mirror.address).await;
                let answer = connection.send("GET", &warm, &[]).await.expect("an answer").finish().await;
                assert_eq!(answer.status, 200, "{clients} clients");
            }
        };
        tokio::time::timeout(LONG, asked).await.expect("long before upstream's answer is given up");
        drop(waiting);
    }
}

#[tokio::test]
async fn idle_connections_to_the_admin_interface_silence_no_probe() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let mut silent = Vec::new();
    for number in 0..600 {
        silent.push(idle(36, mirror.admin, if number % 2 == 0 { "" } else { "GET /li" }).await);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = tokio::time::timeout(Duration::from_secs(8), client::get(mirror.admin, path, &[])).await;
        assert_eq!(answer.expect("before a head is given up").status, 200, "{path}");
    }
    drop(silent);
}
