//! Whose content it is: what is stored is served to the repositories that were proven to have it, and to no other.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use scripted_registry::{Digest, Match, Registry, Rule, noise};
use serde_json::Value;

use crate::support::mirror::{Settings, TestMirror};

const SIZE: usize = 900_000;
const THERE: &str = "/v2/library/app";
const ELSEWHERE: &str = "/v2/other.example/stranger/app";

/// One registry that has a blob, in two repositories, and another one that has it, too, and says so.
struct Scene {
    owner: Registry,
    other: Registry,
    bytes: Bytes,
    digest: Digest,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Scene {
        let (owner, other) = (Registry::start().await, Registry::start().await);
        let bytes = noise(610, SIZE);
        let digest = owner.add_blob("library/app", bytes.clone());
        owner.add_blob("library/second", bytes.clone());
        other.add_blob("stranger/app", bytes.clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("login"), "me:word\n").unwrap();
        Scene { owner, other, bytes, digest, folder }
    }

    fn settings(&self) -> Settings {
        Settings::of(&self.owner).and("other.example", &self.other)
    }

    /// Where the owner is asked with a credential.
    fn private(&self) -> Settings {
        self.settings().upstream(&format!("auth = \"file:{}\"", self.folder.path().join("login").display()))
    }

    fn blob(&self, below: &str) -> String {
        format!("{below}/blobs/{}", self.digest)
    }

    /// The other one says that it has the blob, and gives it to nobody.
    fn other_only_says_so(&self) {
        self.other.rule(Rule::on(Match::blob(&self.digest).get()).refuse(404));
    }

    async fn is_refused(&self, mirror: &TestMirror, why: &str) {
        let answer = mirror.get(&self.blob(ELSEWHERE)).await;
        assert_eq!(answer.status, 404, "{why}");
        assert!(answer.body.len() < 10_000, "{why}");
        let part = mirror.get_with(&self.blob(ELSEWHERE), &[("range", "bytes=0-99")]).await;
        assert_eq!(part.status, 404, "{why}, a part");
    }

    async fn is_served(&self, mirror: &TestMirror, below: &str, outcome: &str) {
        let answer = mirror.get(&self.blob(below)).await;
        assert!(answer.complete && answer.body == self.bytes, "{below}: {}", answer.status);
        assert_eq!(answer.header("cache-status"), Some(&*format!("registry-mirror; {outcome}")), "{below}");
        mirror.settled().await;
    }
}

/// The files of memberships.
fn links(store: &Path) -> Vec<PathBuf> {
    files_below(store, "/_links/")
}

/// The files of all repositories that lie below this.
pub(crate) fn files_below(store: &Path, part: &str) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![store.join("repositories")], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found
}

