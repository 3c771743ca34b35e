//! What systemd and we tell each other: ready, stopping, and sockets it has opened for us.
//!
//! The only place that knows `sd-notify`. Without systemd everything here does nothing.
//! A descriptor arrives as a bare number, which safe code cannot own; we ask the kernel for a
//! duplicate of it instead (`pidfd_getfd`, Linux 5.6). The original stays open until the process
//! ends, as systemd's own copy does anyway.

use std::io;
use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sd_notify::NotifyState;

/// Listeners that systemd has opened, by the name in their socket unit.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For clients: `FileDescriptorName=pull`.
    pub pull: Vec<TcpListener>,
    /// For health and metrics: `FileDescriptorName=admin`.
    pub admin: Vec<TcpListener>,
}

/// Tells systemd that requests are answered from now on.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Tells systemd that running answers are finished and no more are begun.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// The listeners that systemd has opened for this process; none without socket activation, and where what was opened is for
/// another process, such as a shell that started this one. They do not block, as tokio needs it. To be called once.
///
/// # Errors
/// What was handed over makes no sense: a name that is neither `pull` nor `admin`, or a descriptor
/// that is not a TCP socket that listens. Starting without it would leave the socket deaf.
pub fn listeners() -> io::Result<Listeners> {
    let mut listeners = Listeners::default();
    // Their names are compared with their number, which is none where they are not ours.
    if sd_notify::listen_fds()?.len() == 0 {
        return Ok(listeners);
    }
    for (descriptor, name) in sd_notify::listen_fds_with_names()? {
        let place = match name.as_str() {
            "pull" => &mut listeners.pull,
            "admin" => &mut listeners.admin,
            _ => {
                let message = format!("socket {name:?} from systemd: FileDescriptorName= must be pull or admin");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        place.push(adopt(descriptor, &name)?);
    }
    Ok(listeners)
}

fn adopt(descriptor: RawFd, name: &str) -> io::Result<TcpListener> {
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = pidfd_getfd(ourselves, descriptor, PidfdGetfdFlags::empty())?;
    if let Some(why) = unfit(&socket)? {
        let message = format!("socket {name:?} from systemd {why}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Why nobody could connect to this, with what to change in the unit of the socket, if that is so.
fn unfit(socket: &OwnedFd) -> io::Result<Option<&'static str>> {
    let kind = match sockopt::socket_type(socket) {
        Err(Errno::NOTSOCK) => return Ok(Some("is no socket: its unit needs ListenStream=ADDRESS:PORT")),
        kind => kind?,
    };
    if !matches!(sockopt::socket_domain(socket)?, AddressFamily::INET | AddressFamily::INET6) {
        return Ok(Some("has no address and port: its unit needs ListenStream=ADDRESS:PORT, not a path"));
    }
    if kind != SocketType::STREAM {
        return Ok(Some("is none for TCP: its unit needs ListenStream=ADDRESS:PORT, not ListenDatagram="));
    }
    if rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some()) {
        return Ok(Some("is the connection of one client: its unit needs Accept=no"));
    }
    let is_deaf = !sockopt::socket_acceptconn(socket)?;
    Ok(is_deaf.then_some("does not listen: whoever opened it has to call listen(2), as systemd does for ListenStream="))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{SocketAddr, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_by_number_becomes_a_listener_of_the_same_socket() {
        let original = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = original.local_addr().expect("bound");
        let adopted = adopt(original.as_raw_fd(), "pull").expect("adopts");
        drop(original);
        assert_eq!(adopted.local_addr().expect("bound"), address);
        adopted.set_nonblocking(false).expect("blocks");
        let client = TcpStream::connect(address).expect("connects");
        let (_, peer) = adopted.accept().expect("accepts");
        assert_eq!(peer, client.local_addr().expect("bound"));
    }

    #[test]
    fn a_descriptor_at_which_nobody_can_connect_is_refused_with_what_to_change() {
        let refused = |descriptor: RawFd| adopt(descriptor, "pull").expect_err("deaf").to_string();
        let file = File::open("/dev/null").expect("opens");
        let datagrams = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (connection, _) = listener.accept().expect("accepts");
        let bound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        rustix::net::bind(&bound, &anywhere).expect("binds");
        let (local, _) = UnixStream::pair().expect("a pair");
        for (descriptor, said) in [
            (file.as_raw_fd(), "is no socket"),
            (datagrams.as_raw_fd(), "not ListenDatagram="),
            (connection.as_raw_fd(), "Accept=no"),
            (client.as_raw_fd(), "Accept=no"),
            (bound.as_raw_fd(), "does not listen"),
            (local.as_raw_fd(), "ADDRESS:PORT, not a path"),
        ] {
            let error = refused(descriptor);
            assert!(error.starts_with("socket \"pull\" from systemd") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn without_socket_activation_there_are_no_listeners() {
        let listeners = listeners().expect("nothing to refuse");
        assert!(listeners.pull.is_empty() && listeners.admin.is_empty());
    }
}
