//! skopeo copies through the mirror into a folder, which is then compared byte by byte with what was pushed.
//! It names the mirror itself, with the upstream as path prefix: the way of every client without mirror settings.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::support::command;
use crate::support::image::Image;
use crate::support::scenario::{self, Client, Scenario};
use crate::support::workspace::Workspace;

#[test]
fn skopeo_copies_cold_warm_and_offline_the_exact_bytes() {
    if !scenario::missing(&["skopeo"]).is_nothing("skopeo") {
        return;
    }
    let workspace = Workspace::new();
    let mut scenario = Scenario::start(&workspace);
    let mut skopeo = Skopeo { mirror: scenario.mirror().address(), workspace: &workspace };
    scenario.pull_cold_warm_and_offline(&mut skopeo);
}

pub(crate) struct Skopeo<'a> {
    pub(crate) mirror: SocketAddr,
    pub(crate) workspace: &'a Workspace,
}

impl Skopeo<'_> {
    pub(crate) fn folder(&self, image: &Image) -> PathBuf {
        self.workspace.path(&image.repository.replace('/', "-"))
    }
}

impl Client for Skopeo<'_> {
    fn pull(&mut self, image: &Image) {
        let from = format!("docker://{}/{}", self.mirror, image.reference());
        let to = format!("dir:{}", self.folder(image).display());
        command::run(
            command::confined("skopeo")
                .args(["copy", "--all", "--preserve-digests", "--src-tls-verify=false"])
                .args([from, to]),
        );
    }

    fn verify(&mut self, image: &Image) {
        let held = |name: String| fs::read(self.folder(image).join(name)).expect("skopeo wrote the file");
        assert_eq!(held("manifest.json".to_owned()), image.content(image.root));
        if image.manifest != image.root {
            assert_eq!(held(format!("{}.manifest.json", image.manifest.hex())), image.content(image.manifest));
        }
        for blob in &image.blobs {
            // Not `assert_eq`: it would print both sides of a layer.
            assert!(held(blob.hex()) == image.content(*blob), "{blob} arrived as it was pushed");
        }
    }

    fn remove(&mut self, image: &Image) {
        fs::remove_dir_all(self.folder(image)).expect("the copy is removed");
    }
}
