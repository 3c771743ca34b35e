//! What an upstream says about sizes takes nothing from anybody: only bytes that came do.

use std::collections::BTreeMap;

use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};

use crate::support::mirror::{Settings, TestMirror};

const MB: u64 = 1_000_000;

async fn mirror_of(registry: &Registry, bytes: u64) -> TestMirror {
    Settings::of(registry).config(&format!("store.max_size = \"{bytes}B\"\nstore.min_free = \"0\"")).start().await
}

fn path(digest: &Digest) -> String {
    format!("/v2/library/app/blobs/{digest}")
}

/// The stored blobs and their sizes in bytes.
fn stored(mirror: &TestMirror) -> BTreeMap<String, u64> {
    let files = std::fs::read_dir(mirror.store().join("blobs/sha256")).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len())).collect()
}

#[tokio::test]
async fn a_promise_of_size_evicts_nothing() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, 50 * MB / 10).await;
    for seed in 0..8 {
        let blob = registry.add_blob("library/app", noise(seed, 500_000));
        assert!(mirror.get(&path(&blob)).await.complete);
        mirror.settled().await;
        mirror.advance(std::time::Duration::from_secs(3600));
    }
    let before = stored(&mirror);
    assert_eq!(before.len(), 8);
    let promised = registry.add_blob("library/app", noise(100, 4_500_000));
    let gate = Gate::new();
    registry.rule(Rule::on(Match::blob(&promised).get()).stall_after(1, &gate));
    let stream = mirror.stream(&path(&promised)).await;
    assert_eq!((stream.status, stream.header("content-length")), (200, Some("4500000")));
    gate.reached().await;
    assert_eq!(stored(&mirror), before, "one byte came");
    // And when the rest comes, what has to go for it goes.
    gate.open();
    assert!(stream.finish().await.complete);
    mirror.settled().await;
    assert!(stored(&mirror).contains_key(&promised.hex()), "{}", mirror.metrics().await);
}

/// A model of the budget against upstreams that lie about sizes: what goes is no more than what came.
#[tokio::test]
async fn what_was_stored_stays_unless_bytes_really_came() {
    const BUDGET: u64 = 2 * MB;
    const LARGEST: u64 = 400_000;
    // What is evicted beyond what is needed, so that not every fill has to.
    const SLACK: u64 = BUDGET / 50;
    // What names take, at most.
    const NAMES: u64 = 100_000;
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, BUDGET).await;
    let mut state = 42_u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for step in 0..60_u64 {
        mirror.advance(std::time::Duration::from_secs(600));
        let before = stored(&mirror);
        let free = BUDGET - before.values().sum::<u64>();
        let is_honest = step < 6 || below(2) == 0;
        let size = 1 + below(if is_honest { LARGEST } else { BUDGET + BUDGET / 2 });
        let blob = registry.add_blob("library/app", noise(1000 + step, size as usize));
        let came = if is_honest { size } else { below(size) };
        if !is_honest {
            // Says `size`, sends less, and has it no longer when it is asked again.
            registry.rule(Rule::on(Match::blob(&blob).get()).once().close_after(came));
            registry.rule(Rule::on(Match::blob(&blob).get()).refuse(404));
        }
        let response = mirror.get(&path(&blob)).await;
        assert_eq!(response.complete, is_honest, "step {step}");
        mirror.settled().await;
        let after = stored(&mirror);
        assert_eq!(after.contains_key(&blob.hex()), is_honest, "step {step}");
        let evicted: u64 = before.iter().filter(|(name, _)| !after.contains_key(*name)).map(|(_, size)| size).sum();
        let needed = (came + NAMES).saturating_sub(free);
        let most = if needed == 0 || size > BUDGET { 0 } else { needed + SLACK + LARGEST };
        assert!(evicted <= most, "step {step}: {came} of {size} bytes came with {free} free, and {evicted} went");
        assert!(after.values().sum::<u64>() <= BUDGET, "step {step}");
    }
}

/// Two that are larger together than the store: what cannot be kept is passed through, and nothing that was
/// stored goes for what can never be kept.
#[tokio::test]
async fn nothing_goes_for_a_promise_that_the_store_can_never_keep() {
    let registry = Registry::start().await;
    let mirror = mirror_of(&registry, MB).await;
    let kept = registry.add_image("library/app", "1", &[noise(1, 600_000)]);
    let manifest = "/v2/library/app/manifests/1";
    assert_eq!(mirror.get(manifest).await.status, 200);
    for blob in kept.blobs() {
        assert!(mirror.get(&path(&blob.digest)).await.complete);
    }
    let loose = registry.add_blob("library/app", noise(2, 100_000));
    assert!(mirror.get(&path(&loose)).await.complete);
    mirror.settled().await;
    let pin = serde_json::json!({"images": ["docker.io/library/app:1"]}).to_string();
    let headers = [("x-registry-mirror", "1"), ("content-type", "application/json")];
    let pinned = scripted_registry::client::post(mirror.socket(), "/api/v1/pin", &headers, &pin).await;
    assert_eq!(pinned.status, 200, "{:?}", pinned.body);
    let before = stored(&mirror);
    assert_eq!(before.len(), 4);
    // Less than the store may hold, and more than may go.
    let bytes = noise(3, 800_000);
    let large = registry.add_blob("library/app", bytes.clone());
    let response = mirror.get(&path(&large)).await;
    assert!(response.complete && response.body == bytes);
    mirror.settled().await;
    assert_eq!(stored(&mirror), before);
}
