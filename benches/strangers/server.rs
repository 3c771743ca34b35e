//! The mirror as a process of its own, on a CPU of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scripted_registry::{Registry, client};
use tempfile::TempDir;

use super::arguments::Arguments;

/// A running mirror. Dropping it ends it.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
}

impl Server {
    /// With these lines of configuration, in front of `docker.io` and of other upstreams.
    pub fn start(
        arguments: &Arguments,
        config: &str,
        registry: &Registry,
        more: &[(String, Registry)],
    ) -> anyhow::Result<Server> {
        let folder = tempfile::Builder::new().prefix("strangers-").tempdir()?;
        let (address, admin) = (free_port()?, free_port()?);
        let mut text = format!(
            "server.listen = \"{address}\"\nserver.admin = \"{admin}\"\nstore.path = \"{}/store\"\n\
             store.min_free = \"0\"\nlog.level = \"error\"\n{config}\n",
            folder.path().display()
        );
        for (host, registry) in [("docker.io", registry)].into_iter().chain(more.iter().map(|(h, r)| (h.as_str(), r))) {
            text += &format!("[[upstream]]\nhost = \"{host}\"\nurl = \"{}\"\n", registry.url());
        }
        let file = folder.path().join("mirror.toml");
        std::fs::write(&file, text)?;
        let mut child = Command::new("taskset")
            .args(["-c", &arguments.server_cpu])
            .arg(&arguments.mirror)
            .args(["serve", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        while TcpStream::connect(address).is_err() {
            anyhow::ensure!(child.try_wait()?.is_none(), "the mirror does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Server { child, address, admin, _folder: folder })
    }

    /// A number of `/proc/PID/status` that is told in kB, in MiB.
    pub fn memory(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().expect("a number") / 1024.0
    }

    /// A series of its metrics without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let response = client::get(self.admin, "/metrics", &[]).await;
        let text = String::from_utf8_lossy(&response.body).into_owned();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
