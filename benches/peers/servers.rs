//! The servers: ours, nginx, Docker's registry, the raw floor; each pinned to the server's CPU, each
//! ended by its process id.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::images::{Images, REPOSITORY, TAG};

/// How long a server may take to accept connections.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    /// With TLS, where it has that.
    pub tls: Option<SocketAddr>,
    child: Child,
    /// Removed when the server has ended.
    folder: Option<PathBuf>,
}

impl Server {
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// What lies under this name in the folder of the server.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.as_deref().unwrap_or(Path::new("")).join(name)
    }

    /// Removes what it stored of large blobs, behind its back.
    pub fn remove_large_files(&self) -> io::Result<()> {
        self.folder.as_deref().map_or(Ok(()), remove_large_files)
    }

    /// Ends it in good order, and gives its folder.
    pub fn end(mut self) -> PathBuf {
        self.folder.take().unwrap_or_default()
    }

    /// Ends it in the middle of whatever it does, and gives its folder.
    pub fn kill(mut self) -> PathBuf {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.folder.take().unwrap_or_default()
    }

    /// Another server goes on with what is in the folder.
    fn keep_folder(&mut self) {
        self.folder = None;
    }

    fn start(
        name: &'static str,
        address: SocketAddr,
        cpu: &str,
        command: &[&str],
        folder: &Path,
    ) -> io::Result<Server> {
        let log = folder.join("log");
        let out = fs::File::create(&log)?;
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", cpu]).args(command).env("GOMAXPROCS", "1");
        pinned.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut server = Server { name, address, tls: None, child: pinned.spawn()?, folder: Some(folder.to_owned()) };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!("{name} does not start ({ended:?}): {said}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let process = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Where servers keep their things, and which CPUs they run on.
pub struct Workshop {
    pub folder: PathBuf,
    pub server_cpu: String,
    pub client_cpu: String,
    pub mirror_program: PathBuf,
    next: std::cell::Cell<u32>,
}

impl Workshop {
    pub fn new(folder: PathBuf, server_cpu: String, client_cpu: String, mirror_program: PathBuf) -> Workshop {
        Workshop { folder, server_cpu, client_cpu, mirror_program, next: std::cell::Cell::new(0) }
    }

    /// A folder that nothing is in yet.
    fn fresh(&self, name: &str) -> io::Result<PathBuf> {
        self.next.set(self.next.get() + 1);
        let folder = self.folder.join(format!("{name}-{}", self.next.get()));
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The registry that caches fetch from: nginx with files, on the client's CPU.
    pub fn upstream(&self, images: &Images) -> io::Result<(Server, PathBuf)> {
        let folder = self.fresh("upstream")?;
        let log = folder.join("access.log");
        let address = free_port()?;
        let digest = images.image.manifest.digest;
        let http = format!(
            "log_format sent '$request_method $uri $body_bytes_sent';\n\
             map_hash_bucket_size 256;\n\
             map $uri $content_digest {{ /v2/{REPOSITORY}/manifests/{TAG} {digest}; /v2/{REPOSITORY}/manifests/{digest} {digest}; }}\n\
             server {{\n\
             listen {address}; root {web}; access_log {log} sent;\n\
             add_header Docker-Distribution-Api-Version registry/2.0;\n\
             add_header Docker-Content-Digest $content_digest;\n\
             location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}\n\
             location ~ /manifests/ {{ default_type {media_type}; }}\n\
             location / {{ default_type application/octet-stream; }}\n\
             }}",
            web = images.web.display(),
            log = log.display(),
            media_type = images.image.manifest.media_type,
        );
        Ok((self.nginx("upstream", &folder, address, &self.client_cpu, &http)?, log))
    }

    /// nginx with files and sendfile: the ceiling.
    pub fn nginx_files(&self, images: &Images, tls: Option<(&Path, &Path)>) -> io::Result<Server> {
        let folder = self.fresh("nginx")?;
        let (address, tls_address) = (free_port()?, free_port()?);
        let tls_lines = tls.map_or_else(String::new, |(certificate, key)| {
            format!(
                "listen {tls_address} ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;",
                certificate.display(),
                key.display()
            )
        });
        let http = format!(
            "access_log off; open_file_cache max=1000 inactive=600s; open_file_cache_valid 600s;\n\
             server {{ listen {address}; {tls_lines} root {}; default_type application/octet-stream; }}",
            images.web.display()
        );
        let mut server = self.nginx("nginx sendfile", &folder, address, &self.server_cpu, &http)?;
        server.tls = tls.map(|_| tls_address);
        Ok(server)
    }

    /// nginx as a cache with its lock.
    pub fn nginx_cache(&self, upstream: SocketAddr) -> io::Result<Server> {
        let folder = self.fresh("nginx-cache")?;
        let address = free_port()?;
        let http = format!(
            "access_log off;\n\
             proxy_cache_path {}/cache keys_zone=c:10m max_size=100g inactive=60m use_temp_path=off;\n\
             upstream registry {{ server {upstream}; keepalive 16; }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://registry; proxy_http_version 1.1;\n\
             proxy_set_header Connection ''; proxy_cache c; proxy_cache_valid 200 60m; proxy_cache_lock on; }} }}",
            folder.display()
        );
        self.nginx("nginx proxy_cache", &folder, address, &self.server_cpu, &http)
    }

    fn nginx(
        &self,
        name: &'static str,
        folder: &Path,
        address: SocketAddr,
        cpu: &str,
        http: &str,
    ) -> io::Result<Server> {
        let text = format!(
            "daemon off; master_process off; user root; pid {f}/pid; error_log {f}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ sendfile on; tcp_nopush on; keepalive_requests 100000000; types {{ }}\n\
             client_body_temp_path {f}/body; proxy_temp_path {f}/proxy; fastcgi_temp_path {f}/fastcgi;\n\
             uwsgi_temp_path {f}/uwsgi; scgi_temp_path {f}/scgi;\n{http}\n}}\n",
            f = folder.display()
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text)?;
        let file = file.display().to_string();
        Server::start(name, address, cpu, &["nginx", "-c", &file], folder)
    }

    /// Docker's registry with everything in its storage, or as a cache with nothing in it.
    pub fn docker_registry(&self, images: &Images, upstream: Option<SocketAddr>) -> io::Result<Server> {
        let folder = self.fresh("docker-registry")?;
        let address = free_port()?;
        let storage = if upstream.is_some() { folder.join("storage") } else { images.registry.clone() };
        let proxy = upstream.map_or_else(String::new, |upstream| format!("proxy:\n  remoteurl: http://{upstream}\n"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: {address}\n{proxy}",
            storage.display()
        );
        let file = folder.join("config.yml");
        fs::write(&file, text)?;
        let name = if upstream.is_some() { "docker-registry (cache)" } else { "docker-registry" };
        let file = file.display().to_string();
        Server::start(name, address, &self.server_cpu, &["docker-registry", "serve", &file], &folder)
    }

    /// Ours, with nothing in its store.
    pub fn mirror(&self, upstream: SocketAddr) -> io::Result<Server> {
        self.mirror_in(&self.fresh("mirror")?, upstream)
    }

    /// Ours, with what is in the folder.
    pub fn mirror_in(&self, folder: &Path, upstream: SocketAddr) -> io::Result<Server> {
        self.mirror_at(folder, upstream, "")
    }

    /// Another build of ours, with nothing in its store.
    pub fn mirror_by(&self, program: &Path, upstream: SocketAddr) -> io::Result<Server> {
        self.mirror_of(program, &self.fresh("mirror")?, upstream, "")
    }

    /// Ours with TLS on all addresses for clients. `fill` is called while it speaks plain HTTP.
    pub fn mirror_with_tls(
        &self,
        upstream: SocketAddr,
        (certificate, key): (&Path, &Path),
        fill: impl FnOnce(SocketAddr) -> io::Result<()>,
    ) -> io::Result<Server> {
        let folder = self.fresh("mirror")?;
        let mut plain = self.mirror_at(&folder, upstream, "")?;
        fill(plain.address)?;
        plain.keep_folder();
        drop(plain);
        let tls = format!("[server.tls]\ncert = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display());
        let mut server = self.mirror_at(&folder, upstream, &tls)?;
        server.tls = Some(server.address);
        Ok(server)
    }

    fn mirror_at(&self, folder: &Path, upstream: SocketAddr, tls: &str) -> io::Result<Server> {
        self.mirror_of(&self.mirror_program, folder, upstream, tls)
    }

    fn mirror_of(&self, program: &Path, folder: &Path, upstream: SocketAddr, tls: &str) -> io::Result<Server> {
        let (address, admin) = (free_port()?, free_port()?);
        // As nginx and Docker's registry here: no line for each request.
        let text = format!(
            "[server]\nlisten = \"{address}\"\nadmin = \"{admin}\"\n{tls}[store]\npath = \"{}/store\"\n\
             [log]\nlevel = \"warn\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{upstream}\"\n",
            folder.display()
        );
        let file = folder.join("mirror.toml");
        fs::write(&file, text)?;
        let (program, file) = (program.display().to_string(), file.display().to_string());
        let command = [program.as_str(), "serve", "-c", &file];
        Server::start("registry-mirror", address, &self.server_cpu, &command, folder)
    }

    /// The raw floor.
    pub fn floor(&self, upstream: SocketAddr) -> io::Result<Server> {
        let folder = self.fresh("floor")?;
        let address = free_port()?;
        let this = std::env::current_exe()?.display().to_string();
        let (listen, upstream) = (address.to_string(), upstream.to_string());
        let file = folder.join("blob").display().to_string();
        let command = [this.as_str(), "floor", &listen, &upstream, &file];
        Server::start("raw floor", address, &self.server_cpu, &command, &folder)
    }
}

fn remove_large_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if metadata.is_dir() {
            remove_large_files(&path)?;
        } else if metadata.len() >= 1 << 20 {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
