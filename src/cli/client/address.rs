//! Where a daemon may be: what was typed, else what the configuration says.

use std::path::{Path, PathBuf};

use crate::config::Config;

/// Where a service has its socket, for commands that are run outside of it.
const SOCKET_OF_SERVICE: &str = "/run/registry-mirror/registry-mirror.sock";

/// A place where a daemon may listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "http://{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where the daemon of this configuration listens, in the order to try.
pub(super) fn configured(config: &Config) -> Vec<Address> {
    let sockets = config.server.admin_socket.iter().cloned().chain([PathBuf::from(SOCKET_OF_SERVICE)]);
    let mut addresses: Vec<_> = sockets.filter(|path| path.exists()).map(Address::Unix).collect();
    addresses.extend(config.server.admin.iter().map(|address| {
        // An address to listen on that means all of them is none to connect to.
        let mut address = *address;
        match address.ip() {
            ip if !ip.is_unspecified() => {}
            std::net::IpAddr::V4(_) => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            std::net::IpAddr::V6(_) => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
        }
        Address::Tcp(address.to_string())
    }));
    addresses
}

/// Where the daemon of this store listens, and no other.
pub(super) fn of_store(config: &Config) -> Vec<Address> {
    config.server.admin_socket.iter().filter(|path| path.exists()).cloned().map(Address::Unix).collect()
}

pub(in crate::cli) fn parse(typed: &str) -> Option<Address> {
    if let Some(path) = typed.strip_prefix("unix:") {
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        return path.is_absolute().then(|| Address::Unix(path.to_owned()));
    }
    let address = typed.strip_prefix("http://").unwrap_or(typed).trim_end_matches('/');
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()).then(|| Address::Tcp(address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_a_url_an_address_or_a_socket() {
        for (typed, expected) in [
            ("http://127.0.0.1:5080/", Some("http://127.0.0.1:5080")),
            ("localhost:5080", Some("http://localhost:5080")),
            ("[::1]:5080", Some("http://[::1]:5080")),
            ("unix:/run/x.sock", Some("unix:/run/x.sock")),
            ("unix:///run/x.sock", Some("unix:/run/x.sock")),
            ("unix:x.sock", None),
            ("5080", None),
            ("https://mirror.example/", None),
        ] {
            assert_eq!(parse(typed).map(|address| address.to_string()).as_deref(), expected, "{typed}");
        }
    }
}
