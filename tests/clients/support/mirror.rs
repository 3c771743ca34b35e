//! The daemon under test, as a child process with a store of its own: the same program, flags and
//! configuration file that a person would use.

use std::net::SocketAddr;

use super::process::Daemon;
use super::workspace::Workspace;
use super::{command, loopback};

/// A running mirror of the registries it was given.
pub(crate) struct Mirror<'a> {
    daemon: Option<Daemon>,
    address: SocketAddr,
    /// What the listener at `address` is for: nothing, or `=HOST`.
    default: String,
    admin: SocketAddr,
    workspace: &'a Workspace,
}

impl<'a> Mirror<'a> {
    /// Starts a mirror with an empty store. `upstreams` are names of registries and who plays them. Tags are
    /// never fresh and absence is never remembered, so that each pull has to ask the upstream and, once that is
    /// away, has to be served stale.
    pub(crate) fn start(upstreams: &[(&str, SocketAddr)], workspace: &'a Workspace) -> Mirror<'a> {
        let sections = upstreams.iter().map(|(host, address)| {
            format!("[[upstream]]\nhost = \"{host}\"\nurl = \"http://{address}\"\ninsecure = true\n")
        });
        let cache = "[store]\nmin_free = \"0\"\n[cache]\ntag_ttl = \"0s\"\nnegative_ttl = \"0s\"\n".to_owned();
        let config: Vec<String> = [cache].into_iter().chain(sections).collect();
        Mirror::configured(loopback::unused_address(), "", &config.join("\n"), workspace)
    }

    /// Starts a mirror with an empty store and this configuration, listening at `address` for the upstream `default`.
    pub(crate) fn configured(address: SocketAddr, default: &str, config: &str, workspace: &'a Workspace) -> Mirror<'a> {
        workspace.write("mirror.toml", config);
        let default = if default.is_empty() { String::new() } else { format!("={default}") };
        let mut mirror = Mirror { daemon: None, address, default, admin: loopback::unused_address(), workspace };
        mirror.restart();
        mirror
    }

    /// Where it answers clients: `host:port`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers operators: `host:port`.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Ends the daemon and starts it again over the same store and on the same addresses.
    pub(crate) fn restart(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.stop();
            assert!(status.success(), "the mirror ends orderly when asked to, not with {status}");
        }
        let mut command = command::daemon_without_proxy(env!("CARGO_BIN_EXE_registry-mirror"));
        command
            .args([
                "serve",
                "--listen",
                &format!("{}{}", self.address, self.default),
                "--admin",
                &self.admin.to_string(),
                "--store",
            ])
            .arg(self.workspace.path("store"))
            .arg("-c")
            .arg(self.workspace.path("mirror.toml"));
        let mut daemon = Daemon::start(&mut command, &self.workspace.path("mirror.log"));
        let admin = self.admin;
        daemon.wait_until_ready(|| loopback::status(admin, "/readyz") == Some(200));
        self.daemon = Some(daemon);
    }
}
