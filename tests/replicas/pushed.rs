//! A push of a whole store goes on with the others where the bucket refuses an object, and says what it did not take; what
//! is closed to who pushes is said, too.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use scripted_registry::bucket::Fault;
use scripted_registry::{Image, noise};
use serde_json::Value;

use crate::carried::{carried, carried_by, file_of, put, written_config};
use crate::leases::bucket_of;
use crate::trouble::readyz;
use crate::{Scene, Settings, TestMirror, before_long, is_pointer, key_of, link_of, pull, up};

/// A user who owns nothing here.
const STRANGER: u32 = 65534;

/// A store of a mirror without a bucket, with an image of so many layers.
async fn alone(scene: &Scene, seed: u64, layers: u64) -> (Settings, Image) {
    let contents: Vec<_> = (0..layers).map(|n| noise(seed + n, 3000)).collect();
    let image = scene.registry.add_image("library/app", "1", &contents);
    let alone = TestMirror::of(&scene.registry).await;
    pull(&alone, &image).await;
    alone.settled().await;
    (alone.stop().await, image)
}

/// Whether all of the image is there but these layers.
fn has_all_but(scene: &Scene, image: &Image, left: usize) -> bool {
    let keys = scene.bucket.keys();
    let has = |key: &str| keys.iter().any(|there| there == key);
    let is_left = |digest| image.layers[..left].iter().any(|layer| layer.digest == digest);
    image
        .blobs()
        .chain([&image.manifest])
        .all(|blob| has(&link_of("library/app", &blob.digest)) && has(&key_of(&blob.digest)) != is_left(blob.digest))
        && keys.iter().any(|key| is_pointer(key))
}

fn names_refused(end: &Value, image: &Image, left: usize) {
    let problems = end["problems"].as_array().unwrap();
    for layer in &image.layers[..left] {
        let of = |problem: &&Value| problem["digest"] == layer.digest.to_string();
        let problem = problems.iter().find(of).unwrap_or_else(|| panic!("{end}"));
        assert!(problem["reason"].as_str().unwrap().starts_with("the bucket "), "{end}");
        assert!(problem["hint"].as_str().unwrap().contains("registry-mirror store test"), "{end}");
    }
}

#[tokio::test]
async fn push_goes_on_with_the_others_where_objects_are_refused_and_names_those() {
    for (n, status) in [413, 403, 503].into_iter().enumerate() {
        let scene = Scene::set().await;
        let (settings, image) = alone(&scene, 4000 + 100 * n as u64, 8).await;
        for layer in &image.layers[..2] {
            scene.bucket.fault(&["PUT"], &key_of(&layer.digest), Fault::Status(status));
        }
        let daemon = settings.clone().config(&scene.lines()).config("cache.patience = \"60s\"");
        for is_daemon in [false, true, false] {
            let end = if is_daemon {
                let daemon = daemon.clone().start().await;
                let end = carried_by(&daemon, "push").await;
                drop(daemon.stop().await);
                end
            } else {
                let (code, end) = carried(&scene, "push", settings.store()).await;
                assert_eq!(code, Some(3), "{status}: {end}");
                end
            };
            assert_eq!(
                (&end["failed"], &end["damaged"], &end["trouble"]),
                (&2.into(), &0.into(), &Value::Null),
                "{end}"
            );
            assert_eq!(end["done"].as_u64().unwrap() + 2, end["total"].as_u64().unwrap(), "{end}");
            names_refused(&end, &image, 2);
            assert!(has_all_but(&scene, &image, 2), "{status}: {:?}", scene.bucket.keys());
        }
        let daemon = daemon.start().await;
        let refused = async {
            while bucket_of(&daemon).await["trouble"].is_null() {
                tokio::task::yield_now().await;
            }
        };
        before_long("that something is refused is shown", refused).await;
        scene.bucket.heal();
        before_long("all is there", up(&scene, &image)).await;
        let shown = async {
            while !bucket_of(&daemon).await["trouble"].is_null() || readyz(&daemon).await != "ok\n" {
                tokio::task::yield_now().await;
            }
        };
        before_long("nothing is refused any more, and that is shown", shown).await;
    }
}

