//! Our own listeners, which no upstream may lead us to: a question that we ask ourselves waits for itself.
//!
//! Known by what is bound, not by name: an address that stands for all of the machine's is each of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use parking_lot::RwLock;

/// Where we listen.
#[derive(Debug, Default)]
pub struct Ours(RwLock<Vec<SocketAddr>>);

impl Ours {
    /// Takes note of an address that we listen at.
    pub fn listen_at(&self, address: SocketAddr) {
        self.0.write().push(address);
    }

    /// Whether we listen at this port of any address.
    pub fn has_port(&self, port: u16) -> bool {
        self.0.read().iter().any(|ours| ours.port() == port)
    }

    /// Whether we listen at this address.
    pub fn contains(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0.read().iter().filter(|ours| ours.port() == address.port()).any(|ours| {
            let own = ours.ip().to_canonical();
            own == ip || ((own.is_unspecified() || ip.is_unspecified()) && is_of_this_machine(ip))
        })
    }
}

/// Whether an address is one of this machine: only then a socket can be bound to it.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_every_address_that_leads_to_it() {
        let ours = Ours::default();
        ours.listen_at("127.0.0.1:5000".parse().expect("an address"));
        ours.listen_at("[::]:5080".parse().expect("an address"));
        for (address, expected) in [
            ("127.0.0.1:5000", true),
            ("[::ffff:127.0.0.1]:5000", true),
            ("0.0.0.0:5000", true),
            ("127.0.0.1:5001", false),
            ("192.0.2.1:5000", false),
            ("127.0.0.1:5080", true),
            ("127.0.0.2:5080", true),
            ("[::1]:5080", true),
            ("192.0.2.1:5080", false),
        ] {
            assert_eq!(ours.contains(address.parse().expect("an address")), expected, "{address}");
        }
        assert!(ours.has_port(5080) && !ours.has_port(80));
    }
}
