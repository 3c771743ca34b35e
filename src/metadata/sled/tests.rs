//! When the index is believed: not after a panic or an error of the engine, and never against the files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::Uid;
use rustix::thread::set_thread_res_uid;

use super::*;
use crate::oci::{AcceptSet, Algorithm, MediaType, Places};

fn key() -> TagKey {
    let location =
        Location { upstream: "docker.io".parse().expect("valid"), repository: "a/b".parse().expect("valid") };
    TagKey { location, tag: "1".parse().expect("valid"), accept: AcceptSet::everything() }
}

fn record(moment: u64) -> TagRecord {
    let digest = Digest::of(Algorithm::Sha256, b"manifest");
    let descriptor = Descriptor { digest, size: 8, media_type: MediaType::ImageManifest };
    TagRecord {
        descriptor,
        checked_at: Timestamp(moment),
        since: Timestamp(1),
        observed_at: None,
        places: Places::default(),
    }
}

fn ready(folder: &Path) -> SledMetadata {
    let store = SledMetadata::open(folder);
    store.rebuild(&[], Timestamp(0));
    store.put_tag(&key(), &record(1)).expect("writes");
    assert_eq!(store.index_state(), IndexState::Ready);
    store
}

#[test]
fn a_panic_inside_sled_ends_the_index_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ready(folder.path());
    assert_eq!(store.fenced("panicking", |_| -> sled::Result<()> { std::panic::panic_any("damaged") }), None);
    assert_eq!(store.index_state(), IndexState::Absent);
    assert_eq!(store.tag(&key()).expect("answers"), Some(record(1)));
    store.put_tag(&key(), &record(2)).expect("writes");
    assert!(store.blobs().is_err(), "which blobs there were is not known");
    store.rebuild(&[(record(1).descriptor.digest, 8)], Timestamp(5));
    assert_eq!(store.index_state(), IndexState::Absent);
    assert_eq!(store.blobs().expect("answers").len(), 1);
    drop(store);

    let next = SledMetadata::open(folder.path());
    assert!(next.index_was_replaced());
    assert_eq!(next.tag(&key()).expect("answers"), Some(record(2)));
}

#[test]
fn an_error_of_sled_ends_the_index_so_that_it_cannot_answer_with_old_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ready(folder.path());
    let failed = store.fenced("failing", |_| -> sled::Result<()> { Err(sled::Error::Unsupported("test".into())) });
    assert_eq!((failed, store.index_state()), (None, IndexState::Absent));
    store.put_tag(&key(), &record(2)).expect("writes");
    assert_eq!(store.tag(&key()).expect("answers"), Some(record(2)));
}

#[test]
fn an_index_that_lost_a_record_learns_it_from_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ready(folder.path());
    let lookup = || store.fenced("looking", |index| index.tags.get(tag_key(&key()))).flatten();
    store.fenced("forgetting", |index| index.tags.clear());
    assert!(lookup().is_none());
    assert_eq!(store.tag(&key()).expect("answers"), Some(record(1)));
    assert!(lookup().is_some());
}

/// In the name of somebody to whom a folder can be closed, which it cannot be to a superuser.
#[test]
fn an_index_that_was_made_while_a_folder_was_closed_is_made_anew_when_it_is_open() {
    const SOMEBODY: u32 = 65534;
    let folder = tempfile::tempdir().expect("a folder");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(folder.path(), Some(SOMEBODY), Some(SOMEBODY)).expect("chown");
    }
    let store = folder.path();
    let by_somebody = || {
        if is_root {
            let somebody = Uid::from_raw(SOMEBODY);
            set_thread_res_uid(somebody, somebody, somebody).expect("another user");
        }
        drop(ready(store));
        fs::remove_dir_all(store.join("metadata")).expect("the index is removed");
        let closed = store.join("repositories/docker.io/a/b/_tags");
        let mode = |mode| fs::set_permissions(&closed, Permissions::from_mode(mode)).expect("chmod");
        let listed = || {
            let store = SledMetadata::open(store);
            store.rebuild(&[], Timestamp(0));
            assert_eq!(store.index_state(), IndexState::Ready);
            store.tags().expect("answers").len()
        };
        mode(0);
        assert_eq!(listed(), 0, "nobody can know of it");
        mode(0o700);
        assert_eq!(listed(), 1, "the index of before was not whole");
        // Where an index that was whole has to be made anew, too.
        fs::remove_file(store.join("metadata/closed-in-order")).expect("as after a crash");
        mode(0);
        assert_eq!(listed(), 0);
        mode(0o700);
        assert_eq!(listed(), 1);
    };
    thread::scope(|scope| scope.spawn(by_somebody).join().expect("it ends well"));
}

#[test]
fn a_reader_waits_for_no_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ready(folder.path());
    store.fenced("forgetting", |index| index.tags.clear());
    let writing = store.stripe(&key().location, key().tag.as_str()).lock();
    let (sender, answer) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = sender.send(store.tag(&key()));
        });
        let answered = answer.recv_timeout(Duration::from_secs(60));
        drop(writing);
        assert_eq!(answered.expect("before the writer is done").expect("answers"), Some(record(1)));
    });
}
