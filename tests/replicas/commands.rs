//! Commands that know of the bucket, and a store that is older than it.

use std::process::{Command, Output};

use scripted_registry::bucket::Fault;

use crate::{Scene, TestMirror, pull, up};

async fn store_test(scene: &Scene, lines: &str) -> Output {
    let path = scene.key().with_file_name("mirror.toml");
    std::fs::write(&path, lines).unwrap();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
        command.args(["store", "test", "--json", "-c"]).arg(path).env("HOME", "/nonexistent").output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn document(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn store_test_tells_how_a_store_is_and_leaves_nothing_there() {
    let scene = Scene::set().await;
    let output = store_test(&scene, &scene.lines()).await;
    let said = document(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(
        (&said["document"], &said["ok"], &said["conditions_hold"]),
        (&"store-test".into(), &true.into(), &true.into())
    );
    assert_eq!(scene.bucket.keys(), Vec::<String>::new());
    assert_eq!(scene.bucket.uploads(), 0);
}

#[tokio::test]
async fn store_test_finds_a_liar_and_one_that_does_not_let_us_write() {
    let scene = Scene::set().await;
    scene.bucket.lie();
    let output = store_test(&scene, &scene.lines()).await;
    let said = document(&output);
    assert_eq!((output.status.code(), &said["conditions_hold"]), (Some(0), &false.into()), "{said}");
    scene.bucket.fault(&["PUT"], "", Fault::Status(403));
    let output = store_test(&scene, &scene.lines()).await;
    assert_eq!((output.status.code(), &document(&output)["ok"]), (Some(1), &false.into()));
    let output = store_test(&scene, "").await;
    assert_eq!(output.status.code(), Some(2), "there is no bucket");
}

#[tokio::test]
async fn what_was_stored_before_there_was_a_bucket_goes_up() {
    let mut scene = Scene::set().await;
    let image = scene.image(200);
    let alone = TestMirror::of(&scene.registry).await;
    pull(&alone, &image).await;
    alone.settled().await;
    let settings = alone.stop().await.config(&scene.lines());
    let _first = settings.start().await;
    up(&scene, &image).await;
    scene.registry.stop().await;
    pull(&scene.replica().await, &image).await;
}
