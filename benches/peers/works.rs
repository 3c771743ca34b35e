//! The works: what is asked of the servers, and who is compared to whom.

use std::io;
use std::time::{Duration, Instant};

use super::bench::{Bench, Peer, names};
use super::images::{TAG, blob_path, manifest_path};
use super::load::{self, Asked, SlowReaders};
use super::machine::peak_memory;
use super::rounds::{Contest, Unit, quietest, sample, spread};
use super::trouble;

/// A work gives rows of the table.
pub type Work1 = fn(&Bench) -> io::Result<String>;

/// All of them, by the name that `--only` looks for.
pub const ALL: [(&str, Work1); 12] = [
    ("warm-plain", warm_plain),
    ("warm-tls", warm_tls),
    ("manifest", manifest),
    ("cold-one", cold_one),
    ("cold-many", cold_many),
    ("crowd", crowd),
    ("chunks", chunks),
    ("slow", slow),
    ("memory", memory),
    ("disk", trouble::disk),
    ("cut", trouble::cut),
    ("restart", trouble::restart),
];

/// About how many contests of equal length they are.
pub const CONTESTS: u32 = 24;

fn warm_plain(bench: &Bench) -> io::Result<String> {
    let servers = bench.warm_servers()?;
    let asked = Asked::get(&[blob_path(&bench.images.large)]);
    let mut rows = String::new();
    for connections in [1, 8, 64] {
        let work = format!("warm blob, {connections} connections");
        let contest = Contest::run(work, Unit::Gigabytes, &bench.effort, &names(&servers), |peer| {
            let server = &servers[peer];
            sample(Unit::Gigabytes, server.process(), &bench.helpers(), Duration::ZERO, || {
                load::keep_asking(server.address, &asked, connections, bench.effort.time)
            })
        })?;
        rows += &contest.rows();
    }
    Ok(rows)
}

fn warm_tls(bench: &Bench) -> io::Result<String> {
    let servers = match bench.warm_tls_servers() {
        // What the program says about a configuration with a section that it does not know.
        Err(error) if error.to_string().contains("server.tls") => {
            return Ok("| warm blob over TLS 1.3 | | not measured: this build has no TLS listener | | | |\n".to_owned());
        }
        servers => servers?,
    };
    let config = load::tls_client(bench.certificate.clone()).map_err(io::Error::other)?;
    let path = blob_path(&bench.images.large);
    let mut rows = String::new();
    for connections in [1, 8, 64] {
        let work = format!("warm blob, TLS 1.3, {connections} connections");
        let contest = Contest::run(work, Unit::Gigabytes, &bench.effort, &names(&servers), |peer| {
            let server = &servers[peer];
            let address = server.tls.ok_or_else(|| io::Error::other("no TLS"))?;
            sample(Unit::Gigabytes, server.process(), &bench.helpers(), Duration::ZERO, || {
                load::keep_asking_tls(&config, address, &path, connections, bench.effort.time)
            })
        })?;
        rows += &contest.rows();
    }
    Ok(rows)
}

fn manifest(bench: &Bench) -> io::Result<String> {
    let servers = bench.warm_servers()?;
    let names: Vec<String> = bench.images.names.iter().map(|name| manifest_path(name)).collect();
    for server in &servers {
        load::fetch_each(server.address, &names)?;
    }
    let mut rows = String::new();
    let (digest, tag) = (manifest_path(&bench.images.image.manifest.digest.to_string()), manifest_path(TAG));
    let size = bench.images.image.manifest.size;
    for (what, asked) in [
        ("GET by tag", Asked::get(std::slice::from_ref(&tag))),
        ("GET by digest", Asked::get(&[digest])),
        ("GET of 1,000 tags", Asked::get(&names)),
        ("HEAD by tag", Asked::head(&tag)),
    ] {
        let work = format!("manifest of {size} B, {what}, 64 connections");
        let contest = Contest::run(work, Unit::Requests, &bench.effort, &self::names(&servers), |peer| {
            let server = &servers[peer];
            sample(Unit::Requests, server.process(), &bench.helpers(), Duration::ZERO, || {
                load::keep_asking(server.address, &asked, 64, bench.effort.time)
            })
        })?;
        rows += &contest.rows();
    }
    Ok(rows)
}

fn cold_one(bench: &Bench) -> io::Result<String> {
    let path = [blob_path(&bench.images.large)];
    let peers = [Peer::Ours, Peer::Floor, Peer::NginxCache, Peer::RegistryCache];
    let names = ["registry-mirror", "raw floor", "nginx proxy_cache (no hash)", "docker-registry (cache)"];
    let contest = Contest::run("cold blob, 1 client", Unit::Gigabytes, &bench.effort, &names, |peer| {
        bench.cold_sample(peers[peer], |address| load::fetch_all(address, &path, None))
    })?;
    Ok(contest.rows())
}

