//! Name resolution that keeps foreign names out of private networks.
//!
//! The names that the configuration itself gives resolve to whatever they resolve to. A name that an
//! upstream made us ask, by redirect or realm, must not lead to a private address: the addresses
//! are filtered where the connection is made, so that a second answer of the DNS changes nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use super::redirect::is_private;

/// Variables that name a proxy, which may well be on a private network.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// Filters private addresses out, except for trusted names.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    trusted: Arc<HashSet<String>>,
}

impl GuardedResolver {
    /// Trusts these names, and those of the proxies in the environment.
    pub(super) fn new(trusted: impl IntoIterator<Item = String>) -> GuardedResolver {
        let proxies = PROXIES.iter().filter_map(|name| std::env::var(name).ok()).filter_map(|value| host_of(&value));
        let trusted = trusted.into_iter().chain(proxies).map(|name| name.to_ascii_lowercase()).collect();
        GuardedResolver { trusted: Arc::new(trusted) }
    }
}

fn host_of(proxy: &str) -> Option<String> {
    let url = Url::parse(proxy).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{proxy}")).ok())?;
    url.host_str().map(str::to_owned)
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let trusted = self.trusted.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let kept = admitted(found, trusted);
            if kept.is_empty() {
                return Err("the name leads to a private network; set allow_private if that is right".into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

fn admitted(found: impl Iterator<Item = SocketAddr>, trusted: bool) -> Vec<SocketAddr> {
    found.filter(|address| trusted || !is_private(address.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_kept_for_trusted_names_only() {
        let found = ["8.8.8.8:0", "10.0.0.1:0", "[::1]:0"].map(|a| a.parse::<SocketAddr>().expect("address"));
        assert_eq!(admitted(found.into_iter(), false), found[..1]);
        assert_eq!(admitted(found.into_iter(), true), found);
    }

    #[test]
    fn the_host_of_a_proxy_is_found_with_and_without_a_scheme() {
        for proxy in ["http://proxy.example:3128", "proxy.example:3128", "proxy.example", "socks5://u:p@proxy.example"]
        {
            assert_eq!(host_of(proxy).as_deref(), Some("proxy.example"), "{proxy}");
        }
    }

    #[tokio::test]
    async fn a_foreign_name_for_this_machine_is_refused() {
        let resolve = |resolver: GuardedResolver| async move {
            resolver.resolve("localhost".parse().expect("name")).await.map(|addresses| addresses.count() > 0).ok()
        };
        assert_eq!(resolve(GuardedResolver::new([])).await, None);
        assert_eq!(resolve(GuardedResolver::new(["LocalHost".to_owned()])).await, Some(true));
    }
}
