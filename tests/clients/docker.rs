//! dockerd with `--registry-mirror`, the way Docker Hub images are mirrored since Docker 1.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::support::image::Image;
use crate::support::process::Daemon;
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;
use crate::support::{command, requirements};

#[test]
fn dockerd_pulls_cold_warm_and_offline_and_runs_a_container() {
    if !scenario::missing(&["dockerd", "docker", "containerd", "runc", "iptables"]).is_nothing("dockerd") {
        return;
    }
    let workspace = Workspace::new();
    let mut scenario = Scenario::start(&workspace);
    let mut docker = Docker::start(scenario.mirror().address(), &workspace);

    scenario.pull_cold_warm_and_offline(&mut docker);

    let image = docker_name(scenario.runnable());
    let said = command::run(docker.client().args(["run", "--rm", "--network", "none", &image, "/bin/echo", "ok"]));
    assert_eq!(said, "ok\n");
}

/// A dockerd that shares nothing with one the machine may already run.
pub(crate) struct Docker<'a> {
    daemon: Daemon,
    workspace: &'a Workspace,
}

impl<'a> Docker<'a> {
    pub(crate) fn start(mirror: SocketAddr, workspace: &'a Workspace) -> Docker<'a> {
        let config = workspace.write("daemon.json", "{}");
        Docker::start_by(command::daemon("dockerd"), &config, Some(&format!("http://{mirror}")), workspace)
    }

    /// With a file of settings, in which the mirror stands.
    pub(crate) fn start_with(config: &Path, workspace: &'a Workspace) -> Docker<'a> {
        Docker::start_by(command::daemon("dockerd"), config, None, workspace)
    }

    /// With what lies in `etc/` of the workspace as `/etc/docker`, for this dockerd alone, and the mirror over TLS.
    pub(crate) fn start_with_own_certificates(mirror: SocketAddr, workspace: &'a Workspace) -> Docker<'a> {
        let dockerd = requirements::find("dockerd").expect("the requirements are met");
        let mut command = command::daemon("unshare");
        command.args(["--mount", "--", "sh", "-c", "mount --bind \"$0\" /etc/docker && exec \"$@\""]);
        command.arg(workspace.path("etc")).arg(dockerd);
        let config = workspace.write("daemon.json", "{}");
        Docker::start_by(command, &config, Some(&format!("https://{mirror}")), workspace)
    }

    fn start_by(mut command: Command, config: &Path, mirror: Option<&str>, workspace: &'a Workspace) -> Docker<'a> {
        command
            .arg("--config-file")
            .arg(config)
            .arg("--data-root")
            .arg(workspace.path("data"))
            .arg("--exec-root")
            .arg(workspace.path("exec"))
            .arg("--pidfile")
            .arg(workspace.path("docker.pid"))
            .arg("--host")
            .arg(socket(workspace))
            .args(mirror.map(|mirror| format!("--registry-mirror={mirror}")))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"])
            // Its own name for it: it knows that one without a path.
            .arg("--default-runtime=runc");
        let mut docker = Docker { daemon: Daemon::start(&mut command, &workspace.path("dockerd.log")), workspace };
        let mut probe = client(workspace);
        probe.arg("version");
        docker.daemon.wait_until_ready(|| command::output(&mut probe).status.success());
        docker
    }

    /// Where it answers its client.
    pub(crate) fn host(&self) -> String {
        socket(self.workspace)
    }

    pub(crate) fn client(&self) -> Command {
        client(self.workspace)
    }
}

fn client(workspace: &Workspace) -> Command {
    let mut command = command::confined("docker");
    command.arg("--config").arg(workspace.path("client")).arg("--host").arg(socket(workspace));
    command
}

fn socket(workspace: &Workspace) -> String {
    format!("unix://{}", workspace.path("docker.sock").display())
}

/// What a person types: `docker.io/library/` is understood.
pub(crate) fn docker_name(image: &Image) -> String {
    format!("{}:{}", short_name(image), Image::TAG)
}

fn short_name(image: &Image) -> &str {
    image.repository.trim_start_matches("library/")
}

impl Client for Docker<'_> {
    const ONLY_DOCKER_HUB: bool = true;

    fn pull(&mut self, image: &Image) {
        command::run(self.client().args(["pull", &docker_name(image)]));
    }

    fn verify(&mut self, image: &Image) {
        const FORMAT: &str = "{{.Id}} {{json .RepoDigests}}";
        let held = command::run(self.client().args(["image", "inspect", "--format", FORMAT, &docker_name(image)]));
        assert_eq!(held.trim(), format!("{} [\"{}@{}\"]", image.config, short_name(image), image.root));
    }

    fn remove(&mut self, image: &Image) {
        command::run(self.client().args(["image", "rm", &docker_name(image)]));
        // dockerd remembers by layer which blobs it had from where, and would not ask for those it still holds.
        let layers = fs::read_dir(self.workspace.path("data/vfs/dir")).map_or(0, Iterator::count);
        let images = command::run(self.client().args(["image", "ls", "--all", "--quiet"]));
        assert!(layers == 0 || !images.is_empty(), "dockerd keeps no layer of a removed image");
    }
}
