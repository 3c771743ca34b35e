//! A disk, or a limit of the process, that says no: pulls go on, and it recovers by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use scripted_registry::{Image, Registry, client, noise};

use crate::daemon::{Process, audit};
use crate::pull;

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message, where this may not be done.
    fn mount(size: &str) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(folder));
        }
        eprintln!("skipped: mounting a tmpfs needs a superuser");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

pub fn has_strace() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: needs strace");
    }
    there
}

/// Starts a process whose system calls fail as told, such as `fsync:error=EIO:when=2`. It stays our
/// child: the tracer is not in between. Only calls that are traced can fail.
fn traced(injections: &[&str]) -> String {
    let calls: Vec<&str> = injections.iter().filter_map(|inject| inject.split(':').next()).collect();
    let injections: String = injections.iter().map(|inject| format!(" -e inject={inject}")).collect();
    format!("exec strace -D -f -qq -o /dev/null -e trace={}{injections}", calls.join(","))
}

pub async fn start(how: &str, store: &Path, registry: &Registry, config: &str) -> Process {
    let (how, store, url, config) = (how.to_owned(), store.to_owned(), registry.url(), config.to_owned());
    tokio::task::spawn_blocking(move || Process::start_by(&how, &store, &url, &config)).await.expect("starts")
}

pub fn images(registry: &Registry, count: u64, size: usize) -> Vec<Image> {
    (0..count).map(|n| registry.add_image(&format!("library/app{n}"), "1", &[noise(50 + n, size)])).collect()
}

pub async fn pull_all(process: &Process, images: &[Image]) -> usize {
    let results = join_all(images.iter().map(|image| pull(process.address, image))).await;
    results.iter().filter(|whole| !**whole).count()
}

