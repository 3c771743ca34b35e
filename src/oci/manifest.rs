//! Manifests: the exact bytes the upstream sent, what they are called, and what they point at.
//!
//! The bytes are never written anew: any change of white space would change the digest. A manifest
//! is parsed only to learn its media type, where the upstream did not say, and its children.

use bytes::Bytes;
use serde::Deserialize;

use super::descriptor::{DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, Descriptor, MediaType};
use super::digest::{Algorithm, Digest};
use super::platform::Platform;

/// The largest manifest we read, in bytes. The specification asks for 4 MB at least.
pub const MAX_MANIFEST_SIZE: u64 = 8 << 20;

/// An image manifest or an image index: bytes and descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Digest, size and media type of `bytes`.
    pub descriptor: Descriptor,
    /// Exactly what the upstream sent.
    pub bytes: Bytes,
}

impl Manifest {
    /// Names bytes that just arrived: `algorithm` hashes them, `content_type` is what the upstream
    /// called them. Parameters are cut off; a type that says nothing (`text/plain`,
    /// `application/json`, `application/octet-stream`, none) is replaced by what the bytes say.
    pub fn from_wire(bytes: Bytes, content_type: Option<&str>, algorithm: Algorithm) -> Manifest {
        let descriptor = Descriptor {
            digest: Digest::of(algorithm, &bytes),
            size: bytes.len() as u64,
            media_type: media_type(content_type, &bytes),
        };
        Manifest { descriptor, bytes }
    }

    /// Whether the bytes have the shape that the media type says: a list of manifests, or a
    /// configuration. What has another shape leads to nothing that one could know.
    pub fn is_legible(&self) -> bool {
        let index = is_index(&self.descriptor.media_type);
        self.outline().is_some_and(|it| if index { it.manifests.is_some() } else { it.config.is_some() })
    }

    /// What the manifest points at: configuration and layers, or the manifests of an index.
    /// Empty for bytes that are neither; children with a digest we cannot verify are left out, and
    /// so are layers that live elsewhere (`urls`).
    pub fn children(&self) -> Children {
        let outline = self.outline().unwrap_or_default();
        let narrow = |list: Vec<Child>| {
            let ours = list.into_iter().filter(|child| child.urls.as_ref().is_none_or(Vec::is_empty));
            ours.filter_map(|child| child.descriptor()).collect()
        };
        Children {
            manifests: narrow(outline.manifests.unwrap_or_default()),
            blobs: narrow(outline.config.into_iter().chain(outline.layers.unwrap_or_default()).collect()),
        }
    }

    /// The manifests of an index, each with the platform it is for, where the index says so; empty
    /// for everything else. Those with a digest we cannot verify are left out.
    pub fn platforms(&self) -> Vec<(Descriptor, Option<Platform>)> {
        let manifests = self.outline().and_then(|outline| outline.manifests).unwrap_or_default();
        let known = |child: Child| Some((child.descriptor()?, Platform::deserialize(&child.platform).ok()));
        manifests.into_iter().filter_map(known).collect()
    }

    /// The manifest that this one says something about: it is a referrer of that one, a signature
    /// for instance.
    pub fn subject(&self) -> Option<Digest> {
        self.outline()?.subject?.digest.parse().ok()
    }

    fn outline(&self) -> Option<Outline> {
        serde_json::from_slice(&self.bytes).ok()
    }
}

/// What a manifest says of something that it points at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Child {
    digest: String,
    size: u64,
    #[serde(default)]
    media_type: String,
    urls: Option<Vec<String>>,
    /// Something that we cannot read is no reason not to know the rest.
    #[serde(default)]
    platform: serde_json::Value,
}

impl Child {
    /// `None` for a digest that we cannot verify.
    fn descriptor(&self) -> Option<Descriptor> {
        let media_type = MediaType::from(self.media_type.as_str());
        Some(Descriptor { digest: self.digest.parse().ok()?, size: self.size, media_type })
    }
}

/// The descriptors a manifest contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// Manifests of an image index.
    pub manifests: Vec<Descriptor>,
    /// Configuration first, then layers in order.
    pub blobs: Vec<Descriptor>,
}

/// The parts of a manifest that we read; everything else stays unread in the bytes.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    media_type: Option<String>,
    config: Option<Child>,
    layers: Option<Vec<Child>>,
    manifests: Option<Vec<Child>>,
    subject: Option<Child>,
}

fn media_type(content_type: Option<&str>, bytes: &[u8]) -> MediaType {
    declared_type(content_type).unwrap_or_else(|| inferred(bytes))
}

/// The media type that a `Content-Type` header gives to a manifest, without parameters; `None`
/// where it says nothing about manifests and the bytes have to be looked at.
pub fn declared_type(content_type: Option<&str>) -> Option<MediaType> {
    let declared = content_type?.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match declared.as_str() {
        "" | "text/plain" | "application/json" | "application/octet-stream" => None,
        declared => Some(MediaType::from(declared)),
    }
}

