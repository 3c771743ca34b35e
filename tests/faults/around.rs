//! What is around the bytes says no: an index that is slow, permissions, memory.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use futures_util::future::join_all;
use scripted_registry::{Registry, noise};

use crate::daemon::audit;
use crate::disk::{has_strace, images, is_stored, pull_all, start};
use crate::pull;

/// Nobody in particular; as good as any that is not us.
const STRANGER: u32 = 65534;

/// Every call to the files of the index takes long, those to blobs do not: after a restart, when
/// nothing of the index is in memory yet, and while more is written to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_whose_every_call_takes_long_costs_no_pull() {
    if !has_strace() {
        return;
    }
    let mut registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (store, trace) = (folder.path().join("store"), folder.path().join("trace"));
    let images = images(&registry, 6, 300_000);
    let process = start("exec", &store, &registry, "").await;
    assert_eq!(pull_all(&process, &images[..3]).await, 0);
    assert!(process.terminate().success());
    let index = store.join("metadata");
    let files: String =
        ["db", "conf", "blobs"].iter().map(|name| format!(" -P {}", index.join(name).display())).collect();
    let calls = "pread64,pwrite64,fsync,fdatasync,sync_file_range";
    let how = format!(
        "exec strace -D -f -qq -o {} -e trace={calls} -e inject={calls}:delay_exit=200000{files}",
        trace.display()
    );
    let mut process = start(&how, &store, &registry, "").await;
    assert_eq!(pull_all(&process, &images).await, 0, "of 6 pulls, 3 of them cold: {}", process.log());
    registry.stop().await;
    assert_eq!(pull_all(&process, &images[..3]).await, 0, "of 3 pulls without upstream: {}", process.log());
    assert!(process.is_running());
    assert!(std::fs::read_to_string(&trace).expect("a trace").contains("DELAYED"), "nothing was slow");
}

/// Run as somebody who may not read everything, which a superuser may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_may_not_be_read_is_a_miss_and_is_fetched_again() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut how = "exec";
    if rustix::process::getuid().is_root() {
        how = "exec setpriv --reuid=65534 --regid=65534 --clear-groups";
        if !Command::new("setpriv").arg("--version").output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: a superuser needs setpriv to be somebody else");
            return;
        }
        chown(folder.path(), Some(STRANGER), Some(STRANGER)).expect("chown");
    }
    let image = &images(&registry, 1, 300_000)[0];
    let process = start(how, folder.path(), &registry, "").await;
    assert!(pull(process.address, image).await, "{}", process.log());
    while !is_stored(folder.path(), image) {
        tokio::task::yield_now().await;
    }
    assert!(process.terminate().success());
    let process = start(how, folder.path(), &registry, "").await;
    for (number, blob) in image.blobs().enumerate() {
        let file = folder.path().join("blobs/sha256").join(blob.digest.hex());
        std::fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("chmod");
        registry.forget_requests();
        assert!(pull(process.address, image).await, "{}", process.log());
        assert_eq!(registry.gets_of(&blob.digest), 1, "blob {number} was served although it cannot be read");
        while std::fs::metadata(&file).is_ok_and(|file| file.permissions().mode() & 0o777 == 0) {
            tokio::task::yield_now().await;
        }
    }
    assert!(process.terminate().success());
    assert_eq!(audit(folder.path()).1, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_everybody_may_write_is_told_about_and_closed_below() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("chmod");
    let image = &images(&registry, 1, 300_000)[0];
    let process = start("exec", folder.path(), &registry, "").await;
    assert!(pull(process.address, image).await);
    assert!(process.log().contains("chmod o-w"), "{}", process.log());
    assert!(process.terminate().success());
    let mut closed = 0;
    for entry in std::fs::read_dir(folder.path()).expect("a folder") {
        let entry = entry.expect("an entry");
        let there = entry.metadata().expect("is there");
        if there.is_dir() {
            assert_eq!(there.permissions().mode() & 0o077, 0, "others may look into {}", entry.path().display());
            closed += 1;
        }
    }
    assert!(closed >= 4, "the store looks different");
}

/// No control group is needed to see how much memory a process had at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_cold_pulls_at_once_stay_within_256_mebibytes() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let blobs: Vec<_> = (0..500).map(|n| registry.add_blob("library/app", noise(n, 1 << 20))).collect();
    let process = start("exec", folder.path(), &registry, "").await;
    let address = process.address;
    let failed = join_all(blobs.iter().map(|digest| async move {
        let path = format!("/v2/library/app/blobs/{digest}");
        let Some(stream) = scripted_registry::client::Stream::request(address, "GET", &path, &[]).await else {
            return true;
        };
        let response = stream.finish().await;
        !response.complete || response.status != 200
    }));
    let failed = failed.await.into_iter().filter(|failed| *failed).count();
    assert_eq!(failed, 0, "of 500 pulls of a mebibyte each: {}", process.log());
    let most = process.most_memory();
    eprintln!("500 pulls at once took {} MiB at most", most >> 20);
    assert!(most < 256 << 20, "{most} bytes");
}
