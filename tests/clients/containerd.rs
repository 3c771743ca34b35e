//! containerd with a `hosts.toml` for each registry: it names the registry with `?ns=`, and asks with HEAD for tags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::image::{Image, Images};
use crate::support::process::Daemon;
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;
use crate::support::{command, private};

#[test]
fn containerd_pulls_cold_warm_and_offline_and_runs_a_container() {
    if !scenario::missing(&["containerd", "ctr", "containerd-shim-runc-v2", "runc"]).is_nothing("containerd") {
        return;
    }
    let workspace = Workspace::new();
    let mut scenario = Scenario::start(&workspace);
    let mut containerd = Containerd::start(scenario.mirror().address(), &workspace);

    scenario.pull_cold_warm_and_offline(&mut containerd);

    let image = scenario.runnable().reference();
    let mut run = containerd.ctr();
    run.args(["run", "--rm", SNAPSHOTTER, "--runtime=io.containerd.runc.v2", "--runc-binary"]).arg(command::runtime());
    let said = command::run(run.args([&image, "test", "/bin/echo", "ok"]));
    assert_eq!(said, "ok\n");
}

/// Plain folders: works on every file system below `/tmp`.
pub(crate) const SNAPSHOTTER: &str = "--snapshotter=native";

/// A containerd that shares nothing with one the machine may already run.
pub(crate) struct Containerd<'a> {
    _daemon: Daemon,
    workspace: &'a Workspace,
}

impl<'a> Containerd<'a> {
    pub(crate) fn start(mirror: SocketAddr, workspace: &'a Workspace) -> Containerd<'a> {
        Containerd::name_mirror(mirror, workspace);
        let config = workspace.write("containerd.toml", &Containerd::configuration(workspace));
        Containerd::start_with(&config, workspace)
    }

    /// With the part that kubelet speaks to, which pulls by the same files.
    pub(crate) fn start_for_pods(mirror: SocketAddr, workspace: &'a Workspace) -> Containerd<'a> {
        const PART: &str = "[plugins.\"io.containerd.grpc.v1.cri\"";
        Containerd::name_mirror(mirror, workspace);
        let place = |name: &str| workspace.path(name).display().to_string();
        let config = format!(
            "{}\n{PART}.containerd]\nsnapshotter = \"native\"\n{PART}.registry]\nconfig_path = \"{}\"\n\
             {PART}.cni]\nbin_dir = \"{}\"\nconf_dir = \"{}\"\n",
            Containerd::configuration_with("", workspace),
            place("hosts"),
            place("cni-programs"),
            place("cni"),
        );
        Containerd::start_with(&workspace.write("containerd.toml", &config), workspace)
    }

    fn name_mirror(mirror: SocketAddr, workspace: &Workspace) {
        let url = format!("http://{mirror}");
        // `server` names the mirror too, or containerd would go on to the registry itself.
        for registry in ["docker.io", Images::OTHER_REGISTRY, private::HOST] {
            workspace.write(
                &format!("hosts/{registry}/hosts.toml"),
                &format!("server = \"{url}\"\n\n[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"),
            );
        }
    }

    /// What keeps it apart from others, without the part that kubelet speaks to.
    pub(crate) fn configuration(workspace: &Workspace) -> String {
        Containerd::configuration_with("disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", workspace)
    }

    fn configuration_with(line: &str, workspace: &Workspace) -> String {
        format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n{line}\n[grpc]\naddress = \"{}\"\n",
            workspace.path("content").display(),
            workspace.path("state").display(),
            workspace.path("c.sock").display(),
        )
    }

    /// Where it answers.
    pub(crate) fn socket(&self) -> PathBuf {
        self.workspace.path("c.sock")
    }

    /// With a file of settings that keeps it apart, too.
    pub(crate) fn start_with(config: &Path, workspace: &'a Workspace) -> Containerd<'a> {
        let mut daemon =
            Daemon::start(command::daemon("containerd").arg("--config").arg(config), &workspace.path("containerd.log"));
        let mut probe = ctr(workspace);
        probe.arg("version");
        daemon.wait_until_ready(|| command::output(&mut probe).status.success());
        Containerd { _daemon: daemon, workspace }
    }

    pub(crate) fn ctr(&self) -> Command {
        ctr(self.workspace)
    }
}

fn ctr(workspace: &Workspace) -> Command {
    let mut command = command::confined("ctr");
    command.arg("--address").arg(workspace.path("c.sock"));
    command
}

impl Client for Containerd<'_> {
    fn pull(&mut self, image: &Image) {
        let hosts = self.workspace.path("hosts");
        command::run(self.ctr().args(["images", "pull", SNAPSHOTTER, "--hosts-dir"]).arg(hosts).arg(image.reference()));
    }

    fn verify(&mut self, image: &Image) {
        let held = command::run(self.ctr().args(["images", "ls", &format!("name=={}", image.reference())]));
        assert!(held.contains(&image.root.to_string()), "{} refers to {}:\n{held}", image.reference(), image.root);
        let content = command::run(self.ctr().args(["content", "ls", "--quiet"]));
        for digest in image.blobs.iter().chain([&image.root, &image.manifest]) {
            assert!(content.contains(&digest.to_string()), "{digest} is held:\n{content}");
        }
    }

    fn remove(&mut self, image: &Image) {
        command::run(self.ctr().args(["images", "rm", "--sync", &image.reference()]));
        let content = command::run(self.ctr().args(["content", "ls", "--quiet"]));
        for digest in &image.blobs {
            assert!(!content.contains(&digest.to_string()), "containerd keeps no content of a removed image");
        }
    }
}
