//! What a repository may have, in any order of events: bytes that another repository brings back open nothing
//! that was closed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use scripted_registry::{Digest, Registry, client, noise};

use crate::support::mirror::{Settings, TestMirror};

const REPOSITORIES: [&str; 3] = ["team/a", "team/b", "other/c"];

/// What can happen to one blob that is, or is not, in some repositories.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Upstream has it there from now on, or no longer.
    Added(usize),
    Removed(usize),
    /// A client asks for it there.
    Get(usize),
    Head(usize),
    /// The operator forgets the image there.
    Forgotten(usize),
    /// Its file goes.
    Evicted,
    Restart,
}

fn event(random: &mut StdRng) -> Event {
    let which = random.random_range(0..REPOSITORIES.len());
    match random.random_range(0..16) {
        0..3 => Event::Added(which),
        3..6 => Event::Removed(which),
        6..11 => Event::Get(which),
        11 | 12 => Event::Head(which),
        13 => Event::Forgotten(which),
        14 => Event::Evicted,
        _ => Event::Restart,
    }
}

/// What may be served, as the operator understands it.
#[derive(Debug, Default)]
struct Model {
    /// Where upstream has it.
    has: [bool; REPOSITORIES.len()],
    /// Where upstream said so last, to who wanted the bytes.
    proven: [bool; REPOSITORIES.len()],
    stored: bool,
}

impl Model {
    /// Whether a client may have it there.
    fn may(&self, which: usize) -> bool {
        self.has[which] || (self.stored && self.proven[which])
    }
}

async fn forget(mirror: &TestMirror, repository: &str) {
    let order = serde_json::json!({ "images": [format!("docker.io/{repository}:1")] }).to_string();
    let answer = client::post(mirror.socket(), "/api/v1/forget", &[("X-Registry-Mirror", "1")], &order).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

async fn history(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let registry = Registry::start().await;
    let bytes = noise(seed, 200_000);
    let digest = Digest::of(scripted_registry::Algorithm::Sha256, &bytes);
    let config = "cache.negative_ttl = \"0s\"\ncache.tag_ttl = \"0s\"";
    let mut mirror = Settings::of(&registry).config(config).start().await;
    for repository in REPOSITORIES {
        registry.add_image(repository, "1", &[noise(seed + 1, 1000)]);
        assert_eq!(mirror.get(&format!("/v2/{repository}/manifests/1")).await.status, 200);
    }
    let path = |which: usize| format!("/v2/{}/blobs/{digest}", REPOSITORIES[which]);
    let (mut model, mut happened) = (Model::default(), Vec::new());
    for _ in 0..50 {
        let event = event(&mut random);
        happened.push(event);
        match event {
            Event::Added(which) => {
                registry.add_blob(REPOSITORIES[which], bytes.clone());
                model.has[which] = true;
            }
            Event::Removed(which) => {
                registry.remove_blob(REPOSITORIES[which], &digest);
                model.has[which] = false;
            }
            Event::Get(which) => {
                let answer = mirror.get(&path(which)).await;
                let may = model.may(which);
                assert_eq!(answer.status, if may { 200 } else { 404 }, "seed {seed}: {happened:?} {model:?}");
                assert!(!may || (answer.complete && answer.body == bytes), "seed {seed}: {happened:?}");
                mirror.settled().await;
                (model.stored, model.proven[which]) = (model.stored || may, may);
            }
            Event::Head(which) => {
                let answer = mirror.head(&path(which)).await;
                let may = model.may(which);
                assert_eq!(answer.status, if may { 200 } else { 404 }, "HEAD, seed {seed}: {happened:?} {model:?}");
                // A no to HEAD proves nothing, and neither does a yes about what is not here.
                model.proven[which] |= may && model.stored;
            }
            Event::Forgotten(which) => {
                // The image there does not lead to the blob, which stays proven.
                forget(&mirror, REPOSITORIES[which]).await;
            }
            Event::Evicted => {
                let _ = std::fs::remove_file(mirror.store().join("blobs/sha256").join(digest.hex()));
                model.stored = false;
            }
            Event::Restart => mirror = mirror.restart().await,
        }
    }
}

#[tokio::test]
async fn bytes_that_another_repository_brings_back_open_nothing_that_was_closed() {
    for seed in 1..=6 {
        history(1000 * seed).await;
    }
}
