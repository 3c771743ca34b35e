//! Trouble with our own disk and index: a pull that upstream can serve never fails for it.

use scripted_registry::{Registry, noise};

use crate::support::mirror::{Settings, TestMirror};

#[tokio::test]
async fn a_lost_or_garbled_index_loses_no_pull() {
    let mut registry = Registry::start().await;
    let image = registry.add_image("library/app", "1", &[noise(41, 100_000)]);
    let mirror = TestMirror::of(&registry).await;
    let paths: Vec<String> = std::iter::once("/v2/library/app/manifests/1".to_owned())
        .chain(image.blobs().map(|blob| format!("/v2/library/app/blobs/{}", blob.digest)))
        .collect();
    for path in &paths {
        assert_eq!(mirror.get(path).await.status, 200);
    }
    mirror.settled().await;
    registry.stop().await;
    let mut settings = mirror.stop().await;
    for garble in [false, true] {
        let metadata = settings.store().join("metadata");
        if garble {
            for entry in walk(&metadata) {
                std::fs::write(entry, noise(42, 5000)).unwrap();
            }
        } else {
            std::fs::remove_dir_all(&metadata).unwrap();
        }
        let mirror = settings.start().await;
        for path in &paths {
            assert_eq!(mirror.get(path).await.status, 200, "{path}, garbled: {garble}");
        }
        settings = mirror.stop().await;
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_file_that_was_tampered_with_is_a_miss_and_is_fetched_again() {
    let registry = Registry::start().await;
    let bytes = noise(43, 100_000);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    let path = format!("/v2/library/app/blobs/{digest}");
    mirror.get(&path).await;
    mirror.settled().await;
    let file = mirror.store().join("blobs/sha256").join(digest.hex());
    type Tamper = fn(&std::path::Path);
    let tampers: [Tamper; 3] = [
        |file| std::fs::remove_file(file).unwrap(),
        |file| {
            std::fs::remove_file(file).unwrap();
            std::fs::write(file, "short").unwrap();
        },
        |file| {
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", file).unwrap();
        },
    ];
    for (number, tamper) in tampers.iter().enumerate() {
        tamper(&file);
        let response = mirror.get(&path).await;
        assert!(response.complete && response.body == bytes, "tamper {number}");
        mirror.settled().await;
        assert_eq!(registry.gets_of(&digest), number + 2);
    }
}

/// Puts a file where the folder of unfinished fills should be.
fn break_ingests(mirror: &TestMirror) {
    let folder = mirror.store().join("ingest");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(folder, "").unwrap();
}

#[tokio::test]
async fn when_nothing_can_be_written_pulls_are_passed_through() {
    let registry = Registry::start().await;
    let bytes = noise(44, 400_000);
    let image = registry.add_image("library/app", "1", &[noise(45, 1000)]);
    let digest = registry.add_blob("library/app", bytes.clone());
    let mirror = TestMirror::of(&registry).await;
    break_ingests(&mirror);
    let path = format!("/v2/library/app/blobs/{digest}");
    let response = mirror.get(&path).await;
    assert!(response.complete && response.body == bytes);
    assert!(response.header("cache-status").unwrap().contains("relayed"));
    let manifest = mirror.get("/v2/library/app/manifests/1").await;
    assert_eq!(manifest.header("docker-content-digest"), Some(image.manifest.digest.to_string().as_str()));
    let part = mirror.get_with(&path, &[("Range", "bytes=100-199")]).await;
    assert_eq!((part.status, &part.body), (206, &bytes.slice(100..200)));
    let rest = mirror.get_with(&path, &[("Range", "bytes=100-")]).await;
    assert!(rest.complete && rest.body == bytes.slice(100..));
}

#[tokio::test]
async fn a_passed_through_body_is_verified_as_well() {
    use scripted_registry::{Match, Rule};
    let registry = Registry::start().await;
    let digest = registry.add_blob("library/app", noise(46, 400_000));
    registry.rule(Rule::on(Match::blob(&digest).get()).flip_last_byte());
    let mirror = TestMirror::of(&registry).await;
    break_ingests(&mirror);
    let response = mirror.get(&format!("/v2/library/app/blobs/{digest}")).await;
    assert!(!response.complete);
}

#[tokio::test]
async fn a_second_daemon_on_the_same_store_is_refused() {
    let registry = Registry::start().await;
    let mirror = TestMirror::of(&registry).await;
    let text = "";
    let overrides =
        registry_mirror::config::Overrides { store: Some(mirror.store().display().to_string()), ..Default::default() };
    let config = registry_mirror::config::Config::parse("x".as_ref(), text, [], overrides).unwrap();
    let error = registry_mirror::daemon::Daemon::open(config).expect_err("the store is in use");
    assert!(error.to_string().contains("use"), "{error}");
}

#[tokio::test]
async fn it_starts_and_serves_with_every_upstream_unreachable() {
    let mut registry = Registry::start().await;
    let settings = Settings::of(&registry);
    registry.stop().await;
    let mirror = settings.start().await;
    assert_eq!(mirror.get("/v2/").await.status, 200);
    let response = mirror.get("/v2/library/app/manifests/1").await;
    assert_eq!(response.status, 503);
}