#[tokio::test]
async fn a_bucket_that_takes_nothing_but_that_it_is_asked_ends_a_push_soon() {
    let scene = Scene::set().await;
    let (settings, image) = alone(&scene, 4500, 8).await;
    for (n, fault) in [Fault::Hang, Fault::Status(503), Fault::Status(403)].into_iter().enumerate() {
        scene.bucket.fault(&["PUT", "POST"], "/blobs/", fault);
        scene.bucket.fault(&["PUT", "POST"], "/repositories/", fault);
        let begun = std::time::Instant::now();
        let (code, end) = carried(&scene, "push", settings.store()).await;
        assert_eq!((code, &end["done"]), (Some(1), &0.into()), "{n} {fault:?}: {end}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{fault:?}: {:?}", begun.elapsed());
        assert_eq!(end["failed"], end["total"], "{end}");
        scene.bucket.heal();
    }
    assert_eq!(carried(&scene, "push", settings.store()).await.0, Some(0));
    assert!(has_all_but(&scene, &image, 0));
}

/// Runs a push as another user, whose the store is.
fn as_stranger(program: &Path, config: &Path) -> (Option<i32>, Value) {
    let mut command = Command::new(program);
    command.args(["store", "push", "--json", "-c"]).arg(config).env_clear().env("HOME", "/nonexistent");
    let output = command.uid(STRANGER).gid(STRANGER).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    (output.status.code(), serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{output:?}"))).unwrap())
}

fn give_to_stranger(path: &Path) {
    chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_to_stranger(&entry.unwrap().path()));
    }
}

#[tokio::test]
async fn push_names_the_files_that_are_closed_to_who_pushes_and_ends_with_3() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only a superuser can be somebody else");
        return;
    }
    let scene = Scene::set().await;
    let (settings, image) = alone(&scene, 4700, 2).await;
    let (store, folder) = (settings.store(), scene.folder.path());
    give_to_stranger(store);
    for (path, mode) in [(folder, 0o755), (&scene.key(), 0o644)] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let (program, config) = (folder.join("registry-mirror"), written_config(&scene, store));
    std::fs::copy(env!("CARGO_BIN_EXE_registry-mirror"), &program).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let link = link_of("library/app", &image.config.digest);
    let closed = [file_of(store, &image.layers[0].digest), store.join(link.strip_prefix("mirror/").unwrap())];
    for path in &closed {
        let bytes = std::fs::read(path).unwrap();
        put(path, &bytes);
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    let pushed = || {
        let (program, config) = (program.clone(), config.clone());
        async move { tokio::task::spawn_blocking(move || as_stranger(&program, &config)).await.unwrap() }
    };
    for _ in 0..2 {
        let (code, end) = pushed().await;
        assert_eq!((code, &end["failed"], &end["damaged"]), (Some(3), &2.into(), &0.into()), "{end}");
        assert_eq!(end["done"].as_u64().unwrap() + 2, end["total"].as_u64().unwrap(), "{end}");
        for digest in [&image.layers[0].digest, &image.config.digest] {
            let problems = end["problems"].as_array().unwrap();
            let problem = problems.iter().find(|problem| problem["digest"] == digest.to_string()).unwrap();
            assert!(problem["reason"].as_str().unwrap().contains("cannot be read here: Permission denied"), "{end}");
            assert!(problem["hint"].as_str().unwrap().contains("registry-mirror doctor"), "{end}");
        }
    }
    assert!(scene.bucket.object(&key_of(&image.layers[0].digest)).is_none());
    assert!(scene.bucket.object(&link).is_none());
    closed.iter().for_each(|path| give_to_stranger(path));
    let (code, end) = pushed().await;
    assert_eq!((code, &end["failed"]), (Some(0), &0.into()), "{end}");
    assert!(has_all_but(&scene, &image, 0));
}
