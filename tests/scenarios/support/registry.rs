//! The rude registry: a registry on a loopback port that serves images it makes itself, records
//! every request, and misbehaves on cue.
//!
//! Honest until told otherwise: manifests with `Accept`, blobs with `Range`, tags, referrers. A
//! [`Rule`] changes answers; a [`TokenPolicy`] guards them; a storage host takes over the blobs.
//! Nothing waits for time. Where an order of events matters a test holds a [`Gate`], and
//! [`Registry::seen`] waits for requests. Used by the scenarios and, by path, by the examples.

#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::HeaderMap;
use registry_mirror::oci::{Algorithm, Descriptor, Digest, MediaType};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

// The paths are written out because the examples include this file by path.
#[path = "registry/answer.rs"]
mod answer;
#[path = "registry/content.rs"]
mod content;
#[path = "registry/script.rs"]
mod script;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/tokens.rs"]
mod tokens;

use answer::Answer;
pub use content::{Content, DOCKER_CONFIG, DOCKER_LAYER, Dialect, Holding, Image, gzip, layer, noise};
use script::Behaviour;
pub use script::{Gate, Match, Rule};
use tokens::Issued;
pub use tokens::{Expired, TokenPolicy, base64};

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    /// Without the query, not decoded.
    pub path: String,
    /// Without the question mark, not decoded; empty if there is none.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The number of the connection, over both listeners, from 0.
    pub at_connection: usize,
    /// Where it came in.
    pub listener: Listener,
}

/// Which of the listeners of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The registry itself, and its token service.
    Registry,
    /// The host that blobs are redirected to.
    Storage,
}

impl Recorded {
    /// A header as text, `None` if it is not there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A parameter of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.queries(name).into_iter().next()
    }

    /// All values of a parameter of the query, decoded.
    pub fn queries(&self, name: &str) -> Vec<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }

    /// Repository, keyword and what follows it, of a path below `/v2/`.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let (front, rest) = self.path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let (name, keyword) = front.rsplit_once('/')?;
        Some((name, keyword, rest))
    }

    fn keyword(&self) -> Option<&str> {
        self.parts().map(|(_, keyword, _)| keyword)
    }
}

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
}

impl Default for Options {
    fn default() -> Options {
        Options {
            strict_accept: false,
            referrers: true,
            referrers_filter: true,
            largest_page: None,
            link_base: String::new(),
        }
    }
}

/// What all connections of a registry share.
struct Shared {
    inside: Mutex<Inside>,
    /// Moves with every request and every client that hangs up.
    events: watch::Sender<u64>,
}

#[derive(Default)]
struct Inside {
    authority: String,
    storage: Option<String>,
    content: Content,
    options: Options,
    rules: Vec<Rule>,
    policy: Option<TokenPolicy>,
    issued: Issued,
    /// Manifest GETs left, and the limit, as Docker Hub counts them.
    quota: Option<(u64, u64)>,
    requests: Vec<Recorded>,
    connections: usize,
    hang_ups: usize,
    sent: HashMap<Digest, u64>,
    watcher: Option<Watcher>,
}

type Watcher = Box<dyn Fn(&Recorded, u16) + Send>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next_connection(&self) -> usize {
        let mut inside = self.lock();
        inside.connections += 1;
        inside.connections - 1
    }

    fn count(&self, digest: Option<Digest>, bytes: u64) {
        if let Some(digest) = digest {
            *self.lock().sent.entry(digest).or_default() += bytes;
        }
    }

    fn hung_up(&self) {
        self.lock().hang_ups += 1;
        self.events.send_modify(|events| *events += 1);
    }

    /// Records a request and decides what it gets.
    fn take(&self, request: &Recorded) -> (Answer, Behaviour) {
        let mut inside = self.lock();
        let inside = &mut *inside;
        inside.requests.push(request.clone());
        let (answer, authorised) = inside.honest(request);
        let rule = inside.rules.iter().find(|rule| rule.takes(request, authorised));
        let behaviour = rule.map(|rule| rule.behaviour.clone()).unwrap_or_default();
        if let Some(watcher) = &inside.watcher {
            let replaced = behaviour.replace.as_ref().map(|replacement| replacement.status);
            watcher(request, behaviour.status.or(replaced).unwrap_or(answer.status));
        }
        self.events.send_modify(|events| *events += 1);
        (answer, behaviour)
    }
}

impl Inside {
    /// The honest answer, and whether it is more than a demand for credentials.
    fn honest(&mut self, request: &Recorded) -> (Answer, bool) {
        if request.listener == Listener::Storage {
            return (self.stored(request), true);
        }
        if request.path == "/token" {
            let policy = self.policy.clone().unwrap_or_else(TokenPolicy::bearer);
            return (self.issued.token(&policy, request), true);
        }
        if let Some(policy) = &self.policy {
            let own_url = format!("http://{}", self.authority);
            if let Some(refusal) = self.issued.check(policy, &own_url, request) {
                return (refusal.with("docker-distribution-api-version", "registry/2.0"), false);
            }
        }
        let answer = answer::honest(&self.content, &self.options, request)
            .with("docker-distribution-api-version", "registry/2.0");
        let answer = self.redirected_blob(&answer, request).unwrap_or(answer);
        (self.charge(answer, request), true)
    }

