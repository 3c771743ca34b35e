//! The canary: an image of the mirror's own, by which a client is seen to pull through it.
//!
//! It is there for every upstream and every caller, by tag and by digest, and needs no upstream. It holds one small
//! file, in an index with an image for each platform that engines run on, in the types of Docker, which all clients
//! take. Who pulled it last is remembered for each upstream.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::documents::CanaryPulls;
use crate::mirror::routes::Found;
use crate::mirror::{Location, Mirror};
use crate::oci::descriptor::{DOCKER_LIST, DOCKER_MANIFEST};
use crate::oci::{AcceptSet, Algorithm, Descriptor, Digest, MediaType, Reference, RegistryName, Request};

const REPOSITORY: &str = "library/registry-mirror-canary";
const TAG: &str = "latest";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Architectures and their variants, all with Linux. The first is for clients that take no index.
const PLATFORMS: [(&str, Option<&str>); 11] = [
    ("amd64", None),
    ("arm64", Some("v8")),
    ("arm", Some("v7")),
    ("arm", Some("v6")),
    ("arm", Some("v5")),
    ("386", None),
    ("ppc64le", None),
    ("s390x", None),
    ("riscv64", None),
    ("loong64", None),
    ("mips64le", None),
];

/// A tar with one file that says where the image came from, compressed with gzip.
const LAYER: [u8; 125] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xff, 0x2b, 0x4a, 0x4d, 0xcf, 0x2c, 0x2e, 0x29, 0xaa, 0xd4,
    0xcd, 0xcd, 0x2c, 0x2a, 0xca, 0x2f, 0xd2, 0x4d, 0x4e, 0xcc, 0x4b, 0x2c, 0xaa, 0x64, 0xa0, 0x2a, 0x30, 0x00, 0x02,
    0x13, 0x13, 0x13, 0x30, 0x0d, 0x04, 0xe8, 0xb4, 0x81, 0x81, 0xa9, 0x21, 0x82, 0x0d, 0x12, 0x37, 0x34, 0x32, 0x36,
    0x34, 0x65, 0x50, 0x30, 0x60, 0xa0, 0x03, 0x28, 0x2d, 0x2e, 0x49, 0x2c, 0x02, 0x5a, 0xcf, 0x30, 0x32, 0x41, 0x48,
    0x46, 0x66, 0xb1, 0x42, 0x66, 0x6e, 0x62, 0x7a, 0xaa, 0x42, 0x72, 0x62, 0x6e, 0xaa, 0x42, 0x49, 0x46, 0x51, 0x7e,
    0x69, 0x7a, 0x86, 0x42, 0x11, 0x6a, 0xba, 0xd0, 0xe3, 0x62, 0x18, 0x05, 0xa3, 0x60, 0x14, 0x8c, 0x82, 0x51, 0x30,
    0x9c, 0x00, 0x00, 0x6e, 0xc3, 0x9b, 0xe1, 0x00, 0x08, 0x00, 0x00,
];
/// The digest of the tar.
const DIFF_ID: &str = "sha256:7b9876de89a94219018a57a83a3fcb1ee4b8f7f548c52244d755a0b0baeeecbb";

/// All that the image consists of.
struct Content {
    index: Descriptor,
    first: Descriptor,
    parts: BTreeMap<Digest, (Descriptor, Bytes)>,
}

static CONTENT: LazyLock<Content> = LazyLock::new(Content::made);

