//! Root at work in the store of another, with secrets that only root may read: what is carried into a bucket and back,
//! and a daemon.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use scripted_registry::bucket::Bucket;
use scripted_registry::{Registry, TokenPolicy, noise};

use crate::daemon::{BINARY, Process};
use crate::owners::{STRANGER, foreign, give_to_stranger, may_mount};
use crate::pull;

/// A file that only root may read.
fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

async fn run(words: &'static [&'static str], config: &Path) -> (String, Option<i32>) {
    let mut command = Command::new(BINARY);
    command.args(words).arg("-c").arg(config).env_clear().env("HOME", "/nonexistent");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_carries_the_store_of_another_into_a_bucket_and_back_and_leaves_no_file_of_his_own() {
    if !may_mount() {
        return;
    }
    let (registry, bucket, etc) = (Registry::start().await, Bucket::start().await, tempfile::tempdir().unwrap());
    let image = registry.add_image("library/app", "1", &[noise(1, 10_000), noise(2, 10_000)]);
    let (config, key) = (etc.path().join("mirror.toml"), etc.path().join("key"));
    let [from, to] = ["from", "to"].map(|name| etc.path().join(name));
    secret(&key, "key:secret\n");
    for store in [&from, &to] {
        fs::create_dir(store).unwrap();
        fs::set_permissions(store, Permissions::from_mode(0o700)).unwrap();
        give_to_stranger(store);
    }
    let process = Process::start(&from, &registry.url(), "");
    assert!(pull(process.address, &image).await, "{}", process.log());
    assert!(process.terminate().success());
    let blobs = |store: &Path| fs::read_dir(store.join("blobs/sha256")).map(Iterator::count).unwrap_or_default();
    let stored = blobs(&from);
    for (store, words) in [(&from, &["store", "push"][..]), (&to, &["store", "pull"])] {
        let text = format!(
            "store.path = \"{}\"\nstore.min_free = \"0\"\nstore.bucket.name = \"shared\"\nstore.bucket.endpoint = \"{}\"\n\
             store.bucket.credentials = \"file:{}\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"{}\"\n",
            store.display(),
            bucket.url(),
            key.display(),
            registry.url()
        );
        secret(&config, &text);
        let (said, code) = run(words, &config).await;
        assert_eq!(code, Some(0), "{words:?}: {said}");
        assert_eq!(foreign(store), Vec::<std::path::PathBuf>::new(), "{words:?}");
        assert!(stored > 3 && blobs(store) == stored, "{words:?}: {said}");
        let sent = bucket.keys().iter().filter(|key| key.contains("blobs/sha256/")).count();
        assert_eq!(sent, stored, "{:?}", bucket.keys());
    }
    let process = Process::start(&to, "http://127.0.0.1:1", "cache.mode = \"offline\"");
    assert!(pull(process.address, &image).await, "{}", process.log());
    assert!(process.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_roots_in_the_store_of_another_follows_no_link_of_his_and_reads_its_secrets_again() {
    if !may_mount() {
        return;
    }
    let registry = Registry::start().await;
    registry.require_tokens(TokenPolicy::bearer().user("ann", "secret").private("library/app"));
    let images = [1, 2, 3].map(|n| registry.add_image("library/app", &n.to_string(), &[noise(n, 10_000)]));
    let etc = tempfile::tempdir().unwrap();
    let [hub, token, socket, store, roots] =
        ["hub", "token", "socket", "store", "roots"].map(|name| etc.path().join(name));
    secret(&hub, "ann:secret\n");
    secret(&token, "0123456789abcdef\n");
    for (folder, mode) in [(&store, 0o700), (&roots, 0o755)] {
        fs::create_dir(folder).unwrap();
        fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    }
    give_to_stranger(&store);
    let settings =
        format!("server.admin_socket = \"{}\"\nserver.admin_token = \"file:{}\"", socket.display(), token.display());
    let upstream = format!("{}\"\nauth = \"file:{}\"\naccess = \"shared", registry.url(), hub.display());
    let process = Process::start(&store, &upstream, &settings);
    assert!(pull(process.address, &images[0]).await, "{}", process.log());
    // The owner lays links where it writes from here on.
    for part in ["ingest", "repositories", "usage", "blobs/sha512"] {
        let (path, link) = (store.join(part), store.join(".link"));
        symlink(&roots, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(STRANGER), Some(STRANGER)).unwrap();
        // In one step, or the daemon makes the folder anew in between.
        fs::create_dir_all(&path).unwrap();
        renameat_with(CWD, &link, CWD, &path, RenameFlags::EXCHANGE).unwrap();
        fs::remove_dir_all(&link).unwrap();
    }
    assert!(pull(process.address, &images[1]).await, "{}", process.log());
    let reload = |expected: i32, what: &'static str| {
        let admin = format!("unix:{}", socket.display());
        let output = Command::new(BINARY).args(["reload", "--admin", &admin]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{what}: {said}");
    };
    tokio::task::block_in_place(|| {
        secret(&token, "short\n");
        reload(2, "a token that is none is seen, so the file was read");
        secret(&token, "fedcba9876543210\n");
        reload(0, "one that is right");
    });
    assert!(pull(process.address, &images[2]).await, "{}", process.log());
    assert!(process.terminate().success());
    let left: Vec<_> = fs::read_dir(&roots).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new(), "it was written outside");
    assert_eq!(foreign(&store), Vec::<std::path::PathBuf>::new());
}
