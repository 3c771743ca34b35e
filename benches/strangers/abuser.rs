//! One who wants four times what he may have, beside one who does not, each at an address of his own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scripted_registry::client::{Connection, Stream};
use scripted_registry::{Registry, noise};
use tokio::runtime::Runtime;

use super::arguments::{Arguments, Check};
use super::latency::{Client, median, percentile};
use super::server::Server;

const HONEST: [u8; 4] = [127, 0, 0, 2];
const ABUSER: [u8; 4] = [127, 0, 0, 3];

/// What each may have.
const REQUESTS_A_SECOND: u64 = 200;
const COLD_A_MINUTE: u64 = 300;
const EGRESS_MB_A_SECOND: u64 = 8;
const CONNECTIONS: u64 = 32;
/// How many times that the abuser wants.
const GREED: u64 = 4;
/// The blob that the abuser wants again and again, in bytes.
const LARGE: usize = 4_000_000;

pub fn measure(arguments: &Arguments) -> anyhow::Result<Vec<Check>> {
    let (rounds, seconds) = if arguments.short { (1, 1) } else { (5, 10) };
    let runtime = Runtime::new()?;
    let registry = runtime.block_on(Registry::start());
    let image = registry.add_image("library/app", "1", &[noise(1, 30_000)]);
    let large = registry.add_blob("library/large", noise(2, LARGE));
    let limits = format!(
        "limits.requests_per_client = {REQUESTS_A_SECOND}\nlimits.cold_per_client = {COLD_A_MINUTE}\n\
         limits.egress_per_client = \"{EGRESS_MB_A_SECOND}MB\"\nlimits.connections_per_client = {CONNECTIONS}"
    );
    let limits = if arguments.without_limits { "" } else { &limits };
    let server = Server::start(arguments, limits, &registry, &[])?;
    let layer = image.blobs().map(|blob| blob.digest).last().expect("a layer");
    let paths = [
        "/v2/library/app/manifests/1".to_owned(),
        format!("/v2/library/app/manifests/{}", image.manifest.digest),
        format!("/v2/library/app/blobs/{layer}"),
        "/v2/library/app/tags/list".to_owned(),
    ];
    let mut client = Client::connect(HONEST, server.address)?;
    for path in paths.iter().chain(&paths).chain([&format!("/v2/library/large/blobs/{large}")]) {
        anyhow::ensure!(client.ask(path)? == 200, "{path}");
    }
    // His large blob is not held against him later.
    std::thread::sleep(Duration::from_secs(1));
    let (time, pause) = (Duration::from_secs(seconds), Duration::from_millis(8));
    let (mut ratios, mut refused) = (Vec::new(), 0);
    for _ in 0..rounds {
        let alone = client.keep_asking(&paths, time, pause)?;
        let abuser = Abuser::start(server.address, &format!("/v2/library/large/blobs/{large}"))?;
        // He is at it.
        std::thread::sleep(Duration::from_millis(500));
        let beside = client.keep_asking(&paths, time, pause)?;
        drop(abuser);
        refused += alone.refused + beside.refused;
        ratios.push(percentile(&beside.waits, 99) / percentile(&alone.waits, 99));
        std::thread::sleep(Duration::from_millis(500));
    }
    eprintln!("- p99 beside against alone: {ratios:.2?}");
    Ok(vec![
        Check::new("p99 of an honest client beside an abuser, against alone", median(ratios), 1.2, " x"),
        Check::new("refusals of the honest client", refused as f64, 0.0, ""),
    ])
}

/// The abuser, as a process of its own, so that he takes nothing from the honest client but what the mirror
/// gives him.
struct Abuser(Child);

impl Abuser {
    fn start(address: SocketAddr, large: &str) -> anyhow::Result<Abuser> {
        let mut command = Command::new("nice");
        command.args(["-n", "15"]).arg(std::env::current_exe()?).args(["abuse", &address.to_string(), large]);
        Ok(Abuser(command.stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Abuser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Wants too much of everything, until he is ended.
pub fn abuse(address: SocketAddr, large: String) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Connections that are opened and held, or closed by the mirror and opened again.
        for _ in 0..CONNECTIONS * (GREED - 1) {
            tokio::spawn(async move {
                loop {
                    let held = Connection::open_from(ABUSER, address).await;
                    if let Some(stream) = held.send("GET", "/v2/", &[]).await
                        && stream.status == 200
                    {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        // Bytes.
        let pieces = GREED * EGRESS_MB_A_SECOND * 1_000_000 / LARGE as u64;
        for number in 0..pieces {
            let large = large.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1000 * number / pieces)).await;
                loop {
                    let begun = Instant::now();
                    let connection = Connection::open_from(ABUSER, address).await;
                    if let Some(stream) = connection.send("GET", &large, &[]).await {
                        stream.finish().await;
                    }
                    tokio::time::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed())).await;
                }
            });
        }
        // Requests, and among them questions to the upstream, at their pace whatever becomes of them.
        let every = Duration::from_micros(1_000_000 / (GREED * REQUESTS_A_SECOND));
        let cold = GREED * REQUESTS_A_SECOND * 60 / (GREED * COLD_A_MINUTE);
        let mut ticks = tokio::time::interval(every);
        let mut kept: Vec<Connection> = Vec::new();
        let (give, mut back) = tokio::sync::mpsc::unbounded_channel();
        for number in 0_u64.. {
            ticks.tick().await;
            while let Ok(connection) = back.try_recv() {
                kept.push(connection);
            }
            let connection = match kept.pop() {
                Some(connection) => connection,
                None => Connection::open_from(ABUSER, address).await,
            };
            let give = give.clone();
            tokio::spawn(async move {
                let path = match number % cold {
                    0 => format!("/v2/library/app/manifests/t{number}"),
                    _ => "/v2/library/app/manifests/1".to_owned(),
                };
                let answer: Option<Stream> = connection.send("GET", &path, &[]).await;
                if let Some(answer) = answer
                    && let Some(connection) = answer.done().await
                {
                    let _ = give.send(connection);
                }
            });
        }
        Ok(())
    })
}
