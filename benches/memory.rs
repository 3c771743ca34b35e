//! How much memory the daemon needs while it serves: one blob of 1 GiB filled for 64 clients, then 64
//! fills with 64 clients each.
//!
//! Starts the daemon as a child in front of an upstream of its own and prints the highest resident
//! size of each round, and how many times the upstream sent each byte.
//!
//! ```text
//! cargo bench --bench memory
//! ```

#![allow(clippy::expect_used, reason = "a benchmark may panic")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use registry_mirror::oci::{Algorithm, Digest, Verifier};

/// What the upstream sends over and over again, in bytes.
const PATTERN: usize = 1 << 20;

/// A blob: the pattern so many times, begun with its number.
struct Blob {
    number: u64,
    pieces: u64,
    digest: Digest,
}

impl Blob {
    fn new(number: u64, pieces: u64, pattern: &[u8]) -> Blob {
        let mut verifier = Verifier::new(Algorithm::Sha256);
        verifier.update(&number.to_le_bytes());
        (0..pieces).for_each(|_| verifier.update(pattern));
        Blob { number, pieces, digest: verifier.finish() }
    }

    fn size(&self) -> u64 {
        8 + self.pieces * PATTERN as u64
    }
}

/// Answers every GET of a blob, counts the bytes.
fn upstream(blobs: Arc<Vec<Blob>>, pattern: Arc<Vec<u8>>, sent: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (blobs, pattern, sent) = (Arc::clone(&blobs), Arc::clone(&pattern), Arc::clone(&sent));
            std::thread::spawn(move || answer(stream, &blobs, &pattern, &sent));
        }
    });
    address
}

fn answer(stream: TcpStream, blobs: &[Blob], pattern: &[u8], sent: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|read| *read > 0)?;
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            line.clear();
        }
        let Some(blob) = blobs.iter().find(|blob| request.contains(&blob.digest.hex())) else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", blob.size()).ok()?;
        if request.starts_with("GET") {
            stream.write_all(&blob.number.to_le_bytes()).ok()?;
            for _ in 0..blob.pieces {
                stream.write_all(pattern).ok()?;
                sent.fetch_add(pattern.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Reads a blob to its end and throws it away.
fn pull(address: SocketAddr, digest: Digest, size: u64) {
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    let request = format!("GET /v2/library/app/blobs/{digest} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let (mut buffer, mut received) = (vec![0; 256 << 10], 0);
    loop {
        match stream.read(&mut buffer).expect("received") {
            0 => break,
            read => received += read as u64,
        }
    }
    assert!(received > size, "{received} bytes with the head, of {size}");
}

struct Daemon {
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start(upstream: SocketAddr, folder: &std::path::Path) -> Daemon {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (address, admin) = (free(), free());
        let config = folder.join("mirror.toml");
        let text =
            format!("[log]\nlevel = \"warn\"\n[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{upstream}\"\n");
        std::fs::write(&config, text).expect("written");
        let child = Command::new(env!("CARGO_BIN_EXE_registry-mirror"))
            .args(["serve", "--listen", &address.to_string(), "--admin", &admin.to_string()])
            .arg("--config")
            .arg(&config)
            .arg("--store")
            .arg(folder.join("store"))
            .stdout(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        while TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        Daemon { child, address }
    }

    /// A line of `/proc/PID/status`, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().expect("a number")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn round(name: &str, blobs: Vec<Blob>, clients: usize, pattern: &Arc<Vec<u8>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (blobs, sent) = (Arc::new(blobs), Arc::new(AtomicU64::new(0)));
    let upstream = upstream(Arc::clone(&blobs), Arc::clone(pattern), Arc::clone(&sent));
    let daemon = Daemon::start(upstream, folder.path());
    let (idle, begun) = (daemon.memory("VmRSS"), Instant::now());
    std::thread::scope(|scope| {
        for blob in blobs.iter() {
            for _ in 0..clients {
                std::thread::Builder::new()
                    .stack_size(512 << 10)
                    .spawn_scoped(scope, || pull(daemon.address, blob.digest, blob.size()))
                    .expect("a thread");
            }
        }
    });
    let total: u64 = blobs.iter().map(Blob::size).sum();
    println!(
        "{name}: peak {} MB resident ({} MB idle), {:.2} upstream bytes per byte of content, {:.1} s",
        daemon.memory("VmHWM") / 1000,
        idle / 1000,
        sent.load(Ordering::Relaxed) as f64 / total as f64,
        begun.elapsed().as_secs_f64(),
    );
}

fn main() {
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let pattern: Arc<Vec<u8>> = Arc::new(noise.take(PATTERN).collect());
    round("1 GiB for 64 clients, cold", vec![Blob::new(0, 1024, &pattern)], 64, &pattern);
    let many = (0..64).map(|number| Blob::new(number, 16, &pattern)).collect();
    round("64 fills of 16 MiB, 64 clients each", many, 64, &pattern);
}