fn record(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What stands in the only membership below an upstream.
fn record_of(store: &Path, upstream: &str) -> Value {
    let below = format!("/repositories/{upstream}/");
    let found: Vec<_> = links(store).into_iter().filter(|path| path.to_string_lossy().contains(&below)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    record(&found[0])
}

/// Makes all memberships what 0.1.0 wrote, which left out how they were proven, with these sizes.
pub(crate) fn make_old(store: &Path, size: Option<u64>) {
    for path in links(store) {
        let mut known = record(&path);
        let fields = known.as_object_mut().unwrap();
        fields.retain(|key, _| ["digest", "size", "media_type"].contains(&key.as_str()));
        assert_eq!(fields.len(), 3);
        if let Some(size) = size {
            fields.insert("size".to_owned(), size.into());
        }
        std::fs::write(&path, known.to_string()).unwrap();
    }
    std::fs::remove_dir_all(store.join("metadata")).unwrap();
}

#[tokio::test]
async fn the_word_of_another_upstream_opens_nothing_private_and_its_own_bytes_do() {
    let scene = Scene::set().await;
    let mut mirror = scene.private().start().await;
    scene.is_served(&mirror, THERE, "fwd=miss; stored; detail=fill").await;
    scene.other_only_says_so();
    assert_eq!(mirror.head(&scene.blob(ELSEWHERE)).await.status, 200, "it is the word of the other one");
    scene.is_refused(&mirror, "while it only says so").await;
    mirror = mirror.restart().await;
    scene.is_refused(&mirror, "after a restart").await;
    let settings = mirror.stop().await;
    std::fs::remove_dir_all(settings.store().join("metadata")).unwrap();
    mirror = settings.start().await;
    scene.is_refused(&mirror, "without an index").await;
    scene.is_served(&mirror, THERE, "hit; detail=hit").await;

    scene.other.clear_rules();
    mirror.advance(std::time::Duration::from_secs(60));
    let sent = scene.other.body_bytes_sent(&scene.digest);
    scene.is_served(&mirror, ELSEWHERE, "fwd=miss; stored; detail=fill").await;
    assert!(scene.other.body_bytes_sent(&scene.digest) - sent >= SIZE as u64, "all of it, once");
    scene.other.forget_requests();
    scene.is_served(&mirror, ELSEWHERE, "hit; detail=hit").await;
    assert_eq!(scene.other.requests().len(), 0);
    assert_eq!(record_of(mirror.store(), "other.example")["proof"], "bytes");
}

#[tokio::test]
async fn a_word_opens_what_the_same_upstream_or_a_public_one_gave() {
    for public in [true, false] {
        let scene = Scene::set().await;
        let mirror = if public { scene.settings() } else { scene.private() }.start().await;
        scene.is_served(&mirror, THERE, "fwd=miss; stored; detail=fill").await;
        let known = record_of(mirror.store(), "docker.io");
        assert_eq!((&known["proof"], &known["anonymous"]), (&"bytes".into(), &public.into()));
        let before = scene.owner.body_bytes_sent(&scene.digest);
        scene.is_served(&mirror, "/v2/library/second", "fwd=stale; fwd-status=200; detail=revalidated").await;
        // Where not everybody may know what is stored, it is asked for as if it were not.
        let sent = scene.owner.body_bytes_sent(&scene.digest) - before;
        assert_eq!(sent, if public { 0 } else { 1 });
        scene.other_only_says_so();
        if public {
            scene.is_served(&mirror, ELSEWHERE, "fwd=stale; fwd-status=200; detail=revalidated").await;
            assert_eq!(record_of(mirror.store(), "other.example")["proof"], "head");
        } else {
            scene.is_refused(&mirror, "a second repository of the owner makes it no less private").await;
        }
    }
}

#[tokio::test]
async fn a_word_that_was_given_before_anything_was_stored_opens_nothing_later() {
    let scene = Scene::set().await;
    let mirror = scene.private().start().await;
    scene.other_only_says_so();
    assert_eq!(mirror.head(&scene.blob(ELSEWHERE)).await.status, 200);
    scene.is_served(&mirror, THERE, "fwd=miss; stored; detail=fill").await;
    scene.is_refused(&mirror, "whatever it said before").await;
}

#[tokio::test]
async fn a_fill_of_one_upstream_is_joined_and_gone_on_with_by_no_other() {
    let scene = Scene::set().await;
    let mirror = scene.private().config("server.drain = \"10ms\"").start().await;
    let gate = scripted_registry::Gate::new();
    scene.owner.rule(Rule::on(Match::blob(&scene.digest).get()).once().stall_after(500_000, &gate));
    let mut reader = mirror.stream(&scene.blob(THERE)).await;
    reader.read_exactly(400_000).await;
    scene.other_only_says_so();
    scene.is_refused(&mirror, "while the owner's is under way").await;

    // The rest never comes, and what there is waits for somebody to go on with it.
    scene.owner.rule(Rule::on(Match::blob(&scene.digest).get()).close_at_once());
    drop(reader);
    let mirror = mirror.restart().await;
    gate.open();
    mirror.advance(std::time::Duration::from_secs(60));
    scene.other.clear_rules();
    scene.other.forget_requests();
    let total = SIZE - 1;
    scene.other.rule(
        Rule::on(Match::blob(&scene.digest).get().with_header("range"))
            .status(206)
            .header("content-range", &format!("bytes 100-{total}/{SIZE}"))
            .close_after(10),
    );
    scene.is_served(&mirror, ELSEWHERE, "fwd=miss; stored; detail=fill").await;
    let ranges = scene.other.count(|request| request.header("range").is_some());
    assert_eq!(ranges, 0, "it is asked for all of it");
}

#[tokio::test]
async fn a_length_that_was_claimed_costs_one_look_at_the_blob() {
    let scene = Scene::set().await;
    let mirror = scene.private().start().await;
    scene.is_served(&mirror, THERE, "fwd=miss; stored; detail=fill").await;
    scene.other.rule(Rule::on(Match::blob(&scene.digest).head()).declare_length(7));
    let told = mirror.head(&scene.blob(ELSEWHERE)).await;
    assert_eq!((told.status, told.header("content-length")), (200, Some("7")), "nothing is told of what others have");
    scene.is_served(&mirror, ELSEWHERE, "fwd=miss; stored; detail=fill").await;
    assert_eq!(record_of(mirror.store(), "other.example")["size"], SIZE);

    let settings = mirror.stop().await;
    make_old(settings.store(), Some(7));
    let mirror = settings.start().await;
    scene.is_served(&mirror, ELSEWHERE, "hit; detail=hit").await;
    assert_eq!(record_of(mirror.store(), "other.example")["size"], SIZE, "it is mended");
}

/// Waits until the membership of the owner says how it was proven.
async fn proven(mirror: &TestMirror) -> Value {
    loop {
        let known = record_of(mirror.store(), "docker.io");
        if known.get("proof").is_some_and(|proof| proof != "unknown") {
            return known;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_membership_without_a_proof_is_served_and_asked_for_once_more() {
    let mut scene = Scene::set().await;
    let mirror = scene.settings().start().await;
    scene.is_served(&mirror, THERE, "fwd=miss; stored; detail=fill").await;
    let settings = mirror.stop().await;
    make_old(settings.store(), None);

    // Away: as before.
    scene.owner.stop().await;
    let mirror = settings.start().await;
    scene.is_served(&mirror, THERE, "hit; detail=hit").await;
    let settings = mirror.stop().await;
    assert!(record_of(settings.store(), "docker.io").get("proof").is_none());

    scene.owner.restart_on_same_port().await;
    scene.owner.forget_requests();
    let mirror = settings.start().await;
    scene.is_served(&mirror, THERE, "hit; detail=hit").await;
    assert_eq!(proven(&mirror).await["proof"], "head", "nobody else can have brought it");
    assert_eq!(scene.owner.gets_of(&scene.digest), 0);
    scene.owner.forget_requests();
    let mirror = mirror.restart().await;
    scene.is_served(&mirror, THERE, "hit; detail=hit").await;
    assert_eq!(scene.owner.requests().len(), 0, "once");
}

#[tokio::test]
async fn a_membership_without_a_proof_that_another_upstream_may_have_brought_wants_the_bytes() {
    let scene = Scene::set().await;
    let mirror = scene.private().start().await;
    for below in [THERE, ELSEWHERE] {
        scene.is_served(&mirror, below, "fwd=miss; stored; detail=fill").await;
    }
    let settings = mirror.stop().await;
    make_old(settings.store(), None);
    let mirror = settings.start().await;
    scene.is_served(&mirror, THERE, "hit; detail=hit").await;
    assert_eq!(proven(&mirror).await["proof"], "bytes");
    assert_eq!(scene.owner.gets_of(&scene.digest), 2, "once to bring it, once to prove it");

    scene.other_only_says_so();
    scene.is_served(&mirror, ELSEWHERE, "hit; detail=hit").await;
    // Upstream gives it to nobody: that ends it.
    while mirror.get(&scene.blob(ELSEWHERE)).await.status != 404 {
        tokio::task::yield_now().await;
    }
    scene.is_served(&mirror, THERE, "hit; detail=hit").await;
}

#[tokio::test]
async fn a_manifest_without_a_proof_is_asked_for_once_more() {
    let registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[]);
    let path = format!("/v2/library/app/manifests/{}", image.manifest.digest);
    let mirror = TestMirror::of(&registry).await;
    assert_eq!(mirror.get(&path).await.status, 200);
    let settings = mirror.stop().await;
    make_old(settings.store(), None);
    let mirror = settings.start().await;
    registry.forget_requests();
    assert_eq!(mirror.get(&path).await.header("cache-status"), Some("registry-mirror; hit; detail=hit"));
    assert_eq!(proven(&mirror).await["proof"], "head");
    assert_eq!(registry.gets_of(&image.manifest.digest), 0, "a pull is not spent on it");
}

#[tokio::test]
async fn a_yes_to_head_does_not_outweigh_a_no_to_get() {
    for ttl in ["0s", "10s"] {
        let scene = Scene::set().await;
        let second = scene.blob("/v2/library/second");
        scene.owner.rule(Rule::on(Match::repository("library/second").get()).refuse(404));
        let lines = format!("cache.negative_ttl = \"{ttl}\"");
        let mirror = scene.settings().config(&lines).start().await;
        assert_eq!(mirror.get(&second).await.status, 404, "{ttl}");
        // Another repository brings it.
        scene.is_served(&mirror, THERE, "fwd=miss; stored; detail=fill").await;
        for round in 0..3 {
            mirror.advance(std::time::Duration::from_secs(20));
            assert_eq!(mirror.head(&second).await.status, 200, "{ttl} {round}: as upstream says");
            assert_eq!(mirror.get(&second).await.status, 404, "{ttl} {round}");
        }
        scene.owner.clear_rules();
        mirror.advance(std::time::Duration::from_secs(60));
        scene.is_served(&mirror, "/v2/library/second", "fwd=stale; fwd-status=200; detail=revalidated").await;
    }
}
