//! buildah, which shares podman's configuration but resolves and copies base images by itself.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::image::Image;
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;
use crate::support::{command, registries_conf};

#[test]
fn buildah_pulls_cold_warm_and_offline() {
    if !scenario::missing(&["buildah"]).is_nothing("buildah") {
        return;
    }
    let workspace = Workspace::new();
    let mut scenario = Scenario::start(&workspace);
    let mut buildah = Buildah::configure(scenario.mirror().address(), &workspace);
    scenario.pull_cold_warm_and_offline(&mut buildah);
}

/// A buildah with storage of its own; it has no daemon.
struct Buildah<'a> {
    workspace: &'a Workspace,
}

impl<'a> Buildah<'a> {
    fn configure(mirror: SocketAddr, workspace: &'a Workspace) -> Buildah<'a> {
        registries_conf::write(mirror, workspace);
        Buildah { workspace }
    }

    fn command(&self) -> Command {
        let mut command = command::confined("buildah");
        command
            .env("CONTAINERS_REGISTRIES_CONF", self.workspace.path("registries.conf"))
            .arg("--root")
            .arg(self.workspace.path("root"))
            .arg("--runroot")
            .arg(self.workspace.path("run"))
            .arg("--storage-driver=vfs");
        command
    }
}

impl Client for Buildah<'_> {
    fn pull(&mut self, image: &Image) {
        command::run(self.command().args(["pull", "--quiet", &image.reference()]));
    }

    fn verify(&mut self, image: &Image) {
        const FORMAT: &str = "{{.FromImageID}} {{.FromImageDigest}}";
        let held =
            command::run(self.command().args(["inspect", "--type=image", "--format", FORMAT, &image.reference()]));
        assert_eq!(held.trim(), format!("{} {}", image.config.hex(), image.manifest));
    }

    fn remove(&mut self, image: &Image) {
        command::run(self.command().args(["rmi", &image.reference()]));
        assert_eq!(command::run(self.command().args(["images", "--quiet", "--filter", &filter(image)])), "");
    }
}

fn filter(image: &Image) -> String {
    format!("reference={}", image.reference())
}
