//! An upstream: Debian's docker-registry over the storage that holds images. Its access log is the
//! witness of what the mirror really fetched.

use std::net::SocketAddr;
use std::path::Path;

use registry_mirror::oci::digest::Digest;

use super::process::{self, Daemon};
use super::workspace::Workspace;
use super::{command, loopback};

/// A running registry. Dropping it ends it.
pub(crate) struct Registry {
    daemon: Daemon,
    address: SocketAddr,
    fences: u32,
}

impl Registry {
    /// A registry that serves `storage` and refuses pushes, so that several may share it. Its files in the
    /// workspace begin with `name`.
    pub(crate) fn read_only(name: &str, storage: &Path, workspace: &Workspace) -> Registry {
        Registry::start(name, storage, workspace, true)
    }

    /// A registry that takes pushes.
    pub(crate) fn writable(name: &str, storage: &Path, workspace: &Workspace) -> Registry {
        Registry::start(name, storage, workspace, false)
    }

    fn start(name: &str, storage: &Path, workspace: &Workspace, read_only: bool) -> Registry {
        let address = loopback::unused_address();
        let config = workspace.write(
            &format!("{name}.yml"),
            &format!(
                "version: 0.1\n\
                 log: {{level: warn, accesslog: {{disabled: false}}}}\n\
                 storage: {{filesystem: {{rootdirectory: '{}'}}, maintenance: {{readonly: {{enabled: {read_only}}}}}}}\n\
                 http: {{addr: '{address}'}}\n",
                storage.display()
            ),
        );
        let log = workspace.path(&format!("{name}.log"));
        let mut daemon = Daemon::start(command::daemon("docker-registry").arg("serve").arg(config), &log);
        daemon.wait_until_ready(|| loopback::status(address, "/v2/") == Some(200));
        Registry { daemon, address, fences: 0 }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: from now on the upstream is away.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }

    /// What it was asked so far. Asks it for something just now and waits until the log tells of that: a line is
    /// written after its answer, so without this the last ones could be missing.
    pub(crate) fn access_log(&mut self) -> AccessLog {
        self.fences += 1;
        let fence = format!("/v2/?fence={}", self.fences);
        assert_eq!(loopback::status(self.address, &fence), Some(200), "the upstream answers");
        let fence = format!("\"GET {fence} ");
        assert!(process::eventually(|| self.daemon.log().contains(&fence)), "the upstream logs every request");
        AccessLog(self.daemon.log())
    }
}

/// Lines in the common log format, among others.
pub(crate) struct AccessLog(String);

impl AccessLog {
    /// How many GET requests there were for this blob, over all repositories.
    pub(crate) fn blob_gets(&self, digest: Digest) -> usize {
        let wanted = format!("/blobs/{digest} ");
        self.0.lines().filter(|line| line.contains("\"GET /v2/") && line.contains(&wanted)).count()
    }
}
