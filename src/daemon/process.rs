//! The daemon as a process: the sockets that it listens on and the signals that end it.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::owner::{InHisName, Keeping, Owner};
use super::{Listeners, Prepared, budget};
use crate::carrier::{Carrier, Carriers};
use crate::clock::SystemClock;
use crate::config::{Config, Handed, Loaded, Source};
use crate::confine::confine;
use crate::documents::{Code, Error};
use crate::server::io::give_large_buffers_back;
use crate::server::{congestion, listener};
use crate::systemd;
use crate::{admin, audit};

/// How long calls to the disk that are under way at the end are waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// The addresses that are bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// For clients.
    pub pull: &'a [SocketAddr],
    /// For health and metrics.
    pub admin: &'a [SocketAddr],
}

/// The sockets that systemd opened for this process, taken over before anything is decided: where we listen says who may
/// read.
#[derive(Debug)]
pub struct Given {
    sockets: systemd::Listeners,
    addresses: Handed,
}

impl Given {
    /// Takes them over. To be called once.
    ///
    /// # Errors
    /// [`Code::Failed`] for sockets that nobody can listen on.
    pub fn take() -> Result<Given, Error> {
        let sockets = systemd::listeners().map_err(failed("taking over the sockets of systemd"))?;
        let of = |sockets: &[std::net::TcpListener]| {
            let addresses: io::Result<Vec<_>> = sockets.iter().map(std::net::TcpListener::local_addr).collect();
            addresses.map_err(failed("asking a socket for its address"))
        };
        let addresses = Handed { pull: of(&sockets.pull)?, admin: of(&sockets.admin)? };
        Ok(Given { sockets, addresses })
    }

    /// Their addresses, for the configuration.
    pub fn addresses(&self) -> Handed {
        self.addresses.clone()
    }
}

/// Hears SIGHUP from here on, which would end a process that does not; for [`run`].
///
/// # Errors
/// When there is no way to hear it.
pub fn hang_up() -> Result<Signal, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(failed("starting the runtime"))?;
    runtime.block_on(async { signal(SignalKind::hangup()) }).map_err(failed("handling SIGHUP"))
}

