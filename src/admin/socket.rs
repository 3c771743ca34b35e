//! The admin listener on a Unix socket, for the commands on this machine.
//!
//! Whoever may open the file may do everything: its owner, its group, and root. It has its mode before
//! anybody can see it. The same answers as on the addresses.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_to, listen, socket_with};
use tokio::net::UnixListener;

/// For owner and group.
const MODE: u32 = 0o660;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on a socket that its owner and group may use. `None` where that cannot be: the daemon
/// serves without it. To be called with the store locked, so that what is there is left over.
pub fn bind(path: &Path) -> Option<UnixListener> {
    match try_bind(path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(
                socket = %path.display(),
                %error,
                "no admin socket; commands that act need the admin address and server.admin_token"
            );
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
    let socket = unnamed()?;
    bind_to(&socket, &SocketAddrUnix::new(path)?)?;
    // The file has what the mask of the process left of the mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    listen(&socket, BACKLOG)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

/// A socket without a file yet. The file that it gets has no more than the mode of the socket (Linux: `unix(7)`).
fn unnamed() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::from_raw_mode(MODE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_socket_has_its_mode_before_it_has_a_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        bind_to(unnamed().expect("a socket"), &SocketAddrUnix::new(&path).expect("short")).expect("binds");
        // Nothing for others, whatever the mask of this process is.
        assert_eq!(std::fs::metadata(path).expect("there").mode() & 0o7 & !MODE, 0);
    }
}
