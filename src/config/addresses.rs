//! Where the mirror is, for who is told of it: what it listens on, made into addresses to connect to; and the names
//! of registries as somebody types them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Config;
use crate::mirror::routes::fold_alias;
use crate::oci::{NameError, RegistryName};

impl Config {
    /// What clients on this machine are to be told of listeners that are `bound`: their addresses, and the
    /// upstream of a request that names none; those first where that is Docker Hub.
    pub fn addresses_for_clients(&self, bound: &[SocketAddr]) -> Vec<(String, RegistryName)> {
        let scheme = if self.server.tls.is_some() { "https" } else { "http" };
        let mut bound: Vec<_> = bound.iter().copied().enumerate().collect();
        bound.sort_by_key(|(place, address)| self.default_at(*address, *place).as_str() != "docker.io");
        let told = |(place, address): (usize, SocketAddr)| {
            // All addresses of IPv6 are those of IPv4, too.
            let every = address.ip().is_unspecified();
            let there = if every { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address };
            (format!("{scheme}://{there}"), self.default_at(address, place).clone())
        };
        bound.into_iter().map(told).collect()
    }

    /// The upstream of requests that name none, at a listener bound to `address`, the one at this place.
    pub fn default_at(&self, address: SocketAddr, place: usize) -> &RegistryName {
        self.server.default_at(address, place).unwrap_or(&self.routes.default)
    }
}

/// An address to listen on that means all of them is none to connect to.
pub fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// A registry as somebody types it, under the one name that it has here.
///
/// # Errors
/// [`NameError::Registry`].
pub fn registry(typed: &str) -> Result<RegistryName, NameError> {
    RegistryName::parse_any_case(typed).map(fold_alias)
}
