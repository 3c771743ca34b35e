//! The works: what is asked of the servers, and who is compared to whom.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::images::{Images, TAG, blob_path, manifest_path};
use super::load::{self, Asked, SlowReaders, Work};
use super::machine::peak_memory;
use super::rounds::{Contest, Effort, Sample, Unit, quietest, sample, spread};
use super::servers::{Server, Workshop};
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

/// How long a server is given to finish what the last byte left to do.
const SETTLE: Duration = Duration::from_millis(300);

/// Everything that stays up while works come and go.
pub struct Bench {
    pub workshop: Workshop,
    pub effort: Effort,
    pub images: Images,
    pub upstream: Server,
    log: PathBuf,
    certificate: rustls::pki_types::CertificateDer<'static>,
    pem: (PathBuf, PathBuf),
}

impl Bench {
    pub fn prepare(workshop: Workshop, effort: Effort, short: bool) -> anyhow::Result<Bench> {
        let (large, middle, how_many) = if short { (8 << 20, 1 << 20, 8) } else { (256 << 20, 8 << 20, 64) };
        let images = Images::make(&workshop.folder, large, middle, how_many)?;
        let (upstream, log) = workshop.upstream(&images)?;
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let pem = (workshop.folder.join("certificate.pem"), workshop.folder.join("key.pem"));
        std::fs::write(&pem.0, key.cert.pem())?;
        std::fs::write(&pem.1, key.signing_key.serialize_pem())?;
        let certificate = key.cert.der().clone();
        Ok(Bench { workshop, effort, images, upstream, log, certificate, pem })
    }

    pub fn helpers(&self) -> [u32; 1] {
        [self.upstream.process()]
    }

    /// Ours, nginx with files and Docker's registry, each with everything and asked once.
    pub fn warm_servers(&self) -> io::Result<[Server; 3]> {
        let servers = [
            self.workshop.mirror(self.upstream.address)?,
            self.workshop.nginx_files(&self.images, None)?,
            self.workshop.docker_registry(&self.images, None)?,
        ];
        for server in &servers {
            self.fill(server.address)?;
        }
        Ok(servers)
    }

    /// Ours and nginx with files, over TLS.
    fn warm_tls_servers(&self) -> io::Result<[Server; 2]> {
        let pem = (self.pem.0.as_path(), self.pem.1.as_path());
        Ok([
            self.workshop.mirror_with_tls(self.upstream.address, pem, |address| self.fill(address))?,
            self.workshop.nginx_files(&self.images, Some(pem))?,
        ])
    }

    /// Asks for what is measured later, and looks whether it is right.
    fn fill(&self, address: SocketAddr) -> io::Result<()> {
        load::verify(address, &blob_path(&self.images.large), &self.images.large)?;
        load::verify(address, &manifest_path(TAG), &self.images.image.manifest.digest)?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// A server with nothing in it, with connections open on both sides.
    pub fn cold_server(&self, peer: Peer) -> io::Result<Server> {
        let upstream = self.upstream.address;
        let server = match peer {
            Peer::Ours => self.workshop.mirror(upstream)?,
            Peer::Floor => self.workshop.floor(upstream)?,
            Peer::NginxCache => self.workshop.nginx_cache(upstream)?,
            Peer::RegistryCache => self.workshop.docker_registry(&self.images, Some(upstream))?,
        };
        load::fetch_all(server.address, &[blob_path(&self.images.small)], None)?;
        std::thread::sleep(SETTLE);
        Ok(server)
    }

    /// Work for a server that has nothing, with the bytes that it fetched for it.
    fn cold_sample(&self, peer: Peer, work: impl FnOnce(SocketAddr) -> io::Result<Work>) -> io::Result<Sample> {
        let server = self.cold_server(peer)?;
        // The pages of what it fetches then were in use a moment ago: a machine that is a guest may get
        // others from its host only when they are touched, which can cost more than all the rest.
        load::fetch_all(server.address, &[blob_path(&self.images.spare)], None)?;
        std::thread::sleep(SETTLE);
        server.remove_large_files()?;
        let before = self.upstream_bytes()?;
        let mut sample = sample(Unit::Gigabytes, server.process(), &self.helpers(), SETTLE, || work(server.address))?;
        // Its end ends what it still fetches, so that the upstream's log has all of it.
        drop(server);
        let fetched = self.upstream_bytes()? - before;
        sample.fetched = Some(fetched as f64 / self.images.large_size as f64);
        Ok(sample)
    }

    /// Bytes of bodies of answers that the upstream has finished.
    pub fn upstream_bytes(&self) -> io::Result<u64> {
        let log = std::fs::read_to_string(&self.log)?;
        Ok(log.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

#[derive(Clone, Copy)]
pub enum Peer {
    Ours,
    Floor,
    NginxCache,
    RegistryCache,
}

pub fn names(servers: &[Server]) -> Vec<&'static str> {
    servers.iter().map(|server| server.name).collect()
}

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
