//! What a mirror is for, measured: an image pulled directly, cold, warm and with the registry gone.
//!
//! `cargo run --release --example cold_vs_warm`
//!
//! Needs no network and no other program: it starts a registry that serves an image made here, and
//! a mirror in front of it with a store in a temporary folder. The registry answers the pulls as
//! late as a near one on the internet would (`--latency`), and the pairs of single requests at once,
//! so that their difference is what the mirror adds. Fails if a warm pull reaches the registry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use registry_mirror::cli::bench::pull::{self, Event, Order, Platform, Pulled};
use registry_mirror::config::{Config, Overrides};
use registry_mirror::daemon::Dialled;
use registry_mirror::daemon::{self, Daemon, Listeners};
use registry_mirror::mirror::Mirror;
use registry_mirror::oci::{Digest, Repository};
use registry_mirror::upstream::Upstream;
use scripted_registry::{Gate, Image, Match, Registry, Rule, noise};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Shows an image pulled directly, cold, warm and with the registry gone.
#[derive(Parser)]
struct Arguments {
    /// Size of the image in MB.
    #[arg(long, default_value_t = 48)]
    megabytes: usize,
    /// Pairs of requests by which the first bytes are compared.
    #[arg(long, default_value_t = 21)]
    pairs: u64,
    /// Milliseconds that the registry waits before every answer to a pull.
    #[arg(long, default_value_t = 20)]
    latency: u64,
}

const REPOSITORY: &str = "library/shown";
const PROBES: &str = "library/probes";
/// Large enough that its body is under way long before its end, in bytes.
const PROBE: usize = 1 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut registry = Registry::start().await;
    let image = add_image(&registry, arguments.megabytes);
    let probes = (0..=arguments.pairs).map(|seed| registry.add_blob(PROBES, noise(1000 + seed, PROBE)).to_string());
    let probes: Vec<Digest> = probes.map(|digest| digest.parse()).collect::<Result<_, _>>()?;
    delay_answers(&registry, Duration::from_millis(arguments.latency));

    let store = tempfile::tempdir().context("making a folder for the store")?;
    let mirror = Running::start(store.path(), &registry.url()).await?;
    println!(
        "{}: {} layers, {}; direct from {}, which answers after {} ms; through the mirror at {}\n",
        image.repository,
        image.layers.len(),
        HumanBytes(image.blob_bytes()),
        registry.url(),
        arguments.latency,
        mirror.url
    );

    let mut table = Table::begin();
    table.show("direct", &registry, &image, &registry.url()).await?;
    table.show("cold", &registry, &image, &mirror.url).await?;
    mirror.settled().await;
    table.show("warm", &registry, &image, &mirror.url).await?;
    registry.clear_rules();
    let first_bytes = first_bytes(&registry.url(), &mirror.url, &probes).await?;

    mirror.stop().await?;
    registry.stop().await;
    let mirror = Running::start(store.path(), &registry.url()).await?;
    table.show("offline", &registry, &image, &mirror.url).await?;
    mirror.stop().await?;

    table.end();
    first_bytes.print();
    Ok(())
}

/// Layers of different sizes, as images have them.
fn add_image(registry: &Registry, megabytes: usize) -> Image {
    let hundredths = [50, 25, 12, 8, 4, 1];
    let layers: Vec<Bytes> =
        (1..).zip(hundredths).map(|(seed, part)| noise(seed, megabytes * 1_000_000 * part / 100)).collect();
    registry.add_image(REPOSITORY, "latest", &layers)
}

fn delay_answers(registry: &Registry, latency: Duration) {
    if latency.is_zero() {
        return;
    }
    // A gate that opens for every request that has waited long enough.
    let gate = Gate::new();
    registry.rule(Rule::on(Match::any()).stall_before_headers(&gate));
    registry.watch(move |_, _| {
        let gate = gate.clone();
        tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            gate.let_through(1);
        });
    });
}

/// A mirror as `registry-mirror serve` runs it, on a free port.
struct Running {
    url: String,
    mirror: Mirror,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(store: &Path, upstream: &str) -> anyhow::Result<Running> {
        let text = format!("store.min_free = \"0\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{upstream}\"\n");
        let overrides = Overrides { store: Some(store.display().to_string()), ..Overrides::default() };
        let config = Config::parse(Path::new("cold_vs_warm.toml"), &text, [], overrides)?;
        let daemon = Daemon::open(config).context("opening the store")?;
        let mirror = daemon.mirror().clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.context("taking a free port")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let listeners = Listeners { pull: vec![listener], ..Listeners::default() };
        let task = tokio::spawn(daemon.serve(listeners, async {
            let _ = stopped.await;
        }));
        Ok(Running { url, mirror, stop, task })
    }

    /// Waits until everything that was pulled is in the store.
    async fn settled(&self) {
        while self.mirror.fills() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.task.await.context("stopping the mirror")
    }
}

