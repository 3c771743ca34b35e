//! The mirror as production wires it, on ports of the system's choosing, with a clock that tests move.

#![allow(dead_code, unreachable_pub)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use registry_mirror::admin;
use registry_mirror::clock::{Clock as _, ManualClock, SystemClock, Timestamp};
use registry_mirror::config::{Loaded, Overrides, Source};
use registry_mirror::daemon::{Daemon, Listeners};
use registry_mirror::mirror::Mirror;
use scripted_registry::Registry;
use scripted_registry::client::{self, Response, Stream};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running mirror with a store of its own.
pub struct TestMirror {
    pub address: SocketAddr,
    /// All listeners for clients, in the order of the configuration; `address` is the first.
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub clock: Arc<ManualClock>,
    pub mirror: Mirror,
    settings: Settings,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

/// What a mirror is started with; kept across restarts.
#[derive(Clone)]
pub struct Settings {
    store: Arc<tempfile::TempDir>,
    /// Where its configuration is.
    file: Arc<tempfile::TempDir>,
    path: Option<PathBuf>,
    /// The addresses of the upstream `docker.io`.
    upstream: Vec<String>,
    /// Lines of mirror.toml in front of the first `[[upstream]]`.
    config: String,
    /// Further lines of the upstream `docker.io`.
    upstream_config: String,
    /// Further `[[upstream]]` tables.
    more: String,
}

impl Settings {
    /// In front of `registry` as `docker.io`.
    pub fn of(registry: &Registry) -> Settings {
        Settings {
            store: Arc::new(tempfile::tempdir().expect("a folder")),
            file: Arc::new(tempfile::tempdir().expect("a folder")),
            path: None,
            upstream: vec![registry.url()],
            config: String::new(),
            upstream_config: String::new(),
            more: String::new(),
        }
    }

    /// With further lines of configuration, such as `cache.tag_ttl = "0s"`.
    pub fn config(mut self, lines: &str) -> Settings {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// With these lines of configuration in place of those so far.
    pub fn reconfigured(self, lines: &str) -> Settings {
        Settings { config: String::new(), ..self }.config(lines)
    }

    /// With further keys of the upstream `docker.io`.
    pub fn upstream(mut self, lines: &str) -> Settings {
        self.upstream_config.push_str(lines);
        self.upstream_config.push('\n');
        self
    }

    /// In front of whoever is at this address instead.
    pub fn in_front_of(mut self, address: SocketAddr) -> Settings {
        self.upstream = vec![format!("http://{address}")];
        self
    }

    /// With a path behind the address of the upstream.
    pub fn at_path(mut self, path: &str) -> Settings {
        self.upstream.iter_mut().for_each(|url| url.push_str(path));
        self
    }

    /// With a further address of the upstream.
    pub fn or_at(mut self, registry: &Registry) -> Settings {
        self.upstream.push(registry.url());
        self
    }

    /// With another upstream.
    pub fn and(mut self, host: &str, registry: &Registry) -> Settings {
        self.more.push_str(&format!("[[upstream]]\nhost = \"{host}\"\nurl = \"{}\"\n", registry.url()));
        self
    }

    /// With further keys of the last upstream beside `docker.io`.
    pub fn having(mut self, lines: &str) -> Settings {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    /// With something else in the keys of the upstreams beside `docker.io`.
    pub fn replacing(mut self, before: &str, after: &str) -> Settings {
        self.more = self.more.replace(before, after);
        self
    }

    /// With the store in a folder of the test's choosing.
    pub fn store_at(mut self, path: &Path) -> Settings {
        self.path = Some(path.to_owned());
        self
    }

    pub fn store(&self) -> &Path {
        self.path.as_deref().unwrap_or(self.store.path())
    }

    pub async fn start(self) -> TestMirror {
        TestMirror::start(self, Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)))).await
    }

    /// The same, with a clock that begins now: for whoever looks at another clock beside it.
    pub async fn start_now(self) -> TestMirror {
        self.start_at(SystemClock.now()).await
    }

    /// The same, with a clock that begins then.
    pub async fn start_at(self, then: Timestamp) -> TestMirror {
        TestMirror::start(self, Arc::new(ManualClock::at(then))).await
    }

    /// Its configuration.
    pub fn text(&self) -> String {
        format!(
            "{}\n[[upstream]]\nhost = \"docker.io\"\nurl = {:?}\n{}\n{}",
            self.config, self.upstream, self.upstream_config, self.more
        )
    }