impl Content {
    fn made() -> Content {
        let mut parts = BTreeMap::new();
        let mut keep = |media_type: &str, bytes: Bytes| {
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            let descriptor = Descriptor { digest, size: bytes.len() as u64, media_type: MediaType::from(media_type) };
            parts.insert(digest, (descriptor.clone(), bytes));
            descriptor
        };
        let layer = keep(LAYER_TYPE, Bytes::from_static(&LAYER));
        let images = PLATFORMS.map(|(architecture, variant)| {
            let mut platform = json!({ "architecture": architecture, "os": "linux" });
            if let Some(variant) = variant {
                platform["variant"] = variant.into();
            }
            let mut config = platform.clone();
            config["created"] = "1970-01-01T00:00:00Z".into();
            config["config"] = json!({});
            config["rootfs"] = json!({ "type": "layers", "diff_ids": [DIFF_ID] });
            config["history"] = json!([{ "created": "1970-01-01T00:00:00Z", "created_by": "registry-mirror" }]);
            let config = keep(CONFIG, config.to_string().into());
            let manifest = json!({ "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": written(&config),
                "layers": [written(&layer)] });
            (keep(DOCKER_MANIFEST, manifest.to_string().into()), platform)
        });
        let entries: Vec<Value> = images
            .iter()
            .map(|(image, platform)| {
                let mut entry = written(image);
                entry["platform"] = platform.clone();
                entry
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries });
        let index = keep(DOCKER_LIST, index.to_string().into());
        let [(first, _), ..] = images;
        Content { index, first, parts }
    }
}

/// A descriptor as manifests have it.
fn written(Descriptor { digest, size, media_type }: &Descriptor) -> Value {
    json!({ "mediaType": media_type.as_ref(), "size": size, "digest": digest.to_string() })
}

/// Whether a tag is the mirror's own; `None` where its repository is not.
pub(crate) fn is_own(location: &Location, reference: &Reference) -> Option<bool> {
    let is_ours = location.repository.as_str() == REPOSITORY;
    is_ours.then(|| match reference {
        Reference::Tag(tag) => tag.as_str() == TAG,
        Reference::Digest(digest) => CONTENT.parts.get(digest).is_some_and(|(part, _)| !part.is_of_blob()),
    })
}

/// Who pulled it, by upstream: there are as many entries as upstreams.
pub(crate) struct Canary {
    clock: Arc<dyn Clock>,
    pulled: Mutex<BTreeMap<RegistryName, CanaryPulls>>,
}

impl Canary {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Canary {
        Canary { clock, pulled: Mutex::default() }
    }
}

impl Mirror {
    /// What is asked for of the canary: `Some(None)` for what it has not. `None` where something else is asked for.
    pub fn canary(&self, found: &Found, request: &Request, accept: &AcceptSet) -> Option<Option<(Descriptor, Bytes)>> {
        if found.location().repository.as_str() != REPOSITORY {
            return None;
        }
        let Content { index, first, parts } = &*CONTENT;
        let digest = match request {
            Request::Manifest { reference: Reference::Tag(tag), .. } if tag.as_str() == TAG => {
                let wants_one = !accept.takes(&index.media_type) && accept.takes(&first.media_type);
                if wants_one { first.digest } else { index.digest }
            }
            Request::Manifest { reference: Reference::Digest(digest), .. } | Request::Blob { digest, .. } => *digest,
            _ => return Some(None),
        };
        let is_blob = matches!(request, Request::Blob { .. });
        let part = parts.get(&digest).filter(|(descriptor, _)| is_blob || !descriptor.is_of_blob());
        Some(part.cloned())
    }

    /// Takes note that `client` pulls the canary.
    pub fn canary_pulled(&self, found: &Found, client: &dyn fmt::Display) {
        let Canary { clock, pulled } = &*self.0.canary;
        let upstream = &found.location().upstream;
        let mut pulled = pulled.lock();
        let count = pulled.get(upstream).map_or(0, |pulls| pulls.count) + 1;
        let pulls = CanaryPulls {
            upstream: upstream.to_string(),
            count,
            client: client.to_string(),
            pulled_at: clock.now().into(),
        };
        pulled.insert(upstream.clone(), pulls);
    }

    /// Who pulled the canary last, by upstream.
    pub fn canary_pulls(&self) -> Vec<CanaryPulls> {
        self.0.canary.pulled.lock().values().cloned().collect()
    }
}
