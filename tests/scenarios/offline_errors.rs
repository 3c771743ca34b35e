//! What is said while nobody may be asked: what is not stored, by its whole name, and the command that fetches it.

use registry_mirror::documents::PullEvent;
use registry_mirror::graph::image::Platforms;
use scripted_registry::{Registry, noise};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::support::mirror::Settings;

#[tokio::test]
async fn what_is_not_stored_is_named_with_the_command_that_fetches_it() {
    let registry = Registry::start().await;
    registry.add_image("library/app", "1", &[noise(71, 100)]);
    let mirror = Settings::of(&registry).config("cache.mode = \"offline\"").start().await;
    let digest = format!("sha256:{}", "1".repeat(64));
    let of_digest = format!("docker.io/library/app@{digest}");
    let blob = format!("the blob {digest} of docker.io/library/app");
    for (path, what, command) in [
        ("app/manifests/1".to_owned(), "docker.io/library/app:1", "pull docker.io/library/app:1"),
        (format!("app/manifests/{digest}"), &of_digest, "pull docker.io/library/app@sha256:"),
        (format!("app/blobs/{digest}"), &blob, "pull docker.io/library/app:TAG"),
        ("app/tags/list".to_owned(), "the list of tags of docker.io/library/app", "pull docker.io/library/app:TAG"),
        ("ghcr.io/owner/app/manifests/2".to_owned(), "ghcr.io/owner/app:2", "pull ghcr.io/owner/app:2"),
    ] {
        let answer = mirror.get(&format!("/v2/{path}")).await;
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        let message = said["errors"][0]["message"].as_str().unwrap();
        let whole = message.contains(&format!("{what} is not stored"))
            && message.contains(&format!("registry-mirror {command}"));
        assert!(answer.status == 503 && whole, "{path}: {message}");
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn who_pulls_while_offline_is_not_told_to_pull() {
    let registry = Registry::start().await;
    let mirror = Settings::of(&registry).config("cache.mode = \"offline\"").start().await;
    let (events, mut told) = mpsc::channel(10);
    assert!(!mirror.mirror.prefetch(&"app:1".parse().unwrap(), &Platforms::All, &events).await);
    let Some(PullEvent::Failed { image, message, .. }) = told.recv().await else { panic!("it failed") };
    assert_eq!(image, "docker.io/library/app:1");
    assert!(message.contains("offline mode is on") && !message.contains("registry-mirror pull"), "{message}");
}
