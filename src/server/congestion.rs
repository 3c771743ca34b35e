//! How the kernel paces what is sent to clients.
//!
//! On a network of high speed and no loss BBR's timers cost more than all the rest of a transfer: on
//! the loopback interface of a virtual machine sendfile was six times slower with bbr than with cubic.
//! A listener can choose for its connections; the default of the machine is left alone.

use std::io;
use std::os::fd::AsFd;

/// Chooses the algorithm for the connections that the listener will accept.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when the kernel has not got it, [`io::ErrorKind::PermissionDenied`]
/// when it is for administrators only.
pub fn choose(listener: impl AsFd, algorithm: &str) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_congestion(listener, algorithm)?)
}

/// The algorithm of the machine, where leaving the choice to it may cost most of the speed of a local network.
/// Blocks on `/proc`.
pub fn doubtful() -> Option<String> {
    let chosen = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok()?;
    Some(chosen.trim().to_owned()).filter(|chosen| is_doubtful(chosen))
}

fn is_doubtful(algorithm: &str) -> bool {
    algorithm.starts_with("bbr")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("a port")
    }

    #[tokio::test]
    async fn connections_inherit_the_choice_of_their_listener() {
        let listener = listener().await;
        // Every kernel has reno.
        choose(&listener, "reno").expect("there");
        let address = listener.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (accepted, _) = accepted.expect("accepted");
        assert_eq!(rustix::net::sockopt::tcp_congestion(&accepted).expect("told"), "reno");
        drop(client);
    }

    #[tokio::test]
    async fn an_algorithm_that_is_not_there_is_refused() {
        let error = choose(&listener().await, "nonesuch").expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_bbr_is_doubtful() {
        assert!(is_doubtful("bbr") && is_doubtful("bbr2") && !is_doubtful("cubic"));
    }
}
