//! What a registry holds, and the images it makes: real tar layers, gzipped, with a configuration
//! whose `diff_ids` are true, so that real clients can unpack and run them.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use serde_json::json;

use super::{Algorithm, Descriptor, Digest};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Of what is just bytes.
pub const OCTETS: &str = "application/octet-stream";

/// A manifest as it was pushed.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// What was pushed.
    pub bytes: Bytes,
    /// The type that it was pushed with.
    pub media_type: String,
}

/// An image that the registry made.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where it is.
    pub repository: String,
    /// The tag it was given.
    pub tag: String,
    /// The manifest.
    pub manifest: Descriptor,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

impl Image {
    /// The size of configuration and layers together, in bytes.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// Which words an image is described in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OCI image manifest.
    Oci,
    /// Docker image manifest, schema 2.
    Docker,
}

/// Everything in a registry.
#[derive(Debug, Default)]
pub struct Content {
    /// By their names.
    pub repositories: HashMap<String, Holding>,
}

/// Everything in a repository.
#[derive(Debug, Default)]
pub struct Holding {
    /// By their digests.
    pub blobs: HashMap<Digest, Bytes>,
    /// By their digests.
    pub manifests: BTreeMap<Digest, StoredManifest>,
    /// Several manifests may answer to one tag; the first that the client accepts does.
    pub tags: BTreeMap<String, Vec<Digest>>,
}

impl Content {
    /// The repository, made if it is not there.
    pub fn repository(&mut self, name: &str) -> &mut Holding {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// Makes an image of one layer per item, each holding one file with these bytes.
    pub fn add_image(&mut self, repository: &str, tag: &str, files: &[Bytes], dialect: Dialect) -> Image {
        let holding = self.repository(repository);
        let (config_type, layer_type) = match dialect {
            Dialect::Oci => (OCI_CONFIG, OCI_LAYER),
            Dialect::Docker => (DOCKER_CONFIG, DOCKER_LAYER),
        };
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let (layer, diff_id) = layer(&format!("layer-{number}.bin"), file);
            diff_ids.push(diff_id.to_string());
            layers.push(holding.add_blob(Algorithm::Sha256, layer, layer_type));
        }
        let history: Vec<_> = diff_ids
            .iter()
            .map(|_| json!({"created": "2020-01-01T00:00:00Z", "created_by": "made for a test"}))
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": {"Cmd": ["/layer-0.bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = holding.add_blob(Algorithm::Sha256, Bytes::from(config.to_string()), config_type);
        let media_type = match dialect {
            Dialect::Oci => OCI_MANIFEST,
            Dialect::Docker => DOCKER_MANIFEST,
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": wire(&config), "layers": layers.iter().map(wire).collect::<Vec<_>>(),
        });
        let manifest = holding.add_manifest(Algorithm::Sha256, &[tag], pretty(&manifest), media_type);
        Image { repository: repository.to_owned(), tag: tag.to_owned(), manifest, config, layers }
    }

    /// Makes an index (or a Docker list) of images of this repository, one per platform.
    pub fn add_index(
        &mut self,
        repository: &str,
        tag: &str,
        images: &[(&Image, &str)],
        dialect: Dialect,
    ) -> Descriptor {
        let media_type = match dialect {
            Dialect::Oci => OCI_INDEX,
            Dialect::Docker => DOCKER_LIST,
        };
        let children: Vec<_> = images
            .iter()
            .map(|(image, architecture)| {
                let mut child = wire(&image.manifest);
                child["platform"] = json!({"architecture": architecture, "os": "linux"});
                child
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children});
        self.repository(repository).add_manifest(Algorithm::Sha256, &[tag], pretty(&index), media_type)
    }

    /// Makes an artifact (a signature, say) that refers to a manifest.
    pub fn add_referrer(
        &mut self,
        repository: &str,
        subject: &Descriptor,
        artifact_type: &str,
        blob: Bytes,
    ) -> Descriptor {
        let holding = self.repository(repository);
        let config = holding.add_blob(Algorithm::Sha256, Bytes::from_static(b"{}"), OCI_EMPTY);
        let layer = holding.add_blob(Algorithm::Sha256, blob, OCTETS);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type,
            "config": wire(&config), "layers": [wire(&layer)], "subject": wire(subject),
            "annotations": {"made-for": "a test"},
        });
        holding.add_manifest(Algorithm::Sha256, &[], pretty(&manifest), OCI_MANIFEST)
    }
}

impl Holding {
    /// Puts a blob there.
    pub fn add_blob(&mut self, algorithm: Algorithm, bytes: Bytes, media_type: &str) -> Descriptor {
        let descriptor = Descriptor::of(algorithm, &bytes, media_type);
        self.blobs.insert(descriptor.digest, bytes);
        descriptor
    }

    /// Puts a manifest there and points these tags at it, and at nothing else.
    pub fn add_manifest(&mut self, algorithm: Algorithm, tags: &[&str], bytes: Bytes, media_type: &str) -> Descriptor {
        let descriptor = Descriptor::of(algorithm, &bytes, media_type);
        self.manifests.insert(descriptor.digest, StoredManifest { bytes, media_type: media_type.to_owned() });
        for tag in tags {
            self.tags.insert((*tag).to_owned(), vec![descriptor.digest]);
        }
        descriptor
    }
}

/// A gzipped tar with one file, and the digest of the tar inside.
pub fn layer(name: &str, file: &[u8]) -> (Bytes, Digest) {
    let mut header = tar::Header::new_gnu();
    header.set_size(file.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_577_836_800);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, file).expect("a tar in memory is written");
    let archive = archive.into_inner().expect("a tar in memory is written");
    (gzip(&archive), Digest::of(Algorithm::Sha256, &archive))
}

/// The bytes gzipped, the same every time.
pub fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory").into()
}

/// Bytes that do not compress and are the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

fn wire(descriptor: &Descriptor) -> serde_json::Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    })
}

/// With white space, as real manifests have, so that whoever writes them anew is found out.
fn pretty(value: &serde_json::Value) -> Bytes {
    serde_json::to_vec_pretty(value).expect("a JSON value is written").into()
}
