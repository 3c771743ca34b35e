//! The registry behind the mirror: olareg, small, writable and with the referrers API, over a folder of OCI
//! image layouts.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use registry_mirror::oci::digest::Digest;
use serde_json::{Value, json};

use crate::suite::REPOSITORY;
use crate::support::go::Module;
use crate::support::layout::{Dialect, Layout};
use crate::support::process::Daemon;
use crate::support::workspace::Workspace;
use crate::support::{command, loopback};

const MODULE: Module = Module { path: "github.com/olareg/olareg", version: "v0.1.2", sums: "" };

/// The program, built.
pub(crate) struct Olareg {
    program: PathBuf,
}

/// A running registry. Dropping it ends it.
pub(crate) struct Registry {
    daemon: Daemon,
    address: SocketAddr,
}

/// An image that lies in the registry before it starts.
pub(crate) struct Image {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
}

impl Image {
    /// Its tag.
    pub(crate) const TAG: &str = "test";

    /// Lays the image down in the folder of a registry that will serve it.
    pub(crate) fn lay_down(workspace: &Workspace) -> Image {
        let folder = storage(workspace).join(REPOSITORY);
        let layout = Layout::create(&folder, Dialect::Oci);
        let layer = layout.add_layer(b"the suite does not look into layers".as_slice());
        let mut manifest = layout.add_manifest(&[layer]);
        let digest = digest_of(&manifest);
        let bytes = fs::read(folder.join("blobs/sha256").join(digest.hex())).expect("the manifest was written");
        let content: Value = serde_json::from_slice(&bytes).expect("the manifest was written as JSON");
        let config = digest_of(&content["config"]);
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": Image::TAG });
        layout.finish(&manifest);
        Image { manifest: digest, config }
    }
}

impl Olareg {
    /// Builds olareg unless that has been done before; else says why it cannot be had.
    pub(crate) fn build() -> Result<Olareg, String> {
        Ok(Olareg { program: MODULE.program("cmd/olareg")? })
    }

    /// Starts a registry over the workspace's folder for it.
    pub(crate) fn start(&self, workspace: &Workspace) -> Registry {
        let address = loopback::unused_address();
        let mut command = command::daemon_at(&self.program);
        command
            .args(["serve", "--api-delete", "--api-blob-delete"])
            .args(["--addr", &address.ip().to_string(), "--port", &address.port().to_string(), "--dir"])
            .arg(storage(workspace));
        let mut daemon = Daemon::start(&mut command, &workspace.path("olareg.log"));
        daemon.wait_until_ready(|| loopback::status(address, "/v2/") == Some(200));
        Registry { daemon, address }
    }
}

impl Registry {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: from now on the upstream is away.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }
}

fn storage(workspace: &Workspace) -> PathBuf {
    workspace.path("olareg")
}

fn digest_of(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().and_then(|digest| digest.parse().ok()).expect("a descriptor has a digest")
}
