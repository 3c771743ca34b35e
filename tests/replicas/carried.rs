//! What cannot be carried into the bucket or back: it is named, with what helps, each time anew, and the exit code says
//! what came of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{CWD, Mode, mkfifoat};
use scripted_registry::bucket::{Bucket, Fault};
use scripted_registry::{Digest, Image, client};
use serde_json::Value;

use crate::{Scene, Settings, TestMirror, is_pointer, key_of, link_of, pull, up};

/// The configuration of a command for the store at this path.
pub(crate) fn written_config(scene: &Scene, store: &Path) -> PathBuf {
    let path = scene.key().with_file_name("mirror.toml");
    let lines = format!(
        "cache.patience = \"60s\"\nstore.path = \"{}\"\nstore.min_free = \"0%\"\n{}\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"",
        store.display(),
        scene.lines(),
        scene.registry.url()
    );
    std::fs::write(&path, lines).unwrap();
    path
}

/// Runs `store push` or `store pull` for the store at this path, which a daemon may have.
async fn carry(scene: &Scene, way: &'static str, store: &Path, json: bool) -> Output {
    let path = written_config(scene, store);
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
        command.args(["store", way]).args(json.then_some("--json")).arg("-c").arg(path);
        command.env_clear().env("HOME", "/nonexistent").output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// How it ended, and the exit code.
pub(crate) async fn carried(scene: &Scene, way: &'static str, store: &Path) -> (Option<i32>, Value) {
    let output = carry(scene, way, store, true).await;
    let text = String::from_utf8_lossy(&output.stdout);
    (output.status.code(), serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{output:?}"))).unwrap())
}

/// The same through a daemon.
pub(crate) async fn carried_by(mirror: &TestMirror, way: &str) -> Value {
    let consent = [("X-Registry-Mirror", "1")];
    let answer = client::post(mirror.socket(), &format!("/api/v1/store/{way}"), &consent, "").await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Runs any other command.
async fn command(words: Vec<String>) -> Output {
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-mirror"));
        command.args(words).env_clear().env("HOME", "/nonexistent").output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Runs the first command that a problem's hint names, by this daemon.
async fn follow(problem: &Value, daemon: &TestMirror) -> Output {
    let hint = problem["hint"].as_str().unwrap();
    let words = hint.split("`registry-mirror ").nth(1).unwrap().split('`').next().unwrap();
    let socket = format!("unix:{}", daemon.socket().display());
    command(words.split(' ').map(str::to_owned).chain(["--admin".to_owned(), socket]).collect()).await
}

pub(crate) fn file_of(store: &Path, digest: &Digest) -> PathBuf {
    store.join("blobs").join(digest.to_string().replace(':', "/"))
}

pub(crate) fn put(path: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

/// Whether this is told of content: the image by its tag, the digest, why, and what helps.
fn tells(problem: &Value, digest: &Digest, why: &str) -> bool {
    let said = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
    said("image") == "docker.io/library/app:1"
        && said("digest") == digest.to_string()
        && said("reason").contains(why)
        && said("hint").contains("registry-mirror ")
}

#[tokio::test]
async fn push_names_what_is_damaged_or_missing_here_each_time_and_its_exit_code_says_so() {
    let scene = Scene::set().await;
    let image = scene.image(600);
    let alone = TestMirror::of(&scene.registry).await;
    pull(&alone, &image).await;
    alone.settled().await;
    let settings = alone.stop().await;
    let (damaged, missing) = (&image.layers[0].digest, &image.layers[1].digest);
    let good = [damaged, missing].map(|digest| std::fs::read(file_of(settings.store(), digest)).unwrap());
    let mut bad = good[0].clone();
    bad[1000] ^= 1;
    put(&file_of(settings.store(), damaged), &bad);
    std::fs::remove_file(file_of(settings.store(), missing)).unwrap();
    for _ in 0..2 {
        let (code, end) = carried(&scene, "push", settings.store()).await;
        let problems = end["problems"].as_array().unwrap();
        assert_eq!((code, &end["failed"], &end["damaged"]), (Some(3), &2.into(), &1.into()), "{end}");
        assert!(problems.iter().any(|problem| tells(problem, damaged, "damaged here")), "{end}");
        assert!(problems.iter().any(|problem| tells(problem, missing, "neither the store nor the bucket")), "{end}");
        assert_eq!(end["done"].as_u64().unwrap() + 2, end["total"].as_u64().unwrap(), "{end}");
    }
    let output = carry(&scene, "push", settings.store(), false).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&format!("not carried: docker.io/library/app:1: {damaged}: damaged here")), "{text}");
    put(&file_of(settings.store(), missing), &good[1]);
    let (code, end) = carried(&scene, "push", settings.store()).await;
    assert_eq!((code, &end["failed"], &end["damaged"]), (Some(6), &1.into(), &1.into()), "{end}");
    std::fs::remove_file(file_of(settings.store(), missing)).unwrap();
    scene.bucket.remove(&key_of(missing));
    // A name that cannot be read says nothing, and does not go up.
    let link = settings.store().join(link_of("library/app", &image.config.digest).strip_prefix("mirror/").unwrap());
    let named = std::fs::read(&link).unwrap();
    put(&link, b"{}");
    scene.bucket.remove(&link_of("library/app", &image.config.digest));

    let mirror = settings.config(&scene.lines()).config("cache.patience = \"60s\"").start().await;
    for _ in 0..2 {
        let end = carried_by(&mirror, "push").await;
        assert_eq!((&end["failed"], &end["damaged"], &end["ended"]), (&3.into(), &2.into(), &true.into()), "{end}");
        let problems = end["problems"].as_array().unwrap();
        assert!(problems.iter().any(|problem| tells(problem, damaged, "damaged")), "{end}");
        assert!(problems.iter().any(|problem| tells(problem, missing, "neither")), "{end}");
        assert!(problems.iter().any(|problem| tells(problem, &image.config.digest, "cannot be read")), "{end}");
    }
    assert!(scene.bucket.object(&link_of("library/app", &image.config.digest)).is_none());
    put(&file_of(mirror.store(), damaged), &good[0]);
    put(&file_of(mirror.store(), missing), &good[1]);
    put(&link, &named);
    let end = carried_by(&mirror, "push").await;
    assert_eq!((&end["failed"], &end["done"]), (&0.into(), &end["total"]), "{end}");
    up(&scene, &image).await;
}

/// An image in a bucket, and a registry that nobody asks.
async fn in_bucket(seed: u64) -> (Scene, Image) {
    let scene = Scene::set().await;
    let image = scene.image(seed);
    let first = scene.replica().await;
    pull(&first, &image).await;
    first.mirror.pin(&"app:1".parse().unwrap()).await.unwrap();
    up(&scene, &image).await;
    scene.bucket.until(|bucket| bucket.keys().iter().any(|key| key.ends_with("/history"))).await;
    drop(first.stop().await);
    scene.registry.forget_requests();
    (scene, image)
}

#[tokio::test]
async fn pull_names_what_the_bucket_has_wrongly_or_only_the_name_of_each_time_and_takes_nothing_from_it() {
    let (scene, image) = in_bucket(610).await;
    let contents = [&image.layers[0].digest, &image.config.digest, &image.manifest.digest];
    for (digest, n) in contents.into_iter().zip(0..) {
        let key = key_of(digest);
        let good = scene.bucket.object(&key).unwrap();
        let mut flipped = good.to_vec();
        flipped[5] ^= 1;
        for (wrong, m) in [Some(Vec::new()), Some(b"{}".to_vec()), Some(flipped), None].into_iter().zip(0..) {
            let (code, count, why) = match &wrong {
                Some(_) => (6, 1, "damaged in the bucket"),
                None => (3, 0, "not the content"),
            };
            match wrong.clone() {
                Some(wrong) => scene.bucket.put(&key, wrong),
                None => scene.bucket.remove(&key),
            }
            let store = scene.folder.path().join(format!("down{n}{m}"));
            for _ in 0..2 {
                let (exit, end) = carried(&scene, "pull", &store).await;
                assert_eq!(
                    (exit, &end["failed"], &end["damaged"]),
                    (Some(code), &1.into(), &count.into()),
                    "{n}{m} {end}"
                );
                assert!(tells(&end["problems"][0], digest, why), "{end}");
                let output = carry(&scene, "pull", &store, false).await;
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(!text.contains("_links") && !text.contains("upstream"), "{text}");
                assert_eq!(scene.bucket.object(&key).map(|bytes| bytes.to_vec()), wrong, "it is as it was");
            }
        }
        let daemon = scene.settings().config("cache.patience = \"60s\"").start().await;
        for _ in 0..2 {
            let end = carried_by(&daemon, "pull").await;
            assert!(end["failed"] == 1 && tells(&end["problems"][0], digest, "not the content"), "{end}");
        }
        scene.bucket.put(&key, good);
        let end = carried_by(&daemon, "pull").await;
        assert_eq!((&end["failed"], &end["done"]), (&0.into(), &end["total"]), "{end}");
    }
    assert_eq!(scene.registry.requests().len(), 0, "nobody else is asked");
}

#[tokio::test]
async fn push_asks_the_bucket_also_where_there_is_nothing_to_carry() {
    let scene = Scene::set().await;
    let store = scene.folder.path().join("empty");
    drop(Settings::of(&scene.registry).store_at(&store).start().await.stop().await);
    let daemon = scene.settings().config("cache.patience = \"60s\"").start().await;
    let (code, end) = carried(&scene, "push", &store).await;
    assert_eq!((code, &end["total"], &end["trouble"]), (Some(0), &0.into(), &Value::Null), "{end}");
    assert_eq!(carried_by(&daemon, "push").await["trouble"], Value::Null);
    for fault in [Fault::Status(403), Fault::NoBucket, Fault::Hang] {
        scene.bucket.fault(&[], "", fault);
        let (code, end) = carried(&scene, "push", &store).await;
        assert_eq!((code, &end["done"], &end["ended"]), (Some(1), &0.into(), &true.into()), "{fault:?} {end}");
        assert!(end["trouble"].as_str().is_some_and(|trouble| trouble.starts_with("the bucket ")), "{end}");
        let end = carried_by(&daemon, "push").await;
        assert!(end["trouble"].is_string(), "{fault:?} {end}");
        let said = carry(&scene, "push", &store, false).await;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("error: the bucket "), "{fault:?} {said}");
        scene.bucket.heal();
    }
}

#[tokio::test]
async fn a_path_without_a_store_is_told_and_only_what_brings_something_makes_one() {
    let scene = Scene::set().await;
    let (store, config) = (scene.folder.path().join("mistyped/store"), scene.key().with_file_name("mirror.toml"));
    let (code, error) = carried(&scene, "push", &store).await;
    assert_eq!(code, Some(2), "{error}");
    let file = scene.folder.path().join("file").display().to_string();
    let empty = scene.folder.path().join("empty");
    std::fs::create_dir_all(empty.join("lost+found")).unwrap();
    for (words, code) in [("push", 2), ("pull", 5)] {
        let said = carry(&scene, words, &empty, false).await;
        assert_eq!(said.status.code(), Some(code), "{said:?}");
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 1, "no store is made of an empty folder: {said:?}");
    }
    for words in ["store push", "why app:1", "export --all -o FILE", "import --receipt FILE"] {
        let words = words.replace("FILE", &file);
        let place = ["--json", "-c", config.to_str().unwrap(), "--store", store.to_str().unwrap()];
        let said = command(words.split(' ').chain(place).map(str::to_owned).collect()).await;
        let error: Value = serde_json::from_slice(&said.stdout).unwrap();
        let told = format!("there is no store at {}", store.display());
        assert_eq!((said.status.code(), &error["message"]), (Some(2), &told.into()), "{words}: {said:?}");
        assert!(!store.parent().unwrap().exists(), "{words}");
    }
    let nothing = carry(&scene, "pull", &store, false).await;
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert_eq!((nothing.status.code(), store.parent().unwrap().exists()), (Some(5), false), "{said}");
    assert!(said.contains("nothing of a store in the bucket at shared/mirror/"), "{said}");
    for (fault, told) in [(Fault::Status(403), "the bucket refused"), (Fault::Hang, "does not answer")] {
        scene.bucket.fault(&["GET"], "", fault);
        let failed = carry(&scene, "pull", &store, false).await;
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!((failed.status.code(), store.parent().unwrap().exists()), (Some(1), false), "{said}");
        assert!(said.contains(told), "{fault:?}: {said}");
        scene.bucket.heal();
    }
    let image = scene.image(620);
    let first = scene.replica().await;
    pull(&first, &image).await;
    up(&scene, &image).await;
    let pulled = carry(&scene, "pull", &store, false).await;
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert_eq!((pulled.status.code(), store.exists()), (Some(0), true), "{said}");
    assert!(said.contains(&format!("{}: a new store", store.display())), "{said}");
    scene.bucket.keys().iter().for_each(|key| scene.bucket.remove(key));
    let emptied = carry(&scene, "pull", &store, false).await;
    assert_eq!(emptied.status.code(), Some(5), "of a store that is there, too: {emptied:?}");
}

#[tokio::test]
async fn what_helps_where_pull_left_content_is_told_by_an_image_and_does_help() {
    let (scene, image) = in_bucket(630).await;
    let contents = [&image.layers[0].digest, &image.config.digest, &image.manifest.digest];
    let forget_tag = || {
        let keys = scene.bucket.keys();
        keys.iter().filter(|key| key.contains("/_tags/")).for_each(|key| scene.bucket.remove(key));
    };
    let by_digest = format!("docker.io/library/app@{}", image.manifest.digest);
    for (has_tag, named) in [(true, "docker.io/library/app:1"), (false, by_digest.as_str())] {
        for (n, digest) in contents.into_iter().enumerate() {
            for is_damaged in [true, false] {
                if !has_tag {
                    forget_tag();
                }
                let key = key_of(digest);
                let good = scene.bucket.object(&key).unwrap();
                let mut flipped = good.to_vec();
                flipped[5] ^= 1;
                if is_damaged {
                    scene.bucket.put(&key, flipped)
                } else {
                    scene.bucket.remove(&key)
                }
                let of = format!("{has_tag} {n} {is_damaged}");
                let store = scene.folder.path().join(&of);
                let (_, end) = carried(&scene, "pull", &store).await;
                let problem = &end["problems"][0];
                assert_eq!((&end["failed"], &problem["image"]), (&1.into(), &named.into()), "{of} {end}");
                let daemon = scene.settings().config("cache.patience = \"60s\"").store_at(&store).start().await;
                let mut problem = problem.clone();
                if !is_damaged {
                    // Nobody else has it: what remains is the second way.
                    let hint = problem["hint"].as_str().unwrap().split_once("; ").unwrap().1.to_owned();
                    problem["hint"] = hint.into();
                }
                // At the second try at the latest.
                let mut tried = follow(&problem, &daemon).await;
                if tried.status.code() != Some(0) {
                    tried = follow(&problem, &daemon).await;
                }
                assert_eq!(tried.status.code(), Some(0), "{of} {problem} {tried:?}");
                scene.bucket.until(|bucket| bucket.object(&key).as_ref() == Some(&good)).await;
                drop(daemon.stop().await);
            }
        }
    }
    // A layer whose manifest nobody has is no image.
    forget_tag();
    scene.bucket.remove(&key_of(&image.manifest.digest));
    scene.bucket.remove(&key_of(&image.layers[0].digest));
    let (_, end) = carried(&scene, "pull", &scene.folder.path().join("none")).await;
    let problems = end["problems"].as_array().unwrap();
    let layer = problems.iter().find(|of| of["digest"] == image.layers[0].digest.to_string()).unwrap();
    assert_eq!(layer["image"], "docker.io/library/app", "{end}");
    assert!(!layer["hint"].as_str().unwrap().contains("pull docker.io"), "{layer}");
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_named_once_and_replaced_by_who_knows_any_of_it() {
    let (scene, image) = in_bucket(640).await;
    let key = scene.bucket.keys().into_iter().find(|key| key.ends_with("/history")).unwrap();
    let digest = image.manifest.digest.to_string();
    let is_good = |bucket: &Bucket| {
        let there = bucket.object(&key).unwrap();
        String::from_utf8_lossy(&there).contains(&digest)
    };
    let store = scene.folder.path().join("known");
    assert_eq!(carried(&scene, "pull", &store).await.0, Some(0));
    for (n, wrong) in ["", "{}", "\u{0}\n"].into_iter().enumerate() {
        // Known here; known from what the tag points at; known to a daemon.
        for store in [store.clone(), scene.folder.path().join(format!("fresh{n}"))] {
            scene.bucket.put(&key, wrong);
            let (code, end) = carried(&scene, "pull", &store).await;
            let problem = &end["problems"][0];
            assert_eq!((code, &end["failed"]), (Some(3), &1.into()), "{n} {end}");
            assert!(problem["hint"].as_str().unwrap().starts_with("nothing to do"), "{end}");
            assert!(is_good(&scene.bucket), "{n}");
            assert_eq!(carried(&scene, "pull", &store).await.0, Some(0), "{n}");
        }
    }
    let daemon = scene.settings().config("cache.patience = \"60s\"").store_at(&store).start().await;
    scene.bucket.put(&key, "{}");
    let end = carried_by(&daemon, "pull").await;
    assert_eq!((&end["failed"], is_good(&scene.bucket)), (&1.into(), true), "{end}");
    assert_eq!(carried_by(&daemon, "pull").await["failed"], 0);
    // Who only looks at it mends it, too.
    scene.bucket.put(&key, "{}");
    let looked = client::get(daemon.admin, "/api/v1/history?image=app:1", &[("host", "localhost")]).await;
    assert_eq!(looked.status, 200);
    scene.bucket.until(is_good).await;
    drop(daemon.stop().await);
    // And a client's pull by a replica that knew nothing.
    scene.bucket.put(&key, "{}");
    let fresh = scene.replica().await;
    assert_eq!(fresh.get_with(crate::TAG, &[crate::MANIFEST_TYPES]).await.status, 200);
    scene.bucket.until(is_good).await;
}

#[tokio::test]
async fn pull_names_what_cannot_be_read_of_names_and_a_pin_that_is_known_here_stays() {
    let (scene, _image) = in_bucket(620).await;
    let names: Vec<_> = scene.bucket.keys().into_iter().filter(|key| key.contains("/repositories/")).collect();
    let kinds: [fn(&str) -> bool; 4] =
        [|key| key.contains("/_links/"), |key| key.contains("/_pins/"), is_pointer, |key| key.ends_with("/history")];
    for (is_of_kind, kind) in kinds.into_iter().zip(0..) {
        let key = names.iter().find(|key| is_of_kind(key)).unwrap_or_else(|| panic!("{kind}: {names:?}"));
        let good = scene.bucket.object(key).unwrap();
        let store = scene.folder.path().join(format!("names{kind}"));
        for wrong in ["", "{}"] {
            scene.bucket.put(key, wrong);
            // A history is replaced by what is known of it.
            for _ in 0..if key.ends_with("/history") { 1 } else { 2 } {
                let (code, end) = carried(&scene, "pull", &store).await;
                assert_eq!((code, &end["failed"]), (Some(3), &1.into()), "{kind} {wrong} {end}");
                let problem = &end["problems"][0];
                assert!(key.ends_with(problem["key"].as_str().unwrap()), "{end}");
                assert!(problem["image"].as_str().unwrap().starts_with("docker.io/library/app"), "{end}");
                let hint = problem["hint"].as_str().unwrap();
                assert!(!hint.contains("do it again") && !hint.is_empty(), "it stays so: {end}");
            }
        }
        scene.bucket.put(key, good.clone());
        assert_eq!(carried(&scene, "pull", &store).await.0, Some(0), "{kind}");
        scene.bucket.put(key, "{}");
        let (_, end) = carried(&scene, "pull", &store).await;
        let pin = store.join("repositories/docker.io/library/app/_pins/1");
        assert!(pin.exists(), "{kind}: {end}");
        scene.bucket.put(key, good);
    }
}

#[tokio::test]
async fn what_helps_where_a_name_cannot_be_read_does_help() {
    let (scene, image) = in_bucket(650).await;
    let repository = "mirror/repositories/docker.io/library/app";
    let tag = scene.bucket.keys().into_iter().find(|key| is_pointer(key)).unwrap();
    let kinds = [
        tag,
        link_of("library/app", &image.layers[0].digest),
        link_of("library/app", &image.manifest.digest),
        format!("{repository}/_pins/1"),
        format!("{repository}/_frozen/1"),
    ];
    for (n, key) in kinds.iter().enumerate() {
        scene.bucket.put(key, "{}");
        let store = scene.folder.path().join(format!("{n}"));
        let (code, end) = carried(&scene, "pull", &store).await;
        assert_eq!((code, &end["failed"]), (Some(3), &1.into()), "{key} {end}");
        let daemon = scene.settings().config("cache.patience = \"60s\"").store_at(&store).start().await;
        let mut problem = end["problems"][0].clone();
        if n < 3 {
            // Nobody else has it: what remains is the second way.
            let hint = problem["hint"].as_str().unwrap().split_once("so does ").unwrap().1.to_owned();
            problem["hint"] = hint.into();
        }
        if n == 0 {
            assert!(problem["hint"].as_str().unwrap().starts_with("the next client of that kind"), "{problem}");
            assert_eq!(daemon.get_with(crate::TAG, &[crate::MANIFEST_TYPES]).await.status, 200);
        } else {
            let tried = follow(&problem, &daemon).await;
            assert_eq!(tried.status.code(), Some(0), "{key} {problem} {tried:?}");
        }
        scene.bucket.until(|bucket| bucket.object(key).is_some_and(|bytes| bytes != "{}")).await;
        daemon.settled().await;
        drop(daemon.stop().await);
        let anew = scene.folder.path().join(format!("anew{n}"));
        assert_eq!(carried(&scene, "pull", &anew).await.0, Some(0), "{key}");
    }
    // A list that nobody has is asked for anew; a note is told of all that waits for it.
    let list = format!("{repository}/_lists/tags.{}", "0".repeat(32));
    scene.bucket.put(&list, "{}");
    let (_, end) = carried(&scene, "pull", &scene.folder.path().join("list")).await;
    assert!(end["problems"][0]["hint"].as_str().unwrap().starts_with("nothing to do"), "{end}");
    scene.bucket.remove(&list);
    scene.bucket.put(&format!("{repository}/_public"), "{}");
    let (_, end) = carried(&scene, "pull", &scene.folder.path().join("note")).await;
    let problems = end["problems"].as_array().unwrap();
    let about = |problem: &Value| format!("{} {}", problem["reason"], problem["hint"]);
    assert!(problems.iter().all(|problem| !about(problem).contains("do it again")), "{end}");
    assert!(problems.iter().any(|problem| about(problem).contains("app/_public, cannot be read")), "{end}");
    assert!(problems.iter().any(|problem| about(problem).contains("remove the object")), "{end}");
}

/// Whoever may write in a store may lay links there, and put any line on the list of what is owed, and have somebody else
/// carry it who may read more than he.
#[tokio::test]
async fn push_carries_nothing_that_a_link_leads_to_and_says_what_it_could_not_carry() {
    let scene = Scene::set().await;
    let image = scene.image(670);
    let alone = TestMirror::of(&scene.registry).await;
    pull(&alone, &image).await;
    alone.settled().await;
    let settings = alone.stop().await;
    let store = settings.store();
    let secret = scene.folder.path().join("secret");
    std::fs::write(&secret, "root:$6$secret:1:\n").unwrap();
    let repository = "repositories/docker.io/library/app";
    let list = format!("{repository}/_lists/tags.{}", "0".repeat(32));
    let below = ["_public", "_denied", "_tags/1/history", "_pins/1", "_frozen/1"];
    let mut links: Vec<String> = below.iter().map(|name| format!("{repository}/{name}")).collect();
    links.extend([list, "repositories/x".to_owned()]);
    let mut owed = String::from("c elsewhere\n");
    for key in &links {
        let path = store.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        owed.push_str(&format!("u {key}\n"));
    }
    owed.push_str(&format!("u ../{0}\nu repositories/../../{0}\nu {1}\n", "secret", secret.display()));
    std::fs::write(store.join("owed"), owed).unwrap();
    let pipe = store.join(link_of("library/app", &image.config.digest).strip_prefix("mirror/").unwrap());
    std::fs::remove_file(&pipe).unwrap();
    mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
    let pushed = tokio::time::timeout(std::time::Duration::from_secs(60), carried(&scene, "push", store));
    let (code, end) = pushed.await.expect("nobody waits for a pipe");
    let leaked = |key: &String| String::from_utf8_lossy(&scene.bucket.object(key).unwrap()).contains("secret");
    let leaked: Vec<_> = scene.bucket.keys().into_iter().filter(leaked).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    let count = links.len() as u64 + 1;
    assert_eq!((code, &end["failed"], &end["damaged"]), (Some(6), &count.into(), &count.into()), "{end}");
    let problems = end["problems"].as_array().unwrap();
    let said =
        |key: &str| problems.iter().find(|problem| problem["key"] == key).map(|problem| problem["reason"].clone());
    for key in &links {
        assert!(said(key).is_some_and(|why| why.as_str().unwrap().contains("is a link, and no f")), "{key} {end}");
    }
    assert!(
        problems.iter().any(|problem| problem["reason"].as_str().unwrap().contains("is a pipe, and no file")),
        "{end}"
    );
    // What is no folder is none however often it is verified.
    let problem = problems.iter().find(|problem| problem["key"] == "repositories/x").unwrap();
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.contains("in the place of repositories/x") && !hint.contains("verify"), "{end}");
}
