//! podman with a mirror in `registries.conf`: asks with GET for tags, in a fixed order of accepted types.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::image::Image;
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;
use crate::support::{command, registries_conf};

#[test]
fn podman_pulls_cold_warm_and_offline_and_runs_a_container() {
    if !scenario::missing(&["podman", "conmon", "runc"]).is_nothing("podman") {
        return;
    }
    let workspace = Workspace::new();
    let mut scenario = Scenario::start(&workspace);
    let mut podman = Podman::configure(scenario.mirror().address(), &workspace);

    scenario.pull_cold_warm_and_offline(&mut podman);

    let image = scenario.runnable().reference();
    // podman's own limits of files and processes are refused where root may not raise them.
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let mut run = podman.command();
    run.args(["run", "--rm", "--network=none"]).args(limits).args([&image, "/bin/echo", "ok"]);
    let said = command::run(&mut run);
    assert_eq!(said, "ok\n");
}

/// A podman with storage of its own; it has no daemon.
pub(crate) struct Podman<'a> {
    pub(crate) workspace: &'a Workspace,
}

impl<'a> Podman<'a> {
    pub(crate) fn configure(mirror: SocketAddr, workspace: &'a Workspace) -> Podman<'a> {
        registries_conf::write(mirror, workspace);
        Podman { workspace }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = command::confined("podman");
        command
            .env("CONTAINERS_REGISTRIES_CONF", self.workspace.path("registries.conf"))
            .arg("--root")
            .arg(self.workspace.path("root"))
            .arg("--runroot")
            .arg(self.workspace.path("run"))
            .arg("--tmpdir")
            .arg(self.workspace.path("libpod"))
            .arg("--runtime")
            .arg(command::runtime())
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file"]);
        command
    }
}

impl Client for Podman<'_> {
    fn pull(&mut self, image: &Image) {
        command::run(self.command().args(["pull", "--quiet", &image.reference()]));
    }

    fn verify(&mut self, image: &Image) {
        const FORMAT: &str = "{{.Id}} {{join .RepoDigests \",\"}}";
        let held = command::run(self.command().args(["image", "inspect", "--format", FORMAT, &image.reference()]));
        let (id, digests) = held.trim().split_once(' ').expect("podman prints what it was asked for");
        assert_eq!(id, image.config.hex());
        for digest in [image.root, image.manifest] {
            let expected = format!("{}/{}@{digest}", image.registry, image.repository);
            assert!(digests.split(',').any(|digest| digest == expected), "{expected} is among {digests}");
        }
    }

    fn remove(&mut self, image: &Image) {
        command::run(self.command().args(["image", "rm", &image.reference()]));
        assert!(!command::output(self.command().args(["image", "exists", &image.reference()])).status.success());
    }
}
