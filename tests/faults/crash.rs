//! kill -9 at random moments under load; then every file is hashed and everything is pulled.
//!
//! `KILLS` says how often (4 if not set).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use scripted_registry::{Image, Registry, client, noise};
use tokio::net::TcpStream;

use crate::daemon::{Process, audit};
use crate::pull;

/// Pulls until told to stop; counts the answers. Errors are what a kill looks like.
async fn load(
    address: std::net::SocketAddr,
    images: Arc<Vec<Image>>,
    seed: u64,
    answers: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::SeqCst) {
        let image = &images[random.random_range(0..images.len())];
        let blob = image.blobs().nth(random.random_range(0..3)).expect("three blobs").digest;
        let path = if random.random() {
            format!("/v2/{}/manifests/{}", image.repository, image.tag)
        } else {
            format!("/v2/{}/blobs/{blob}", image.repository)
        };
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        let connection = client::Connection::open(address);
        if let Ok(connection) = tokio::spawn(connection).await
            && let Some(stream) = connection.send("GET", &path, &[]).await
        {
            let _ = stream.finish().await;
            answers.fetch_add(1, Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_at_any_moment_no_blob_is_wrong_and_no_pull_fails() {
    let kills: u64 = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(4);
    let registry = Registry::start().await;
    let images: Arc<Vec<Image>> = Arc::new(
        (0..24)
            .map(|n| registry.add_image(&format!("library/app{n}"), "1", &[noise(n, 400_000), noise(100 + n, 150_000)]))
            .collect(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store");
    // Less than everything: eviction is under way when it is killed.
    let config = "store.max_size = \"9MB\"\ncache.tag_ttl = \"0s\"";
    let (mut pulls, mut failed, mut files) = (0, 0, 0);
    for round in 0..kills {
        let (at, from) = (store.clone(), registry.url());
        let process = tokio::task::spawn_blocking(move || Process::start(&at, &from, config)).await.expect("starts");
        let (answers, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let clients: Vec<_> = (0..4)
            .map(|n| {
                tokio::spawn(load(
                    process.address,
                    Arc::clone(&images),
                    round * 4 + n,
                    Arc::clone(&answers),
                    Arc::clone(&stop),
                ))
            })
            .collect();
        let moment = StdRng::seed_from_u64(round).random_range(0..60);
        while answers.load(Ordering::SeqCst) < moment {
            tokio::task::yield_now().await;
        }
        process.kill();
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.expect("a client");
        }
        let (count, wrong) = audit(&store);
        assert!(wrong.is_empty(), "after kill {round}: {wrong:?}");
        files += count;
        // Every fourth time the auditor also pulls everything.
        if round % 4 == 3 || round + 1 == kills {
            let (at, from) = (store.clone(), registry.url());
            let process =
                tokio::task::spawn_blocking(move || Process::start(&at, &from, config)).await.expect("starts");
            for image in images.iter() {
                pulls += 1;
                failed += usize::from(!pull(process.address, image).await);
            }
            assert!(process.terminate().success());
        }
    }
    eprintln!("{kills} kills, {files} files hashed, {pulls} pulls, {failed} failed");
    assert_eq!(failed, 0, "of {pulls} pulls after {kills} kills");
}
