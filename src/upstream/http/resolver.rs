//! Name resolution that keeps foreign names out of private networks.
//!
//! The names that the configuration itself gives resolve to whatever they resolve to. A name that an
//! upstream made us ask, by redirect or realm, must not lead to a private address, unless the upstream
//! is on a private network itself, and never to a link-local one: the addresses are filtered where
//! the connection is made, so that a second answer of the DNS changes nothing.
//!
//! A look-up takes a thread for as long as the name servers make it, whether anybody still waits for it or not. So there
//! is one for each name at a time, and few in all: names that are never answered leave threads for the disk.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::egress::proxy_url;
use super::redirect::{is_link_local, is_private};

/// Variables that name a proxy, which may well be on a private network.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// How many names are looked up at a time, and how many for one client of an upstream: where it sends us is up to it.
const MOST: usize = 32;
const MOST_OF_ONE: usize = 4;

/// Finds the addresses of a name, on a thread that it may keep.
type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
/// What all who wait for a name get.
type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// What is looked up.
pub(super) struct LookUps {
    look_up: Arc<LookUp>,
    /// Those that somebody waits for.
    under_way: Mutex<HashMap<String, WeakShared<BoxFuture<'static, Found>>>>,
    threads: Arc<Semaphore>,
}

/// For all of this process: the threads are.
static LOOK_UPS: LazyLock<Arc<LookUps>> =
    LazyLock::new(|| LookUps::by(|name: &str| (name, 0).to_socket_addrs().map(Iterator::collect)));

impl LookUps {
    fn by(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Arc<LookUps> {
        let threads = Arc::new(Semaphore::new(MOST));
        Arc::new(LookUps { look_up: Arc::new(look_up), under_way: Mutex::default(), threads })
    }

    /// The addresses of a name, with port 0, in the turn of who asks.
    fn of(&self, name: &str, turns: &Arc<Semaphore>) -> Shared<BoxFuture<'static, Found>> {
        let mut under_way = self.under_way.lock();
        if let Some(found) = under_way.get(name).and_then(WeakShared::upgrade) {
            return found;
        }
        let (look_up, threads, turns) = (Arc::clone(&self.look_up), Arc::clone(&self.threads), Arc::clone(turns));
        let owned = name.to_owned();
        let found = async move {
            // Semaphores that nobody closes.
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            let thread = threads.acquire_owned().await.map_err(io::Error::other)?;
            let found = tokio::task::spawn_blocking(move || {
                let _held = (turn, thread);
                look_up(&owned)
            });
            found.await.map_err(io::Error::other)?
        };
        let found = found.map(|found: io::Result<_>| found.map_err(Arc::new)).boxed().shared();
        under_way.retain(|_, found| found.upgrade().is_some_and(|found| found.peek().is_none()));
        under_way.extend(found.downgrade().map(|found| (name.to_owned(), found)));
        found
    }
}

/// The addresses of a name, as they are found for clients. Waits as long as it takes.
///
/// # Errors
/// As the system says it.
pub(super) async fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = LOOK_UPS.of(name, &Arc::new(Semaphore::new(1))).await;
    found.map(|found| found.into_iter().map(|address| address.ip()).collect()).map_err(io::Error::other)
}

/// Filters addresses out that are nobody's business, except for trusted names.
pub(super) struct GuardedResolver {
    trusted: Arc<HashSet<String>>,
    /// What is left out.
    forbidden: fn(IpAddr) -> bool,
    look_ups: Arc<LookUps>,
    turns: Arc<Semaphore>,
}

