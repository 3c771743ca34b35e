//! Where the mirror is, for who is told of it: what it listens on, made into addresses to connect to; and the names
//! of registries as somebody types them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Config;
use crate::mirror::routes::fold_alias;
use crate::oci::{NameError, RegistryName};

impl Config {
    /// What clients on this machine are to be told of listeners that are `bound`: their addresses, those first where
    /// a request that names no upstream is for Docker Hub.
    pub fn addresses_for_clients(&self, bound: &[SocketAddr]) -> Vec<String> {
        let scheme = if self.server.tls.is_some() { "https" } else { "http" };
        let default = |(place, address)| self.server.default_at(address, place).unwrap_or(&self.routes.default);
        let mut bound: Vec<_> = bound.iter().copied().enumerate().collect();
        bound.sort_by_key(|listener| default(*listener).as_str() != "docker.io");
        bound.into_iter().map(|(_, address)| format!("{scheme}://{}", reachable(address))).collect()
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
