//! What is in a bundle: the names of its entries and the shapes of its JSON files. Pure.
//!
//! An entry of a tar is a name that somebody else chose. [`Entry::of`] turns it into one of a closed
//! set of things; nothing else of the name is ever used. Formats: image-spec 1.1, image-layout.md;
//! `manifest.json` is docker's, as `docker save` has written it since Docker 1.10.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::oci::{AcceptSet, Descriptor, Digest, ImageName, MediaType, Platform, Reference, RegistryName, Repository};

/// Says that the tar is an image layout. The first entry, for readers that decide early.
pub const OCI_LAYOUT: &str = "oci-layout";
/// The images of the layout.
pub const INDEX: &str = "index.json";
/// What we say about the bundle.
pub const DESCRIPTION: &str = "mirror-bundle.json";
/// What `docker load` reads.
pub const DOCKER_MANIFEST: &str = "manifest.json";
/// What the first entry says.
pub const OCI_LAYOUT_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The name of an image as containerd and docker read it; always whole.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The name of an image as the image layout has it; `skopeo` and `podman` read it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The version of [`Description`] that we write and understand.
pub const VERSION: u32 = 1;

/// What an entry of a bundle is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// [`OCI_LAYOUT`].
    Layout,
    /// [`INDEX`].
    Index,
    /// [`DESCRIPTION`].
    Description,
    /// Content, by the digest it should have.
    Blob(Digest),
    /// Nothing that we read. Layouts may contain further files.
    Other,
}

/// A name that tries to lead somewhere: absolute, with `..`, or not one that a tool would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name leads out of the bundle or is not plain")]
pub struct PathTrick;

impl Entry {
    /// What the entry of this name is.
    ///
    /// # Errors
    /// [`PathTrick`].
    pub fn of(name: &[u8]) -> Result<Entry, PathTrick> {
        let name = std::str::from_utf8(name).map_err(|_| PathTrick)?;
        // `tar` writes `./` in front when a folder is packed from within, and `/` behind folders.
        let name = name.strip_prefix("./").unwrap_or(name);
        let plain = name.strip_suffix('/').unwrap_or(name);
        if plain.is_empty() {
            return if name.is_empty() { Ok(Entry::Other) } else { Err(PathTrick) };
        }
        let trick = |component: &str| {
            matches!(component, "" | "." | "..") || component.chars().any(|c| c.is_control() || c == '\\')
        };
        if plain.split('/').any(trick) {
            return Err(PathTrick);
        }
        Ok(match name {
            OCI_LAYOUT => Entry::Layout,
            INDEX => Entry::Index,
            DESCRIPTION => Entry::Description,
            _ => blob(name).map_or(Entry::Other, Entry::Blob),
        })
    }
}

fn blob(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The name of the entry of a blob.
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// `mirror-bundle.json`: what the maker of a bundle says about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`VERSION`].
    pub version: u32,
    /// The program and its version.
    pub made_by: String,
    /// When.
    pub made_at: Timestamp,
    /// The images, in the order of their names.
    pub images: Vec<DescribedImage>,
    /// The blobs in the bundle, in their order.
    pub contents: Vec<Listed>,
    /// Blobs that belong to the images and are not in the bundle, because the other side has them.
    pub left_out: Vec<Listed>,
}

/// Content and its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Which.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedImage {
    /// The upstream it is from.
    pub upstream: RegistryName,
    /// The repository there.
    pub repository: Repository,
    /// The tag; none for an image that was exported by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<crate::oci::Tag>,
    /// The manifest or index.
    pub manifest: Descriptor,
    /// The platforms that are there, where they are known.
    pub platforms: Vec<Platform>,
    /// What the tag pointed at for different clients.
    #[serde(default)]
    pub pointers: Vec<Pointer>,
}

impl DescribedImage {
    /// The whole name.
    pub fn name(&self) -> ImageName {
        ImageName {
            registry: self.upstream.clone(),
            repository: self.repository.clone(),
            reference: self.tag.clone().map_or(Reference::Digest(self.manifest.digest), Reference::Tag),
        }
    }
}

/// What a tag pointed at for clients that accept a certain set of manifest types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The set.
    pub accept: AcceptSet,
    /// The manifest.
    pub manifest: Descriptor,
    /// When upstream last said so.
    pub checked_at: Timestamp,
    /// When upstream first said so.
    pub since: Timestamp,
}

/// `index.json`, as far as we write and read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// That of an image index.
    #[serde(default)]
    pub media_type: Option<String>,
    /// The images.
    #[serde(deserialize_with = "usable")]
    pub manifests: Vec<Root>,
}

/// An image in [`Index`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// Of its manifest.
    pub media_type: MediaType,
    /// Of its manifest. A string: a layout may contain digests that we cannot verify.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// Its names; what else is annotated is not kept.
    #[serde(default, deserialize_with = "names", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The images whose digest can be verified: others can neither be kept nor be served.
