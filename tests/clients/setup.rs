//! `setup` with the real programs: settings are applied to files that others wrote, each client pulls the canary
//! through the mirror, is seen to do so, and its files become what they were. No upstream is there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::containerd::{Containerd, SNAPSHOTTER};
use crate::docker::Docker;
use crate::support::authority::Authority;
use crate::support::command;
use crate::support::go::BUILDKIT;
use crate::support::loopback;
use crate::support::mirror::Mirror;
use crate::support::process::Daemon;
use crate::support::requirements::{self, Missing};
use crate::support::workspace::Workspace;

/// A mirror, and a root with files of a client below it.
struct Ground<'a> {
    client: &'static str,
    mirror: Mirror<'a>,
    workspace: &'a Workspace,
    before: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

impl<'a> Ground<'a> {
    fn new(client: &'static str, files: &[(&str, &str)], workspace: &'a Workspace) -> Ground<'a> {
        for (path, content) in files {
            workspace.write(&format!("root/{path}"), content);
        }
        let before = files_below(&workspace.path("root"));
        Ground { client, mirror: Mirror::start(&[], workspace), workspace, before }
    }

    fn setup(&self, action: &str) -> Command {
        let mut command = command::confined_at(Path::new(env!("CARGO_BIN_EXE_registry-mirror")));
        command.args(["setup", self.client, action]);
        command
    }

    fn root(&self) -> PathBuf {
        self.workspace.path("root")
    }

    fn apply(&self) {
        let mirror = format!("http://{}", self.mirror.address());
        command::run(self.setup("--apply").args(["--mirror", &mirror, "--root"]).arg(self.root()));
    }

    /// Pulls the canary through the client, which finds its program in `programs` only.
    fn check(&self, surroundings: &[(&str, &Path)], folder: Option<&str>) -> std::process::Output {
        let check = self.setup("--check");
        let mut command = match folder {
            // Seen by this one process and its children: the folder in the place of the machine's.
            Some(folder) => {
                let mut command = command::confined("unshare");
                command
                    .args(["--mount", "sh", "-c", "mount --bind \"$0\" \"/$1\" && shift && exec \"$@\""])
                    .arg(self.root().join(folder))
                    .arg(folder)
                    .arg(check.get_program())
                    .args(check.get_args());
                command
            }
            None => check,
        };
        command.args(["--admin", &format!("http://{}", self.mirror.admin())]).envs(surroundings.iter().copied());
        command::output(&mut command)
    }

    fn is_seen_to_pull(&self, surroundings: &[(&str, &Path)], folder: Option<&str>) {
        let output = self.check(surroundings, folder);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("docker.io"), "{}: {said}", self.client);
    }

    fn undo(&self) {
        command::run(self.setup("--undo").arg("--root").arg(self.root()));
        assert_eq!(files_below(&self.root()), self.before, "{}: the files are what they were", self.client);
    }
}

/// Every file below a folder, with its mode and its bytes.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(&here).expect("a folder is readable") {
            let path = entry.expect("an entry is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = path.metadata().expect("a file has metadata").mode();
                files.insert(path.clone(), (mode, fs::read(&path).expect("a file is readable")));
            }
        }
    }
    files
}

/// A folder with this one program, and those that it starts.
fn only(program: &str, path: &Path, workspace: &Workspace) -> PathBuf {
    let folder = workspace.path("bin");
    fs::create_dir_all(&folder).expect("a folder is made");
    symlink(path, folder.join(program)).expect("a link is made");
    folder
}

