//! The ground that works stand on: the upstream, the images, and servers with and without content.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::images::{Images, TAG, blob_path, manifest_path};
use super::load::{self, Work};
use super::rounds::{Effort, Sample, Unit, sample};
use super::servers::{Server, Workshop};

/// How long a server is given to finish what the last byte left to do.
const SETTLE: Duration = Duration::from_millis(300);

/// Everything that stays up while works come and go.
pub struct Bench {
    pub workshop: Workshop,
    pub effort: Effort,
    pub images: Images,
    pub upstream: Server,
    log: PathBuf,
    pub certificate: rustls::pki_types::CertificateDer<'static>,
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
    pub fn warm_tls_servers(&self) -> io::Result<[Server; 2]> {
        let pem = (self.pem.0.as_path(), self.pem.1.as_path());
        Ok([
            self.workshop.mirror_with_tls(self.upstream.address, pem, |address| self.fill(address))?,
            self.workshop.nginx_files(&self.images, Some(pem))?,
        ])
    }

    /// Asks for what is measured later, and looks whether it is right.
    pub fn fill(&self, address: SocketAddr) -> io::Result<()> {
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
    pub fn cold_sample(&self, peer: Peer, work: impl FnOnce(SocketAddr) -> io::Result<Work>) -> io::Result<Sample> {
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
