//! Bundles in the hands of real engines: what `registry-mirror export` writes is loaded by docker, podman,
//! containerd and skopeo, with neither a mirror nor a registry running, and taken in by another mirror.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::containerd::Containerd;
use crate::docker::{Docker, docker_name};
use crate::podman::Podman;
use crate::skopeo::Skopeo;
use crate::support::image::{Image, Images};
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;
use crate::support::{command, loopback};

#[test]
fn docker_loads_a_bundle_and_runs_a_container() {
    if !scenario::missing(&["dockerd", "docker", "containerd", "runc", "iptables"]).is_nothing("docker load") {
        return;
    }
    let workspace = Workspace::new();
    let (images, bundle) = exported(&workspace);
    let docker = Docker::start(loopback::unused_address(), &workspace);
    command::run(docker.client().args(["load", "--input"]).arg(bundle));
    for image in [&images.debian, &images.layered] {
        const FORMAT: &str = "{{.Id}} {{json .RepoTags}}";
        let held = command::run(docker.client().args(["image", "inspect", "--format", FORMAT, &docker_name(image)]));
        assert_eq!(held.trim(), format!("{} [\"{}\"]", image.config, docker_name(image)));
    }
    let image = docker_name(&images.debian);
    let said = command::run(docker.client().args(["run", "--rm", "--network", "none", &image, "/bin/echo", "ok"]));
    assert_eq!(said, "ok\n");
}

#[test]
fn podman_loads_a_bundle() {
    if !scenario::missing(&["podman", "conmon", "runc"]).is_nothing("podman load") {
        return;
    }
    let workspace = Workspace::new();
    let (images, bundle) = exported(&workspace);
    workspace.write("registries.conf", "");
    let podman = Podman { workspace: &workspace };
    command::run(podman.command().args(["load", "--input"]).arg(bundle));
    for image in images.all() {
        let held = command::run(podman.command().args(["image", "inspect", "--format", "{{.Id}}", &image.reference()]));
        assert_eq!(held.trim(), image.config.hex());
    }
}

#[test]
fn ctr_imports_a_bundle_with_every_byte() {
    if !scenario::missing(&["containerd", "ctr"]).is_nothing("ctr images import") {
        return;
    }
    let workspace = Workspace::new();
    let (images, bundle) = exported(&workspace);
    let mut containerd = Containerd::start(loopback::unused_address(), &workspace);
    command::run(containerd.ctr().args(["images", "import", "--no-unpack"]).arg(bundle));
    for image in images.all() {
        containerd.verify(image);
    }
}

#[test]
fn skopeo_copies_the_exact_bytes_out_of_a_bundle() {
    if !scenario::missing(&["skopeo"]).is_nothing("skopeo copy") {
        return;
    }
    let workspace = Workspace::new();
    let (images, bundle) = exported(&workspace);
    let mut skopeo = Skopeo { mirror: loopback::unused_address(), workspace: &workspace };
    let copy = |transport: &str, image: &Image, to: PathBuf| {
        let from = format!("{transport}:{}:{}", bundle.display(), image.reference());
        let to = format!("dir:{}", to.display());
        command::run(command::confined("skopeo").args(["copy", "--all", "--preserve-digests"]).args([from, to]));
    };
    copy("oci-archive", &images.layered, skopeo.folder(&images.layered));
    skopeo.verify(&images.layered);

    // In an image layout skopeo finds images in the OCI's types only; for Docker's there is manifest.json.
    let debian = &images.debian;
    copy("docker-archive", debian, skopeo.folder(debian));
    let config = fs::read(skopeo.folder(debian).join(debian.config.hex())).expect("skopeo wrote the file");
    assert_eq!(config, debian.content(debian.config));
}

/// What another tool writes says nothing of tags, upstreams or receipts.
#[test]
fn a_layout_that_skopeo_wrote_is_taken_in() {
    if !scenario::missing(&["skopeo"]).is_nothing("import of an oci-archive") {
        return;
    }
    let workspace = Workspace::new();
    let (images, bundle) = exported(&workspace);
    let image = &images.layered;
    let theirs = workspace.path("theirs.tar");
    let from = format!("oci-archive:{}:{}", bundle.display(), image.reference());
    let to = format!("oci-archive:{}:{}", theirs.display(), image.reference());
    command::run(command::confined("skopeo").args(["copy", "--all", "--preserve-digests"]).args([from, to]));
    let store = workspace.path("other-store");
    command::run(on_store("import", &store).arg(&theirs));
    let stored = |digest: &registry_mirror::oci::Digest| fs::read(store.join("blobs/sha256").join(digest.hex()));
    for digest in image.blobs.iter().chain([&image.root, &image.manifest]) {
        assert!(stored(digest).expect("is stored") == image.content(*digest), "{digest}");
    }
}

/// Both images in a bundle, made by a running mirror from what a client pulled through it; the mirror is
/// gone when this returns.
fn exported(workspace: &Workspace) -> (&'static Images, PathBuf) {
    let images = Images::get().expect("the requirements are met");
    let scenario = Scenario::start(workspace);
    let mut skopeo = Skopeo { mirror: scenario.mirror().address(), workspace };
    for image in images.all() {
        skopeo.pull(image);
        skopeo.remove(image);
    }
    let bundle = workspace.path("bundle.tar");
    // The daemon has the lock of the store, so it is the one that does it.
    command::run(on_store("export", &workspace.path("store")).args(["--all", "--output"]).arg(&bundle));
    drop(scenario);
    (images, bundle)
}

fn on_store(subcommand: &str, store: &Path) -> Command {
    let mut command = command::confined(env!("CARGO_BIN_EXE_registry-mirror"));
    command.arg(subcommand).arg("--store").arg(store);
    command
}