    fn read(&self) -> (Source, Loaded) {
        let path = self.file.path().join("mirror.toml");
        std::fs::write(&path, self.text()).expect("written");
        let overrides = Overrides { store: Some(self.store().display().to_string()), ..Overrides::default() };
        // The disk of the machine that tests may be nearly full; that is no business of theirs.
        let disk = ("REGISTRY_MIRROR_STORE_MIN_FREE".to_owned(), "0%".to_owned());
        let disk = (!self.config.contains("min_free")).then_some(disk);
        Source::open(Some(path), disk.into_iter().collect(), overrides).expect("a configuration")
    }
}

impl TestMirror {
    /// In front of `registry` as `docker.io`, everything else as it comes.
    pub async fn of(registry: &Registry) -> TestMirror {
        Settings::of(registry).start().await
    }

    /// The same, which has heard of the registry, and takes it for one that answers.
    pub async fn that_heard(registry: &Registry) -> TestMirror {
        let mirror = TestMirror::of(registry).await;
        mirror.get("/v2/library/app/tags/list").await;
        registry.forget_requests();
        mirror
    }

    async fn start(settings: Settings, clock: Arc<ManualClock>) -> TestMirror {
        let (source, loaded) = settings.read();
        let config = loaded.config.clone();
        let mut pull = Vec::new();
        for _ in &config.server.listen {
            pull.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        }
        let socket = config.server.admin_socket.clone();
        let daemon = Daemon::open_with(config, clock.clone()).expect("the daemon starts").read_from(source, loaded);
        let admin_socket = socket.as_deref().and_then(admin::socket::bind);
        let mirror = daemon.mirror().clone();
        let admin = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addresses: Vec<_> = pull.iter().map(|pull| pull.local_addr().expect("bound")).collect();
        let admin_address = admin.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let listeners = Listeners { pull, admin: vec![admin], admin_socket };
        let task = tokio::spawn(daemon.serve(listeners, async {
            let _ = stopped.await;
        }));
        let (address, admin) = (addresses[0], admin_address);
        TestMirror { address, addresses, admin, clock, mirror, settings, stop: Some(stop), task: Some(task) }
    }

    /// Stops in good order and starts again on the same store.
    pub async fn restart(self) -> TestMirror {
        self.restart_after(|_| ()).await
    }

    /// The same, with something done to the store in between.
    pub async fn restart_after(self, meanwhile: impl FnOnce(&Path)) -> TestMirror {
        let clock = Arc::new(ManualClock::at(self.clock.now()));
        let settings = self.stop().await;
        meanwhile(settings.store());
        TestMirror::start(settings, clock).await
    }

    /// Stops in good order.
    pub async fn stop(mut self) -> Settings {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            task.await.expect("the daemon ends");
        }
        self.settings.clone()
    }

    /// Has its configuration read again as it is now changed.
    pub async fn reload(&mut self, change: impl FnOnce(Settings) -> Settings) -> Response {
        self.settings = change(self.settings.clone());
        self.reload_text(&self.settings.text()).await
    }

    /// Has this read in place of its configuration.
    pub async fn reload_text(&self, text: &str) -> Response {
        std::fs::write(self.settings.file.path().join("mirror.toml"), text).expect("written");
        client::post(self.socket(), "/api/v1/reload", &[("X-Registry-Mirror", "1")], "").await
    }

    pub fn store(&self) -> &Path {
        self.settings.store()
    }

    /// The Unix socket of the admin interface, as nothing else is configured.
    pub fn socket(&self) -> PathBuf {
        self.store().join("admin.sock")
    }

    pub async fn get(&self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        client::get(self.address, path, headers).await
    }

    pub async fn head(&self, path: &str) -> Response {
        client::head(self.address, path, &[]).await
    }

    pub async fn stream(&self, path: &str) -> Stream {
        Stream::get(self.address, path, &[]).await
    }

    pub async fn metrics(&self) -> String {
        let response = client::get(self.admin, "/metrics", &[]).await;
        String::from_utf8(response.body.to_vec()).expect("text")
    }

    /// Waits until no fill is under way.
    pub async fn settled(&self) {
        self.settled_but(0).await;
    }

    /// Waits until no more than so many fills are under way.
    pub async fn settled_but(&self, fills: usize) {
        while self.mirror.present().fills() > fills {
            tokio::task::yield_now().await;
        }
        self.mirror.present().written().await;
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}