    /// The storage host: content for whoever has a good signature and sends no credentials.
    fn stored(&mut self, request: &Recorded) -> Answer {
        if let Some(refusal) = self.issued.check_signature(request) {
            return refusal;
        }
        let digest = request.path.strip_prefix("/storage/").and_then(|digest| digest.parse::<Digest>().ok());
        let found = digest.and_then(|digest| {
            let bytes = self.content.repositories.values().find_map(|holding| holding.blobs.get(&digest))?;
            Some((digest, bytes.clone()))
        });
        match found {
            Some((digest, bytes)) => {
                let mut answer = Answer::content(bytes, digest, "application/octet-stream", request.header("range"));
                answer.remove("docker-content-digest");
                answer.with("etag", "\"not-a-digest\"")
            }
            None => Answer::new(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        }
    }

    fn redirected_blob(&mut self, answer: &Answer, request: &Recorded) -> Option<Answer> {
        let storage = self.storage.clone()?;
        let digest = answer.digest.filter(|_| request.keyword() == Some("blobs"))?;
        let path = format!("/storage/{digest}");
        let location = format!("http://{storage}{path}?{}", self.issued.sign(&request.method, &path));
        Some(Answer::new(307, "text/html", "").with("location", &location))
    }

    /// Counts manifest GETs as Docker Hub does.
    fn charge(&mut self, answer: Answer, request: &Recorded) -> Answer {
        let Some((limit, left)) = self.quota.filter(|_| request.keyword() == Some("manifests")) else {
            return answer;
        };
        let counts = request.method == "GET" && answer.status == 200;
        let (answer, left) = match (counts, left) {
            (true, 0) => (Answer::error(429, "TOOMANYREQUESTS"), 0),
            (true, left) => (answer, left - 1),
            (false, left) => (answer, left),
        };
        self.quota = Some((limit, left));
        answer
            .with("ratelimit-limit", &format!("{limit};w=21600"))
            .with("ratelimit-remaining", &format!("{left};w=21600"))
    }
}

/// A running registry. Dropping it ends its listeners and connections.
pub struct Registry {
    shared: Arc<Shared>,
    address: SocketAddr,
    storage_address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    /// While stopped, the ports stay ours: bound and not listening.
    held: Vec<(TcpSocket, Listener)>,
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
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let inside = Inside { authority: address.to_string(), ..Inside::default() };
        let shared = Arc::new(Shared { inside: Mutex::new(inside), events: watch::Sender::new(0) });
        let task = tokio::spawn(server::accept(listener, Listener::Registry, Arc::clone(&shared)));
        Ok(Registry { shared, address, storage_address: None, tasks: vec![task], held: Vec::new() })
    }

    /// Blobs are redirected (307) to a second listener from now on, with an address that is good for
    /// one use and one method, and only without `Authorization`.
    pub async fn with_storage_host(mut self) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
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
        if !self.held.is_empty() {
            return;
        }
        self.stop_now();
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        let addresses = [(Some(self.address), Listener::Registry), (self.storage_address, Listener::Storage)];
        for (address, listener) in addresses {
            if let Some(address) = address {
                self.held.push((hold(address), listener));
            }
        }
    }

    /// Closes the listeners and every connection as soon as the runtime gets to it.
    pub fn stop_now(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Listens again where it listened, with all content, rules and records.
    pub async fn restart_on_same_port(&mut self) {
        if self.held.is_empty() {
            self.stop().await;
        }
        for (socket, on) in self.held.drain(..) {
            let listener = socket.listen(1024).expect("the held port is ours");
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
        let (bytes, media_type) = (bytes.into(), MediaType::from("application/octet-stream"));
        self.content(|content| content.repository(repository).add_blob(algorithm, bytes, media_type).digest)
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

    /// Calls `watcher` with every request and the status it gets.
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

    /// How many clients went away before their answer was over.
    pub fn hang_ups(&self) -> usize {
        self.shared.lock().hang_ups
    }

    /// Waits until there were `times` requests of this kind.
    pub async fn seen(&self, kind: &Match, times: usize) {
        self.event(|| self.count_of(kind) >= times).await;
    }

    /// Waits until `times` clients went away before their answer was over. Noticed at a gate at
    /// once, elsewhere at the next write.
    pub async fn hung_up(&self, times: usize) {
        self.event(|| self.hang_ups() >= times).await;
    }

    async fn event(&self, happened: impl Fn() -> bool) {
        let mut events = self.shared.events.subscribe();
        while !happened() {
            let _ = events.changed().await;
        }
    }
}

/// Binds a port without listening, so that connections are refused and nobody else gets it.
fn hold(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option of every socket");
    socket.bind(address).expect("the port was ours a moment ago");
    socket
}
