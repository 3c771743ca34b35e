//! Fills beyond number, and of upstreams that stand still: what they are made of is shared fairly.

use scripted_registry::{Digest, Gate, Match, Registry, Rule, noise};
use tokio::runtime::Builder;

use crate::support::mirror::{Settings, TestMirror};

/// So many blobs of which upstream sends a byte, and then nothing until the gate opens.
fn stalling(registry: &Registry, count: usize, gate: &Gate) -> Vec<Digest> {
    let blobs: Vec<_> =
        (0..count as u64).map(|seed| registry.add_blob("library/slow", noise(9000 + seed, 100_000))).collect();
    for blob in &blobs {
        registry.rule(Rule::on(Match::blob(blob).get()).stall_after(1, gate));
    }
    blobs
}

/// Asks for a blob, and hangs up when the answer has begun.
async fn abandon(mirror: &TestMirror, path: &str) {
    let stream = mirror.stream(path).await;
    assert_eq!(stream.status, 200, "{path}");
    stream.reset();
}

/// What the kernel keeps of a file in memory goes, where its file system can: then it has to be read.
fn forget_cached(path: &std::path::Path) {
    let file = std::fs::File::open(path).expect("a stored blob");
    file.sync_all().expect("synced");
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
}

#[test]
fn fills_that_stand_still_keep_no_thread_from_hits_lists_and_other_fills() {
    const THREADS: usize = 4;
    const UPSTREAMS: usize = 3;
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(THREADS).build();
    runtime.expect("a runtime").block_on(async {
        let healthy = Registry::start().await;
        let image = healthy.add_image("library/app", "1", &[noise(1, 300_000)]);
        let mut settings = Settings::of(&healthy);
        let (gate, mut slow) = (Gate::new(), Vec::new());
        for number in 0..UPSTREAMS {
            let registry = Registry::start().await;
            let host = format!("slow{number}.example");
            settings = settings.and(&host, &registry);
            let blobs = stalling(&registry, THREADS, &gate);
            slow.extend(blobs.iter().map(|blob| format!("/v2/{host}/library/slow/blobs/{blob}")));
            // It lives as long as the test.
            std::mem::forget(registry);
        }
        let mirror = settings.start().await;
        let (manifest, list) = ("/v2/library/app/manifests/1", "/v2/library/app/tags/list");
        let layer = image.layers[0].digest;
        let blob = format!("/v2/library/app/blobs/{layer}");
        for path in [manifest, list, &blob] {
            assert_eq!(mirror.get(path).await.status, 200, "{path}");
        }
        // Nothing of it is in memory afterwards.
        let mirror = mirror.restart().await;
        for path in &slow {
            abandon(&mirror, path).await;
        }
        gate.reached_times(slow.len() as u64).await;
        forget_cached(&mirror.store().join("blobs/sha256").join(layer.hex()));
        let cold = format!("/v2/library/app/blobs/{}", image.config.digest);
        for path in [&blob, manifest, list, &cold] {
            let response = mirror.get(path).await;
            assert!(response.status == 200 && response.complete, "{path}");
        }
        assert!(mirror.mirror.fills() >= slow.len(), "they are all under way still");
        gate.open();
        mirror.settled().await;
    });
}
