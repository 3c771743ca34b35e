//! What is pulled: blobs, a manifest and an image, laid out as a folder that a plain web server can
//! serve as a registry, and as the storage of Docker's registry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use scripted_registry::{Algorithm, Content, Dialect, Digest, Image, noise};

pub const REPOSITORY: &str = "library/bench";
pub const TAG: &str = "1";
/// How many names there are for what is asked for by different names.
const NAMES: usize = 1000;

/// Everything there is to pull.
pub struct Images {
    /// The folder below which `/v2/…` is.
    pub web: PathBuf,
    /// The storage folder for Docker's registry.
    pub registry: PathBuf,
    /// One large blob.
    pub large: Digest,
    pub large_size: u64,
    /// Another one of that size, fetched before what is measured.
    pub spare: Digest,
    /// Many of middle size.
    pub middle: Vec<Digest>,
    pub middle_size: u64,
    /// One that only opens connections.
    pub small: Digest,
    /// The image of ten layers, whose manifest is what manifests are measured with.
    pub image: Image,
    /// Tags of many different manifests.
    pub names: Vec<String>,
}

impl Images {
    /// Makes and writes everything.
    pub fn make(folder: &Path, large: u64, middle: u64, how_many: usize) -> io::Result<Images> {
        let mut content = Content::default();
        let layers: Vec<Bytes> = (0..10).map(|seed| noise(500 + seed, 3 << 20)).collect();
        let image = content.add_image(REPOSITORY, TAG, &layers, Dialect::Docker);
        let manifest = content.repository(REPOSITORY).manifests[&image.manifest.digest].clone();
        let names: Vec<String> = (0..NAMES).map(|number| format!("name-{number}")).collect();
        for name in &names {
            let open = String::from_utf8_lossy(&manifest.bytes).trim_end().trim_end_matches('}').to_owned();
            let bytes = Bytes::from(format!("{open},\"annotations\":{{\"name\":\"{name}\"}}}}"));
            content.repository(REPOSITORY).add_manifest(Algorithm::Sha256, &[name], bytes, &manifest.media_type);
        }
        let holding = content.repository(REPOSITORY);
        let mut add = |seed, size: u64| {
            let bytes = noise(seed, usize::try_from(size).unwrap_or(0));
            holding.add_blob(Algorithm::Sha256, bytes, "application/octet-stream").digest
        };
        let images = Images {
            web: folder.join("web"),
            registry: folder.join("registry"),
            large: add(1, large),
            large_size: large,
            spare: add(3, large),
            middle: (0..how_many as u64).map(|seed| add(100 + seed, middle)).collect(),
            middle_size: middle,
            small: add(2, 10_000),
            image,
            names,
        };
        images.write(&content)?;
        Ok(images)
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        for (repository, holding) in &content.repositories {
            let web = self.web.join("v2").join(repository);
            let links = self.registry.join("docker/registry/v2/repositories").join(repository);
            for (digest, bytes) in &holding.blobs {
                write(&web.join(format!("blobs/{digest}")), bytes)?;
                self.write_registry_blob(digest, bytes)?;
                write(&links.join(format!("_layers/sha256/{}/link", digest.hex())), digest.to_string().as_bytes())?;
            }
            for (digest, manifest) in &holding.manifests {
                write(&web.join(format!("manifests/{digest}")), &manifest.bytes)?;
                self.write_registry_blob(digest, &manifest.bytes)?;
                let link = format!("_manifests/revisions/sha256/{}/link", digest.hex());
                write(&links.join(link), digest.to_string().as_bytes())?;
            }
            for (tag, digests) in &holding.tags {
                let Some(digest) = digests.first() else { continue };
                if let Some(manifest) = holding.manifests.get(digest) {
                    write(&web.join(format!("manifests/{tag}")), &manifest.bytes)?;
                }
                let tag = links.join(format!("_manifests/tags/{tag}"));
                write(&tag.join("current/link"), digest.to_string().as_bytes())?;
                write(&tag.join(format!("index/sha256/{}/link", digest.hex())), digest.to_string().as_bytes())?;
            }
        }
        Ok(())
    }

    fn write_registry_blob(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let hex = digest.hex();
        let folder = self.registry.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex);
        write(&folder.join("data"), bytes)
    }
}

pub fn blob_path(digest: &Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

pub fn manifest_path(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes)
}
