//! Manifests: the exact bytes the upstream sent, what they are called, and what they point at.
//!
//! The bytes are never written anew: any change of white space would change the digest. A manifest
//! is parsed only to learn its media type, where the upstream did not say, and its children.

mod outline;

use bytes::Bytes;

use super::descriptor::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, Descriptor, MediaType, OCTET_STREAM,
    ORAS_ARTIFACT,
};
use super::digest::{Algorithm, Digest};
use super::platform::Platform;
pub use outline::MOST_NESTED;
pub(super) use outline::{Outline, is_too_deep};

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
            media_type: declared_type(content_type)
                .or_else(|| Outline::read(&bytes)?.inferred())
                .unwrap_or_else(|| MediaType::from(OCTET_STREAM)),
        };
        Manifest { descriptor, bytes }
    }

    /// What the manifest points at: configuration and layers, or what an index lists.
    pub fn children(&self) -> Children {
        let Some(outline) = Outline::read(&self.bytes) else {
            return Children { unreadable: 1, ..Children::default() };
        };
        let Outline { config, layers, blobs, manifests, .. } = outline;
        let all = [&config, &layers, &blobs, &manifests];
        let unreadable: usize = all.iter().map(|entries| entries.unreadable).sum();
        let is_bare = is_image(&self.descriptor.media_type) && !config.given && !layers.given;
        let (odd, manifests): (Vec<_>, Vec<_>) = manifests.list.into_iter().partition(|(entry, _)| entry.is_of_blob());
        let blobs = [config.list, layers.list, blobs.list, odd].into_iter().flatten();
        let called = |media_type: MediaType| match media_type.as_ref() {
            "" => MediaType::from(OCTET_STREAM),
            _ => media_type,
        };
        let blobs = blobs.map(|(blob, _)| Descriptor { media_type: called(blob.media_type), ..blob }).collect();
        Children { manifests, blobs, unreadable: unreadable + usize::from(is_bare) }
    }

    /// The manifest that this one says something about: it is a referrer of that one, a signature
    /// for instance.
    pub fn subject(&self) -> Option<Digest> {
        Outline::read(&self.bytes)?.subject.list.first().map(|(subject, _)| subject.digest)
    }
}

/// The descriptors a manifest contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// Manifests of an image index, each with the platform it is for, where the index says so.
    pub manifests: Vec<(Descriptor, Option<Platform>)>,
    /// Configuration first, then layers in order, also those that carry `urls`; or what of an index is no
    /// manifest, as in the caches of BuildKit.
    pub blobs: Vec<Descriptor>,
    /// How many more there are, of which digest or size cannot be read; an image that names nothing has one.
    pub unreadable: usize,
}

/// The platform that the configuration of an image names.
pub fn platform_of(configuration: &[u8]) -> Option<Platform> {
    outline::platform_of(configuration)
}

/// The media type that a `Content-Type` header gives to a manifest, without parameters; `None`
/// where it says nothing about manifests and the bytes have to be looked at.
pub fn declared_type(content_type: Option<&str>) -> Option<MediaType> {
    let declared = content_type?.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match declared.as_str() {
        "" | "text/plain" | "application/json" | "application/octet-stream" | "binary/octet-stream" => None,
        declared => Some(MediaType::from(declared)),
    }
}

impl Outline {
    /// The media type of a manifest that came without one; `None` where it has the shape of none.
    pub(super) fn inferred(&self) -> Option<MediaType> {
        match &self.media_type {
            Some(media_type) if declared_type(Some(media_type)).is_some() => Some(MediaType::from(media_type.as_str())),
            _ if self.manifests.named => Some(MediaType::ImageIndex),
            _ if self.config.given || self.layers.given => Some(MediaType::ImageManifest),
            _ if self.blobs.given => Some(MediaType::ArtifactManifest),
            _ => None,
        }
    }
}

