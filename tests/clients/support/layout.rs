//! Writes images as OCI image layouts, byte for byte as the tests want them, so that every digest is known
//! before any registry or client has seen the image. Format: image-spec, image-layout.md.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use registry_mirror::oci::digest::{Algorithm, Digest, Verifier};
use serde_json::{Value, json};

/// Docker's or the OCI's media types: clients treat the two differently, so both are pulled.
#[derive(Clone, Copy)]
pub(crate) enum Dialect {
    /// Image manifest version 2, schema 2: what most older images on Docker Hub are.
    Docker,
    /// The OCI image specification.
    Oci,
}

impl Dialect {
    fn manifest(self) -> &'static str {
        match self {
            Dialect::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Dialect::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Dialect::Docker => "application/vnd.docker.container.image.v1+json",
            Dialect::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Dialect::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Dialect::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
}

/// A descriptor as JSON, ready to be put into a manifest or an index.
fn descriptor(media_type: &str, digest: Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

/// A layer in the layout: its blob, and the digest of the tar archive inside.
pub(crate) struct Layer {
    blob: Digest,
    size: u64,
    archive: Digest,
}

/// An image layout that is being written.
pub(crate) struct Layout {
    folder: PathBuf,
    dialect: Dialect,
}

impl Layout {
    /// Begins an empty layout in `folder`.
    pub(crate) fn create(folder: &Path, dialect: Dialect) -> Layout {
        fs::create_dir_all(folder.join("blobs/sha256")).expect("the layout's folder is made");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout is written");
        Layout { folder: folder.to_owned(), dialect }
    }

    /// Adds a layer, compressing the archive on its way.
    pub(crate) fn add_layer(&self, mut archive: impl Read) -> Layer {
        let unfinished = self.folder.join("layer");
        let file = File::create(&unfinished).expect("a layer file is made");
        let mut compressed = GzEncoder::new(Measured::new(file), Compression::fast());
        let mut plain = Measured::new(io::sink());
        let mut chunk = vec![0; 1 << 18];
        loop {
            let length = archive.read(&mut chunk).expect("the archive is readable");
            if length == 0 {
                break;
            }
            plain.write_all(&chunk[..length]).expect("a sink takes everything");
            compressed.write_all(&chunk[..length]).expect("the layer is written");
        }
        let (blob, size) = compressed.finish().expect("the layer is finished").finish();
        let (archive, _) = plain.finish();
        fs::rename(unfinished, self.blob_path(blob)).expect("the layer gets its name");
        Layer { blob, size, archive }
    }

    /// Writes configuration and manifest over these layers; returns the manifest's descriptor.
    pub(crate) fn add_manifest(&self, layers: &[Layer]) -> Value {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| layer.archive.to_string()).collect::<Vec<_>>() },
            "history": layers.iter().map(|_| json!({ "created_by": "registry-mirror tests" })).collect::<Vec<_>>(),
        });
        let layers: Vec<Value> =
            layers.iter().map(|layer| descriptor(self.dialect.layer(), layer.blob, layer.size)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.dialect.manifest(),
            "config": self.add_json(self.dialect.config(), &config),
            "layers": layers,
        });
        self.add_json(self.dialect.manifest(), &manifest)
    }

    /// Writes an index over one manifest, for the platform we run on; returns the index's descriptor.
    pub(crate) fn add_index(&self, mut manifest: Value) -> Value {
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        manifest["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        self.add_json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] }))
    }

    /// Ends the layout: `root` is what its one name refers to.
    pub(crate) fn finish(self, root: &Value) {
        let index = json!({ "schemaVersion": 2, "manifests": [root] });
        fs::write(self.folder.join("index.json"), index.to_string()).expect("index.json is written");
    }

    fn add_json(&self, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        fs::write(self.blob_path(digest), &bytes).expect("a blob is written");
        descriptor(media_type, digest, bytes.len() as u64)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }
}

/// The architecture we run on, by Go's name for it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Passes bytes on, and keeps their digest and number.
struct Measured<W> {
    inner: W,
    verifier: Verifier,
    length: u64,
}

impl<W> Measured<W> {
    fn new(inner: W) -> Measured<W> {
        Measured { inner, verifier: Verifier::new(Algorithm::Sha256), length: 0 }
    }

    fn finish(self) -> (Digest, u64) {
        (self.verifier.finish(), self.length)
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.verifier.update(&bytes[..length]);
        self.length += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
