//! Name resolution that keeps foreign names out of private networks.
//!
//! The names that the configuration itself gives resolve to whatever they resolve to. A name that an
//! upstream made us ask, by redirect or realm, must not lead to a private address, unless the upstream
//! is on a private network itself, and never to a link-local one: the addresses are filtered where
//! the connection is made, so that a second answer of the DNS changes nothing.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::egress::proxy_url;
use super::redirect::{is_link_local, is_private};

/// Variables that name a proxy, which may well be on a private network.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// Finds the addresses of a name.
type LookUp = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Filters addresses out that are nobody's business, except for trusted names.
pub(super) struct GuardedResolver {
    trusted: Arc<HashSet<String>>,
    /// What is left out.
    forbidden: fn(IpAddr) -> bool,
    look_up: Box<LookUp>,
}

impl GuardedResolver {
    /// Trusts these names, and those of the proxies in the environment. Others may lead to `private`
    /// addresses or not.
    pub(super) fn new(trusted: impl IntoIterator<Item = String>, private: bool) -> GuardedResolver {
        let proxies = PROXIES.iter().filter_map(|name| std::env::var(name).ok()).filter_map(|value| host_of(&value));
        let trusted = trusted.into_iter().chain(proxies).map(|name| name.to_ascii_lowercase()).collect();
        let forbidden = if private { is_link_local } else { is_forbidden };
        let look_up = |name| -> BoxFuture<'_, _> {
            Box::pin(async move { tokio::net::lookup_host((name, 0)).await.map(Iterator::collect) })
        };
        GuardedResolver { trusted: Arc::new(trusted), forbidden, look_up: Box::new(look_up) }
    }
}

fn host_of(proxy: &str) -> Option<String> {
    proxy_url(proxy)?.host_str().map(str::to_owned)
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let trusted = self.trusted.contains(&name.as_str().to_ascii_lowercase());
        let (forbidden, found) = (self.forbidden, (self.look_up)(name.as_str().to_owned()));
        Box::pin(async move {
            let kept = admitted(found.await?.into_iter(), |address| trusted || !forbidden(address));
            if kept.is_empty() {
                return Err("the name leads to a private network; set allow_private if that is right".into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

fn is_forbidden(address: IpAddr) -> bool {
    is_private(address) || is_link_local(address)
}

fn admitted(found: impl Iterator<Item = SocketAddr>, may: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    found.filter(|address| may(address.ip())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_for_trusted_names_and_private_upstreams_and_link_local_ones_for_the_former() {
        let found = ["8.8.8.8:0", "10.0.0.1:0", "[::1]:0", "169.254.169.254:0"]
            .map(|a| a.parse::<SocketAddr>().expect("address"));
        let without = |forbidden: fn(IpAddr) -> bool| admitted(found.into_iter(), |address| !forbidden(address));
        assert_eq!(without(is_forbidden), found[..1]);
        assert_eq!(without(is_link_local), found[..3]);
        assert_eq!(admitted(found.into_iter(), |_| true), found);
    }

    #[test]
    fn the_host_of_a_proxy_is_found_with_and_without_a_scheme() {
        for proxy in ["http://proxy.example:3128", "proxy.example:3128", "proxy.example", "socks5://u:p@proxy.example"]
        {
            assert_eq!(host_of(proxy).as_deref(), Some("proxy.example"), "{proxy}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_for_each_connection_and_every_answer_is_filtered() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            }
        });
        // Good for the first question, then not, then partly.
        let answers = [&["127.0.0.1:0"][..], &["169.254.169.254:0"], &["169.254.169.254:0", "127.0.0.1:0"]];
        let asked = AtomicUsize::new(0);
        let look_up = move |_| -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let answer = answers[asked.fetch_add(1, Ordering::SeqCst) % answers.len()];
            Box::pin(async move { Ok(answer.iter().map(|address| address.parse().expect("an address")).collect()) })
        };
        let resolver = GuardedResolver { look_up: Box::new(look_up), ..GuardedResolver::new([], true) };
        let client = reqwest::Client::builder().no_proxy().dns_resolver(resolver).build().expect("a client");
        let url = format!("http://rebound.example:{port}/");
        for (is_answered, connections) in [(true, 1), (false, 1), (true, 2)] {
            let answer = client.get(&url).send().await;
            assert_eq!((answer.is_ok(), accepted.load(Ordering::SeqCst)), (is_answered, connections), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_foreign_name_for_this_machine_is_refused() {
        let resolve = |resolver: GuardedResolver| async move {
            resolver.resolve("localhost".parse().expect("name")).await.map(|addresses| addresses.count() > 0).ok()
        };
        assert_eq!(resolve(GuardedResolver::new([], false)).await, None);
        assert_eq!(resolve(GuardedResolver::new([], true)).await, Some(true));
        assert_eq!(resolve(GuardedResolver::new(["LocalHost".to_owned()], false)).await, Some(true));
    }
}
