//! One pull of an image: manifest, the platform of an index, configuration and layers.
//!
//! Does what a client does and nothing else: layers come several at a time, every byte is verified
//! against its digest, and nothing is unpacked or written to disk.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

pub use crate::oci::Platform;
use crate::oci::manifest::{is_image, is_index};
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest, Reference, Repository, Span, Verifier};
use crate::upstream::{Upstream, UpstreamError};

/// Indexes within indexes are followed so deep.
const MAX_DEPTH: usize = 3;

/// What to pull, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// Which repository.
    pub repository: Repository,
    /// Which manifest of it.
    pub reference: Reference,
    /// Which image of an index.
    pub platform: Platform,
    /// Blobs at a time; docker takes 3.
    pub parallel: usize,
}

/// How a blob came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobTimes {
    /// Its size in bytes.
    pub size: u64,
    /// From the request to the first byte of the body.
    pub first_byte: Duration,
    /// From the request to the last byte.
    pub elapsed: Duration,
}

/// How a pull went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The manifest that was pulled, the one of the platform.
    pub manifest: Digest,
    /// From the start to the last byte.
    pub elapsed: Duration,
    /// From the start to the first byte of the first blob, manifests before it included.
    pub first_byte: Duration,
    /// Bytes of manifests, configuration and layers.
    pub bytes: u64,
    /// Configuration and layers, in the order in which they ended.
    pub blobs: Vec<BlobTimes>,
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry or mirror did not deliver.
    #[error(transparent)]
    Registry(#[from] UpstreamError),
    /// It delivered other content.
    #[error("{expected} came with the digest {found} and {bytes} bytes")]
    Corrupt {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
        /// How much of it.
        bytes: u64,
    },
    /// The index has no image for the platform.
    #[error("the image is not there for {0}")]
    Platform(Platform),
    /// Neither an image nor an index, or indexes without end.
    #[error("{0} is not an image that can be pulled")]
    NotAnImage(Digest),
}

/// What a pull tells while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many bytes of blobs will come.
    Announced(u64),
    /// So many more bytes of blobs have come.
    Received(u64),
}

/// Pulls an image once.
///
/// # Errors
/// The first failure ends the pull, see [`PullError`].
pub async fn pull(
    registry: &dyn Upstream,
    order: &Order,
    watch: &(dyn Fn(Event) + Send + Sync),
) -> Result<Pulled, PullError> {
    let start = Instant::now();
    let (manifest, manifest_bytes) = manifest(registry, order).await?;
    let mut known = HashSet::new();
    let blobs: Vec<Descriptor> =
        manifest.children().blobs.into_iter().filter(|blob| known.insert(blob.digest)).collect();
    watch(Event::Announced(blobs.iter().map(|blob| blob.size).sum()));
    let pulls = blobs.iter().map(|blob| async move {
        let begun = start.elapsed();
        let times = pull_blob(registry, &order.repository, &blob.digest, watch).await?;
        Ok::<_, PullError>((begun + times.first_byte, times))
    });
    let pulled: Vec<_> = stream::iter(pulls).buffer_unordered(order.parallel.max(1)).try_collect().await?;
    let elapsed = start.elapsed();
    let blobs: Vec<BlobTimes> = pulled.iter().map(|(_, times)| *times).collect();
    Ok(Pulled {
        manifest: manifest.descriptor.digest,
        elapsed,
        first_byte: pulled.iter().map(|(first_byte, _)| *first_byte).min().unwrap_or(elapsed),
        bytes: manifest_bytes + blobs.iter().map(|blob| blob.size).sum::<u64>(),
        blobs,
    })
}

/// Pulls a blob once and throws its bytes away when their digest is right.
///
/// # Errors
/// See [`PullError`].
pub async fn pull_blob(
    registry: &dyn Upstream,
    repository: &Repository,
    digest: &Digest,
    watch: &(dyn Fn(Event) + Send + Sync),
) -> Result<BlobTimes, PullError> {
    let start = Instant::now();
    let mut answer = registry.blob(repository, digest, Span::from(0)).await?;
    let mut verifier = Verifier::new(digest.algorithm());
    let mut size = 0;
    let mut first_byte = None;
    while let Some(bytes) = answer.body.try_next().await? {
        first_byte.get_or_insert_with(|| start.elapsed());
        size += bytes.len() as u64;
        watch(Event::Received(bytes.len() as u64));
        verifier.update(&bytes);
    }
    let elapsed = start.elapsed();
    let found = verifier.finish();
    if found != *digest {
        return Err(PullError::Corrupt { expected: *digest, found, bytes: size });
    }
    Ok(BlobTimes { size, first_byte: first_byte.unwrap_or(elapsed), elapsed })
}

/// The image manifest, and the bytes of all manifests on the way to it.
async fn manifest(registry: &dyn Upstream, order: &Order) -> Result<(Manifest, u64), PullError> {
    let accept = AcceptSet::everything();
    let mut manifest = registry.manifest(&order.repository, &order.reference, accept.clone()).await?;
    let mut bytes = manifest.descriptor.size;
    for _ in 0..MAX_DEPTH {
        let media_type = &manifest.descriptor.media_type;
        if is_image(media_type) {
            return Ok((manifest, bytes));
        }
        if !is_index(media_type) {
            break;
        }
        let child = choose(&manifest, &order.platform).ok_or_else(|| PullError::Platform(order.platform.clone()))?;
        manifest = registry.manifest(&order.repository, &Reference::Digest(child), accept.clone()).await?;
        bytes += manifest.descriptor.size;
    }
    Err(PullError::NotAnImage(manifest.descriptor.digest))
}

/// The first manifest of the index that is for the platform.
fn choose(index: &Manifest, wanted: &Platform) -> Option<Digest> {
    let suits = |platform: Option<Platform>| platform.is_some_and(|platform| wanted.takes(&platform));
    let (child, _) = index.children().manifests.into_iter().find(|(_, platform)| suits(platform.clone()))?;
    Some(child.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_image_of_the_platform_is_taken_from_an_index() {
        let digest = |name: &str| Digest::of(Algorithm::Sha256, name.as_bytes());
        let child = |name: &str, platform: &str| {
            format!(r#"{{"mediaType":"x","size":1,"digest":"{}","platform":{{{platform}}}}}"#, digest(name))
        };
        let children = [
            child("v6", r#""os":"linux","architecture":"arm","variant":"v6""#),
            child("v7", r#""os":"linux","architecture":"arm","variant":"v7""#),
            child("windows", r#""os":"windows","architecture":"amd64""#),
        ];
        let index = format!(r#"{{"manifests":[{}]}}"#, children.join(","));
        let index = Manifest::from_wire(index.into(), None, Algorithm::Sha256);
        for (platform, name) in [
            ("linux/arm", Some("v6")),
            ("linux/arm/v7", Some("v7")),
            ("windows/amd64", Some("windows")),
            ("linux/amd64", None),
        ] {
            assert_eq!(choose(&index, &platform.parse().expect("a platform")), name.map(digest), "{platform}");
        }
    }
}
