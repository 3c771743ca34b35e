//! The images that the clients pull, made once and kept below `target/tmp`: from Docker Hub a Debian root file
//! system in Docker's format, and ten small layers in the OCI format behind an index; from a second registry
//! some layers more. Beside them lie the registry storages they were pushed into, one for each registry, which
//! the upstreams of all tests serve read-only.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use registry_mirror::oci::digest::{Algorithm, Digest};
use serde_json::Value;

use super::layout::{Dialect, Layer, Layout};
use super::registry::Registry;
use super::{command, workspace::Workspace};

/// The seeds of the layers: more than any client fetches at the same time.
const SMALL_LAYERS: Range<u8> = 0..10;
/// The second registry has nothing that the first one has.
const OTHER_LAYERS: Range<u8> = 100..103;
const SMALL_LAYER_BYTES: usize = 300_000;

/// An image as it was made; the truth that pulled content is compared with.
#[derive(Clone)]
pub(crate) struct Image {
    /// The registry's name.
    pub(crate) registry: &'static str,
    /// The repository in the registry.
    pub(crate) repository: &'static str,
    /// What the tag refers to: a manifest or an index.
    pub(crate) root: Digest,
    /// The manifest of the platform we run on.
    pub(crate) manifest: Digest,
    /// The configuration.
    pub(crate) config: Digest,
    /// Configuration and layers.
    pub(crate) blobs: BTreeSet<Digest>,
    layout: PathBuf,
}

impl Image {
    /// The tag all images have.
    pub(crate) const TAG: &str = "test";

    /// The full reference.
    pub(crate) fn reference(&self) -> String {
        format!("{}/{}:{}", self.registry, self.repository, Image::TAG)
    }

    /// The exact bytes that were pushed under this digest.
    pub(crate) fn content(&self, digest: Digest) -> Vec<u8> {
        read_blob(&self.layout, digest)
    }

    fn read(registry: &'static str, repository: &'static str, layout: &Path) -> Image {
        let name: Value = parse(&fs::read(layout.join("index.json")).expect("index.json is readable"));
        let root = digest_of(&name["manifests"][0]);
        let top = parse(&read_blob(layout, root));
        let manifest = if top["manifests"].is_array() { digest_of(&top["manifests"][0]) } else { root };
        let parts = parse(&read_blob(layout, manifest));
        let config = digest_of(&parts["config"]);
        let layers = parts["layers"].as_array().expect("a manifest has layers").iter().map(digest_of);
        let blobs = layers.chain([config]).collect();
        Image { registry, repository, root, manifest, config, blobs, layout: layout.to_owned() }
    }
}

/// The images and the registry storages that hold them.
pub(crate) struct Images {
    /// A Debian root file system: containers are run from it.
    pub(crate) debian: Image,
    /// Ten small layers behind an index.
    pub(crate) layered: Image,
    /// An image of the second registry.
    pub(crate) other: Image,
    folder: PathBuf,
}

impl Images {
    /// The name of the second registry: one that the mirror knows without configuration.
    pub(crate) const OTHER_REGISTRY: &str = "ghcr.io";

    /// The images; made by the first caller, then shared by all. Fails only when the distribution's packages
    /// cannot be had, with the reason.
    pub(crate) fn get() -> Result<&'static Images, String> {
        static IMAGES: OnceLock<Result<Images, String>> = OnceLock::new();
        let images = IMAGES.get_or_init(|| {
            let folder = cache_folder();
            if !folder.exists() {
                make(&folder)?;
            }
            Ok(Images::read(&folder))
        });
        images.as_ref().map_err(String::clone)
    }

    /// All images.
    pub(crate) fn all(&self) -> [&Image; 3] {
        [&self.debian, &self.layered, &self.other]
    }

    /// The root folder of the file system storage with the images of this registry.
    pub(crate) fn storage(&self, registry: &str) -> PathBuf {
        self.folder.join("storage").join(registry)
    }

    fn read(folder: &Path) -> Images {
        let hub = |name, layout| Image::read("docker.io", name, &folder.join(layout));
        Images {
            debian: hub("library/registry-mirror-debian", "debian"),
            layered: hub("library/registry-mirror-layered", "layered"),
            other: Image::read(Images::OTHER_REGISTRY, "registry-mirror/other", &folder.join("other")),
            folder: folder.to_owned(),
        }
    }
}

/// Named after the code that makes the images, so that a changed recipe makes new ones.
fn cache_folder() -> PathBuf {
    let recipe = [include_bytes!("image.rs").as_slice(), include_bytes!("layout.rs")].concat();
    let recipe = Digest::of(Algorithm::Sha256, &recipe).hex();
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("client-images").join(&recipe[..16])
}

