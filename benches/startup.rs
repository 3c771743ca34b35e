//! Starting with many blobs: clean, after a kill, and with the index deleted. Time until it serves,
//! time until everything is counted, processor time and how much of it is the kernel's, and memory.
//!
//! `cargo bench --bench startup -- 1000000` (100,000 if no number is given). Blobs are empty files
//! of the right names, on the disk of the temporary folder; every tenth has a membership. Phases run
//! as processes of their own, so that each begins with nothing in memory. For comparison, `find` asks
//! for the size of every blob: whoever knows nothing cannot be faster than that on one processor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use registry_mirror::blob_store::BlobStore as _;
use registry_mirror::blob_store::local::LocalBlobStore;
use registry_mirror::clock::Timestamp;
use registry_mirror::metadata::sled::SledMetadata;
use registry_mirror::metadata::{Location, MetadataStore as _};
use registry_mirror::oci::Digest;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn digest(number: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    Digest::Sha256(bytes)
}

fn make(store: &Path, count: u64) {
    let blobs = store.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let links = store.join("repositories/docker.io/library/app/_links/sha256");
    fs::create_dir_all(&links).unwrap();
    for number in 0..count {
        let digest = digest(number);
        File::create(blobs.join(digest.hex())).unwrap();
        if number % 10 == 0 {
            let link = format!(
                r#"{{"digest":"{digest}","size":0,"media_type":"application/vnd.oci.image.manifest.v1+json"}}"#
            );
            fs::write(links.join(digest.hex()), link).unwrap();
        }
    }
}

/// Does what the daemon does at its start; `end` says whether the index is closed in good order.
fn start(store: &Path, name: &str, end: bool) {
    let begin = Instant::now();
    let blobs = LocalBlobStore::open(store).unwrap();
    let metadata = SledMetadata::open(store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The first pull: a blob and its membership.
    let location = Location { upstream: "docker.io".parse().unwrap(), repository: "library/app".parse().unwrap() };
    assert!(metadata.member(&location, &digest(0)).unwrap().is_some());
    assert!(runtime.block_on(blobs.open(&digest(0))).is_some());
    let serving = begin.elapsed();
    let mut sizes = Vec::new();
    metadata.for_each_recorded(|digest, size| {
        sizes.push((digest, size));
        if sizes.len() == 4096 {
            blobs.remember_sizes(sizes.drain(..));
        }
    });
    blobs.remember_sizes(sizes);
    let stored = runtime.block_on(blobs.list()).unwrap();
    metadata.rebuild(&stored, NOW);
    drop(stored);
    let (user, kernel) = processor_seconds("/proc/self/stat");
    println!(
        "{name:24} serves after {:.3} s, complete after {:.2} s; processor {:.2} s, {:.0} % of it in the kernel; \
         {} blobs; memory {} MB, at most {} MB",
        serving.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
        user + kernel,
        100.0 * kernel / (user + kernel),
        blobs.usage().blobs,
        memory("VmRSS:"),
        memory("VmHWM:"),
    );
    if !end {
        // As a kill would: nothing is written any more.
        std::process::exit(0);
    }
}

/// In MB.
fn memory(which: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// In the program and in the kernel (proc(5), fields 14 and 15), in seconds.
fn processor_seconds(stat: &str) -> (f64, f64) {
    let stat = fs::read_to_string(stat).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let seconds = |at: usize| fields[at].parse::<f64>().unwrap() / 100.0;
    (seconds(11), seconds(12))
}

/// What it costs to ask for the size of every blob.
fn floor(store: &Path) {
    let begin = Instant::now();
    let find = Command::new("find").arg(store.join("blobs")).args(["-type", "f", "-printf", "%s\n"]).output();
    if find.is_ok_and(|output| output.status.success()) {
        println!("{:24} complete after {:.2} s", "find -printf %s", begin.elapsed().as_secs_f64());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [store, name, end] = arguments.as_slice() {
        return start(Path::new(store), name, end == "end");
    }
    // `cargo test` only asks whether it runs.
    let small = if std::env::args().any(|argument| argument == "--bench") { 100_000 } else { 100 };
    let count = arguments.first().and_then(|count| count.parse().ok()).unwrap_or(small);
    let folder = tempfile::tempdir().unwrap();
    let made = Instant::now();
    make(folder.path(), count);
    println!("{count} blobs made in {:.1} s", made.elapsed().as_secs_f64());
    let phases = [("without an index", "end"), ("after a clean end", "kill"), ("after a kill", "end")];
    floor(folder.path());
    for (name, end) in phases.into_iter().chain([("with the index deleted", "end")]) {
        if name == "with the index deleted" {
            fs::remove_dir_all(folder.path().join("metadata")).unwrap();
        }
        let status =
            Command::new(std::env::current_exe().unwrap()).arg(folder.path()).args([name, end]).status().unwrap();
        assert!(status.success());
    }
}