fn cold_many(bench: &Bench) -> io::Result<String> {
    let path = blob_path(&bench.images.large);
    let (one, many) = (vec![path.clone()], vec![path; 16]);
    // Sixteen separate fetches cost sixteen times what one costs: the same work for each byte.
    let peers = [(Peer::Ours, &many), (Peer::Ours, &one), (Peer::NginxCache, &many), (Peer::RegistryCache, &many)];
    let names = ["registry-mirror", "16 separate fetches", "nginx proxy_cache (no hash)", "docker-registry (cache)"];
    let contest = Contest::run("cold blob, 16 clients at once", Unit::Gigabytes, &bench.effort, &names, |peer| {
        let (peer, paths) = peers[peer];
        bench.cold_sample(peer, |address| load::fetch_all(address, paths, None))
    })?;
    Ok(contest.rows())
}

fn crowd(bench: &Bench) -> io::Result<String> {
    let (path, size) = (blob_path(&bench.images.large), bench.images.large_size);
    let peers = [Peer::Ours, Peer::NginxCache, Peer::RegistryCache];
    let names = ["registry-mirror", "nginx proxy_cache (no hash)", "docker-registry (cache)"];
    let work = "cold blob, 64 clients within a second, 16 slow, 16 hang up";
    let contest = Contest::run(work, Unit::Gigabytes, &bench.effort, &names, |peer| {
        bench.cold_sample(peers[peer], |address| load::crowd(address, &path, size, 64))
    })?;
    Ok(contest.rows())
}

fn chunks(bench: &Bench) -> io::Result<String> {
    let size = bench.images.large_size / 32;
    let paths = vec![blob_path(&bench.images.large); 32];
    let peers = [Peer::Ours, Peer::NginxCache, Peer::RegistryCache];
    let names = ["registry-mirror", "nginx proxy_cache (no hash)", "docker-registry (cache)"];
    let work = "cold blob by one client in 32 parallel ranges";
    let contest = Contest::run(work, Unit::Gigabytes, &bench.effort, &names, |peer| {
        bench.cold_sample(peers[peer], |address| load::fetch_all(address, &paths, Some(size)))
    })?;
    Ok(contest.rows())
}

/// How fast a fast client gets a cold blob beside eight slow ones, against alone.
fn slow(bench: &Bench) -> io::Result<String> {
    let path = blob_path(&bench.images.large);
    let mut rows = String::new();
    for (name, peer) in [("registry-mirror", Peer::Ours), ("docker-registry (cache)", Peer::RegistryCache)] {
        eprintln!("- fast beside slow: {name}");
        let fast = |slow: usize| {
            quietest(&bench.effort, || {
                let server = bench.cold_server(peer)?;
                let readers = SlowReaders::start(server.address, &path, slow, 1_300_000)?;
                let paths = [path.clone()];
                let taken = sample(Unit::Gigabytes, server.process(), &bench.helpers(), Duration::ZERO, || {
                    load::fetch_all(server.address, &paths, None)
                });
                drop(readers);
                taken
            })
        };
        let mut ratios = Vec::new();
        bench.effort.rounds(|| {
            let (alone, beside) = (fast(0)?, fast(8)?);
            ratios.push(beside.rate / alone.rate);
            Ok(())
        })?;
        rows += &format!(
            "| cold blob, a fast client beside 8 slow ones against alone | {name} : itself | {} | | | speed, not CPU |\n",
            spread(&ratios)
        );
    }
    Ok(rows)
}

/// The most memory that ours ever had, in the two worst cases for it.
fn memory(bench: &Bench) -> io::Result<String> {
    let mut rows = String::new();
    let megabyte = 1 << 20;
    let many: Vec<String> = bench.images.middle.iter().map(blob_path).collect();
    let same = vec![blob_path(&bench.images.large); 64];
    let works = [
        (format!("{} fills of {} MB with a reader each", many.len(), bench.images.middle_size / megabyte), many),
        (format!("one fill of {} MB with 64 readers", bench.images.large_size / megabyte), same),
    ];
    for (work, paths) in works {
        eprintln!("- memory: {work}");
        let server = bench.cold_server(Peer::Ours)?;
        let before = peak_memory(server.process()).unwrap_or_default();
        let start = Instant::now();
        let done = load::fetch_all(server.address, &paths, None)?;
        let seconds = start.elapsed().as_secs_f64();
        let peak = peak_memory(server.process()).unwrap_or_default();
        rows += &format!(
            "| {work} | registry-mirror | peak {} MB resident, {} MB before | {:.2} GB/s | | |\n",
            peak / megabyte,
            before / megabyte,
            done.bytes as f64 / 1e9 / seconds
        );
    }
    Ok(rows)
}