fn usable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Root>, D::Error> {
    struct Usable;
    impl<'de> Visitor<'de> for Usable {
        type Value = Vec<Root>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of images")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut images: A) -> Result<Vec<Root>, A::Error> {
            let mut usable = Vec::new();
            while let Some(root) = images.next_element::<Root>()? {
                if root.manifest().is_some() {
                    usable.push(root);
                }
            }
            Ok(usable)
        }
    }
    deserializer.deserialize_seq(Usable)
}

/// The annotations that are names.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("annotations")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut annotations: A) -> Result<BTreeMap<String, String>, A::Error> {
            let mut names = BTreeMap::new();
            while let Some(key) = annotations.next_key::<String>()? {
                if [CONTAINERD_NAME, REF_NAME].contains(&key.as_str()) {
                    names.insert(key, annotations.next_value()?);
                } else {
                    annotations.next_value::<IgnoredAny>()?;
                }
            }
            Ok(names)
        }
    }
    deserializer.deserialize_map(Names)
}

impl Root {
    /// An image with a name, or without one for what only belongs to others.
    pub fn new(manifest: &Descriptor, name: Option<&ImageName>) -> Root {
        let name = name.map(ToString::to_string);
        let annotations =
            [CONTAINERD_NAME, REF_NAME].into_iter().filter_map(|key| Some((key.to_owned(), name.clone()?)));
        Root {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.to_string(),
            size: manifest.size,
            annotations: annotations.collect(),
        }
    }

    /// Its manifest; none if the digest cannot be verified.
    pub fn manifest(&self) -> Option<Descriptor> {
        let digest = self.digest.parse().ok()?;
        Some(Descriptor { digest, size: self.size, media_type: self.media_type.clone() })
    }

    /// Its name, where it has a whole one: some tools write a tag alone.
    pub fn name(&self) -> Option<ImageName> {
        let whole = |name: &&String| name.contains('/');
        let name = self.annotations.get(CONTAINERD_NAME).or_else(|| self.annotations.get(REF_NAME).filter(whole))?;
        name.parse().ok()
    }
}

impl Index {
    /// An index of these images.
    pub fn new(manifests: Vec<Root>) -> Index {
        Index { schema_version: 2, media_type: Some(MediaType::ImageIndex.to_string()), manifests }
    }
}

/// An image in `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// The entry of its configuration.
    pub config: String,
    /// Its names.
    pub repo_tags: Vec<String>,
    /// The entries of its layers, the lowest first.
    pub layers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn every_file_of_a_bundle_is_known_by_its_name() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            assert_eq!(Entry::of(blob_name(&digest).as_bytes()), Ok(Entry::Blob(digest)));
        }
        for (name, entry) in [
            ("oci-layout", Entry::Layout),
            ("./index.json", Entry::Index),
            ("mirror-bundle.json", Entry::Description),
            ("manifest.json", Entry::Other),
            ("blobs/", Entry::Other),
            ("./", Entry::Other),
            ("blobs/sha256/abc", Entry::Other),
            ("blobs/md5/d41d8cd98f00b204e9800998ecf8427e", Entry::Other),
            ("blobs/index.json", Entry::Other),
            ("index.json/", Entry::Other),
        ] {
            assert_eq!(Entry::of(name.as_bytes()), Ok(entry), "{name}");
        }
    }

    #[test]
    fn a_name_that_leads_somewhere_is_a_trick() {
        let hex = Digest::of(Algorithm::Sha256, b"x").hex();
        for name in [
            "/index.json",
            "../index.json",
            "blobs/../index.json",
            &format!("blobs/sha256/../../{hex}"),
            &format!("blobs/sha256//{hex}"),
            &format!("/blobs/sha256/{hex}"),
            "././index.json",
            "..",
            "/",
            ".//",
            "blobs\\..\\x",
            "index.json\0",
        ] {
            assert_eq!(Entry::of(name.as_bytes()), Err(PathTrick), "{name:?}");
        }
        assert_eq!(Entry::of(b"blobs/\xff"), Err(PathTrick));
    }

    #[test]
    fn a_tag_alone_is_not_a_name() {
        let manifest =
            Descriptor { digest: Digest::of(Algorithm::Sha256, b"x"), size: 1, media_type: MediaType::ImageManifest };
        let name: ImageName = "redis:7".parse().expect("a name");
        let mut root = Root::new(&manifest, Some(&name));
        assert_eq!((root.name().as_ref(), root.manifest().as_ref()), (Some(&name), Some(&manifest)));
        root.annotations.remove(CONTAINERD_NAME);
        assert_eq!(root.name(), Some(name));
        root.annotations.insert(REF_NAME.to_owned(), "7".to_owned());
        assert_eq!(root.name(), None);
    }
}
