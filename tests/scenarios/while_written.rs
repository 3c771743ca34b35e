//! A manifest goes to its client as soon as it is verified, and is named when it is stored.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::poll;
use registry_mirror::admin::{self, AdminState, Guard, Reach, Readiness};
use registry_mirror::blob_store::ingest::{Ingest, IngestDir};
use registry_mirror::blob_store::local::LocalBlobStore;
use registry_mirror::blob_store::{BlobStore, Content, StoreError, Usage};
use registry_mirror::carrier::Carrier;
use registry_mirror::clock::SystemClock;
use registry_mirror::daemon::{self, Dialled};
use registry_mirror::metadata::memory::MemoryMetadata;
use registry_mirror::metadata::{MetadataStore, TagKey};
use registry_mirror::metrics::Metrics;
use registry_mirror::mirror::flight::bounds::Bounds;
use registry_mirror::mirror::flight::unread::FinishUnread;
use registry_mirror::mirror::{Mirror, Mode, Parts, Policy, Room, Route, Routes, Terms};
use registry_mirror::oci::{AcceptSet, Digest, Reference, RegistryName, Request};
use registry_mirror::outcome::Outcome;
use registry_mirror::server::Listener;
use scripted_registry::{Registry, client, noise};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::support::known;

/// Less than a commit is waited for, and longer than the rest takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store whose commits wait to be let through.
struct Slow(LocalBlobStore, Arc<Semaphore>);

#[async_trait]
impl BlobStore for Slow {
    async fn open(&self, digest: &Digest) -> Option<Content> {
        self.0.open(digest).await
    }

    async fn commit(&self, ingest: Ingest, digest: &Digest) -> Result<(), StoreError> {
        self.1.acquire().await.unwrap().forget();
        self.0.commit(ingest, digest).await
    }

    async fn delete(&self, digest: &Digest) -> Result<(), StoreError> {
        self.0.delete(digest).await
    }

    async fn list(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        self.0.list().await
    }

    async fn set_aside(&self, digest: &Digest, content: &Content) -> Result<bool, StoreError> {
        self.0.set_aside(digest, content).await
    }

    fn is_damaged(&self, digest: &Digest) -> bool {
        self.0.is_damaged(digest)
    }

    async fn drop_set_aside(&self) -> Result<(), StoreError> {
        self.0.drop_set_aside().await
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }

    fn reading(&self) -> HashSet<Digest> {
        self.0.reading()
    }

    fn removals(&self) -> u64 {
        self.0.removals()
    }
}

/// A mirror of `registry` on this store, of which `commits` are let through.
fn mirror_of(
    registry: &Registry,
    store: &std::path::Path,
    commits: usize,
) -> (Mirror, Arc<MemoryMetadata>, Arc<Semaphore>) {
    let name: RegistryName = "docker.io".parse().unwrap();
    let url = registry.url().parse().unwrap();
    let upstream = daemon::dial(Dialled { name: &name, url, auth: "anonymous", ca: None }).unwrap();
    let (hour, gate) = (Duration::from_secs(3600), Arc::new(Semaphore::new(commits)));
    let policy = Policy { mode: Mode::Online, tag_ttl: hour, stale_if_error: hour, patience: Duration::from_secs(2) };
    let metadata = Arc::new(MemoryMetadata::new());
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
            bounds: Arc::new(Bounds::new(16, Duration::ZERO, 1 << 20)),
            verify_on_read: false,
            memory: 0,
        },
        blobs: Arc::new(Slow(LocalBlobStore::open(store).unwrap(), Arc::clone(&gate))),
        ingests: Arc::new(IngestDir::open(store.join("ingest")).unwrap()),
        metadata: metadata.clone(),
        clock: Arc::new(SystemClock),
        room: Room::new(|_| u64::MAX),
        metrics: Arc::new(Metrics::new([name])),
    });
    (mirror, metadata, gate)
}

fn route(mirror: &Mirror) -> Route {
    let request = Request::parse(&http::Method::GET, "/v2/library/app/manifests/1", None).unwrap();
    mirror.route(request.target().unwrap()).unwrap().for_operator()
}

