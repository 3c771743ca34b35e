//! Sockets that were opened for us before the start, as systemd does: they take the place of addresses to listen on.
//!
//! Truth: whatever is asked of where we listen, who may read there, or what it is for, is asked of these.

use std::net::SocketAddr;

use crate::oci::RegistryName;

/// Where addresses were set that no file, variable or flag says.
pub const BY_SYSTEMD: &str = "a socket of systemd";

/// The addresses of sockets that were handed over; each list takes the place of what is configured, unless it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// For clients.
    pub pull: Vec<SocketAddr>,
    /// For health and metrics.
    pub admin: Vec<SocketAddr>,
}

/// An entry of `server.listen`: its address, and the upstream that it names.
pub(super) type Entry = (SocketAddr, Option<RegistryName>);

/// What handed sockets are for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Purpose {
    /// For each of them the upstream of a request that names none, where an entry says it.
    pub(super) defaults: Vec<Option<RegistryName>>,
    /// What was said of listeners and counts for none of them, or not as it was said.
    pub(super) warnings: Vec<String>,
}

/// What these sockets are for by the entries of `server.listen`; `usual` is the upstream where nothing is said.
pub(super) fn purpose(sockets: &[SocketAddr], entries: &[Entry], usual: &RegistryName) -> Purpose {
    let mut purpose = Purpose::default();
    let mut used = Vec::new();
    let says_something = entries.iter().any(|(_, upstream)| upstream.is_some());
    for (place, socket) in sockets.iter().enumerate() {
        let meant = meant(*socket, place, entries);
        if meant.is_none() && says_something {
            purpose.warnings.push(format!(
                "no entry of server.listen says alone what the socket {socket} of systemd is for, so what names no registry \
                 there is for {usual}: name it as in listen = [\"{socket}={usual}\"]"
            ));
        }
        used.extend(meant.map(|(address, _)| *address));
        purpose.defaults.push(meant.and_then(|(_, upstream)| upstream.clone()));
    }
    let unused = entries.iter().filter(|(address, _)| !used.contains(address));
    purpose.warnings.extend(unused.filter_map(|(address, upstream)| {
        let upstream = upstream.as_ref()?;
        Some(format!(
            "nothing listens at {address} for {upstream}: sockets of systemd take the place of server.listen, and none \
             of them has that port; add it to the socket unit, as in ListenStream={address}"
        ))
    }));
    purpose
}

/// The entry that is about a socket: the one with its address, else the one with its port, since a socket of all addresses
/// is the machine's way to say the same, else the one in its place that leaves the port open.
fn meant(socket: SocketAddr, place: usize, entries: &[Entry]) -> Option<&Entry> {
    let plain = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    if let Some(same) = entries.iter().find(|(address, _)| plain(address) == plain(&socket)) {
        return Some(same);
    }
    let mut of_port = entries.iter().filter(|(address, _)| address.port() == socket.port());
    match of_port.next() {
        Some(first) => of_port.all(|(_, upstream)| *upstream == first.1).then_some(first),
        None => entries.get(place).filter(|(address, _)| address.port() == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sockets: &[&str], entries: &[(&str, Option<&str>)]) -> (Vec<String>, Vec<String>) {
        let registry = |name: &str| name.parse::<RegistryName>().expect("a name");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let sockets: Vec<_> = sockets.iter().map(|text| address(text)).collect();
        let entries: Vec<_> = entries.iter().map(|(at, name)| (address(at), name.map(registry))).collect();
        let Purpose { defaults, warnings } = purpose(&sockets, &entries, &registry("docker.io"));
        (defaults.iter().map(|of| of.as_ref().map_or("-".to_owned(), ToString::to_string)).collect(), warnings)
    }

    #[test]
    fn a_socket_is_for_what_the_entry_of_its_address_else_of_its_port_says() {
        let other = ("127.0.0.1:5001", Some("other.example"));
        for (sockets, entries, defaults) in [
            (&["127.0.0.1:5001"][..], &[other][..], &["other.example"][..]),
            (&["0.0.0.0:5001"], &[other], &["other.example"]),
            (&["[::]:5001"], &[other], &["other.example"]),
            (&["[::ffff:127.0.0.1]:5001"], &[other, ("10.0.0.1:5001", None)], &["other.example"]),
            (&["0.0.0.0:5000", "0.0.0.0:5001"], &[("127.0.0.1:5000", None), other], &["-", "other.example"]),
            (&["0.0.0.0:5001", "0.0.0.0:5000"], &[("127.0.0.1:5000", None), other], &["other.example", "-"]),
            (&["0.0.0.0:5001"], &[other, ("[::1]:5001", other.1)], &["other.example"]),
            (&["127.0.0.1:4711"], &[("127.0.0.1:0", other.1)], &["other.example"]),
            (&["0.0.0.0:5000"], &[("127.0.0.1:5001", None)], &["-"]),
        ] {
            let (told, warnings) = told(sockets, entries);
            assert_eq!(told, defaults, "{sockets:?} {entries:?}");
            assert!(warnings.is_empty() || sockets.len() < entries.len(), "{warnings:?}");
        }
    }

    #[test]
    fn what_an_entry_says_in_vain_is_told() {
        let other = Some("other.example");
        let (defaults, warnings) = told(&["0.0.0.0:5000"], &[("127.0.0.1:5001", other)]);
        assert_eq!(defaults, ["-"]);
        let [socket, entry] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(socket.contains("0.0.0.0:5000") && socket.contains("for docker.io"), "{socket}");
        assert!(entry.contains("127.0.0.1:5001 for other.example"), "{entry}");
        // Which of them is meant cannot be told.
        let (defaults, warnings) = told(&["0.0.0.0:5000"], &[("127.0.0.1:5000", None), ("10.0.0.1:5000", other)]);
        assert_eq!(defaults, ["-"]);
        assert!(warnings[0].contains("the socket 0.0.0.0:5000"), "{warnings:?}");
    }
}