/// Runs the daemon until a signal ends it; `hang_up` is what [`hang_up`] gave before anything was read, and `given` are the
/// sockets whose addresses the configuration was told. `announce` is called when it is about to serve, with what is bound
/// and how many bytes the store may hold.
///
/// # Errors
/// Why it cannot start: [`Code::Configuration`] for what the configuration says, [`Code::Failed`] otherwise.
pub fn run(
    source: Source,
    loaded: Loaded,
    hang_up: Signal,
    given: Given,
    announce: impl FnOnce(&Config, Bound<'_>, u64),
) -> Result<(), Error> {
    let config = loaded.config.clone();
    if let Err(error) = hide_memory() {
        tracing::warn!(%error, "other processes of this user can read the memory of this one");
    }
    if !give_large_buffers_back() {
        tracing::debug!("the allocator keeps large buffers for later");
    }
    let no_runtime = failed("starting the runtime");
    // First the sockets: a port that is taken is told before the store is touched.
    let early = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(&no_runtime)?;
    let sockets = early.block_on(async { sockets(&config, given) })?;
    // What the configuration says wrongly, too.
    let carriers = Carriers::default();
    let prepared = Prepared::new(config.clone(), Arc::new(SystemClock), carriers.clone())?;
    let owner = Owner::to_write_for(&config.store.path);
    if let Some(given @ 1..) = owner.map(|owner| owner.give_back(&config.store.path)) {
        tracing::info!(given, "files that root had left in the store are its owner's now");
    }
    stay_inside(&config, owner);
    // Sockets are bound, and the thread for programs is there: they are root's, if this is root.
    let _in_his_name = as_owner(owner);
    let threads = |name, carrier: &Carrier| {
        let runtime = tokio::runtime::Builder::new_multi_thread().thread_name(name).enable_all().build();
        runtime.inspect(|runtime| carrier.begin(runtime)).map_err(&no_runtime)
    };
    // They outlive who is carried by them.
    let upstreams = threads("upstreams", &carriers.upstreams)?;
    let tier = config.store.bucket.as_ref().map(|_| threads("bucket", &carriers.tier)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(&no_runtime)?;
    let served = runtime.block_on(serve(source, loaded, hang_up, (prepared, owner), sockets, announce));
    // A disk that does not answer any more keeps no process.
    runtime.shutdown_timeout(ENDS_WITHIN);
    std::iter::once(upstreams).chain(tier).for_each(|runtime| runtime.shutdown_timeout(ENDS_WITHIN));
    served
}

/// In the name of the store's owner, where root may be him; else a daemon serves all the same.
fn as_owner(owner: Option<Owner>) -> Option<InHisName> {
    let entered = owner?.enter(Keeping::Reading);
    entered.inspect_err(|error| tracing::warn!(%error, "files in the store of another user are made as root")).ok()
}

/// An error that says what was being done.
fn failed<E: std::fmt::Display>(doing: &str) -> impl Fn(E) -> Error {
    move |error| Error::new(Code::Failed, format!("{doing}: {error}"))
}

/// Keeps the memory of this process, and the credentials in it, from other processes of its user: no
/// dump of it is written, and none but root may trace it.
fn hide_memory() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Writes nowhere but in the store and in the folders of the admin socket and the audit. Before any
/// runtime has threads: those that were there would write anywhere.
fn stay_inside(config: &Config, owner: Option<Owner>) {
    let store = &config.store.path;
    let socket = config.server.admin_socket.as_deref().and_then(Path::parent);
    let audit = match &config.callers.audit {
        Some(audit::Place::File(path)) => path.parent(),
        Some(audit::Place::Stderr) | None => None,
    };
    // What cannot be made is told by who needs it.
    let in_his_name = owner.and_then(|owner| owner.enter(Keeping::Reading).ok());
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(store);
    drop(in_his_name);
    let _ = socket.map(std::fs::create_dir_all);
    let mut folders: Vec<&Path> =
        [Some(store.as_path()), socket, audit].into_iter().flatten().filter(|path| path.is_dir()).collect();
    folders.dedup();
    match confine(folders.iter().copied()) {
        Ok(()) => {
            tracing::info!(?folders, "writing is restricted to the store, the admin socket and the audit (Landlock)")
        }
        Err(error) => tracing::warn!(%error, "writing is not restricted by Landlock"),
    }
}

async fn serve(
    source: Source,
    loaded: Loaded,
    hang_up: Signal,
    (prepared, owner): (Prepared, Option<Owner>),
    sockets: systemd::Listeners,
    announce: impl FnOnce(&Config, Bound<'_>, u64),
) -> Result<(), Error> {
    let config = loaded.config.clone();
    let adopt = |sockets: Vec<std::net::TcpListener>| {
        let adopted: io::Result<Vec<_>> = sockets.into_iter().map(TcpListener::from_std).collect();
        adopted.map_err(failed("taking over the sockets"))
    };
    let mut listeners = Listeners { pull: adopt(sockets.pull)?, admin: adopt(sockets.admin)?, ..Listeners::default() };
    let (pull, admin) = (addresses(&listeners.pull)?, addresses(&listeners.admin)?);
    let daemon = tokio::task::spawn_blocking(move || prepared.open());
    let daemon = daemon.await.map_err(failed("opening the store"))??;
    // After the lock of the store: a socket that is there now is left over.
    if let Some(path) = &config.server.admin_socket {
        let bind = || admin::socket::bind(path);
        listeners.admin_socket = owner.map_or_else(bind, |owner| owner.aside(path.parent(), bind));
        listeners.admin_socket.iter().for_each(|_| daemon.lock.say_where(path));
    }
    // A file that grows beyond the limit of the process is an error to be handled, not the end.
    let _file_too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    let daemon = daemon.read_from(source, loaded).told_by(hang_up);
    // Before anybody is told that it serves: whoever ends it then expects it to end well.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("handling SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("handling SIGINT"))?;
    announce(&config, Bound { pull: &pull, admin: &admin }, budget(&config.store).unwrap_or_default());
    systemd::ready();
    let hurry = CancellationToken::new();
    let daemon = daemon.hurried_by(hurry.clone());
    daemon
        .serve(listeners, async move {
            told_to_stop(&mut terminate, &mut interrupt).await;
            systemd::stopping();
            tracing::info!("stopping: running pulls may end, new ones are refused");
            tokio::spawn(async move {
                told_to_stop(&mut terminate, &mut interrupt).await;
                hurry.cancel();
            });
        })
        .await;
    Ok(())
}

async fn told_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The sockets that systemd hands over, else those of the configuration.
fn sockets(config: &Config, given: Given) -> Result<systemd::Listeners, Error> {
    let mut sockets = given.sockets;
    if sockets.pull.is_empty() {
        sockets.pull = bind(&config.server.listen, "--listen")?;
    }
    pace(&sockets.pull, config.server.congestion_control.as_deref())?;
    if sockets.admin.is_empty() {
        sockets.admin = bind(&config.server.admin, "--admin")?;
    }
    Ok(sockets)
}

fn pace(listeners: &[std::net::TcpListener], algorithm: Option<&str>) -> Result<(), Error> {
    let Some(algorithm) = algorithm else {
        if let Some(algorithm) = congestion::doubtful() {
            tracing::warn!(algorithm, "this machine's way to pace connections may be slow: registry-mirror doctor");
        }
        return Ok(());
    };
    for listener in listeners {
        congestion::choose(listener, algorithm)
            .map_err(|error| Error::new(Code::Configuration, unusable_pace(algorithm, &error)).with_hint(PACES))?;
    }
    Ok(())
}

/// Why the kernel does not pace connections as it is told.
pub(super) fn unusable_pace(algorithm: &str, error: &io::Error) -> String {
    format!("server.congestion_control = {algorithm:?} cannot be used: {error}")
}

/// What else it may be told.
pub(super) const PACES: &str = "the kernel lists what it has in /proc/sys/net/ipv4/tcp_allowed_congestion_control";

fn bind(addresses: &[SocketAddr], flag: &str) -> Result<Vec<std::net::TcpListener>, Error> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = listener::bind(*address).and_then(TcpListener::into_std);
        let doing = format!("cannot listen on {address}");
        let hint = format!("choose another with {flag}");
        listeners.push(bound.map_err(failed(&doing)).map_err(|error| error.with_hint(hint))?);
    }
    Ok(listeners)
}

fn addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, Error> {
    let addresses: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
    addresses.map_err(failed("asking a socket for its address"))
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