#[tokio::test]
async fn a_manifest_goes_to_its_client_while_it_is_written_and_is_named_when_it_is_there() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let digest = known(&image.manifest.digest);
    let store = tempfile::tempdir().unwrap();
    let (mirror, metadata, gate) = mirror_of(&registry, store.path(), 0);
    let (route, everything) = (route(&mirror), AcceptSet::everything());
    let tag = Reference::Tag("1".parse().unwrap());
    let key = TagKey { location: route.location.clone(), tag: "1".parse().unwrap(), accept: everything.clone() };
    let is_named = || {
        let member = metadata.member(&route.location, &digest).unwrap();
        (metadata.tag(&key).unwrap().is_some(), member.is_some())
    };
    let first = tokio::time::timeout(PATIENCE, mirror.manifest(&route, &tag, everything.clone())).await;
    let first = first.expect("no commit is waited for").unwrap();
    assert_eq!((first.outcome, first.manifest.descriptor.digest), (Outcome::Fill, digest));
    assert_eq!(is_named(), (false, false), "nothing is named that a power cut could take");
    let asked = registry.requests().len();
    let by_digest = mirror.manifest(&route, &Reference::Digest(digest), everything.clone()).await.unwrap();
    assert_eq!(by_digest.manifest.bytes, first.manifest.bytes);
    // Who asks for the tag again is told when it is there.
    let mut again = pin!(mirror.manifest(&route, &tag, everything.clone()));
    assert!(poll!(&mut again).is_pending());
    assert_eq!((registry.requests().len(), is_named()), (asked, (false, false)));
    gate.add_permits(1);
    assert_eq!(again.await.unwrap().outcome, Outcome::Hit);
    assert_eq!(is_named(), (true, true));
}

#[tokio::test]
async fn a_kill_while_a_manifest_is_written_leaves_nothing_and_the_next_pull_fills() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let digest = known(&image.manifest.digest);
    let store = tempfile::tempdir().unwrap();
    let tag = Reference::Tag("1".parse().unwrap());
    let pull = async |mirror: &Mirror| {
        let answer = mirror.manifest(&route(mirror), &tag, AcceptSet::everything()).await.unwrap();
        assert_eq!((answer.outcome, answer.manifest.descriptor.digest), (Outcome::Fill, digest));
    };
    let (killed, before, _never) = mirror_of(&registry, store.path(), 0);
    pull(&killed).await;
    assert!(LocalBlobStore::open(store.path()).unwrap().open(&digest).await.is_none());
    assert!(before.member(&route(&killed).location, &digest).unwrap().is_none());
    let (after, found, _) = mirror_of(&registry, store.path(), 1);
    pull(&after).await;
    after.written().await;
    assert!(found.member(&route(&after).location, &digest).unwrap().is_some());
}

/// What operators ask of this mirror, at an address.
async fn operators(mirror: Mirror) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = AdminState {
        bucket: Arc::new(|| None),
        metrics: Arc::new(Metrics::new([])),
        readiness: Arc::new(|| Readiness::Ready),
        mirror: Some(mirror),
        guard: Arc::new(Guard::new(None, false)),
        pull: Arc::new([]),
        tls: None,
        usage: None,
        page: None,
        configuration: None,
        audit: None,
        reload: None,
        explain: None,
        carry: None,
    };
    tokio::spawn(admin::serve(Listener::Address(listener), Reach::Machine, state, std::future::pending()));
    address
}

#[tokio::test]
async fn a_stuck_disk_holds_nobody_up_who_asks_how_it_is_and_not_for_long_who_asks_what_is_there() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(1, 1000)]);
    let store = tempfile::tempdir().unwrap();
    let (mirror, _, gate) = mirror_of(&registry, store.path(), 0);
    let tag = Reference::Tag("1".parse().unwrap());
    mirror.manifest(&route(&mirror), &tag, AcceptSet::everything()).await.unwrap();
    let admin = operators(mirror).await;
    let asked = async |path: &str| {
        let path = format!("/api/v1/{path}");
        let answer = client::get(admin, &path, &[("Host", "127.0.0.1")]);
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("nobody waits for the disk");
        (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
    };
    for path in ["status", "canary"] {
        let mut waits = pin!(asked("images"));
        tokio::select! {
            biased;
            (status, _) = asked(path) => assert_eq!(status, 200, "{path}"),
            _ = &mut waits => panic!("{path} waits for what is written"),
        }
    }
    assert!(asked("images").await.1.contains("\"images\":[]"), "nothing is there");
    let (history, ()) = tokio::join!(asked("history?image=app:1"), async { gate.add_permits(1) });
    assert_eq!(history.0, 200, "it is there a moment later: {}", history.1);
}
