//! The binary: hands the daemon to the command line, with sockets and signals.

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use registry_mirror::admin;
use registry_mirror::cli::{self, Bound};
use registry_mirror::config::Config;
use registry_mirror::daemon::{self, Daemon, Listeners};
use registry_mirror::server::{congestion, listener};
use registry_mirror::systemd;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), serve, daemon::dial, daemon::open_store).into()
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    // First the sockets: a port that is taken is told before the store is touched.
    let mut listeners = listeners(&config)?;
    let (pull, admin) = (addresses(&listeners.pull)?, addresses(&listeners.admin)?);
    let daemon = tokio::task::spawn_blocking({
        let config = config.clone();
        move || Daemon::open(config)
    });
    let daemon = daemon.await.context("opening the store")??;
    // After the lock of the store: a socket that is there now is left over.
    if let Some(path) = &config.server.admin_socket {
        listeners.admin_socket = admin::socket::bind(path);
    }
    // A file that grows beyond the limit of the process is an error to be handled, not the end.
    let _file_too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    // Before anybody is told that it serves: whoever ends it then expects it to end well.
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let budget = daemon::budget(&config.store).unwrap_or_default();
    if io::stderr().is_terminal() {
        eprint!("{}", cli::banner(&config, Bound { pull: &pull, admin: &admin }, budget));
    } else {
        tracing::info!(?pull, ?admin, store = %config.store.path.display(), budget_bytes = budget, "serving");
    }
    systemd::ready();
    daemon
        .serve(listeners, async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            systemd::stopping();
            tracing::info!("stopping: running pulls may end, new ones are refused");
        })
        .await;
    Ok(())
}

/// The sockets that systemd hands over, else those of the configuration.
fn listeners(config: &Config) -> anyhow::Result<Listeners> {
    let inherited = systemd::listeners().context("taking over the sockets of systemd")?;
    let adopt = |sockets: Vec<std::net::TcpListener>| {
        sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()
    };
    let mut listeners =
        Listeners { pull: adopt(inherited.pull)?, admin: adopt(inherited.admin)?, ..Listeners::default() };
    if listeners.pull.is_empty() {
        listeners.pull = bind(&config.server.listen, "--listen")?;
    }
    pace(&listeners.pull, config.server.congestion_control.as_deref())?;
    if listeners.admin.is_empty() {
        listeners.admin = bind(&config.server.admin, "--admin")?;
    }
    Ok(listeners)
}

fn pace(listeners: &[TcpListener], algorithm: Option<&str>) -> anyhow::Result<()> {
    let Some(algorithm) = algorithm else {
        if let Some(warning) = congestion::warning() {
            tracing::warn!("{warning}");
        }
        return Ok(());
    };
    for listener in listeners {
        let chosen = congestion::choose(listener, algorithm);
        chosen.with_context(|| {
            format!(
                "server.congestion_control = {algorithm:?} cannot be used; the kernel lists what it has in \
                 /proc/sys/net/ipv4/tcp_allowed_congestion_control"
            )
        })?;
    }
    Ok(())
}

fn bind(addresses: &[SocketAddr], flag: &str) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = listener::bind(*address);
        listeners.push(bound.with_context(|| format!("cannot listen on {address}; choose another with {flag}"))?);
    }
    Ok(listeners)
}

fn addresses(listeners: &[TcpListener]) -> io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}
