//! An index that stands still while it is written to: what is stored is served, and cold pulls go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use registry_mirror::blob_store::ingest::IngestDir;
use registry_mirror::blob_store::local::LocalBlobStore;
use registry_mirror::carrier::Carrier;
use registry_mirror::clock::SystemClock;
use registry_mirror::daemon;
use registry_mirror::daemon::Dialled;
use registry_mirror::metadata::MetadataStore as _;
use registry_mirror::metadata::sled::SledMetadata;
use registry_mirror::metrics::Metrics;
use registry_mirror::mirror::flight::bounds::Bounds;
use registry_mirror::mirror::flight::unread::FinishUnread;
use registry_mirror::mirror::{
    BlobBody, Chunk, Framing, Mirror, Mode, Parts, Policy, Room, Route, Routes, Selected, Terms,
};
use registry_mirror::oci::{AcceptSet, Algorithm, Digest, Page, Reference, Request};
use registry_mirror::outcome::Outcome;
use scripted_registry::{Descriptor, Image, Match, Registry, Rule, noise};

use crate::support::known;
use crate::support::stalling::Stalling;

/// A mirror without listeners, on a store on disk whose metadata can be made to stand still.
struct Stage {
    mirror: Mirror,
    metadata: Arc<Stalling>,
    _store: tempfile::TempDir,
}

impl Stage {
    fn set(registry: &Registry) -> Stage {
        let store = tempfile::tempdir().unwrap();
        let name: registry_mirror::oci::RegistryName = "docker.io".parse().unwrap();
        let url = registry.url().parse().unwrap();
        let upstream = daemon::dial(Dialled { name: &name, url, auth: "anonymous", ca: None }).unwrap();
        let metadata = Arc::new(Stalling::new(sled(store.path())));
        let policy = Policy {
            mode: Mode::Online,
            tag_ttl: Duration::from_secs(3600),
            stale_if_error: Duration::from_secs(3600),
            patience: Duration::from_secs(2),
        };
        let mirror = Mirror::new(Parts {
            carrier: Carrier::default(),
            behind: None,
            terms: Terms {
                routes: Routes::new(name.clone(), [(name.clone(), upstream)]),
                public: std::iter::once(name.clone()).collect(),
                of_callers: std::iter::empty().collect(),
                places: Arc::default(),
                policy,
                complete_only: false,
                prefetch: 0,
                finish_unread: FinishUnread::Always,
                negative_ttl: Duration::ZERO,
                bounds: Arc::new(Bounds::new(16, std::time::Duration::ZERO, 16 << 20)),
                verify_on_read: false,
                memory: 0,
            },
            blobs: Arc::new(LocalBlobStore::open(store.path()).unwrap()),
            ingests: Arc::new(IngestDir::open(store.path().join("ingest")).unwrap()),
            metadata: metadata.clone(),
            clock: Arc::new(SystemClock),
            room: Room::new(|_| u64::MAX),
            metrics: Arc::new(Metrics::new([name])),
        });
        Stage { mirror, metadata, _store: store }
    }

    fn route(&self, image: &Image) -> Route {
        let path = format!("/v2/{}/manifests/1", image.repository);
        let request = Request::parse(&http::Method::GET, &path, None).unwrap();
        self.mirror.route(request.target().unwrap()).unwrap().for_operator()
    }

    async fn manifest(&self, image: &Image, reference: Reference) -> Option<Outcome> {
        let answer = self.mirror.manifest(&self.route(image), &reference, AcceptSet::everything()).await.ok()?;
        assert_eq!(answer.manifest.descriptor.digest, known(&image.manifest.digest));
        Some(answer.outcome)
    }

    /// Pulls an image by its tag; where its parts came from.
    async fn pull(&self, image: &Image) -> Vec<Outcome> {
        let tag = Reference::Tag(image.tag.parse().unwrap());
        let mut outcomes = vec![self.manifest(image, tag).await.expect("a manifest")];
        for blob in image.blobs() {
            let answer =
                self.mirror.blob(&self.route(image), known(&blob.digest), None, Framing::Told).await.expect("a blob");
            outcomes.push(answer.outcome);
            let Selected::Whole(body) = answer.selected else { panic!("a part") };
            assert_eq!(Digest::of(Algorithm::Sha256, &read(body).await), known(&blob.digest));
        }
        outcomes
    }

