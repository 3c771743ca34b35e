//! crane, oras and regctl: they know no mirrors, name ours with the upstream as path prefix, and copy into OCI
//! image layouts, which are then compared byte by byte with what was pushed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::support::command;
use crate::support::go::{CRANE, Module, ORAS, REGCTL};
use crate::support::image::Image;
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;

#[test]
fn crane_copies_cold_warm_and_offline_the_exact_bytes() {
    copies_cold_warm_and_offline("crane", &CRANE, |copy| {
        let arguments = ["pull", "--insecure", "--format=oci", &copy.source].map(str::to_owned);
        arguments.into_iter().chain([copy.folder.display().to_string()]).collect()
    });
}

#[test]
fn oras_copies_cold_warm_and_offline_the_exact_bytes() {
    copies_cold_warm_and_offline("oras", &ORAS, |copy| {
        let arguments = ["cp", "--from-plain-http", &copy.source, "--to-oci-layout"].map(str::to_owned);
        arguments.into_iter().chain([format!("{}:{}", copy.folder.display(), Image::TAG)]).collect()
    });
}

#[test]
fn regctl_copies_cold_warm_and_offline_the_exact_bytes() {
    copies_cold_warm_and_offline("regctl", &REGCTL, |copy| {
        let host = format!("reg={},tls=disabled", copy.mirror);
        let arguments = ["image", "copy", "--host", &host, &copy.source].map(str::to_owned);
        arguments.into_iter().chain([format!("ocidir://{}:{}", copy.folder.display(), Image::TAG)]).collect()
    });
}

fn copies_cold_warm_and_offline(name: &str, module: &Module, arguments: fn(&Copy) -> Vec<String>) {
    let mut missing = scenario::missing(&[]);
    let program = missing.or_else(|| module.program(&format!("cmd/{name}")));
    let (true, Some(program)) = (missing.is_nothing(name), program) else { return };
    let workspace = Workspace::new();
    let mut scenario = Scenario::start(&workspace);
    let mirror = scenario.mirror().address();
    let mut copier = Copier { program, arguments, mirror, workspace: &workspace };
    scenario.pull_cold_warm_and_offline(&mut copier);
}

/// What is copied where.
struct Copy {
    mirror: SocketAddr,
    source: String,
    folder: PathBuf,
}

/// One of the programs, by its arguments for a copy.
struct Copier<'a> {
    program: PathBuf,
    arguments: fn(&Copy) -> Vec<String>,
    mirror: SocketAddr,
    workspace: &'a Workspace,
}

impl Copier<'_> {
    fn folder(&self, image: &Image) -> PathBuf {
        self.workspace.path(&image.repository.replace('/', "-"))
    }
}

impl Client for Copier<'_> {
    fn pull(&mut self, image: &Image) {
        let source = format!("{}/{}", self.mirror, image.reference());
        let copy = Copy { mirror: self.mirror, source, folder: self.folder(image) };
        // A home of its own: no configuration and no credentials of whoever runs the tests.
        let home = self.workspace.path("home");
        command::run(
            command::confined_at(&self.program)
                .env_remove("DOCKER_CONFIG")
                .env("HOME", home)
                .args((self.arguments)(&copy)),
        );
    }

    fn verify(&mut self, image: &Image) {
        let folder = self.folder(image);
        let names = fs::read_to_string(folder.join("index.json")).expect("the layout has an index");
        assert!(names.contains(&image.root.to_string()), "{} is named in {names}", image.root);
        for digest in image.blobs.iter().chain([&image.root, &image.manifest]) {
            let path: &Path = &folder.join("blobs/sha256").join(digest.hex());
            let held = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // Not `assert_eq`: it would print both sides of a layer.
            assert!(held == image.content(*digest), "{digest} arrived as it was pushed");
        }
    }

    fn remove(&mut self, image: &Image) {
        fs::remove_dir_all(self.folder(image)).expect("the copy is removed");
    }
}
