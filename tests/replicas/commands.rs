//! Commands that know of the bucket, and a store that is older than it.

use std::process::Output;

use scripted_registry::bucket::Fault;
use scripted_registry::{client, noise};
use tokio::process::Command;

use crate::{Scene, TestMirror, before_long, blob_of, key_of, pull, up};

async fn store_test(scene: &Scene, lines: &str) -> Output {
    run(scene, &["store", "test"], lines).await
}

/// Runs a command with these lines of configuration.
pub(crate) async fn run(scene: &Scene, words: &'static [&str], lines: &str) -> Output {
    let path = scene.key().with_file_name("mirror.toml");
    std::fs::write(&path, lines).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
    command.args(words).args(["--json", "-c"]).arg(path).env_clear().env("HOME", "/nonexistent").kill_on_drop(true);
    before_long(&words.join(" "), command.output()).await.unwrap()
}

async fn asked(mirror: &TestMirror, path: &str) -> serde_json::Value {
    let answer = client::get(mirror.admin, &format!("/api/v1/{path}"), &[("host", "localhost")]).await;
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
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

#[tokio::test]
async fn of_an_image_that_only_the_bucket_has_it_is_said_that_it_comes_from_there() {
    let mut scene = Scene::set().await;
    let image = scene.image(210);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.registry.stop().await;
    let size = image.blobs().map(|blob| blob.size).sum::<u64>();
    for mode in ["online", "offline"] {
        let second = scene.settings().config(&format!("cache.mode = \"{mode}\"")).start().await;
        let why = asked(&second, "why?image=app:1").await;
        assert_eq!((&why["succeeds"], &why["from"]), (&true.into(), &"bucket".into()), "{why}");
        let posted =
            client::post(second.socket(), "/api/v1/ready", &[("X-Registry-Mirror", "1")], "{\"images\":[\"app:1\"]}");
        let ready: serde_json::Value = serde_json::from_slice(&posted.await.body).unwrap();
        assert_eq!(ready["ready"], true, "{ready}");
        assert_eq!(ready["images"][0]["completeness"]["bucket_bytes"], size, "{ready}");
        let inspected = asked(&second, "images/inspect?image=app:1").await;
        assert_eq!((&inspected["bucket_bytes"], &inspected["missing_bytes"]), (&size.into(), &0.into()), "{inspected}");
        assert_eq!(asked(&second, "history?image=app:1").await["history"].as_array().unwrap().len(), 1);
        // What was only looked at is not stored, and what is missing in the bucket is missing.
        scene.bucket.remove(&key_of(&image.layers[0].digest));
        let ready =
            client::post(second.socket(), "/api/v1/ready", &[("X-Registry-Mirror", "1")], "{\"images\":[\"app:1\"]}");
        let ready: serde_json::Value = serde_json::from_slice(&ready.await.body).unwrap();
        assert_eq!(
            (&ready["ready"], &ready["images"][0]["completeness"]["missing"][0]["digest"]),
            (&false.into(), &image.layers[0].digest.to_string().into())
        );
        let path = blob_of("library/app", &image.layers[0].digest);
        scene.bucket.put(&key_of(&image.layers[0].digest), first.get(&path).await.body);
    }
}

#[tokio::test]
async fn offline_is_served_from_the_bucket_too() {
    let scene = Scene::set().await;
    let image = scene.image(220);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    scene.registry.forget_requests();
    for lines in ["cache.mode = \"offline\"", "cache.mode = \"offline\"\ncache.complete_only = true"] {
        let second = scene.settings().config(lines).start().await;
        assert_eq!(pull(&second, &image).await[1..], ["tier", "tier", "tier"]);
    }
    assert_eq!(scene.registry.requests().len(), 0);
}

#[tokio::test]
async fn that_there_is_no_bucket_is_told_everywhere_and_pulls_go_on() {
    let scene = Scene::set().await;
    scene.bucket.fault(&[], "", Fault::NoBucket);
    let image = scene.image(230);
    let mirror = scene.replica().await;
    let words = "no such bucket: make it";
    loop {
        let status = asked(&mirror, "status").await;
        if status["bucket"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(words)) {
            assert!(status["problems"].to_string().contains(words), "{status}");
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(&client::get(mirror.admin, "/readyz", &[]).await.body[..], b"ok: degraded (bucket)\n");
    pull(&mirror, &image).await;
    let lines = format!(
        "cache.mode = \"offline\"\nstore.path = \"{}\"\n{}",
        scene.key().with_file_name("none").display(),
        scene.lines()
    );
    for words in [&["store", "test"][..], &["doctor"]] {
        let output = run(&scene, words, &lines).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(document(&output)["checks"].to_string().contains("no such bucket: make it"), "{output:?}");
    }
    scene.bucket.heal();
    let line = |output: &Output| {
        let checks = document(output)["checks"].as_array().unwrap().clone();
        checks.into_iter().filter(|check| check["about"] == "bucket" || check["verdict"] == "fail").collect::<Vec<_>>()
    };
    let well = line(&run(&scene, &["doctor"], &lines).await);
    assert!(well.len() == 1 && well[0]["verdict"] == "ok", "{well:?}");
    let without = lines.lines().filter(|line| !line.contains("credentials")).collect::<Vec<_>>().join("\n");
    let without = line(&run(&scene, &["doctor"], &without).await);
    assert!(without.len() == 1 && without[0]["verdict"] == "warn", "{without:?}");
    assert!(without[0]["hint"].to_string().contains("EnvironmentFiles"), "{without:?}");
}

#[tokio::test]
async fn a_store_goes_up_whole_and_comes_down_again_with_a_daemon_and_without() {
    let mut scene = Scene::set().await;
    let image = scene.image(240);
    let alone = TestMirror::of(&scene.registry).await;
    pull(&alone, &image).await;
    alone.settled().await;
    alone.mirror.pin(&"app:1".parse().unwrap()).await.unwrap();
    let settings = alone.stop().await;
    let lines = |store: &std::path::Path| {
        format!(
            "cache.patience = \"60s\"\nstore.path = \"{}\"\nstore.min_free = \"0%\"\n{}\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"",
            store.display(),
            scene.lines(),
            scene.registry.url()
        )
    };
    let last = |output: &Output| -> serde_json::Value {
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_else(|| panic!("{output:?}"));
        serde_json::from_str(line).unwrap()
    };
    let nowhere = scene.key().with_file_name("nowhere");
    let none = run(&scene, &["store", "push"], &format!("store.path = \"{}\"", nowhere.display())).await;
    assert_eq!((none.status.code(), nowhere.exists()), (Some(2), false), "{none:?}");
    scene.bucket.fault(&["PUT"], "", Fault::Status(403));
    let refused = run(&scene, &["store", "push"], &lines(settings.store())).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    scene.bucket.heal();
    let pushed = run(&scene, &["store", "push"], &lines(settings.store())).await;
    assert_eq!((pushed.status.code(), &last(&pushed)["ended"]), (Some(0), &true.into()), "{pushed:?}");
    assert!(scene.bucket.object("mirror/repositories/docker.io/library/app/_pins/1").is_some());
    let puts =
        || scene.bucket.requests().iter().filter(|(method, key)| method == "PUT" && !key.contains("probe")).count();
    let before = puts();
    let again = run(&scene, &["store", "push"], &lines(settings.store())).await;
    assert_eq!((again.status.code(), puts()), (Some(0), before), "{again:?}");

    let elsewhere = lines(&scene.folder.path().join("in part"));
    let lines = lines(&scene.folder.path().join("down"));
    // However busy the machine is that tests, the bucket is not away.
    let replica = scene.settings().config("cache.patience = \"60s\"").start().await;
    scene.registry.stop().await;
    let pulled = run(&scene, &["store", "pull"], &lines).await;
    let end = last(&pulled);
    assert_eq!((pulled.status.code(), &end["done"]), (Some(0), &end["total"]), "{pulled:?}");
    let again = run(&scene, &["store", "pull"], &lines).await;
    assert_eq!((again.status.code(), &last(&again)), (Some(0), &end));
    let (broken, config) = (key_of(&image.layers[0].digest), key_of(&image.config.digest));
    let good = [&broken, &config].map(|key| scene.bucket.object(key).unwrap());
    scene.bucket.put(&broken, vec![0; good[0].len()]);
    scene.bucket.fault(&[], &config, Fault::Status(403));
    let in_part = run(&scene, &["store", "pull"], &elsewhere).await;
    let end = last(&in_part);
    assert_eq!((in_part.status.code(), &end["failed"]), (Some(3), &2.into()), "{in_part:?}");
    let mut problems: Vec<_> = end["problems"].as_array().unwrap().iter().map(|it| it["key"].to_string()).collect();
    problems.sort_unstable();
    let mut wrong = [&image.layers[0].digest, &image.config.digest].map(|digest| {
        let link = crate::link_of("library/app", digest);
        format!("{:?}", link.strip_prefix("mirror/").unwrap())
    });
    wrong.sort_unstable();
    assert_eq!(problems, wrong);
    assert!(end.to_string().contains("Forbidden") || end.to_string().contains("403"), "{end}");
    scene.bucket.heal();
    scene.bucket.put(&broken, good[0].clone());
    let answer = client::post(replica.socket(), "/api/v1/store/pull", &[("X-Registry-Mirror", "1")], "").await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let told: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&told["ended"], &told["failed"], &told["left_out"]), (&true.into(), &0.into(), &0.into()), "{text}");
    scene.bucket.fault(&[], "", Fault::Hang);
    let down = scene.settings().store_at(&scene.folder.path().join("down")).start().await;
    for mirror in [&down, &replica] {
        assert_eq!(pull(mirror, &image).await, ["hit", "hit", "hit", "hit"]);
        assert!(mirror.store().join("repositories/docker.io/library/app/_pins/1").exists());
    }
}

#[tokio::test]
async fn the_audit_says_how_it_ended_to_carry_a_store() {
    let scene = Scene::set().await;
    let file = scene.folder.path().join("audit.jsonl");
    let config = format!("access.audit = \"{}\"\ncache.patience = \"60s\"", file.display());
    let mirror = scene.settings().config(&config).start().await;
    let image = scene.image(250);
    pull(&mirror, &image).await;
    let carry = async |way: &str| {
        let consent = [("X-Registry-Mirror", "1")];
        let answer = client::post(mirror.socket(), &format!("/api/v1/store/{way}"), &consent, "").await;
        assert_eq!(answer.status, 200, "{way}");
    };
    carry("push").await;
    carry("pull").await;
    scene.bucket.fault(&["PUT"], "", Fault::Status(403));
    let blob = scene.registry.add_blob("library/app", noise(252, 1000));
    assert_eq!(mirror.get(&blob_of("library/app", &blob)).await.status, 200);
    mirror.settled().await;
    carry("push").await;
    drop(mirror.stop().await);
    let audit = std::fs::read_to_string(&file).unwrap();
    let lines = audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let told: Vec<_> = lines
        .filter(|line| line["act"].is_string())
        .map(|line| [&line["act"], &line["verdict"]].map(|value| value.as_str().unwrap_or("-").to_owned()).join(" "))
        .collect();
    assert_eq!(told, ["store/push allowed", "store/pull allowed", "store/push failed"]);
}
