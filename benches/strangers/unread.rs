//! Thousands of clients that read nothing of the largest answers there are, and then a crowd of odd requests:
//! what it does to the memory of the mirror.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use scripted_registry::client::Connection;
use scripted_registry::{Match, Registry, Rule, noise};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

use super::arguments::{Arguments, Check};
use super::server::Server;

/// What the mirror needs, and what it may have for answers in memory (README, Memory), in MiB.
const OWN: f64 = 128.0;
const ANSWERS: f64 = 64.0 + 64.0 + 128.0;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The largest answers of each kind. Of lists and manifests there are many different ones.
fn largest(registry: &Registry) -> Vec<String> {
    let mut paths = Vec::new();
    for number in 0..64 {
        let padding = "x".repeat((8 << 20) - 300);
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"annotations":{{"n":"{number}","x":"{padding}"}}}}"#
        );
        let repository = format!("library/large{}", number % 4);
        let digest = registry.add_manifest(&repository, &[&format!("t{number}")], Bytes::from(index.clone()), INDEX);
        paths.push(format!("/v2/{repository}/manifests/t{number}"));
        paths.push(format!("/v2/{repository}/manifests/{digest}"));
        registry.rule(Rule::on(Match::path(&format!("/v2/{repository}/referrers/{digest}"))).answer(200, INDEX, index));
        paths.push(format!("/v2/{repository}/referrers/{digest}"));
        paths.push(format!("/v2/{repository}/referrers/{digest}?artifactType=a%2Fb{number}"));
    }
    for number in 0..4 {
        let tags: Vec<String> = (0..200_000).map(|tag| format!("build-{number}-{tag:018}")).collect();
        let repository = format!("library/tagged{number}");
        let list = serde_json::json!({ "name": repository, "tags": tags }).to_string();
        let path = format!("/v2/{repository}/tags/list");
        registry.rule(Rule::on(Match::path(&path)).answer(200, "application/json", list));
        paths.extend(std::iter::repeat_n(path, 16));
    }
    let blob = registry.add_blob("library/large0", noise(3, 64 << 20));
    paths.extend(std::iter::repeat_n(format!("/v2/library/large0/blobs/{blob}"), 64));
    paths
}

/// Asks, and reads nothing.
async fn ask(from: u8, to: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 1, from], 0).into())?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

pub fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Check>> {
    let (clients, odd) = if arguments.short { (64, 2_000) } else { (4096, 100_000) };
    let runtime = Runtime::new()?;
    let registry = runtime.block_on(Registry::start());
    registry.add_image("library/app", "1", &[noise(1, 10_000)]);
    let paths = largest(&registry);
    let config = "server.max_connections = 8192\nserver.send_timeout = \"1h\"";
    let server = Server::start(arguments, config, &registry, &[])?;
    let address = server.address;
    let unread = runtime.block_on(async {
        let mut unread = Vec::new();
        for number in 0..clients {
            // One of each kind after another: the paths stand in groups.
            let path = &paths[number * 37 % paths.len()];
            unread.push(ask(u8::try_from(number % 4 + 1)?, address, path).await?);
        }
        let answered = join_all(unread.iter().map(|stream| async {
            let answer = tokio::time::timeout(Duration::from_secs(120), stream.readable()).await;
            answer.is_ok_and(|readable| readable.is_ok())
        }));
        let answered = answered.await.into_iter().filter(|answered| *answered).count();
        anyhow::ensure!(answered == clients, "{answered} of {clients} were answered");
        Ok(unread)
    })?;
    let most = server.memory("VmHWM");
    let before = server.memory("VmRSS");
    runtime.block_on(odd_requests(address, odd))?;
    let after = server.memory("VmRSS");
    drop(unread);
    Ok(vec![
        Check::new(format!("memory with {clients} clients that read nothing"), most, OWN + ANSWERS, " MiB"),
        Check::new(format!("memory {odd} odd requests later"), after, before * 1.1 + 32.0, " MiB"),
    ])
}

/// A request that nobody means well: its path, and a header.
fn odd_request(number: usize) -> (&'static str, String, (&'static str, String)) {
    let made_up = format!("sha256:{number:064x}");
    let none = ("X-Nothing", String::new());
    let app = "/v2/library/app";
    match number % 12 {
        0 => ("GET", format!("{app}/manifests/1?x={number}{}", "x".repeat(60_000)), none),
        1 => ("GET", format!("/v2/{}{number}/manifests/1", "long/".repeat(40)), none),
        2 => ("GET", format!("{app}/manifests/1"), ("X-Odd", format!("{number}{}", "y".repeat(30_000)))),
        3 => {
            ("GET", format!("{app}/manifests/1"), ("Accept", format!("application/x-{number}, {}", "a/b,".repeat(500))))
        }
        4 => ("GET", format!("{app}/manifests/t{number}"), none),
        5 => ("HEAD", format!("{app}/manifests/{made_up}"), none),
        6 => ("GET", format!("{app}/blobs/{made_up}"), ("Range", format!("bytes={number}-{}", number / 2))),
        7 => ("GET", format!("{app}/blobs/sha256:{number}"), none),
        8 => ("GET", format!("{app}/manifests/1"), ("Authorization", format!("Bearer {number}{}", "t".repeat(4000)))),
        9 => ("GET", format!("{app}/tags/list?n={number}&last=t{number}"), none),
        10 => ("GET", format!("{app}/referrers/{made_up}?artifactType=a%2Fb{number}"), none),
        _ => ("GET", format!("/{number}/v2/library/app/manifests/1?ns=host{number}.example"), none),
    }
}

async fn odd_requests(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let asking = (0..32).map(|_| {
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let mut kept = None;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let connection = match kept.take() {
                    Some(connection) => connection,
                    None => Connection::open_from([127, 0, 2, 1], address).await,
                };
                let (method, path, (name, value)) = odd_request(number);
                if let Some(answer) = connection.send(method, &path, &[(name, &value)]).await {
                    kept = answer.done().await;
                }
            }
        })
    });
    for asked in join_all(asking).await {
        asked?;
    }
    Ok(())
}