    fn knows(&self, image: &Image) -> bool {
        let location = self.route(image).location;
        let knows = |part: &Descriptor| self.metadata.member(&location, &known(&part.digest)).unwrap().is_some();
        knows(&image.manifest) && image.blobs().all(knows)
    }
}

fn sled(store: &Path) -> SledMetadata {
    let metadata = SledMetadata::open(store);
    metadata.rebuild(&[], registry_mirror::clock::Timestamp(0));
    metadata
}

async fn read(mut body: BlobBody) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next(1 << 20).await.expect("a whole body") {
        match chunk {
            Chunk::Bytes(chunk) => bytes.extend_from_slice(&chunk),
            Chunk::File(file, range) => {
                let start = bytes.len();
                bytes.resize(start + usize::try_from(range.end - range.start).unwrap(), 0);
                file.read_exact_at(&mut bytes[start..], range.start).unwrap();
            }
        }
    }
    bytes
}

#[tokio::test]
async fn while_the_index_stands_still_hits_are_hits_and_cold_pulls_are_answered() {
    let mut registry = Registry::start().await;
    let warm = registry.add_image("library/warm", "1", &[noise(1, 200_000)]);
    let cold = registry.add_image("library/cold", "1", &[noise(2, 200_000)]);
    let stage = Stage::set(&registry);
    stage.pull(&warm).await;
    while !stage.knows(&warm) {
        tokio::task::yield_now().await;
    }
    stage.mirror.written().await;
    let standing = stage.metadata.stand_still();
    assert!(stage.pull(&warm).await.iter().all(|outcome| *outcome == Outcome::Hit));
    assert!(stage.pull(&cold).await.iter().all(|outcome| *outcome == Outcome::Fill));
    // What is given is written behind it.
    while stage.metadata.stood().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(stage.pull(&warm).await.iter().all(|outcome| *outcome == Outcome::Hit));
    assert_eq!(stage.pull(&cold).await.len(), 3, "once more, by whatever way");
    drop(standing);
    // What nobody waited for is remembered in the end.
    while !stage.knows(&cold) || stage.mirror.fills() > 0 {
        tokio::task::yield_now().await;
    }
    registry.stop().await;
    for blob in cold.blobs() {
        let answer =
            stage.mirror.blob(&stage.route(&cold), known(&blob.digest), None, Framing::Told).await.expect("a blob");
        assert_eq!(answer.outcome, Outcome::Hit);
    }
}

#[tokio::test]
async fn what_upstream_takes_back_is_gone_although_it_was_remembered_late() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(3, 1000)]);
    let stage = Arc::new(Stage::set(&registry));
    let digest = known(&image.manifest.digest);
    let standing = stage.metadata.stand_still();
    assert_eq!(stage.manifest(&image, Reference::Digest(digest)).await, Some(Outcome::Fill));
    // While it is written, it is there for who asks; the index is not waited for any longer.
    stage.mirror.written().await;
    registry.rule(Rule::on(Match::manifests()).refuse(404));
    let (there, again) = (Arc::clone(&stage), image.clone());
    let refused = tokio::spawn(async move { there.manifest(&again, Reference::Digest(digest)).await });
    registry.seen(&Match::manifests(), 2).await;
    while !stage.metadata.stood().contains(&"put_member") {
        tokio::task::yield_now().await;
    }
    // Whoever forgets without waiting has had the time for it.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    drop(standing);
    assert_eq!(refused.await.unwrap(), None);
    // Now that has landed which was late.
    stage.mirror.close(Duration::from_secs(60)).await;
    assert_eq!(stage.metadata.member(&stage.route(&image).location, &digest).unwrap(), None);
}

#[tokio::test]
async fn a_list_that_upstream_refuses_is_gone_before_anybody_is_told() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(4, 1000)]);
    registry.rule(Rule::on(Match::when(|_| true)).refuse(403));
    let stage = Arc::new(Stage::set(&registry));
    let standing = stage.metadata.stand_still();
    let there = Arc::clone(&stage);
    let refused = tokio::spawn(async move { there.mirror.tags(&there.route(&image), &Page::default()).await });
    while !stage.metadata.stood().contains(&"remove_lists") {
        tokio::task::yield_now().await;
    }
    // Whoever tells without waiting has had the time for it.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!refused.is_finished());
    drop(standing);
    assert!(refused.await.unwrap().is_err());
}
