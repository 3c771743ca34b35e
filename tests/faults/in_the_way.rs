//! What stands in the place of a small file of the store and is none: nobody waits for it, and it is named.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::daemon::{BINARY, Process};
use crate::upgrades::{is_served, stores, unpacked};

/// Nobody listens there.
const AWAY: &str = "http://127.0.0.1:1";

/// A pipe that nobody writes to and nobody reads.
fn pipe_at(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// What a command says of this store, which has a bucket behind it, and its exit code; 124 for one that does not end.
fn said(line: &str, store: &Path) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("mirror.toml"), folder.path().join("key"));
    fs::write(&key, "key:secret").unwrap();
    let bucket = "[store.bucket]\nname = \"none\"\nendpoint = \"http://127.0.0.1:1\"";
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = []\n[store]\npath = \"{}\"\n{bucket}\ncredentials = \"file:{}\"\n",
        store.display(),
        key.display()
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "60", BINARY]).args(line.split(' ')).arg("-c").arg(&file);
    let output = command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

#[test]
fn a_pipe_in_the_place_of_a_file_that_every_start_reads_is_named_and_holds_nobody_up() {
    for (name, codes) in [("format", [2, 2, 2]), ("lock", [0, 1, 1])] {
        let store = unpacked(&stores()[0]);
        let path = store.path().join(name);
        pipe_at(&path);
        for (line, code) in ["check", "serve", "why try:1"].into_iter().zip(codes) {
            let (said, found) = said(line, store.path());
            assert_eq!(found, Some(code), "{name}: {line}: {said}");
            let is_named = said.contains(&path.display().to_string()) && said.contains("is a pipe");
            assert!(is_named, "{name}: {line}: {said}");
            assert!(line == "check" && code == 0 || said.contains("mv "), "{name}: {line} says what to do: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_file_that_can_be_done_without_costs_no_pull() {
    let store = unpacked(&stores()[0]);
    // What this version writes at its first start.
    let process = Process::start(store.path(), AWAY, "");
    is_served(&process).await;
    assert!(process.terminate().success());
    let tag = store.path().join("repositories/docker.io/library/try/_tags/1");
    let history = tag.join("history");
    assert!(history.exists());
    for path in ["places", "oci-layout", "usage/ring.json", "metadata/closed-in-order", "metadata/another"] {
        pipe_at(&store.path().join(path));
    }
    pipe_at(&history);
    let process = Process::start(store.path(), AWAY, "");
    is_served(&process).await;
    assert!(process.terminate().success());
    let command = |line: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "60", BINARY]).args(line).arg("--store").arg(store.path());
        command.env("REGISTRY_MIRROR_CACHE_MODE", "offline").output().unwrap()
    };
    let bundle = store.path().with_extension("tar");
    for line in [&["why", "try:1"][..], &["export", "--all", "-o", bundle.to_str().unwrap()]] {
        let output = command(line);
        assert_eq!(output.status.code(), Some(0), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_file(bundle).unwrap();
}

#[test]
fn a_mark_without_end_is_not_read_to_it() {
    let store = unpacked(&stores()[0]);
    let mark = OpenOptions::new().write(true).create(true).truncate(true).open(store.path().join("format")).unwrap();
    mark.set_len(20 << 30).unwrap();
    for line in ["check", "serve", "why try:1"] {
        let (said, code) = said(line, store.path());
        assert!(code == Some(2) && said.contains("format does not say which format the store has"), "{line}: {said}");
        assert!(said.len() < 4000, "{line}");
    }
    assert_eq!(mark.metadata().unwrap().len(), 20 << 30, "it is left alone");
}

#[test]
fn a_list_of_what_is_owed_that_is_none_is_set_aside_and_all_goes_on() {
    type Make = fn(&Path);
    let kinds: [(&str, Make); 4] = [
        ("it is a pipe", pipe_at),
        ("it is a folder", |path| fs::create_dir(path).unwrap()),
        ("it is no text", |path| fs::write(path, b"u blobs/\xff\xfe\n").unwrap()),
        ("it is longer than", |path| fs::File::create(path).unwrap().set_len(20 << 30).unwrap()),
    ];
    for (why, make) in kinds {
        for line in ["store push", "why try:1"] {
            let store = unpacked(&stores()[0]);
            let list = store.path().join("owed");
            make(&list);
            let (checked, code) = said("check", store.path());
            let told = format!("warning: {}: {why}", list.display());
            assert!(checked.contains(&told) && checked.contains("owed.damaged-N") && code == Some(0), "{checked}");
            let (advised, _) = said("doctor", store.path());
            assert!(advised.contains(&format!("owed, cannot be read: {why}")), "{advised}");
            assert!(!store.path().join("owed.damaged-1").exists(), "{why}: who looks changes nothing");
            let (said_of_it, code) = said(line, store.path());
            // Nobody listens where the bucket should be.
            assert_eq!(code, Some(i32::from(line == "store push")), "{why}: {line}: {said_of_it}");
            let told = format!("warning: {}: {why}", list.display());
            assert!(said_of_it.contains(&told) && said_of_it.contains("owed.damaged-1"), "{line}: {said_of_it}");
            assert!(store.path().join("owed.damaged-1").symlink_metadata().is_ok() && list.is_file(), "{why}: {line}");
            let (checked, _) = said("check", store.path());
            assert!(!checked.contains("owed"), "{checked}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_serves_what_is_stored_whatever_its_list_of_what_is_owed_is() {
    let store = unpacked(&stores()[0]);
    let key = store.path().join(".key");
    fs::write(&key, "key:secret").unwrap();
    fs::write(store.path().join("owed"), b"u blobs/\xff\n").unwrap();
    let bucket = format!(
        "store.bucket.name = \"none\"\nstore.bucket.endpoint = \"http://127.0.0.1:1\"\nstore.bucket.credentials = \"file:{}\"",
        key.display()
    );
    let process = Process::start(store.path(), AWAY, &bucket);
    is_served(&process).await;
    let (log, list) = (process.log(), store.path().join("owed"));
    assert!(log.contains(&format!("{}: it is no text", list.display())) && log.contains("owed.damaged-1"), "{log}");
    assert!(process.terminate().success());
}
