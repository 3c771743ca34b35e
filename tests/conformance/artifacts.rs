//! oras finds and copies through the mirror what was attached to an image: it asks for the referrers and follows
//! them, also when the upstream is away.

use std::fs;
use std::path::{Path, PathBuf};

use registry_mirror::oci::digest::Digest;
use serde_json::Value;

use crate::olareg::{Image, Olareg};
use crate::suite::REPOSITORY;
use crate::support::command;
use crate::support::go::ORAS;
use crate::support::mirror::Mirror;
use crate::support::requirements::Missing;
use crate::support::workspace::Workspace;

const SBOM_TYPE: &str = "application/vnd.example.sbom";
const SBOM: &[u8] = b"{\"packages\":[\"registry-mirror\"]}";

#[test]
fn oras_copies_an_image_with_its_referrers_also_when_the_upstream_is_away() {
    let mut missing = Missing::among(&["setpriv", "mount", "umount"]);
    let oras = missing.or_else(|| ORAS.program("cmd/oras"));
    let olareg = missing.or_else(Olareg::build);
    let (true, Some(program), Some(olareg)) = (missing.is_nothing("oras with referrers"), oras, olareg) else { return };
    let workspace = Workspace::new();
    let image = Image::lay_down(&workspace);
    let mut registry = olareg.start(&workspace);
    let oras = Oras { program, workspace: &workspace };
    let sbom = oras.attach(&format!("{}/{REPOSITORY}", registry.address()));
    let mirror = Mirror::start(&[("docker.io", registry.address())], &workspace);
    let source = format!("{}/docker.io/{REPOSITORY}", mirror.address());

    assert_eq!(oras.discover(&source), [sbom]);
    assert_holds(&oras.copy(&source, "cold"), &image, sbom);

    registry.stop();
    assert_eq!(oras.discover(&source), [sbom]);
    assert_holds(&oras.copy(&source, "offline"), &image, sbom);
}

/// Compares the layout with what was pushed.
fn assert_holds(layout: &Path, image: &Image, sbom: Digest) {
    let blob = |digest: Digest| {
        let held = fs::read(layout.join("blobs/sha256").join(digest.hex()));
        let held = held.unwrap_or_else(|error| panic!("{digest} is in {}: {error}", layout.display()));
        assert_eq!(Digest::of(digest.algorithm(), &held), digest);
        held
    };
    blob(image.manifest);
    blob(image.config);
    let manifest: Value = serde_json::from_slice(&blob(sbom)).expect("a manifest is JSON");
    assert_eq!(manifest["subject"]["digest"], image.manifest.to_string());
    assert_eq!(blob(digest_of(&manifest["layers"][0])), SBOM);
}

/// oras with a home of its own.
struct Oras<'a> {
    program: PathBuf,
    workspace: &'a Workspace,
}

impl Oras<'_> {
    /// Attaches an SBOM to the image in this repository; returns the digest of its manifest.
    fn attach(&self, repository: &str) -> Digest {
        self.workspace.write("files/sbom.json", &String::from_utf8_lossy(SBOM));
        let image = format!("{repository}:{}", Image::TAG);
        let said = self.run(&[
            "attach",
            "--plain-http",
            "--format=json",
            "--artifact-type",
            SBOM_TYPE,
            &image,
            "sbom.json:application/json",
        ]);
        digest_of(&said)
    }

    /// What oras finds attached to the image in this repository.
    fn discover(&self, repository: &str) -> Vec<Digest> {
        let image = format!("{repository}:{}", Image::TAG);
        let said = self.run(&["discover", "--plain-http", "--format=json", "--artifact-type", SBOM_TYPE, &image]);
        said["manifests"].as_array().expect("oras prints a list").iter().map(digest_of).collect()
    }

    /// Copies the image and what refers to it into a layout.
    fn copy(&self, repository: &str, name: &str) -> PathBuf {
        let (image, layout) = (format!("{repository}:{}", Image::TAG), self.workspace.path(name));
        let target = format!("{}:{}", layout.display(), Image::TAG);
        let mut command = self.command();
        command::run(command.args(["cp", "--recursive", "--from-plain-http", &image, "--to-oci-layout", &target]));
        layout
    }

    fn run(&self, arguments: &[&str]) -> Value {
        let said = command::run(self.command().args(arguments));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("oras prints JSON ({error}): {said}"))
    }

    fn command(&self) -> std::process::Command {
        let mut command = command::confined_at(&self.program);
        command
            .env_remove("DOCKER_CONFIG")
            .env("HOME", self.workspace.path("home"))
            .current_dir(self.workspace.path("files"));
        command
    }
}

fn digest_of(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().and_then(|digest| digest.parse().ok()).expect("a descriptor has a digest")
}