/// Makes the images beside `folder` and gives them their name when all is there: a half-made set is never used.
fn make(folder: &Path) -> Result<(), String> {
    let parent = folder.parent().expect("the cache folder has a parent");
    if parent.exists() {
        fs::remove_dir_all(parent).expect("images of an older recipe are removed");
    }
    fs::create_dir_all(parent).expect("the cache folder is made");
    let unfinished = tempfile::tempdir_in(parent).expect("a folder is made");

    make_debian(&unfinished.path().join("debian"))?;
    make_layered(&unfinished.path().join("layered"), SMALL_LAYERS);
    make_layered(&unfinished.path().join("other"), OTHER_LAYERS);
    let images = Images::read(unfinished.path());
    for image in images.all() {
        push(image, &images.storage(image.registry));
    }
    fs::rename(unfinished.keep(), folder).expect("the finished images get their name");
    Ok(())
}

/// Pushes an image into a registry that is started over `storage` for just that.
fn push(image: &Image, storage: &Path) {
    fs::create_dir_all(storage).expect("the registry's folder is made");
    let workspace = Workspace::new();
    let registry = Registry::writable("registry", storage, &workspace);
    command::run(
        command::confined("skopeo")
            .args(["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", image.layout.display()))
            .arg(format!("docker://{}/{}:{}", registry.address(), image.repository, Image::TAG)),
    );
}

/// A minimal Debian (or whatever distribution this machine's apt knows) as one layer.
fn make_debian(folder: &Path) -> Result<(), String> {
    let (mirror, suite) = distribution();
    let workspace = Workspace::new();
    let root = workspace.path("root");
    let debootstrap = command::output(
        command::unconfined("debootstrap").arg("--variant=minbase").arg(&suite).arg(&root).arg(&mirror),
    );
    if !debootstrap.status.success() {
        let said = String::from_utf8_lossy(&debootstrap.stdout);
        let reason = said.lines().last().unwrap_or_default();
        return Err(format!("a root file system (debootstrap of {suite} from {mirror}: {reason})"));
    }

    let layout = Layout::create(folder, Dialect::Docker);
    let mut tar = command::confined("tar")
        .arg("--directory")
        .arg(&root)
        .args(["--create", "--numeric-owner", "--sort=name"])
        .args(["--exclude=./dev/*", "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "."])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar starts");
    let layer = layout.add_layer(tar.stdout.take().expect("tar's output is a pipe"));
    assert!(tar.wait().expect("tar ends").success(), "tar failed");
    let manifest = layout.add_manifest(&[layer]);
    layout.finish(&manifest);
    Ok(())
}

/// Where this machine's own packages come from: the mirror and the suite, as apt has them configured. The
/// distribution itself has an updates suite beside the base; the archives of third parties do not.
fn distribution() -> (String, String) {
    let uris = command::run(command::unconfined("apt-get").args(["--print-uris", "update"]));
    let releases: Vec<(&str, &str)> = uris
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_once("/InRelease'")?.0.rsplit_once("/dists/"))
        .collect();
    let base = |(mirror, suite): &&(&str, &str)| releases.contains(&(*mirror, format!("{suite}-updates").as_str()));
    let (mirror, suite) =
        releases.iter().find(base).or(releases.first()).unwrap_or_else(|| panic!("apt has no sources:\n{uris}"));
    ((*mirror).to_owned(), (*suite).to_owned())
}

/// Layers of one file each, with content that does not compress, the same on every machine.
fn make_layered(folder: &Path, seeds: Range<u8>) {
    let layout = Layout::create(folder, Dialect::Oci);
    let layers: Vec<Layer> = seeds.map(|number| layout.add_layer(small_archive(number).as_slice())).collect();
    let manifest = layout.add_manifest(&layers);
    let index = layout.add_index(manifest);
    layout.finish(&index);
}

fn small_archive(number: u8) -> Vec<u8> {
    let mut content = Vec::with_capacity(SMALL_LAYER_BYTES);
    let mut block = Digest::of(Algorithm::Sha512, &[number]);
    while content.len() < SMALL_LAYER_BYTES {
        content.extend_from_slice(block.as_bytes());
        block = Digest::of(Algorithm::Sha512, block.as_bytes());
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, format!("layer-{number}"), content.as_slice())
        .expect("an archive in memory takes a file");
    archive.into_inner().expect("an archive in memory is finished")
}

fn read_blob(layout: &Path, digest: Digest) -> Vec<u8> {
    fs::read(layout.join("blobs/sha256").join(digest.hex())).expect("a blob of the layout is readable")
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("we wrote it as JSON")
}

fn digest_of(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().and_then(|digest| digest.parse().ok()).expect("a descriptor has a digest")
}
