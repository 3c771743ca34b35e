//! Loopback addresses that nobody else on the machine uses, and the smallest HTTP client that can ask
//! whether a daemon is up. A port stays ours over a restart because the whole address is ours.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const FIRST_PORT: u16 = 20_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);

/// An address in 127.64.0.0/10 that belongs to this test process: outgoing connections use 127.0.0.1, so they
/// cannot take the port between two starts of a daemon.
pub(crate) fn unused_address() -> SocketAddr {
    let [_, high, middle, low] = process::id().to_be_bytes();
    unused_port(Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low).into())
}

/// An address of `::1`, below the ports of outgoing connections. docker trusts whoever listens in 127.0.0.0/8, and
/// looks for no certificates there.
pub(crate) fn unused_address_v6() -> SocketAddr {
    unused_port(Ipv6Addr::LOCALHOST.into())
}

fn unused_port(host: IpAddr) -> SocketAddr {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        assert!(port >= FIRST_PORT, "no port is left on {host}");
        let address = SocketAddr::from((host, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The status that `GET path` gets, or nothing when nobody answers.
pub(crate) fn status(address: SocketAddr, path: &str) -> Option<u16> {
    answer(address, path)?.split_whitespace().nth(1)?.parse().ok()
}

/// All that `GET path` gets, head and body, or nothing when nobody answers.
pub(crate) fn answer(address: SocketAddr, path: &str) -> Option<String> {
    let timeout = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
