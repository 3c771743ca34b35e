//! The admin listener on a Unix socket, for the commands on this machine.
//!
//! Whoever may open the file may do everything: owner and group. The same answers as on the
//! addresses; few connections, so none of what the pull listener does for speed.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::{AdminState, Door, LIMITS, answer_any};
use crate::server::listener::accepted;

/// Listens on a socket that its owner and group may use. `None` where that cannot be: the daemon
/// serves without it. To be called with the store locked, so that what is there is left over.
pub fn bind(path: &Path) -> Option<UnixListener> {
    match try_bind(path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(socket = %path.display(), %error, "no admin socket; commands need the admin address");
            None
        }
    }
}

fn try_bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `shutdown`, then lets running answers finish.
pub async fn serve(listener: UnixListener, state: AdminState, shutdown: impl Future<Output = ()>) {
    let seats = Arc::new(Semaphore::new(LIMITS.max_connections));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            let seat = Arc::clone(&seats).acquire_owned().await;
            (seat, accepted(|| listener.accept()).await)
        };
        let (seat, (stream, _)) = tokio::select! {
            next = next => next,
            () = &mut shutdown => break,
        };
        let state = state.clone();
        let service = service_fn(move |request| {
            let answered = answer_any(request, state.clone(), Door::Socket);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(LIMITS.header_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "an admin connection broke");
            }
            drop(seat);
        });
    }
    drop(listener);
    if tokio::time::timeout(LIMITS.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("closing admin connections that were still open when the drain time ended");
    }
}