fn inferred(bytes: &[u8]) -> MediaType {
    match serde_json::from_slice::<Outline>(bytes) {
        Ok(Outline { media_type: Some(media_type), .. }) => MediaType::from(media_type.as_str()),
        Ok(Outline { manifests: Some(_), .. }) => MediaType::ImageIndex,
        Ok(Outline { config: Some(_), .. }) => MediaType::ImageManifest,
        _ => MediaType::from("application/octet-stream"),
    }
}

/// Whether this is a manifest of the first schema. Its digest is that of a part of its bytes, so
/// that it cannot be verified, stored or served by digest like anything else.
pub fn is_first_schema(content_type: Option<&str>, bytes: Option<&[u8]>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Schema {
        schema_version: u64,
    }
    match declared_type(content_type) {
        Some(declared) => [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED].contains(&declared.as_ref()),
        None => bytes
            .and_then(|bytes| serde_json::from_slice::<Schema>(bytes).ok())
            .is_some_and(|schema| schema.schema_version == 1),
    }
}

/// Whether manifests of this type point at further manifests.
pub fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex || media_type.as_ref() == DOCKER_LIST
}

/// Whether manifests of this type point at a configuration and layers.
pub fn is_image(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageManifest || media_type.as_ref() == DOCKER_MANIFEST
}

/// Whether something of this type leads to other content.
pub fn is_manifest(media_type: &MediaType) -> bool {
    is_image(media_type) || is_index(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}"#;

    fn manifest(json: String, content_type: Option<&str>) -> Manifest {
        Manifest::from_wire(Bytes::from(json), content_type, Algorithm::Sha256)
    }

    #[test]
    fn the_media_type_is_the_upstreams_unless_it_says_nothing() {
        let image = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#.to_owned();
        let named = format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#);
        let oci = "application/vnd.oci.image.manifest.v1+json";
        for (json, content_type, expected) in [
            (&image, Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"), DOCKER_MANIFEST),
            (&image, Some("text/plain"), oci),
            (&image, None, oci),
            (&index, Some("application/json; charset=utf-8"), "application/vnd.oci.image.index.v1+json"),
            (&named, Some("application/octet-stream"), DOCKER_LIST),
            (&"not json".to_owned(), None, "application/octet-stream"),
        ] {
            let manifest = manifest(json.clone(), content_type);
            assert_eq!(manifest.descriptor.media_type.as_ref(), expected, "{json} {content_type:?}");
            assert_eq!(manifest.bytes, json.as_bytes());
        }
    }

    #[test]
    fn the_first_schema_is_known_by_its_type_or_its_number() {
        let (one, two) =
            (Some(br#"{"schemaVersion":1,"name":"x"}"#.as_slice()), Some(br#"{"schemaVersion":2}"#.as_slice()));
        for (content_type, bytes, expected) in [
            (Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), None, true),
            (Some("application/vnd.docker.distribution.manifest.v1+json; charset=utf-8"), two, true),
            (Some("application/json"), one, true),
            (None, one, true),
            (Some("application/json"), two, false),
            (Some("text/plain"), None, false),
            (Some(DOCKER_MANIFEST), one, false),
            (None, Some(b"not json".as_slice()), false),
        ] {
            assert_eq!(is_first_schema(content_type, bytes), expected, "{content_type:?}");
        }
    }

    #[test]
    fn what_has_not_the_shape_of_its_media_type_is_not_legible() {
        let (image, index) = (MediaType::ImageManifest, MediaType::ImageIndex);
        let config = format!(r#"{{"config":{CONFIG}}}"#);
        for (json, media_type, expected) in [
            (config.as_str(), &image, true),
            (config.as_str(), &index, false),
            (r#"{"manifests":[]}"#, &index, true),
            (r#"{"manifests":null}"#, &index, false),
            (r#"{"manifests":[{"digest":1}]}"#, &index, false),
            (r#"{"manifests":[]}"#, &image, false),
            ("{}", &image, false),
            ("[]", &index, false),
            ("", &image, false),
        ] {
            let manifest = manifest(json.to_owned(), Some(media_type.as_ref()));
            assert_eq!(manifest.is_legible(), expected, "{json} {media_type}");
        }
    }

    #[test]
    fn children_are_configuration_and_layers_without_foreign_ones() {
        let layer = CONFIG.replace("image.config.v1+json", "image.layer.v1.tar");
        let foreign = layer.replace("\"size\":2", "\"size\":2,\"urls\":[\"https://elsewhere.example/x\"]");
        let unknown = layer.replace("sha256:", "blake3:");
        let json = format!(r#"{{"config":{CONFIG},"layers":[{layer},{foreign},{unknown}]}}"#);
        let children = manifest(json, None).children();
        let types: Vec<_> = children.blobs.iter().map(|d| d.media_type.to_string()).collect();
        assert_eq!(types, ["application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"]);
        assert!(children.manifests.is_empty());
    }
}