/// Whether this is a manifest of the first schema. Its digest is that of a part of its bytes, so
/// that it cannot be verified, stored or served by digest like anything else.
pub fn is_first_schema(content_type: Option<&str>, bytes: Option<&[u8]>) -> bool {
    match declared_type(content_type) {
        Some(declared) => [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED].contains(&declared.as_ref()),
        None => bytes.and_then(Outline::read).is_some_and(|outline| outline.schema_version == Some(1)),
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

/// Whether manifests of this type point at blobs alone, for whatever purpose.
pub fn is_artifact(media_type: &MediaType) -> bool {
    *media_type == MediaType::ArtifactManifest || media_type.as_ref() == ORAS_ARTIFACT
}

/// Whether something of this type leads to other content.
pub fn is_manifest(media_type: &MediaType) -> bool {
    is_image(media_type) || is_index(media_type) || is_artifact(media_type)
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
    fn children_are_configuration_and_layers_also_those_that_carry_urls() {
        let layer = CONFIG.replace("image.config.v1+json", "image.layer.v1.tar");
        let foreign = layer.replace("\"size\":2", "\"size\":2,\"urls\":[\"https://elsewhere.example/x\"]");
        let json = format!(r#"{{"config":{CONFIG},"layers":[{layer},{foreign}]}}"#);
        let children = manifest(json, None).children();
        let types: Vec<_> = children.blobs.iter().map(|d| d.media_type.to_string()).collect();
        let layer = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(types, ["application/vnd.oci.image.config.v1+json", layer, layer]);
        assert!(children.manifests.is_empty() && children.unreadable == 0);
    }

    #[test]
    fn what_some_reader_may_see_of_a_manifest_is_seen_and_what_nobody_can_read_is_counted() {
        let digest = |number: usize| format!("sha256:{number:064}");
        let layer = |number: usize| format!(r#"{{"digest":"{}","size":{number}}}"#, digest(number));
        let odd = format!(r#"{{"digest":"{}","size":1,"annotations":{{"x":null}},"mediaType":null}}"#, digest(1));
        let deep = format!(r#"{{"x":{}1{},"{}","size":1}}"#, "[".repeat(90), "]".repeat(90), digest(1));
        let deep = deep.replace(r#","sha256"#, r#","digest":"sha256"#);
        for (json, blobs, unreadable) in [
            (format!(r#"{{"layers":[{}],"layers":[{}]}}"#, layer(1), layer(2)), 2, 0),
            (format!(r#"{{"Layers":[{}],"LAYER\u017f":[{}]}}"#, layer(1), layer(2)), 2, 0),
            (format!(r#"{{"layers":[{odd}]}}"#), 1, 0),
            (format!(r#"{{"layers":[{deep}]}}"#), 1, 0),
            (format!(r#"{{"layers":[{}, null, 7, {{}}, [], "x"]}}"#, layer(1)), 1, 5),
            (format!(r#"{{"layers":{}}}"#, layer(1)), 0, 1),
            (r#"{"layers":[{"digest":"blake3:00","size":1}]}"#.to_owned(), 0, 1),
            (format!(r#"{{"layers":[{{"digest":"{}","size":-1}}]}}"#, digest(1)), 0, 1),
            (r#"{"config":null,"layers":null}"#.to_owned(), 0, 0),
            (r#"{"config":7}"#.to_owned(), 0, 1),
            (format!(r#"{{"blobs":[{}]}}"#, layer(1)), 1, 0),
            ("no manifest".to_owned(), 0, 1),
        ] {
            let children = manifest(json.clone(), None).children();
            assert_eq!((children.blobs.len(), children.unreadable), (blobs, unreadable), "{json}");
        }
    }

    #[test]
    fn an_index_may_leave_out_platforms_and_list_what_is_no_manifest() {
        let entry = |more: &str| format!(r#"{{"digest":"sha256:{:064}","size":1{more}}}"#, 0);
        let entries = [
            entry(""),
            entry(r#","platform":{}"#),
            entry(r#","platform":{"os":"linux","architecture":"arm64"}"#),
            entry(r#","mediaType":"application/vnd.oci.image.index.v1+json""#),
            entry(r#","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip""#),
            entry(r#","mediaType":"application/vnd.buildkit.cacheconfig.v0""#),
        ];
        let children = manifest(format!(r#"{{"manifests":[{}]}}"#, entries.join(",")), None).children();
        let platforms: Vec<_> = children.manifests.iter().map(|(_, platform)| platform.is_some()).collect();
        assert_eq!((platforms.as_slice(), children.blobs.len()), (&[false, false, true, false][..], 2));
    }
}