#[test]
fn dockerd_with_its_classic_store_is_set_up_and_put_back() {
    if !Missing::among(&["dockerd", "docker", "containerd", "runc", "iptables", "setpriv"]).is_nothing("docker setup") {
        return;
    }
    let workspace = Workspace::new();
    let theirs = "{\n    \"log-level\": \"warn\",\n    \"max-concurrent-downloads\": 2\n}";
    let ground = Ground::new("docker", &[("etc/docker/daemon.json", theirs)], &workspace);
    ground.apply();
    let docker = Docker::start_with(&ground.root().join("etc/docker/daemon.json"), &workspace);
    let (host, folder) = (docker.host(), workspace.path("client"));
    let surroundings = [("DOCKER_HOST", Path::new(&host)), ("DOCKER_CONFIG", folder.as_path())];
    ground.is_seen_to_pull(&surroundings, None);
    let images = command::run(docker.client().args(["image", "ls", "--quiet"]));
    assert_eq!(images, "", "the canary does not stay");
    ground.undo();
}

#[test]
fn containerd_is_set_up_and_put_back() {
    if !Missing::among(&["containerd", "ctr", "setpriv", "unshare", "mount"]).is_nothing("containerd setup") {
        return;
    }
    let workspace = Workspace::new();
    let theirs = Containerd::configuration(&workspace) + "# the end\n";
    let hosts = "# in the office\n[host.\"http://127.0.0.1:1\"]\n  capabilities = [\"pull\"]\n";
    let files =
        [("etc/containerd/config.toml", theirs.as_str()), ("etc/containerd/certs.d/docker.io/hosts.toml", hosts)];
    let ground = Ground::new("containerd", &files, &workspace);
    let config = ground.root().join("etc/containerd/config.toml");
    let _containerd = Containerd::start_with(&config, &workspace);
    let programs = only("ctr", &requirements::find("ctr").expect("it is there"), &workspace);
    let socket = workspace.path("c.sock");
    // `unshare`, `sh` and `mount` are found, and no other way to ask containerd.
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let surroundings = [("CONTAINERD_ADDRESS", socket.as_path()), ("PATH", Path::new(&path))];
    assert_eq!(ground.check(&surroundings, Some("etc/containerd")).status.code(), Some(1), "it is not set up");
    ground.apply();
    // With Kubernetes' way in, which this one is started without.
    let written = fs::read_to_string(&config).expect("the file is readable");
    let whole =
        workspace.write("whole.toml", &written.replace("\"io.containerd.grpc.v1.cri\"]\n\n[grpc]", "]\n\n[grpc]"));
    let dump = command::run(command::confined("containerd").arg("--config").arg(&whole).args(["config", "dump"]));
    assert!(dump.contains("config_path = \"/etc/containerd/certs.d\""), "{dump}");
    ground.is_seen_to_pull(&surroundings, Some("etc/containerd"));
    ground.undo();
}

#[test]
fn containerd_pulls_over_tls_by_the_files_that_setup_wrote_with_the_authority_of_the_mirror() {
    if !Missing::among(&["containerd", "ctr", "setpriv", "unshare", "mount"]).is_nothing("containerd setup over TLS") {
        return;
    }
    // Nobody answers there but the mirror in its name.
    const REGISTRY: &str = "127.0.0.1:1";
    let (workspace, authority) = (Workspace::new(), Authority::new());
    let (address, root) = (loopback::unused_address(), workspace.path("root"));
    let ca = workspace.write("ca.pem", &authority.pem());
    let tls = authority.set_up(address.ip(), &workspace);
    let upstream = format!("[[upstream]]\nhost = \"{REGISTRY}\"\nurl = \"http://{REGISTRY}\"\ninsecure = true\n");
    let _mirror = Mirror::configured(address, "", &format!("store.min_free = \"0\"\n{tls}{upstream}"), &workspace);
    let theirs = Containerd::configuration(&workspace);
    let config = workspace.write("root/etc/containerd/config.toml", &theirs);
    let before = files_below(&root);
    let containerd = Containerd::start_with(&config, &workspace);
    let setup = |action: &str, more: &[&str]| {
        let mut command = command::confined_at(Path::new(env!("CARGO_BIN_EXE_registry-mirror")));
        command.args(["setup", "containerd", action, "--root"]).arg(&root).args(more);
        command::run(&mut command)
    };
    let pull = || {
        let image = format!("{REGISTRY}/library/registry-mirror-canary:latest");
        let mut command = containerd.ctr();
        command.args(["images", "pull", SNAPSHOTTER, "--hosts-dir"]).arg(root.join("etc/containerd/certs.d"));
        command::output(command.arg(image)).status.success()
    };
    let at = ["--mirror", &format!("https://{address}"), "--for", REGISTRY];
    setup("--apply", &at);
    assert!(!pull(), "nobody has told it of the authority");
    setup("--apply", &[&at[..], &["--mirror-ca", &ca.display().to_string()]].concat());
    assert!(pull(), "{}", fs::read_to_string(workspace.path("containerd.log")).expect("readable"));
    let held = command::run(containerd.ctr().args(["images", "ls", "--quiet"]));
    assert!(held.contains("registry-mirror-canary"), "{held}");
    setup("--undo", &[]);
    assert_eq!(files_below(&root), before, "the files are what they were");
}

