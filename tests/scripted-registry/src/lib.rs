//! The rude registry: a registry on a loopback port that serves images it makes itself, records
//! every request, and misbehaves on cue.
//!
//! Honest until told otherwise: manifests with `Accept`, blobs with `Range`, tags, referrers. A
//! [`Rule`] changes answers; a [`TokenPolicy`] guards them; a storage host takes over the blobs.
//! Nothing waits for time. Where an order of events matters a test holds a [`Gate`], and
//! [`Registry::seen`] waits for requests. With it a raw [`client`], as unforgiving as the registry is rude.
//!
//! A crate of its own, compiled once for tests, benchmarks and examples. It knows nothing of the
//! mirror: it names content by digests of its own, and can stand in front of any cache.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "for tests, which may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

mod answer;
pub mod bucket;
pub mod client;
mod content;
mod digest;
mod recorded;
mod script;
mod server;
mod state;
mod tokens;

use content::OCTETS;
pub use content::{Content, Dialect, Holding, Image, StoredManifest, gzip, layer, noise};
pub use digest::{Algorithm, Descriptor, Digest, NotADigest};
pub use recorded::{Listener, Recorded};
pub use script::{Gate, Match, Rule};
use state::Shared;
pub use tokens::{Expired, TokenPolicy, base64};

/// How the honest answers are.
#[derive(Clone, Debug)]
pub struct Options {
    /// A tag of which the client accepts no manifest is 404; otherwise the first manifest is sent anyway.
    pub strict_accept: bool,
    /// Whether there is a referrers API.
    pub referrers: bool,
    /// Whether it honours `artifactType`.
    pub referrers_filter: bool,
    /// A list of tags longer than this comes in pages, and asking for more at a time is 400.
    pub largest_page: Option<usize>,
    /// What stands before the path in `Link`: nothing, or `http://host:port`.
    pub link_base: String,
    /// While one blob is being sent, every other GET of one is 429.
    pub one_blob_at_a_time: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            strict_accept: false,
            referrers: true,
            referrers_filter: true,
            largest_page: None,
            link_base: String::new(),
            one_blob_at_a_time: false,
        }
    }
}

/// A running registry. Dropping it ends its listeners and connections.
pub struct Registry {
    shared: Arc<Shared>,
    address: SocketAddr,
    storage_address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    /// Bound and not listening, from the beginning: so the ports stay ours when it stops.
    held: Vec<(TcpSocket, Listener)>,
    stopped: bool,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop_now();
    }
}

impl Registry {
    /// Starts an empty registry on a free loopback port.
    pub async fn start() -> Registry {
        Registry::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port")
    }

