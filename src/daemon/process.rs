//! The daemon as a process: the sockets that it listens on and the signals that end it.

use std::io;
use std::net::SocketAddr;

use anyhow::Context as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Daemon, Listeners, budget};
use crate::admin;
use crate::config::Config;
use crate::server::{congestion, listener};
use crate::systemd;

/// The addresses that are bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// For clients.
    pub pull: &'a [SocketAddr],
    /// For health and metrics.
    pub admin: &'a [SocketAddr],
}

/// Runs the daemon until a signal ends it. `announce` is called when it is about to serve, with what
/// is bound and how many bytes the store may hold.
///
/// # Errors
/// For people: why it cannot start.
pub fn run(config: Config, announce: impl FnOnce(&Config, Bound<'_>, u64)) -> anyhow::Result<()> {
    if let Err(error) = hide_memory() {
        tracing::warn!(%error, "other processes of this user can read the memory of this one");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(serve(config, announce))
}

/// Keeps the memory of this process, and the credentials in it, from other processes of its user: no
/// dump of it is written, and none but root may trace it.
fn hide_memory() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

async fn serve(config: Config, announce: impl FnOnce(&Config, Bound<'_>, u64)) -> anyhow::Result<()> {
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
    // It asks for certificates to be read again; where there are none, it is no reason to end.
    let _hang_up = signal(SignalKind::hangup()).context("handling SIGHUP")?;
    // Before anybody is told that it serves: whoever ends it then expects it to end well.
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    announce(&config, Bound { pull: &pull, admin: &admin }, budget(&config.store).unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn no_other_process_of_this_user_may_read_the_memory_of_a_daemon() {
        hide_memory().expect("Linux");
        assert_eq!(dumpable_behavior().expect("Linux"), DumpableBehavior::NotDumpable);
    }
}
