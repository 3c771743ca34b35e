//! Works in which something is wrong: the disk is slow, upstream breaks, the server was killed.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use scripted_registry::{Algorithm, Digest};

use super::bench::{Bench, names};
use super::cut::Cutter;
use super::images::{TAG, blob_path, manifest_path};
use super::load;
use super::rounds::{median, spread};
use super::servers::Server;

/// A large blob that the page cache has not got, and small requests beside it: whether reading a
/// disk keeps everybody waiting.
pub fn disk(bench: &Bench) -> io::Result<String> {
    let work = "3 KB manifest beside a blob that is read from disk: longest wait";
    eprintln!("- {work}");
    let servers = bench.warm_servers()?;
    let images = &bench.images;
    let hex = images.large.hex();
    let in_registry = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let files = [
        servers[0].file(&format!("store/blobs/sha256/{hex}")),
        images.web.join(&blob_path(&images.large)[1..]),
        images.registry.join(in_registry),
    ];
    let mut waits = vec![Vec::new(); servers.len()];
    bench.effort.rounds(|| {
        for ((server, file), waits) in servers.iter().zip(&files).zip(&mut waits) {
            forget(file)?;
            waits.push(longest_wait(server, &blob_path(&images.large))?.as_secs_f64());
        }
        Ok(())
    })?;
    let mut rows = String::new();
    let names = names(&servers);
    for (name, theirs) in names.iter().zip(&waits).skip(1) {
        let ratios: Vec<f64> = waits[0].iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect();
        rows += &format!(
            "| {work} | {} : {name} | {} | {:.1} ms | {:.1} ms | times shorter, not CPU |\n",
            names[0],
            spread(&ratios),
            median(waits[0].iter().copied()) * 1e3,
            median(theirs.iter().copied()) * 1e3
        );
    }
    Ok(rows)
}

/// Has the page cache forget a file.
fn forget(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Fetches the blob; how long the slowest of the small requests meanwhile took.
fn longest_wait(server: &Server, blob: &str) -> io::Result<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let (address, stopped) = (server.address, Arc::clone(&stop));
    let pings = std::thread::spawn(move || load::longest_answer(address, &manifest_path(TAG), &stopped));
    let fetched = load::fetch_all(address, &[blob.to_owned()], None);
    stop.store(true, Ordering::Relaxed);
    let longest = pings.join().unwrap_or_else(|_| Err(io::Error::other("the pings failed")));
    fetched.and(longest)
}

/// An upstream that breaks off at 30 % of a blob, and again at 70 %.
pub fn cut(bench: &Bench) -> io::Result<String> {
    let work = "cold blob, upstream cut at 30 % and at 70 %";
    eprintln!("- {work}");
    let size = bench.images.large_size;
    let mut rows = String::new();
    for name in ["registry-mirror", "nginx proxy_cache", "docker-registry (cache)"] {
        let cutter = Cutter::start(bench.upstream.address)?;
        let server = match name {
            "registry-mirror" => bench.workshop.mirror(cutter.address)?,
            "nginx proxy_cache" => bench.workshop.nginx_cache(cutter.address)?,
            _ => bench.workshop.docker_registry(&bench.images, Some(cutter.address))?,
        };
        load::fetch_all(server.address, &[blob_path(&bench.images.small)], None)?;
        cutter.cut_after(&[size * 3 / 10, size * 4 / 10]);
        let whole = load::verify(server.address, &blob_path(&bench.images.large), &bench.images.large);
        let result = if whole.is_ok() { "whole and right" } else { "broken off" };
        let fetched = cutter.passed() as f64 / size as f64;
        rows += &format!("| {work} | {name} | {result} | | | fetched {fetched:.2} x |\n");
    }
    Ok(rows)
}

/// From the start of the program to the first right answer, with many blobs in the store.
pub fn restart(bench: &Bench) -> io::Result<String> {
    let blobs: u64 = if bench.images.large_size < 64 << 20 { 1000 } else { 100_000 };
    eprintln!("- restart with {blobs} blobs");
    let mut server = bench.workshop.mirror(bench.upstream.address)?;
    load::verify(server.address, &manifest_path(TAG), &bench.images.image.manifest.digest)?;
    let store = server.file("store");
    for number in 0..blobs {
        let name = Digest::of(Algorithm::Sha256, &number.to_be_bytes()).hex();
        File::create(store.join("blobs/sha256").join(name))?;
    }
    let mut row = format!("| restart with {blobs} blobs, until the first answer | registry-mirror |");
    for how in ["first", "clean", "killed", "index damaged"] {
        let folder = if how == "killed" { server.kill() } else { server.end() };
        if how == "index damaged" {
            damage(&folder.join("store/metadata"))?;
        }
        let start = Instant::now();
        server = bench.workshop.mirror_in(&folder, bench.upstream.address)?;
        load::verify(server.address, &manifest_path(TAG), &bench.images.image.manifest.digest)?;
        row += &format!(" {how} {:.0} ms,", start.elapsed().as_secs_f64() * 1e3);
        // It finds out what it has meanwhile.
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(format!("{} | | | |\n", row.trim_end_matches(',')))
}

/// Writes nonsense over every file of a folder.
fn damage(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::write(entry.path(), b"no index at all")?;
        }
    }
    Ok(())
}