    /// Starts an empty registry at this address.
    ///
    /// # Errors
    /// When the address cannot be bound, because somebody else listens there, say.
    pub async fn start_at(address: SocketAddr) -> std::io::Result<Registry> {
        let (listener, held) = listen(bind(address)?)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(address.to_string()));
        let task = tokio::spawn(server::accept(listener, Listener::Registry, Arc::clone(&shared)));
        let held = vec![(held, Listener::Registry)];
        Ok(Registry { shared, address, storage_address: None, tasks: vec![task], held, stopped: false })
    }

    /// Blobs are redirected (307) to a second listener from now on, with an address that is good for
    /// one use and one method, and only without `Authorization`.
    pub async fn with_storage_host(mut self) -> Registry {
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let (listener, held) = listen(port).expect("the port is ours");
        self.held.push((held, Listener::Storage));
        let address = listener.local_addr().expect("a bound socket has an address");
        self.storage_address = Some(address);
        self.shared.lock().storage = Some(address.to_string());
        self.tasks.push(tokio::spawn(server::accept(listener, Listener::Storage, Arc::clone(&self.shared))));
        self
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `host:port` of the storage host.
    pub fn storage_authority(&self) -> Option<String> {
        self.storage_address.map(|address| address.to_string())
    }

    /// Closes the listeners and every connection, and waits until they are closed. Connections to the
    /// ports are refused until [`Registry::restart_on_same_port`].
    pub async fn stop(&mut self) {
        self.stop_now();
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        self.stopped = true;
    }

    /// Closes the listeners and every connection as soon as the runtime gets to it.
    pub fn stop_now(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Listens again where it listened, with all content, rules and records.
    pub async fn restart_on_same_port(&mut self) {
        if !std::mem::take(&mut self.stopped) {
            self.stop().await;
            self.stopped = false;
        }
        for (socket, on) in std::mem::take(&mut self.held) {
            let (listener, held) = listen(socket).expect("the held port is ours");
            self.held.push((held, on));
            self.tasks.push(tokio::spawn(server::accept(listener, on, Arc::clone(&self.shared))));
        }
    }

    // What it holds.

    /// Changes the content in any way.
    pub fn content<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.shared.lock().content)
    }

    /// Puts a blob into a repository.
    pub fn add_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        self.add_blob_with(repository, Algorithm::Sha256, bytes)
    }

    /// Puts a blob into a repository under a digest of this algorithm.
    pub fn add_blob_with(&self, repository: &str, algorithm: Algorithm, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        self.content(|content| content.repository(repository).add_blob(algorithm, bytes, OCTETS).digest)
    }

    /// Puts a manifest into a repository and points the tags at it.
    pub fn add_manifest(&self, repository: &str, tags: &[&str], bytes: impl Into<Bytes>, media_type: &str) -> Digest {
        self.add_manifest_with(repository, Algorithm::Sha256, tags, bytes, media_type)
    }

    /// The same, under a digest of this algorithm.
    pub fn add_manifest_with(
        &self,
        repository: &str,
        algorithm: Algorithm,
        tags: &[&str],
        bytes: impl Into<Bytes>,
        media_type: &str,
    ) -> Digest {
        let bytes = bytes.into();
        self.content(|content| content.repository(repository).add_manifest(algorithm, tags, bytes, media_type).digest)
    }

    /// Puts a blob into a repository, and a manifest that names it as its only layer.
    pub fn add_layer(&self, repository: &str, tag: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let (size, layer) = (bytes.len(), self.add_blob(repository, bytes));
        let config = self.add_blob(repository, Bytes::from_static(b"{}"));
        let entry = |kind: &str, digest: Digest, size: usize| {
            format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#)
        };
        let (config, layers) = (entry("config.v1+json", config, 2), entry("layer.v1.tar", layer, size));
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        self.add_manifest(repository, &[tag], manifest, "application/vnd.oci.image.manifest.v1+json");
        layer
    }

    /// Makes an OCI image: one gzipped tar layer per item, each with one file of these bytes.
    pub fn add_image(&self, repository: &str, tag: &str, files: &[Bytes]) -> Image {
        self.content(|content| content.add_image(repository, tag, files, Dialect::Oci))
    }

    /// Makes the same image in Docker's own types.
    pub fn add_docker_image(&self, repository: &str, tag: &str, files: &[Bytes]) -> Image {
        self.content(|content| content.add_image(repository, tag, files, Dialect::Docker))
    }

    /// Makes an OCI index of images, each with its architecture.
    pub fn add_index(&self, repository: &str, tag: &str, images: &[(&Image, &str)]) -> Descriptor {
        self.content(|content| content.add_index(repository, tag, images, Dialect::Oci))
    }

    /// Makes a Docker list of images, each with its architecture.
    pub fn add_docker_list(&self, repository: &str, tag: &str, images: &[(&Image, &str)]) -> Descriptor {
        self.content(|content| content.add_index(repository, tag, images, Dialect::Docker))
    }

    /// Makes an artifact that refers to a manifest.
    pub fn add_referrer(&self, repository: &str, subject: &Descriptor, artifact_type: &str, blob: Bytes) -> Descriptor {
        self.content(|content| content.add_referrer(repository, subject, artifact_type, blob))
    }

    /// Points a tag at one manifest.
    pub fn move_tag(&self, repository: &str, tag: &str, digest: &Digest) {
        self.negotiate_tag(repository, tag, &[*digest]);
    }

    /// Points a tag at several manifests; the first whose type the client accepts is sent.
    pub fn negotiate_tag(&self, repository: &str, tag: &str, digests: &[Digest]) {
        self.content(|content| content.repository(repository).tags.insert(tag.to_owned(), digests.to_vec()));
    }

    /// Takes a tag away; the manifest stays.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        self.content(|content| content.repository(repository).tags.remove(tag));
    }

    /// Takes a manifest away; tags that point at it are 404.
    pub fn remove_manifest(&self, repository: &str, digest: &Digest) {
        self.content(|content| content.repository(repository).manifests.remove(digest));
    }

    /// Takes a blob away.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.content(|content| content.repository(repository).blobs.remove(digest));
    }

    // How it behaves.

    /// Adds a rule. Of several that match a request the one added first takes it.
    pub fn rule(&self, rule: Rule) {
        self.shared.lock().rules.push(rule);
    }

    /// Takes all rules away: honest again. Answers that have begun go on as they began.
    pub fn clear_rules(&self) {
        self.shared.lock().rules.clear();
    }

    /// How often any rule has matched a request, spared and used-up ones included.
    pub fn rule_matches(&self) -> usize {
        self.shared.lock().rules.iter().map(|rule| rule.seen.load(Ordering::SeqCst)).sum()
    }

    /// Changes how honest answers are.
    pub fn options(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.shared.lock().options);
    }

    /// Everything but the token service needs credentials from now on.
    pub fn require_tokens(&self, policy: TokenPolicy) {
        self.shared.lock().policy = Some(policy);
    }

    /// Nothing needs credentials from now on.
    pub fn require_nothing(&self) {
        self.shared.lock().policy = None;
    }

    /// No token given out so far is good from now on.
    pub fn expire_tokens(&self) {
        self.shared.lock().issued.expire_tokens();
    }

    /// Sends `ratelimit-*` headers and answers 429 to manifest GETs once `left` is used up.
    pub fn limit_pulls(&self, limit: u64, left: u64) {
        self.shared.lock().quota = Some((limit, left));
    }

    /// Calls `watcher` with every request and the status it gets. It must not call the registry.
    pub fn watch(&self, watcher: impl Fn(&Recorded, u16) + Send + 'static) {
        self.shared.lock().watcher = Some(Box::new(watcher));
    }

    // What it saw.

    /// Every request so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// Forgets requests and bytes counted so far.
    pub fn forget_requests(&self) {
        let mut inside = self.shared.lock();
        inside.requests.clear();
        inside.sent.clear();
    }

    /// How many requests so far `predicate` holds for.
    pub fn count(&self, predicate: impl Fn(&Recorded) -> bool) -> usize {
        self.shared.lock().requests.iter().filter(|request| predicate(request)).count()
    }

    /// How many requests so far are of this kind.
    pub fn count_of(&self, kind: &Match) -> usize {
        self.count(|request| kind.matches(request))
    }

    /// GETs of a blob or manifest by this digest, at the registry itself.
    pub fn gets_of(&self, digest: &Digest) -> usize {
        let end = format!("/{digest}");
        self.count(|r| r.listener == Listener::Registry && r.method == "GET" && r.path.ends_with(&end))
    }

    /// Requests to the token service.
    pub fn token_requests(&self) -> usize {
        self.count_of(&Match::token())
    }

    /// Bytes of body sent of this content, by the registry and its storage host. What the client did
    /// not take before it hung up may be counted too.
    pub fn body_bytes_sent(&self, digest: &Digest) -> u64 {
        self.shared.lock().sent.get(digest).copied().unwrap_or(0)
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open_connections
    }

    /// How many clients went away before their answer was over. Noticed at a gate at once, elsewhere
    /// at the next write.
    pub fn hang_ups(&self) -> usize {
        self.shared.lock().hang_ups
    }

    /// Waits until there were `times` requests of this kind.
    pub async fn seen(&self, kind: &Match, times: usize) {
        self.until(|registry| registry.count_of(kind) >= times).await;
    }

    /// Waits until `times` clients went away before their answer was over.
    pub async fn hung_up(&self, times: usize) {
        self.until(|registry| registry.hang_ups() >= times).await;
    }

    /// Waits until this holds. It is looked at again after every request, every piece of body sent,
    /// and every connection that ends.
    pub async fn until(&self, holds: impl Fn(&Registry) -> bool) {
        let mut events = self.shared.events.subscribe();
        while !holds(self) {
            let _ = events.changed().await;
        }
    }
}

/// Binds a port without listening, so that connections are refused and nobody else gets it.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens at a port that is bound; what is returned beside holds it beyond that. Nobody else can bind it for a
/// moment: several sockets may be bound as long as none of them listens.
fn listen(socket: TcpSocket) -> std::io::Result<(TcpListener, TcpSocket)> {
    let held = bind(socket.local_addr()?)?;
    Ok((socket.listen(1024)?, held))
}
