//! A store as version 0.1.0 left it, file by file: it opens, serves and tells what it told then.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use registry_mirror::oci::{Algorithm, Digest};
use scripted_registry::{Registry, client, noise};
use serde_json::{Value, json};

use crate::support::mirror::{Settings, TestMirror};

const DOCKER: &str = "oci-index+oci-manifest+docker-list+docker-manifest";
const EVERYTHING: &str = "oci-index+oci-manifest+docker-list+docker-manifest+schema1-signed+schema1+any";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A moment before the tests have theirs, in milliseconds since 1970.
const THEN: u64 = 1_699_990_000_000;

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn descriptor(bytes: &[u8], media_type: &str) -> Value {
    json!({ "digest": digest(bytes).to_string(), "size": bytes.len(), "media_type": media_type })
}

/// An image as its bytes.
struct Image {
    manifest: Bytes,
    config: Bytes,
    layer: Bytes,
}

impl Image {
    fn new(seed: u64) -> Image {
        let layer = noise(seed, 40_000);
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
        let config = Bytes::from(config.to_string());
        let wire = |bytes: &[u8], media_type: &str| json!({ "mediaType": media_type, "digest": digest(bytes).to_string(), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": wire(&config, OCI_CONFIG),
            "layers": [wire(&layer, OCI_LAYER)],
            "annotations": { "seed": seed.to_string() },
        });
        Image { manifest: Bytes::from(manifest.to_string()), config, layer }
    }

    /// Everything, each with what the store remembers of it.
    fn parts(&self) -> [(&Bytes, Value); 3] {
        let blob = "application/octet-stream";
        [
            (&self.manifest, descriptor(&self.manifest, OCI_MANIFEST)),
            (&self.config, descriptor(&self.config, blob)),
            (&self.layer, descriptor(&self.layer, blob)),
        ]
    }
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// What a tag pointed at.
fn tag(image: &Image) -> Value {
    json!({ "descriptor": descriptor(&image.manifest, OCI_MANIFEST), "checked_at": THEN, "since": THEN - 1000 })
}

fn seen(image: &Image, at: u64) -> String {
    let entry = json!({
        "digest": digest(&image.manifest).to_string(), "media_type": OCI_MANIFEST, "size": image.manifest.len(),
        "at": at, "from": "docker.io",
    });
    format!("{entry}\n")
}

/// The store: a tag that moved from one image to the other, pinned, and one that is frozen to the earlier one.
fn left_by_the_first_version(store: &Path, [old, new]: [&Image; 2]) {
    write(&store.join("format"), "registry-mirror store format 1\n");
    write(&store.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    write(&store.join("lock"), "4711\n");
    fs::create_dir_all(store.join("ingest")).unwrap();
    fs::create_dir_all(store.join("blobs/sha512")).unwrap();
    let repository = store.join("repositories/docker.io/library/app");
    for (bytes, remembered) in old.parts().into_iter().chain(new.parts()) {
        let hex = digest(bytes).hex();
        write(&store.join("blobs/sha256").join(&hex), bytes);
        write(&repository.join("_links/sha256").join(&hex), remembered.to_string());
    }
    for accepted in [DOCKER, EVERYTHING, "none"] {
        write(&repository.join("_tags/1").join(accepted), tag(new).to_string());
    }
    write(&repository.join("_tags/1/history"), seen(old, THEN - 2000) + &seen(new, THEN - 1000));
    write(&repository.join("_pins/1"), json!("docker.io/library/app:1").to_string());
    write(&repository.join("_frozen/still"), json!(digest(&old.manifest).to_string()).to_string());
}

/// Its index, closed in good order.
fn with_an_index(store: &Path, images: [&Image; 2]) {
    let path = store.join("metadata");
    let index = sled::open(&path).unwrap();
    let (tags, members) = (index.open_tree("tags").unwrap(), index.open_tree("members").unwrap());
    index.open_tree("pages").unwrap();
    for accepted in [DOCKER, EVERYTHING, "none"] {
        let key = format!("docker.io\0library/app\x001\0{accepted}");
        tags.insert(key, tag(images[1]).to_string().as_bytes()).unwrap();
    }
    for (bytes, remembered) in images.iter().flat_map(|image| image.parts()) {
        let key = format!("docker.io\0library/app\0{}", digest(bytes));
        members.insert(key, remembered.to_string().as_bytes()).unwrap();
    }
    index.insert("closings", "1").unwrap();
    index.flush().unwrap();
    drop((tags, members, index));
    write(&path.join("closed-in-order"), "1");
}

async fn look(mirror: &TestMirror, path: &str) -> Value {
    let response = client::get(mirror.admin, &format!("/api/v1/{path}"), &[("Host", "127.0.0.1")]).await;
    assert_eq!(response.status, 200, "{path}: {:?}", response.body);
    serde_json::from_slice(&response.body).expect("JSON")
}

async fn serves_it_all(mirror: &TestMirror, [old, new]: [&Image; 2]) {
    let manifest = |reference: &str| format!("/v2/library/app/manifests/{reference}");
    let docker = [("Accept", OCI_MANIFEST), ("Accept", "application/vnd.docker.distribution.manifest.v2+json")];
    for (path, headers, expected) in [
        (manifest("1"), &[][..], &new.manifest),
        (manifest("1"), &docker, &new.manifest),
        (manifest(&digest(&new.manifest).to_string()), &[], &new.manifest),
        (manifest(&digest(&old.manifest).to_string()), &docker, &old.manifest),
        (manifest("still"), &docker, &old.manifest),
        (format!("/v2/library/app/blobs/{}", digest(&new.layer)), &[], &new.layer),
        (format!("/v2/library/app/blobs/{}", digest(&old.config)), &[], &old.config),
    ] {
        let response = mirror.get_with(&path, headers).await;
        assert!(response.status == 200 && response.complete && response.body == *expected, "{path}: {response:?}");
    }
    let images = look(mirror, "images").await;
    let told = images["images"].as_array().unwrap().iter().map(|image| {
        let told = |key: &str| image[key].clone();
        json!([told("image"), told("digest"), told("state"), told("pinned"), told("frozen")])
    });
    let [earlier, later] = [old, new].map(|image| digest(&image.manifest).to_string());
    assert_eq!(
        json!(told.collect::<Vec<_>>()),
        json!([
            ["docker.io/library/app:1", later, "complete", true, false],
            ["docker.io/library/app:still", earlier, "complete", false, true],
        ])
    );
    let history = look(mirror, "history?image=app:1").await;
    let digests: Vec<_> = history["history"].as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect();
    assert_eq!(digests, [earlier, later]);
}

#[tokio::test]
async fn a_store_of_the_first_version_opens_and_serves_with_its_index_and_without() {
    let (old, new) = (Image::new(61), Image::new(62));
    let images = [&old, &new];
    for has_index in [false, true] {
        let mut registry = Registry::start().await;
        let settings = Settings::of(&registry);
        registry.stop().await;
        left_by_the_first_version(settings.store(), images);
        if has_index {
            with_an_index(settings.store(), images);
        }
        let mirror = settings.start().await;
        serves_it_all(&mirror, images).await;
        let mirror = mirror.restart().await;
        serves_it_all(&mirror, images).await;
        let garbage = mirror.mirror.collect_garbage(false).await.expect("collects");
        assert_eq!((garbage.blobs, garbage.unreadable), (0, 0), "with an index: {has_index}");
        serves_it_all(&mirror, images).await;
    }
}