impl GuardedResolver {
    /// Trusts these names, and those of the proxies in the environment. Others may lead to `private`
    /// addresses or not.
    pub(super) fn new(trusted: impl IntoIterator<Item = String>, private: bool) -> GuardedResolver {
        let proxies = PROXIES.iter().filter_map(|name| std::env::var(name).ok()).filter_map(|value| host_of(&value));
        let trusted = trusted.into_iter().chain(proxies).map(|name| name.to_ascii_lowercase()).collect();
        let forbidden = if private { is_link_local } else { is_forbidden };
        let turns = Arc::new(Semaphore::new(MOST_OF_ONE));
        GuardedResolver { trusted: Arc::new(trusted), forbidden, look_ups: Arc::clone(&LOOK_UPS), turns }
    }
}

fn host_of(proxy: &str) -> Option<String> {
    proxy_url(proxy)?.host_str().map(str::to_owned)
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let trusted = self.trusted.contains(&name.as_str().to_ascii_lowercase());
        let (forbidden, found) = (self.forbidden, self.look_ups.of(name.as_str(), &self.turns));
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
        let look_ups = LookUps::by(move |_| {
            let answer = answers[asked.fetch_add(1, Ordering::SeqCst) % answers.len()];
            Ok(answer.iter().map(|address| address.parse().expect("an address")).collect())
        });
        let resolver = GuardedResolver { look_ups, ..GuardedResolver::new([], true) };
        let client = reqwest::Client::builder().no_proxy().dns_resolver(resolver).build().expect("a client");
        let url = format!("http://rebound.example:{port}/");
        for (is_answered, connections) in [(true, 1), (false, 1), (true, 2)] {
            let answer = client.get(&url).send().await;
            assert_eq!((answer.is_ok(), accepted.load(Ordering::SeqCst)), (is_answered, connections), "{answer:?}");
        }
    }

    #[test]
    fn names_that_are_never_answered_leave_threads_for_others() {
        use std::sync::mpsc;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).max_blocking_threads(MOST + 1).enable_all().build().expect("a runtime");
        let (answer, answers) = mpsc::channel::<()>();
        let (asked, questions) = mpsc::channel();
        let answers = Mutex::new(answers);
        let look_ups = LookUps::by(move |name| {
            let _ = asked.send(name.to_owned());
            let _ = answers.lock().recv();
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))])
        });
        runtime.block_on(async {
            let resolvers = [(); 20]
                .map(|()| GuardedResolver { look_ups: Arc::clone(&look_ups), ..GuardedResolver::new([], true) });
            let mut waiting = Vec::new();
            for number in 0..200 {
                // Each name is asked for twice.
                let name = format!("n{}.example", number / 2).parse().expect("a name");
                waiting.push(tokio::spawn(resolvers[number % 20].resolve(name)));
            }
            let begun: HashSet<_> = (0..MOST).map(|_| questions.recv().expect("a question")).collect();
            assert_eq!(begun.len(), MOST, "one for each name");
            // Who does not wait any longer takes no thread away from who comes, nor does he give one back.
            waiting.iter().for_each(tokio::task::JoinHandle::abort);
            assert_eq!(tokio::task::spawn_blocking(|| 1).await.expect("a thread"), 1);
            assert!(questions.try_recv().is_err());
            drop(answer);
            let later = resolvers[0].resolve("later.example".parse().expect("a name")).await;
            assert_eq!(later.expect("an answer").count(), 1);
        });
    }

    #[tokio::test]
    async fn a_name_server_that_is_silent_takes_no_longer_than_a_connection_may() {
        let (answer, answers) = std::sync::mpsc::channel::<()>();
        let answers = Mutex::new(answers);
        let look_ups = LookUps::by(move |_| {
            let _ = answers.lock().recv();
            Ok(Vec::new())
        });
        let resolver = GuardedResolver { look_ups, ..GuardedResolver::new([], true) };
        let client = reqwest::Client::builder().no_proxy().dns_resolver(resolver);
        let client = client.connect_timeout(std::time::Duration::from_millis(50)).build().expect("a client");
        let error = client.get("http://silent.example/").send().await.expect_err("no answer");
        assert!(error.is_connect() && error.is_timeout(), "{error:?}");
        drop(answer);
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