/// A client that has no connection yet.
fn client(url: &str) -> anyhow::Result<Arc<dyn Upstream>> {
    let name = "docker.io".parse()?;
    let dialled = Dialled { name: &name, url: url.parse()?, auth: "anonymous", ca: None };
    daemon::dial(dialled).map_err(anyhow::Error::msg)
}

/// What is printed, one row for each pull.
struct Table {
    rows: Vec<String>,
}

impl Table {
    fn begin() -> Table {
        let title = format!(
            "{:<8} {:>10} {:>12} {:>12} {:>16} {:>19}",
            "pull", "time", "rate", "first byte", "upstream bytes", "upstream requests"
        );
        Table { rows: vec![title] }
    }

    /// Pulls the image and notes how it went and what reached the registry.
    async fn show(&mut self, name: &str, registry: &Registry, image: &Image, url: &str) -> anyhow::Result<()> {
        registry.forget_requests();
        let pulled = pull_with_bar(name, url).await.with_context(|| format!("the {name} pull"))?;
        let descriptors = image.blobs().chain([&image.manifest]);
        let sent: u64 = descriptors.map(|content| registry.body_bytes_sent(&content.digest)).sum();
        let kept = matches!(name, "warm" | "offline");
        anyhow::ensure!(!kept || registry.requests().is_empty(), "the {name} pull reached the registry");
        let rate = HumanBytes((pulled.bytes as f64 / pulled.elapsed.as_secs_f64()) as u64);
        self.rows.push(format!(
            "{name:<8} {:>10} {:>12} {:>12} {:>16} {:>19}",
            milliseconds(pulled.elapsed),
            format!("{rate}/s"),
            milliseconds(pulled.first_byte),
            format!("{:.2} x image", sent as f64 / pulled.bytes as f64),
            registry.requests().len()
        ));
        Ok(())
    }

    fn end(self) {
        println!("{}", self.rows.join("\n"));
    }
}

async fn pull_with_bar(name: &str, url: &str) -> anyhow::Result<Pulled> {
    let order = Order {
        repository: REPOSITORY.parse()?,
        reference: registry_mirror::oci::Reference::Tag("latest".parse()?),
        platform: Platform::default(),
        parallel: 3,
    };
    let style = ProgressStyle::with_template("{prefix:<8} {bar:40} {bytes:>10}/{total_bytes} {bytes_per_sec}")?;
    let bar = ProgressBar::new(0).with_style(style).with_prefix(name.to_owned());
    let watch = |event| match event {
        Event::Announced(bytes) => bar.set_length(bytes),
        Event::Received(bytes) => bar.inc(bytes),
    };
    let registry = client(url)?;
    let pulled = pull::pull(registry.as_ref(), &order, &watch).await?;
    bar.finish();
    Ok(pulled)
}

/// Times to the first byte of blobs that the mirror had not seen, against the same ones directly.
struct FirstBytes {
    pairs: usize,
    direct: Duration,
    cold: Duration,
    difference: f64,
}

/// Asks in turns, with connections that are open already, as they are in the middle of a pull.
async fn first_bytes(direct: &str, mirror: &str, probes: &[Digest]) -> anyhow::Result<FirstBytes> {
    let (direct, mirror) = (client(direct)?, client(mirror)?);
    let repository: Repository = PROBES.parse()?;
    let (warm_up, probes) = probes.split_first().context("there is a blob to open the connections with")?;
    for registry in [&direct, &mirror] {
        pull::pull_blob(registry.as_ref(), &repository, warm_up, &|_| {}).await?;
    }
    let (mut of_direct, mut of_cold, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for (turn, probe) in probes.iter().enumerate() {
        let ask = async |registry: &Arc<dyn Upstream>| {
            pull::pull_blob(registry.as_ref(), &repository, probe, &|_| {}).await.map(|times| times.first_byte)
        };
        // Who is first changes, so that a drift of the machine hits both.
        let (cold, direct) = if turn % 2 == 0 {
            let direct = ask(&direct).await?;
            (ask(&mirror).await?, direct)
        } else {
            (ask(&mirror).await?, ask(&direct).await?)
        };
        of_direct.push(direct);
        of_cold.push(cold);
        differences.push(cold.as_secs_f64() - direct.as_secs_f64());
    }
    differences.sort_by(f64::total_cmp);
    let difference = differences.get(differences.len() / 2).copied().context("at least one pair is needed")?;
    Ok(FirstBytes { pairs: differences.len(), direct: median(of_direct), cold: median(of_cold), difference })
}

impl FirstBytes {
    fn print(&self) {
        println!(
            "\nfirst byte of a cold blob, median of {} pairs on open connections: direct {}, through the mirror {}; \
             difference {:+.2} ms (promised: within 5 ms)",
            self.pairs,
            milliseconds(self.direct),
            milliseconds(self.cold),
            self.difference * 1e3
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
