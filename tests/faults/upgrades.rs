//! Stores as earlier versions wrote them, kept by `.ci/store-of` with the program of each release: this version serves
//! what is in them, with the upstream away.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use scripted_registry::client;
use serde_json::Value;

use super::daemon::{BINARY, Process, audit};
use registry_mirror::oci::Digest;

const STORES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/stores");
/// Nobody listens there.
const AWAY: &str = "http://127.0.0.1:1";

/// The kept stores.
pub fn stores() -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(STORES).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// What a command says of the daemon there.
fn json(process: &Process, arguments: &[&str]) -> Value {
    let admin = format!("http://{}", process.admin());
    let output = Command::new(BINARY).args(arguments).args(["--json", "--admin", &admin]).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Gets it, and sees that it is what the digest says.
async fn got(address: SocketAddr, path: &str, digest: Option<&str>) -> Vec<u8> {
    let response = client::Stream::request(address, "GET", path, &[]).await.unwrap().finish().await;
    assert!(response.status == 200 && response.complete, "{path}: {}", response.status);
    let digest = digest.or(response.header("docker-content-digest")).unwrap();
    let digest: Digest = digest.parse().unwrap();
    assert_eq!(Digest::of(digest.algorithm(), &response.body), digest, "{path}");
    response.body.to_vec()
}

pub async fn is_served(process: &Process) {
    let manifest = got(process.address, "/v2/library/try/manifests/1", None).await;
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for blob in layers.iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        got(process.address, &format!("/v2/library/try/blobs/{digest}"), Some(digest)).await;
    }
}

pub fn unpacked(archive: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let bytes = flate2::read::GzDecoder::new(fs::File::open(archive).unwrap());
    tar::Archive::new(bytes).unpack(folder.path()).unwrap();
    folder
}

#[test]
fn there_is_a_store_of_every_version_that_was_released() {
    let changes = fs::read_to_string(Path::new(STORES).join("../../../.github/CHANGELOG.md")).unwrap();
    let versions = changes.lines().filter_map(|line| line.strip_prefix("## [")?.split(']').next());
    for version in versions.filter(|version| *version != "Unreleased") {
        let name = format!("{version}.tar.gz");
        assert!(stores().iter().any(|store| store.ends_with(&name)), "{version}: make it with .ci/store-of");
    }
}

#[tokio::test]
async fn every_store_that_a_version_ever_wrote_is_served_by_this_one() {
    let stores = stores();
    assert!(stores.iter().any(|store| store.ends_with("0.1.0.tar.gz")), "the first version is among {stores:?}");
    for archive in stores {
        // With the index that it wrote, and without: that one may always be lost.
        for keeps_index in [true, false] {
            let folder = unpacked(&archive);
            if !keeps_index {
                fs::remove_dir_all(folder.path().join("metadata")).unwrap();
            }
            let process = Process::start(folder.path(), AWAY, "");
            is_served(&process).await;
            let images = json(&process, &["images"]);
            let image = &images["images"][0];
            assert_eq!(image["image"], "docker.io/library/try:1", "{}: {images}", archive.display());
            assert_eq!(image["pinned"], true, "{}: {images}", archive.display());
            assert!(process.terminate().success());
            // And once more, now that this version has written to it.
            let process = Process::start(folder.path(), AWAY, "");
            is_served(&process).await;
            assert!(process.terminate().success());
            assert_eq!(audit(folder.path()), (5, Vec::new()), "{}", archive.display());
        }
    }
}

#[test]
fn a_store_of_a_later_version_is_refused_by_every_command_that_would_open_it() {
    for archive in stores() {
        let folder = unpacked(&archive);
        fs::write(folder.path().join("format"), "registry-mirror store format 2 and more of it\n").unwrap();
        let before = names(folder.path());
        for command in [&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"][..], &["check"]] {
            let mut program = Command::new(BINARY);
            let output = program.args(command).env("REGISTRY_MIRROR_STORE_PATH", folder.path()).output().unwrap();
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
            assert!(
                said.contains("by a newer version")
                    && said.contains("has format 2")
                    && said.contains("use the newer version again"),
                "{command:?}: {said}"
            );
        }
        assert_eq!(names(folder.path()), before, "nothing was touched");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
