//! Stores that send without end: nobody waits for them, and what they send is read up to a bound.

use std::time::{Duration, Instant};

use scripted_registry::bucket::Fault;
use scripted_registry::client;

use crate::{Scene, pull, up};

async fn until_told(mirror: &crate::TestMirror, words: &str) {
    loop {
        let answer = client::get(mirror.socket(), "/api/v1/status", &[]).await;
        let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        if status["bucket"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(words)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn lists_that_are_too_long_or_go_in_a_circle_are_left_and_all_else_goes_on() {
    const LENGTH: usize = 450 << 20;
    for (fault, words) in [(Fault::LongList(LENGTH), "more than"), (Fault::SameList, "again and again")] {
        let mut scene = Scene::set().await;
        let image = scene.image(800);
        let first = scene.replica().await;
        pull(&first, &image).await;
        up(&scene, &image).await;
        drop(first.stop().await);
        scene.bucket.fault(&["GET"], "", fault);
        // One with an empty disk lists the acts of all others when it starts.
        let second = scene.settings().config("cache.patience = \"60s\"").start().await;
        until_told(&second, words).await;
        assert_eq!(&client::get(second.admin, "/readyz", &[]).await.body[..], b"ok: degraded (bucket)\n");
        scene.registry.stop().await;
        assert_eq!(pull(&second, &image).await[1..], ["tier", "tier", "tier"]);
        let lines = format!(
            "cache.patience = \"60s\"\nstore.path = \"{}\"\n{}",
            scene.folder.path().join("down").display(),
            scene.lines()
        );
        let begun = Instant::now();
        let output = crate::commands::run(&scene, &["store", "pull"], &lines).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(words), "{output:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let tested = crate::commands::run(&scene, &["store", "test"], &lines).await;
        assert_eq!(tested.status.code(), Some(1), "{tested:?}");
        assert!(scene.bucket.taken() < LENGTH / 2, "{} bytes were taken", scene.bucket.taken());
        scene.bucket.heal();
        assert_eq!(crate::commands::run(&scene, &["store", "pull"], &lines).await.status.code(), Some(0));
    }
}
