//! How far `verify` is shows also while it reads one large blob.

use bytes::Bytes;
use registry_mirror::documents::Finding;
use scripted_registry::Registry;
use tokio::sync::mpsc;

use crate::support::command;
use crate::support::mirror::TestMirror;

const SIZE: u64 = 40 << 20;

/// One blob in the store, and nothing else.
async fn with_one_large_blob() -> (Registry, TestMirror) {
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", Bytes::from(vec![7; SIZE as usize]));
    let mirror = TestMirror::of(&registry).await;
    assert!(mirror.get(&format!("/v2/library/app/blobs/{digest}")).await.complete);
    mirror.settled().await;
    (registry, mirror)
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_moves_within_one_large_blob_also_in_a_pipe() {
    let (_registry, mirror) = with_one_large_blob().await;
    let admin = format!("unix:{}", mirror.socket().display());
    let verified = move || command::run(&["verify", "--admin", &admin], b"");
    let (code, _, err) = tokio::task::spawn_blocking(verified).await.expect("ends");
    let percents: Vec<_> = err.lines().filter_map(|line| line.split_once(" %: ")).map(|(percent, _)| percent).collect();
    assert!(code == 0 && percents.first() == Some(&"0") && percents.last() == Some(&"100"), "{err}");
    assert!(percents.len() >= 5, "{err}");
}

#[tokio::test]
async fn a_rate_holds_within_one_large_blob_and_every_step_is_told() {
    let (_registry, mirror) = with_one_large_blob().await;
    let rate = 1 << 20;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let (findings, mut found) = mpsc::channel(1);
    let verifying = mirror.mirror.verify(false, rate, None, &findings);
    let listening = async {
        let mut last = 0;
        while let Some(finding) = found.recv().await {
            match finding {
                Finding::Progress { checked_bytes, of_bytes, .. } => {
                    assert!(checked_bytes >= last && of_bytes == SIZE);
                    assert!(checked_bytes - last <= 8 << 20, "from {last} to {checked_bytes}");
                    let seconds = start.elapsed().as_secs();
                    assert!(seconds >= checked_bytes / rate, "{checked_bytes} bytes after {seconds} s");
                    last = checked_bytes;
                }
                Finding::Done { damaged, checked_bytes, .. } => return (damaged, checked_bytes),
                Finding::Damaged { .. } => {}
            }
        }
        unreachable!("it ends with a last word")
    };
    let (verified, end) = tokio::join!(verifying, listening);
    verified.expect("verifies");
    assert_eq!(end, (0, SIZE));
}
