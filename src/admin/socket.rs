//! The admin listener on a Unix socket, for the commands on this machine.
//!
//! Whoever may open the file may do everything: owner and group. The same answers as on the addresses.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::UnixListener;

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
