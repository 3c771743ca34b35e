//! The contract of upstreams, for the adapter and for everything that is wrapped around it.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use registry_mirror::clock::SystemClock;
use registry_mirror::oci::{AcceptSet, Digest, Reference, Repository, Span};
use registry_mirror::upstream::failover::Failover;
use registry_mirror::upstream::guard::Guarded;
use registry_mirror::upstream::http::{HttpSettings, HttpUpstream};
use registry_mirror::upstream::offline::Offline;
use registry_mirror::upstream::retry::Retrying;
use registry_mirror::upstream::{Unobserved, Upstream, UpstreamErrorClass};

use super::registry::{Image, Registry, noise};

/// A registry with an image and a blob, and what is in it.
struct Known {
    registry: Registry,
    image: Image,
    blob: Digest,
    bytes: bytes::Bytes,
}

impl Known {
    async fn start() -> Known {
        let registry = Registry::start().await;
        let image = registry.add_image("owner/app", "1", &[noise(1, 1000)]);
        let bytes = noise(2, 100_000);
        let blob = registry.add_blob("owner/app", bytes.clone());
        Known { registry, image, blob, bytes }
    }

    fn http(&self) -> Arc<dyn Upstream> {
        let settings = HttpSettings::new("registry.example".parse().unwrap(), self.registry.url().parse().unwrap());
        Arc::new(HttpUpstream::new(settings).unwrap())
    }
}

fn repository() -> Repository {
    "owner/app".parse().unwrap()
}

fn tag(tag: &str) -> Reference {
    Reference::Tag(tag.parse().unwrap())
}

async fn keeps_the_contract(known: &Known, upstream: Arc<dyn Upstream>) {
    a_tag_resolves_to_what_its_manifest_is(known, &*upstream).await;
    a_blob_comes_from_where_it_was_asked_for(known, &*upstream).await;
    what_is_not_there_is_not_found(&*upstream).await;
}

async fn a_tag_resolves_to_what_its_manifest_is(known: &Known, upstream: &dyn Upstream) {
    let everything = AcceptSet::everything();
    let resolved = upstream.resolve(&repository(), &tag("1"), everything).await.unwrap().descriptor().clone();
    assert_eq!(resolved, known.image.manifest);
    for reference in [tag("1"), Reference::Digest(resolved.digest)] {
        let manifest = upstream.manifest(&repository(), &reference, everything).await.unwrap();
        assert_eq!(manifest.descriptor, resolved);
        assert_eq!(Digest::of(resolved.digest.algorithm(), &manifest.bytes), resolved.digest);
    }
}

async fn a_blob_comes_from_where_it_was_asked_for(known: &Known, upstream: &dyn Upstream) {
    let size = known.bytes.len() as u64;
    assert_eq!(upstream.stat(&repository(), &known.blob).await.unwrap(), Some(size));
    for (span, part) in [
        (Span::default(), 0..known.bytes.len()),
        (Span::from(40_000), 40_000..known.bytes.len()),
        (Span { start: 10, end: Some(20) }, 10..20),
    ] {
        let blob = upstream.blob(&repository(), &known.blob, span).await.unwrap();
        assert_eq!((blob.size, blob.offset), (Some(size), span.start));
        let chunks: Vec<bytes::Bytes> = blob.body.try_collect().await.unwrap();
        assert_eq!(chunks.concat(), known.bytes[part]);
    }
}

async fn what_is_not_there_is_not_found(upstream: &dyn Upstream) {
    let missing = Digest::of(registry_mirror::oci::Algorithm::Sha256, b"missing");
    let everything = AcceptSet::everything();
    let classes = [
        upstream.resolve(&repository(), &tag("missing"), everything).await.map(drop).unwrap_err().class,
        upstream.manifest(&repository(), &Reference::Digest(missing), everything).await.map(drop).unwrap_err().class,
        upstream.stat(&repository(), &missing).await.map(drop).unwrap_err().class,
        upstream.blob(&repository(), &missing, Span::default()).await.map(drop).unwrap_err().class,
    ];
    assert_eq!(classes, [UpstreamErrorClass::NotFound; 4]);
}

#[tokio::test]
async fn a_registry_over_http_keeps_the_contract() {
    let known = Known::start().await;
    keeps_the_contract(&known, known.http()).await;
}

#[tokio::test]
async fn retries_keep_the_contract() {
    let known = Known::start().await;
    keeps_the_contract(&known, Arc::new(Retrying::new(known.http()))).await;
}

#[tokio::test]
async fn the_guard_of_an_address_keeps_the_contract() {
    let known = Known::start().await;
    let name = "registry.example".parse().unwrap();
    let clock = Arc::new(SystemClock);
    let guarded = Guarded::new(known.http(), name, known.registry.authority(), clock, Arc::new(Unobserved));
    keeps_the_contract(&known, Arc::new(guarded)).await;
}

#[tokio::test]
async fn several_addresses_keep_the_contract() {
    let known = Known::start().await;
    keeps_the_contract(&known, Arc::new(Failover::new(vec![known.http(), known.http()]))).await;
}

#[tokio::test]
async fn offline_nothing_can_be_answered_and_nothing_is_denied() {
    let upstream = Offline::new("registry.example".parse().unwrap());
    let digest = Digest::of(registry_mirror::oci::Algorithm::Sha256, b"");
    let classes = [
        upstream.resolve(&repository(), &tag("1"), AcceptSet::everything()).await.map(drop).unwrap_err().class,
        upstream.blob(&repository(), &digest, Span::default()).await.map(drop).unwrap_err().class,
    ];
    assert_eq!(classes, [UpstreamErrorClass::Unavailable; 2]);
}