pub fn is_stored(store: &Path, image: &Image) -> bool {
    image.blobs().all(|blob| store.join("blobs/sha256").join(blob.digest.hex()).exists())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_costs_no_pull_and_recovers_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("6m") else { return };
    let registry = Registry::start().await;
    let images = images(&registry, 12, 700_000);
    let process = start("exec", disk.path(), &registry, "store.max_size = \"100%\"").await;
    assert_eq!(pull_all(&process, &images).await, 0, "of 12 pulls with room for half of them");
    // Somebody else takes all the rest.
    let hog = disk.path().join("hog");
    let _ = std::fs::write(&hog, vec![1; 8 << 20]);
    assert_eq!(pull_all(&process, &images).await, 0, "of 12 pulls with a full disk");
    std::fs::remove_file(&hog).expect("removes");
    assert_eq!(pull_all(&process, &images[..1]).await, 0);
    let mut tries = 0;
    while !is_stored(disk.path(), &images[0]) {
        assert_eq!(pull_all(&process, &images[..1]).await, 0);
        tries += 1;
        assert!(tries < 1000, "nothing is kept although there is room: {}", process.log());
    }
    assert_eq!(audit(disk.path()).1, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_with_few_inodes_left_costs_no_pull_and_keeps_some_of_them_free() {
    let Some(disk) = SmallDisk::mount("50m,nr_inodes=400") else { return };
    let registry = Registry::start().await;
    let deep = "d/".repeat(20);
    let images: Vec<_> =
        (0..40).map(|n| registry.add_image(&format!("r{n}/{deep}z"), "1", &[noise(90 + n, 2000)])).collect();
    let process = start("exec", disk.path(), &registry, "store.min_free = \"10%\"").await;
    for image in &images {
        assert_eq!(pull_all(&process, std::slice::from_ref(image)).await, 0, "{}", process.log());
        let free = rustix::fs::statvfs(disk.path()).expect("statvfs").f_favail;
        assert!(free > 5, "{free} inodes are left");
    }
    let stored = images.iter().filter(|image| is_stored(disk.path(), image)).count();
    assert!((2..=12).contains(&stored), "{stored}");
    // It is written behind the answer.
    let mut tries = 0;
    while !is_stored(disk.path(), &images[39]) {
        assert_eq!(pull_all(&process, &images[39..]).await, 0);
        tries += 1;
        assert!(tries < 1000, "those that came last are kept: {}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_disk_that_is_mounted_read_only_is_served() {
    let Some(disk) = SmallDisk::mount("20m") else { return };
    let mut registry = Registry::start().await;
    let images = images(&registry, 4, 300_000);
    let process = start("exec", disk.path(), &registry, "").await;
    assert_eq!(pull_all(&process, &images[..2]).await, 0);
    assert!(process.terminate().success());
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status().expect("mount runs");
    assert!(remounted.success());
    let process = start("exec", disk.path(), &registry, "").await;
    assert_eq!(pull_all(&process, &images).await, 0, "of 4 pulls: {}", process.log());
    registry.stop().await;
    assert_eq!(pull_all(&process, &images[..2]).await, 0, "of 2 pulls without upstream: {}", process.log());
}

/// Every call that would change the disk fails, as after the kernel turned it read-only. (A real
/// remount is refused as long as the daemon has its lock file open.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_turned_read_only_serves_what_it_has_and_passes_the_rest_through() {
    if !has_strace() {
        return;
    }
    let mut registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let images = images(&registry, 6, 300_000);
    let process = start("exec", folder.path(), &registry, "").await;
    assert_eq!(pull_all(&process, &images[..3]).await, 0);
    assert!(process.terminate().success());
    let calls = "pwrite64,fsync,fdatasync,ftruncate,fchmod,rename,renameat,renameat2,unlink,unlinkat,mkdir";
    let mut process = start(&traced(&[&format!("{calls}:error=EROFS:when=1+")]), folder.path(), &registry, "").await;
    assert_eq!(pull_all(&process, &images).await, 0, "of 6 pulls: {}", process.log());
    registry.stop().await;
    assert_eq!(pull_all(&process, &images[..3]).await, 0, "of 3 pulls without upstream: {}", process.log());
    assert!(process.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_the_size_of_files_passes_large_blobs_through_and_keeps_small_ones() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let small = registry.add_image("library/small", "1", &[noise(1, 10_000)]);
    let large = registry.add_image("library/large", "1", &[noise(2, 6_000_000)]);
    // In blocks of 512 bytes: 2 MiB, which is less than the index wants, too.
    let mut process = start("ulimit -f 4096; exec", folder.path(), &registry, "").await;
    for image in [&small, &large, &small] {
        assert!(pull(process.address, image).await, "{}: {}", image.repository, process.log());
    }
    assert!(process.is_running(), "{}", process.log());
    assert!(is_stored(folder.path(), &small), "a large blob drives nothing out");
    assert!(!is_stored(folder.path(), &large));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_open_files_makes_clients_wait_and_nothing_crash() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let images = images(&registry, 4, 100_000);
    let mut process = start("ulimit -n 64; exec", folder.path(), &registry, "").await;
    assert_eq!(pull_all(&process, &images).await, 0);
    // More clients than descriptors; whether each is answered is not promised.
    let crowd: Vec<_> = join_all((0..150).map(|_| client::Connection::open(process.address))).await;
    drop(crowd);
    assert!(process.is_running(), "{}", process.log());
    assert_eq!(pull_all(&process, &images[..1]).await, 0, "after the crowd has left");
    assert_eq!(audit(folder.path()).1, Vec::<String>::new());
}

/// Each call of the write path fails, always or now and then: no pull fails, nothing wrong is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_at_any_call_of_the_write_path_costs_no_pull() {
    if !has_strace() {
        return;
    }
    let registry = Registry::start().await;
    let images = images(&registry, 2, 300_000);
    let sweep = [
        "pwrite64:error=EIO:when=1+",
        "pwrite64:error=ENOSPC:when=3+4",
        "pwrite64:error=EDQUOT:when=2+3",
        "fsync,fdatasync:error=EIO:when=1+",
        "fsync,fdatasync:error=ENOSPC:when=2+3",
        "fsync,fdatasync:delay_exit=50000",
        "rename,renameat,renameat2:error=EIO:when=1+",
        "rename,renameat,renameat2:error=ENOSPC:when=2+3",
        "fchmod:error=EPERM:when=1+",
        "ftruncate:error=EIO:when=1+",
        "mkdir,mkdirat:error=ENOSPC:when=4+",
    ];
    let (mut pulls, mut failed) = (0, Vec::new());
    for inject in sweep {
        let folder = tempfile::tempdir().expect("a folder");
        let store: PathBuf = folder.path().join("store");
        // Without its folders there is no store to start on.
        assert!(start("exec", &store, &registry, "").await.terminate().success());
        let mut process = start(&traced(&[inject]), &store, &registry, "").await;
        for image in images.iter().chain(&images) {
            pulls += 1;
            if !pull(process.address, image).await {
                failed.push(format!("{inject}: {}", process.log()));
            }
        }
        assert!(process.is_running(), "{inject}: {}", process.log());
        drop(process);
        assert_eq!(audit(&store).1, Vec::<String>::new(), "{inject}");
    }
    eprintln!("{} kinds of errors, {pulls} pulls, {} failed", sweep.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The order of the calls is the proof that a power cut leaves a blob absent or whole: its bytes are
/// synced before it gets its name, and the name before the blob counts as stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_synced_before_it_gets_its_name_and_its_folder_after() {
    if !has_strace() {
        return;
    }
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let image = &images(&registry, 1, 300_000)[0];
    let (store, trace) = (folder.path().join("store"), folder.path().join("trace"));
    let calls = "pwrite64,fallocate,ftruncate,fsync,fdatasync,rename,renameat,renameat2";
    let how = format!("exec strace -D -f -qq -y -e trace={calls} -o {}", trace.display());
    let process = start(&how, &store, &registry, "").await;
    assert!(pull(process.address, image).await, "{}", process.log());
    assert!(process.terminate().success());
    let trace = std::fs::read_to_string(&trace).expect("a trace");
    let sized = trace
        .lines()
        .find(|line| line.contains("/ingest/") && line.contains("fallocate(") | line.contains("ftruncate("));
    assert_eq!(sized, None, "a first byte waits for nothing that is as large as its blob");
    for blob in image.blobs() {
        let hex = blob.digest.hex();
        let at = |what: &str, wanted: &dyn Fn(&str) -> bool| {
            let found: Vec<usize> =
                trace.lines().enumerate().filter(|(_, line)| wanted(line)).map(|(number, _)| number).collect();
            assert!(!found.is_empty(), "no {what} of {hex} in\n{trace}");
            found
        };
        let staged = format!("ingest/sha256-{hex}");
        let written = at("write", &|line| line.contains("pwrite64(") && line.contains(&staged));
        let synced = at("sync", &|line| line.contains("fsync(") && line.contains(&staged));
        let named =
            at("rename", &|line| line.contains("rename") && line.contains(&hex) && line.contains("blobs/sha256"));
        let (written, synced, named) = (written[written.len() - 1], synced[synced.len() - 1], named[0]);
        let folder = at("sync of the folder", &|line| line.contains("fsync(") && line.contains("/blobs/sha256>"));
        assert!(written < synced && synced < named, "{written} {synced} {named} in\n{trace}");
        assert!(folder.iter().any(|folder| *folder > named), "the folder was not synced after {named} in\n{trace}");
        let recorded =
            at("membership", &|line| line.contains("rename") && line.contains(&format!("_links/sha256/{hex}")));
        assert!(recorded[0] > named, "recorded before it was there:\n{trace}");
    }
}

/// What a disk that does not keep its word leaves after a power cut: the name and the length, and other
/// bytes. It is found before the first use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_lost_its_bytes_in_a_power_cut_is_found_before_its_first_use() {
    let registry = Registry::start().await;
    for garbage in [vec![0; 300_000], noise(9, 300_000).to_vec(), Vec::new()] {
        let folder = tempfile::tempdir().expect("a folder");
        let image = &images(&registry, 1, 300_000)[0];
        let process = start("exec", folder.path(), &registry, "").await;
        assert!(pull(process.address, image).await);
        // The client has its bytes before the store has.
        while !is_stored(folder.path(), image)
            || std::fs::read_dir(folder.path().join("ingest")).expect("a folder").count() > 0
        {
            tokio::task::yield_now().await;
        }
        process.kill();
        for blob in image.blobs() {
            let file = folder.path().join("blobs/sha256").join(blob.digest.hex());
            let length = std::fs::metadata(&file).expect("it is stored").len();
            std::fs::remove_file(&file).expect("removes");
            let left = &garbage[..garbage.len().min(usize::try_from(length).expect("fits"))];
            std::fs::write(&file, left).expect("writes");
        }
        let process = start("exec", folder.path(), &registry, "").await;
        assert!(pull(process.address, image).await, "{}", process.log());
        assert!(process.terminate().success());
        assert_eq!(audit(folder.path()).1, Vec::<String>::new());
    }
}

/// A bad sector under a stored blob: the answer that meets it is cut, the blob is set aside, and the
/// next pull gets it from upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_the_middle_of_a_hit_cuts_the_answer_and_the_blob_is_fetched_again() {
    if !has_strace() {
        return;
    }
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let image = &images(&registry, 1, 20_000_000)[0];
    let process = start("exec", folder.path(), &registry, "").await;
    assert!(pull(process.address, image).await);
    assert!(process.terminate().success());
    registry.forget_requests();
    // Each thread fails to send now and then. Whoever reads the whole file meets the bad sector, too, on a thread that
    // has read enough; the first calls load libraries.
    let inject = ["sendfile:error=EIO:when=2+40", "pread64:error=EIO:when=15+"];
    let process = start(&traced(&inject), folder.path(), &registry, "").await;
    let mut cut = 0;
    // The file is looked at behind the answers: some may be whole before it is found out.
    let healing = async {
        while !image.blobs().any(|blob| registry.gets_of(&blob.digest) > 0) {
            cut += u32::from(!pull(process.address, image).await);
        }
    };
    let healed = tokio::time::timeout(Duration::from_secs(60), healing).await;
    assert!(healed.is_ok(), "{cut} answers were cut and nothing was fetched again: {}", process.log());
    assert!(cut > 0, "the fault was not met: {}", process.log());
    let mut heals = false;
    for _ in 0..10 {
        heals |= pull(process.address, image).await;
    }
    assert!(heals, "it never heals: {}", process.log());
    assert!(std::fs::read_dir(folder.path().join("quarantine")).expect("a folder").count() > 0);
    assert_eq!(audit(folder.path()).1, Vec::<String>::new());
}
