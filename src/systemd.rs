//! What systemd and we tell each other: ready, stopping, and sockets it has opened for us.
//!
//! The only place that knows `sd-notify`. Without systemd everything here does nothing.
//! A descriptor arrives as a bare number, which safe code cannot own; we ask the kernel for a
//! duplicate of it instead (`pidfd_getfd`, Linux 5.6). The original stays open until the process
//! ends, as systemd's own copy does anyway.

use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;

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

/// The listeners that systemd has opened for this process; none without socket activation. They do
/// not block, as tokio needs it. To be called once.
///
/// # Errors
/// What was handed over makes no sense: a name that is neither `pull` nor `admin`, or a descriptor
/// that is not a TCP socket. Starting without it would leave the socket deaf.
pub fn listeners() -> io::Result<Listeners> {
    let mut listeners = Listeners::default();
    for (descriptor, name) in sd_notify::listen_fds_with_names()? {
        let place = match name.as_str() {
            "pull" => &mut listeners.pull,
            "admin" => &mut listeners.admin,
            _ => {
                let message = format!("socket {name:?} from systemd: FileDescriptorName= must be pull or admin");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        };
        place.push(adopt(descriptor)?);
    }
    Ok(listeners)
}

fn adopt(descriptor: RawFd) -> io::Result<TcpListener> {
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    let listener = TcpListener::from(pidfd_getfd(ourselves, descriptor, PidfdGetfdFlags::empty())?);
    // Fails on anything that is not an internet socket.
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_descriptor_by_number_becomes_a_listener_of_the_same_socket() {
        let original = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = original.local_addr().expect("bound");
        let adopted = adopt(original.as_raw_fd()).expect("adopts");
        drop(original);
        assert_eq!(adopted.local_addr().expect("bound"), address);
        adopted.set_nonblocking(false).expect("blocks");
        let client = TcpStream::connect(address).expect("connects");
        let (_, peer) = adopted.accept().expect("accepts");
        assert_eq!(peer, client.local_addr().expect("bound"));
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_refused() {
        let file = File::open("/dev/null").expect("opens");
        assert!(adopt(file.as_raw_fd()).is_err());
    }

    #[test]
    fn without_socket_activation_there_are_no_listeners() {
        let listeners = listeners().expect("nothing to refuse");
        assert!(listeners.pull.is_empty() && listeners.admin.is_empty());
    }
}
