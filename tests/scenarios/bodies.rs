//! Bodies in memory: one budget for all of them, and what is shared counts once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use registry_mirror::blob_store::ingest::IngestDir;
use registry_mirror::blob_store::local::LocalBlobStore;
use registry_mirror::carrier::Carrier;
use registry_mirror::clock::SystemClock;
use registry_mirror::daemon::{self, Dialled};
use registry_mirror::metadata::memory::MemoryMetadata;
use registry_mirror::metrics::Metrics;
use registry_mirror::mirror::flight::bounds::Bounds;
use registry_mirror::mirror::flight::unread::FinishUnread;
use registry_mirror::mirror::{Mirror, MirrorError, Mode, Parts, Policy, Room, Route, Routes, Terms};
use registry_mirror::oci::{AcceptSet, Reference, RegistryName, Request};
use scripted_registry::{Digest, Registry};

use crate::support::known;

const BUDGET: u64 = 3_500_000;

fn mirror_of(registry: &Registry, store: &std::path::Path) -> Mirror {
    let name: RegistryName = "docker.io".parse().unwrap();
    let url = registry.url().parse().unwrap();
    let upstream = daemon::dial(Dialled { name: &name, url, auth: "anonymous", ca: None }).unwrap();
    let hour = Duration::from_secs(3600);
    let policy = Policy { mode: Mode::Online, tag_ttl: hour, stale_if_error: hour, patience: Duration::from_secs(2) };
    Mirror::new(Parts {
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
            bounds: Arc::new(Bounds::new(16, Duration::ZERO, 1 << 20).with_bodies(BUDGET)),
            verify_on_read: false,
            memory: 0,
        },
        blobs: Arc::new(LocalBlobStore::open(store).unwrap()),
        ingests: Arc::new(IngestDir::open(store.join("ingest")).unwrap()),
        metadata: Arc::new(MemoryMetadata::new()),
        clock: Arc::new(SystemClock),
        room: Room::new(|_| u64::MAX),
        metrics: Arc::new(Metrics::new([name])),
    })
}

fn route(mirror: &Mirror) -> Route {
    let request = Request::parse(&http::Method::GET, "/v2/library/app/manifests/1", None).unwrap();
    mirror.route(request.target().unwrap()).unwrap().for_operator()
}

#[tokio::test]
async fn manifests_in_hand_have_one_budget_and_who_finds_no_room_is_told_to_come_again() {
    let registry = Registry::start().await;
    let kind = "application/vnd.oci.image.index.v1+json";
    let digests: Vec<Digest> = (0..5)
        .map(|number| {
            let padding = number.to_string().repeat(1_000_000);
            let index = format!(
                r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[],"annotations":{{"x":"{padding}"}}}}"#
            );
            registry.add_manifest("library/app", &["1"], Bytes::from(index), kind)
        })
        .collect();
    let store = tempfile::tempdir().unwrap();
    let mirror = mirror_of(&registry, store.path());
    let route = route(&mirror);
    let ask = |number: usize| {
        let reference = Reference::Digest(known(&digests[number]));
        let (mirror, route) = (&mirror, &route);
        async move { mirror.manifest(route, &reference, AcceptSet::everything()).await }
    };
    for _from_upstream_and_then_from_the_store in 0..2 {
        let mut in_hand = Vec::new();
        for number in 0..3 {
            in_hand.push(ask(number).await.unwrap());
        }
        let (used, budget) = mirror.bodies();
        // With the parts of fills and of lists that are remembered.
        let most = BUDGET + (1 << 20) + (64 << 20) + 1024;
        assert!(used > 3_000_000 && used <= budget && budget <= most, "{used} of {budget}");
        let refused = ask(3).await.unwrap_err();
        assert!(matches!(refused, MirrorError::Crowded) && refused.retry_after().is_some(), "{refused}");
        in_hand.push(ask(0).await.unwrap());
        drop(in_hand.split_off(1));
        assert!(ask(3).await.is_ok(), "there is room again");
        assert!(ask(4).await.is_ok());
    }
    assert!(mirror.bodies().0 < 100_000, "nobody has anything in hand: {}", mirror.bodies().0);
}