#[test]
fn podman_is_set_up_and_put_back() {
    if !Missing::among(&["podman", "setpriv", "unshare", "mount"]).is_nothing("podman setup") {
        return;
    }
    let workspace = Workspace::new();
    let policy = "{ \"default\": [{ \"type\": \"insecureAcceptAnything\" }] }\n";
    let theirs = "# ours\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \
                  \"127.0.0.1:1\"\ninsecure = true\n";
    let files = [("etc/containers/policy.json", policy), ("etc/containers/registries.conf", theirs)];
    let ground = Ground::new("podman", &files, &workspace);
    let at = |name: &str| workspace.path(name).display().to_string();
    let storage =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n", at("graph"), at("run"));
    let storage = workspace.write("storage.conf", &storage);
    let engine =
        format!("[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\ntmp_dir = \"{}\"\n", at("libpod"));
    let engine = workspace.write("containers.conf", &engine);
    let surroundings = [("CONTAINERS_STORAGE_CONF", storage.as_path()), ("CONTAINERS_CONF", engine.as_path())];
    assert_eq!(ground.check(&surroundings, Some("etc/containers")).status.code(), Some(1), "it is not set up");
    ground.apply();
    ground.is_seen_to_pull(&surroundings, Some("etc/containers"));
    ground.undo();
}

#[test]
fn buildkitd_is_set_up_and_put_back() {
    let mut missing = Missing::among(&["runc", "setpriv"]);
    let programs = missing.or_else(|| Ok((BUILDKIT.program("cmd/buildkitd")?, BUILDKIT.program("cmd/buildctl")?)));
    if !missing.is_nothing("buildkit setup") {
        return;
    }
    let (buildkitd, buildctl) = programs.expect("nothing is missing");
    let workspace = Workspace::new();
    let theirs = "# ours\n[registry.\"docker.io\"]\n  mirrors = [\"127.0.0.1:1\"] # near\n\n[registry.\"127.0.0.1:1\"]\n  \
                  http = true\n";
    let ground = Ground::new("buildkit", &[("etc/buildkit/buildkitd.toml", theirs)], &workspace);
    ground.apply();
    let socket = format!("unix://{}", workspace.path("b.sock").display());
    let mut daemon = command::daemon_at(&buildkitd);
    daemon
        .arg("--config")
        .arg(ground.root().join("etc/buildkit/buildkitd.toml"))
        .arg("--root")
        .arg(workspace.path("buildkit"))
        .args(["--addr", &socket, "--containerd-worker=false", "--oci-worker-snapshotter=native"])
        .arg("--oci-worker-binary")
        .arg(command::runtime());
    let mut daemon = Daemon::start(&mut daemon, &workspace.path("buildkitd.log"));
    daemon.wait_until_ready(|| {
        let mut probe = command::confined_at(&buildctl);
        command::output(probe.args(["--addr", &socket, "debug", "workers"])).status.success()
    });
    let programs = only("buildctl", &buildctl, &workspace);
    ground.is_seen_to_pull(&[("BUILDKIT_HOST", Path::new(&socket)), ("PATH", &programs)], None);
    ground.undo();
}
