//! Replicas over one bucket: mirrors as production wires them, an object store in process that misbehaves on cue,
//! and a scripted registry behind both.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop where it stands")]

#[path = "../scenarios/support/mirror.rs"]
mod mirror;

mod away;
mod carried;
mod certificates;
mod commands;
mod content;
mod denials;
mod door;
mod elsewhere;
mod floods;
mod leases;
mod lists;
mod mended;
mod names;
mod private;
mod pushed;
mod redirects;
mod rights;
mod slow;
mod stops;
mod trouble;
mod unwell;
mod used;
mod writes;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use door::Door;
use mirror::{Settings, TestMirror};
use scripted_registry::bucket::Bucket;
use scripted_registry::client;
use scripted_registry::{Digest, Image, Registry, noise};

const TAG: &str = "/v2/library/app/manifests/1";
const MANIFEST_TYPES: (&str, &str) =
    ("accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json");

/// One registry, one bucket, and the settings of every replica.
struct Scene {
    registry: Registry,
    bucket: Bucket,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Scene {
        let (registry, bucket) = (Registry::start().await, Bucket::start().await);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "access:secret\n").unwrap();
        std::fs::write(folder.path().join("secret"), "what all replicas know\n").unwrap();
        Scene { registry, bucket, folder }
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// A replica with an empty disk.
    fn settings(&self) -> Settings {
        Settings::of(&self.registry).config(&self.lines())
    }

    fn lines(&self) -> String {
        format!(
            "store.bucket.name = \"shared\"\nstore.bucket.endpoint = \"{}\"\nstore.bucket.credentials = \"file:{}\"",
            self.bucket.url(),
            self.key().display()
        )
    }

    async fn replica(&self) -> TestMirror {
        self.settings().start().await
    }

    /// What a replica says that other replicas reach through this door.
    fn told_others(&self, door: &Door) -> String {
        let secret = self.folder.path().join("secret");
        format!(
            "store.bucket.advertise = \"{}\"\nstore.bucket.peers_secret = \"file:{}\"",
            door.url(),
            secret.display()
        )
    }

    /// A replica with an empty disk that the others reach through a door of its own, and its leases.
    async fn replica_with_door(&self) -> (TestMirror, Door) {
        self.behind_a_door("").await
    }

    async fn behind_a_door(&self, lines: &str) -> (TestMirror, Door) {
        let door = Door::shut().await;
        let mirror = self.settings().config(&self.told_others(&door)).config(lines).start().await;
        door.lead_to(mirror.address);
        (mirror, door)
    }

    fn image(&self, seed: u64) -> Image {
        self.registry.add_image("library/app", "1", &[noise(seed, 300_000), noise(seed + 1, 40)])
    }
}

/// What is waited for, which has not come within three minutes where it never will, however busy the machine is: then it
/// is said what it is.
async fn before_long<T>(what: &str, waited_for: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(Duration::from_secs(180), waited_for).await;
    came.unwrap_or_else(|_| panic!("not within three minutes: {what}"))
}

/// The key of content in the bucket.
fn key_of(digest: &Digest) -> String {
    format!("mirror/blobs/{}", digest.to_string().replace(':', "/"))
}

/// The key of a membership.
fn link_of(repository: &str, digest: &Digest) -> String {
    format!("mirror/repositories/docker.io/{repository}/_links/{}", digest.to_string().replace(':', "/"))
}

fn blob_of(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// Pulls all of an image by its tag; the outcomes.
async fn pull(mirror: &TestMirror, image: &Image) -> Vec<String> {
    let manifest = mirror.get_with(TAG, &[MANIFEST_TYPES]).await;
    assert_eq!(manifest.status, 200, "{}", String::from_utf8_lossy(&manifest.body));
    assert_eq!(manifest.header("docker-content-digest"), Some(&*image.manifest.digest.to_string()));
    let mut outcomes = vec![outcome(&manifest)];
    for blob in image.blobs() {
        let answer = mirror.get(&blob_of("library/app", &blob.digest)).await;
        assert!(answer.complete && answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(Digest::of(scripted_registry::Algorithm::Sha256, &answer.body), blob.digest);
        outcomes.push(outcome(&answer));
    }
    outcomes
}

fn outcome(answer: &client::Response) -> String {
    let status = answer.header("cache-status").unwrap_or_default();
    status.rsplit("detail=").next().unwrap_or_default().to_owned()
}

/// Waits until all of an image is in the bucket, with its names.
async fn up(scene: &Scene, image: &Image) {
    for blob in image.blobs() {
        scene.bucket.has(&key_of(&blob.digest)).await;
        scene.bucket.has(&link_of("library/app", &blob.digest)).await;
    }
    scene.bucket.has(&key_of(&image.manifest.digest)).await;
    scene.bucket.has(&link_of("library/app", &image.manifest.digest)).await;
    scene.bucket.until(|bucket| bucket.keys().iter().any(|key| is_pointer(key))).await;
}

fn is_pointer(key: &str) -> bool {
    key.contains("/_tags/1/") && !key.ends_with("/history")
}
