//! Whom a proxy asks for. Pure.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

/// A network of addresses, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// What is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an address nor a network such as 10.0.0.0/8")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Network, NotANetwork> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Network).map_err(|_| NotANetwork)
    }
}

/// Whether an address is in one of these.
pub fn is_within(networks: &[Network], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|Network(network)| network.contains(&address))
}

/// The client that `peer` asks for: the last address in `X-Forwarded-For` that is no trusted proxy. An
/// entry that cannot be read ends the search, and so does the beginning: then `peer` is the client.
pub fn client_of<'a>(peer: IpAddr, lines: impl DoubleEndedIterator<Item = &'a [u8]>, trusted: &[Network]) -> IpAddr {
    if !is_within(trusted, peer) {
        return peer;
    }
    let entries = lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    for entry in entries {
        match address(entry) {
            Some(address) if is_within(trusted, address) => {}
            Some(address) => return address,
            None => return peer,
        }
    }
    peer
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim_ascii();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    bare.parse().ok().or_else(|| entry.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_last_who_is_no_trusted_proxy() {
        let trusted: Vec<Network> =
            ["127.0.0.1", "10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network")).into();
        for (peer, lines, client) in [
            ("192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:127.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", &["203.0.113.9, 198.51.100.7,10.1.1.1 "], "198.51.100.7"),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.7", "10.1.1.1, fd00::1"], "198.51.100.7"),
            ("127.0.0.1", &["198.51.100.7, 10.1.1.1", "unknown"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7", ""], "127.0.0.1"),
            ("127.0.0.1", &["10.1.1.1, 10.1.1.2"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("127.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["\u{e9}"], "127.0.0.1"),
            ("127.0.0.1", &["\t198.51.100.7 \t"], "198.51.100.7"),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.7", "fd00::1"], "198.51.100.7"),
            ("127.0.0.1", &["198.51.100.7, [::ffff:10.1.1.1]:80"], "198.51.100.7"),
            ("127.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", &["[::ffff:198.51.100.7]:9"], "198.51.100.7"),
            ("fd00::9", &["2001:db8::1:80"], "2001:db8::1:80"),
            // What cannot be read ends the search, whatever stands before it.
            ("127.0.0.1", &["198.51.100.7, unknown, 10.1.1.1"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7,"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7", " "], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.07"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7:"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7:65536"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7 198.51.100.8"], "127.0.0.1"),
            ("127.0.0.1", &["[198.51.100.7]:80"], "127.0.0.1"),
            ("127.0.0.1", &["\"[2001:db8::1]:80\""], "127.0.0.1"),
            ("127.0.0.1", &["[2001:db8::1"], "127.0.0.1"),
            ("127.0.0.1", &["fe80::1%eth0"], "127.0.0.1"),
            ("127.0.0.1", &["for=198.51.100.7"], "127.0.0.1"),
            ("127.0.0.1", &["_hidden"], "127.0.0.1"),
        ] {
            let peer = peer.parse::<IpAddr>().expect("an address");
            let expected = client.parse::<IpAddr>().expect("an address");
            let found = client_of(peer, lines.iter().map(|line| line.as_bytes()), &trusted);
            assert_eq!(found.to_canonical(), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in ["", "localhost", "10.0.0.0/33", "10.0.0", "*"] {
            assert_eq!(wrong.parse::<Network>(), Err(NotANetwork), "{wrong}");
        }
    }
}
