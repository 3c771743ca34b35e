//! The load: clients that throw away what they get, so that what is measured is the server.
//!
//! One thread serves all connections. Bodies are discarded within the kernel (`MSG_TRUNC`), half a
//! megabyte at a time: a client that woke for every packet would be woken at the cost of the server, and
//! one that took whatever is there would have its acknowledgements send the rest, on its own CPU.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::RecvFlags;
use rustls::pki_types::{CertificateDer, ServerName};
use scripted_registry::Digest;

use super::low_water::set_low_water;

/// How much is discarded at once, in bytes.
const GULP: usize = 4 << 20;
/// How much of a body there must be for a client to wake up, in bytes.
const LOW_WATER: u64 = 512 << 10;
/// Pause between two looks of a client that measures how long an answer takes.
const PAUSE: Duration = Duration::from_micros(50);
/// A server that sends nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// One keep-alive connection in the middle of something.
struct Connection {
    socket: TcpStream,
    head: Vec<u8>,
    /// Whether the answer is a head only.
    bodiless: bool,
    /// Bytes of the body still to come; `None` while the head is.
    left: Option<u64>,
    /// The low-water mark of the socket, in bytes.
    low_water: u64,
}

/// What came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Whole responses.
    pub responses: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

/// What is asked for in turns.
pub struct Asked {
    requests: Vec<Vec<u8>>,
    bodiless: bool,
}

impl Asked {
    pub fn get(paths: &[String]) -> Asked {
        Asked { requests: paths.iter().map(|path| request("GET", path, "")).collect(), bodiless: false }
    }

    pub fn head(path: &str) -> Asked {
        Asked { requests: vec![request("HEAD", path, "")], bodiless: true }
    }
}

fn request(method: &str, path: &str, extra: &str) -> Vec<u8> {
    // Docker's registry answers with an ancient manifest to those who do not name a newer one.
    let accept = "application/vnd.docker.distribution.manifest.v2+json, */*";
    format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\n{extra}\r\n").into_bytes()
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Connection { socket, head: Vec::new(), bodiless: false, left: None, low_water: 1 })
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.socket.set_nonblocking(false)?;
        self.socket.write_all(request)?;
        self.socket.set_nonblocking(true)?;
        self.head.clear();
        self.left = None;
        self.expect_more()
    }

    /// Has the kernel report the socket when there is enough to be worth it.
    fn expect_more(&mut self) -> io::Result<()> {
        let low_water = self.left.unwrap_or(1).clamp(1, LOW_WATER);
        if low_water != self.low_water {
            set_low_water(&self.socket, low_water as i32)?;
            self.low_water = low_water;
        }
        Ok(())
    }

    /// Takes what is there. Gives the bytes of body that came, and whether the response is whole.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<(u64, bool)>> {
        let Some(left) = self.left else { return self.take_head(buffer) };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let taken = rustix::net::recv(&self.socket, &mut buffer[..most], RecvFlags::TRUNC);
        match taken {
            Ok((_, 0)) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the body ended early")),
            Ok((_, taken)) => {
                let left = left - taken as u64;
                self.left = Some(left);
                Ok(Some((taken as u64, left == 0)))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn take_head(&mut self, buffer: &mut [u8]) -> io::Result<Option<(u64, bool)>> {
        let read = match self.socket.read(&mut buffer[..64 << 10]) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "no answer")),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        self.head.extend_from_slice(&buffer[..read]);
        let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
        let (Some(length), true) = (length, status == "200" || status == "206") else {
            let said = String::from_utf8_lossy(&self.head[end..]).trim().chars().take(400).collect::<String>();
            return Err(io::Error::other(format!("unexpected answer: {head}: {said}")));
        };
        let length = if self.bodiless { 0 } else { length };
        let came = (self.head.len() - end - 4) as u64;
        self.left = Some(length - came);
        Ok(Some((came, came == length)))
    }
}

/// Connections and the means to wait for them.
struct Sink {
    open: Vec<Connection>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    last: Instant,
}

impl Sink {
    fn of(open: Vec<Connection>) -> io::Result<Sink> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, connection) in open.iter().enumerate() {
            epoll::add(&epoll, &connection.socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        }
        let events = Vec::with_capacity(open.len().max(1));
        Ok(Sink { open, epoll, events, buffer: vec![0; GULP], last: Instant::now() })
    }

    /// Takes once from every connection that has something; which of them are finished.
    ///
    /// While all wait for heads it does not sleep, so that servers of small answers pay for no wake-ups.
    fn take(&mut self, work: &mut Work) -> io::Result<Vec<usize>> {
        let in_body = self.open.iter().any(|connection| connection.left.is_some());
        let wait = Timespec { tv_sec: 0, tv_nsec: if in_body { 100_000_000 } else { 0 } };
        self.events.clear();
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait))?;
        if !self.events.is_empty() {
            self.last = Instant::now();
        } else if self.last.elapsed() > PATIENCE {
            return Err(io::Error::new(ErrorKind::TimedOut, "the server sends nothing"));
        }
        let mut finished = Vec::new();
        for event in &self.events {
            let number = event.data.u64() as usize;
            let Some(connection) = self.open.get_mut(number) else { continue };
            let Some((bytes, whole)) = connection.take(&mut self.buffer)? else { continue };
            work.bytes += bytes;
            if whole {
                work.responses += 1;
                finished.push(number);
            }
            connection.expect_more()?;
        }
        Ok(finished)
    }
}

/// Asks again and again on `connections` connections for about `time`.
pub fn keep_asking(address: SocketAddr, asked: &Asked, connections: usize, time: Duration) -> io::Result<Work> {
    let mut requests = asked.requests.iter().cycle();
    let mut ask = |connection: &mut Connection| requests.next().map_or(Ok(()), |request| connection.ask(request));
    let mut open = open_all(address, connections)?;
    for connection in &mut open {
        connection.bodiless = asked.bodiless;
        ask(connection)?;
    }
    let mut sink = Sink::of(open)?;
    let deadline = Instant::now() + time;
    let mut work = Work::default();
    while Instant::now() < deadline {
        for finished in sink.take(&mut work)? {
            ask(&mut sink.open[finished])?;
        }
    }
    Ok(work)
}

/// Asks for each of them once, one after the other.
pub fn fetch_each(address: SocketAddr, paths: &[String]) -> io::Result<()> {
    let mut sink = Sink::of(open_all(address, 1)?)?;
    for path in paths {
        sink.open[0].ask(&request("GET", path, ""))?;
        while sink.take(&mut Work::default())?.is_empty() {}
    }
    Ok(())
}

/// Many clients ask for a blob of `size` bytes within a second. A quarter of them reads slowly and is not
/// waited for, a quarter hangs up in the middle.
pub fn crowd(address: SocketAddr, path: &str, size: u64, clients: usize) -> io::Result<Work> {
    let request = request("GET", path, "");
    let _slow = SlowReaders::start(address, path, clients / 4, 1_300_000)?;
    let mut sink = Sink::of(open_all(address, clients - clients / 4)?)?;
    let all = sink.open.len();
    let hangs_up = |number: usize| number.is_multiple_of(3);
    let mut gone = vec![false; all];
    let (mut work, begin, mut asked, mut left) = (Work::default(), Instant::now(), 0, all);
    while left > 0 {
        while asked < all && begin.elapsed().as_secs_f64() >= asked as f64 / all as f64 {
            sink.open[asked].ask(&request)?;
            asked += 1;
        }
        let mut ended = sink.take(&mut work)?;
        let had_enough = |number: &usize| sink.open[*number].left.is_some_and(|left| left < size / 2);
        ended.extend((0..asked).filter(|number| hangs_up(*number) && had_enough(number)));
        for number in ended {
            if !std::mem::replace(&mut gone[number], true) {
                epoll::delete(&sink.epoll, &sink.open[number].socket)?;
                sink.open[number].socket.shutdown(Shutdown::Both)?;
                left -= 1;
            }
        }
    }
    Ok(work)
}

/// Asks for `path` on one connection every millisecond until `stop`; how long the slowest answer took.
pub fn longest_answer(address: SocketAddr, path: &str, stop: &AtomicBool) -> io::Result<Duration> {
    let request = request("GET", path, "");
    let mut connection = Connection::open(address)?;
    let mut buffer = vec![0; 64 << 10];
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        connection.ask(&request)?;
        while !matches!(connection.take(&mut buffer)?, Some((_, true))) {
            if begin.elapsed() > PATIENCE {
                return Err(ErrorKind::TimedOut.into());
            }
            std::thread::sleep(PAUSE);
        }
        longest = longest.max(begin.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(longest)
}

/// Asks for each path once, all at the same time, and waits for the ends.
pub fn fetch_all(address: SocketAddr, paths: &[String], ranges: Option<u64>) -> io::Result<Work> {
    let mut open = open_all(address, paths.len())?;
    for (number, (connection, path)) in open.iter_mut().zip(paths).enumerate() {
        let range = ranges.map(|size| {
            let start = number as u64 * size;
            format!("Range: bytes={start}-{}\r\n", start + size - 1)
        });
        connection.ask(&request("GET", path, range.as_deref().unwrap_or_default()))?;
    }
    let mut left = open.len();
    let (mut sink, mut work) = (Sink::of(open)?, Work::default());
    while left > 0 {
        for finished in sink.take(&mut work)? {
            epoll::delete(&sink.epoll, &sink.open[finished].socket)?;
            left -= 1;
        }
    }
    Ok(work)
}

/// Fetches and verifies: that every server sends the right bytes is worth knowing before it is measured.
pub fn verify(address: SocketAddr, path: &str, digest: &Digest) -> io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&request("GET", path, "Connection: close\r\n"))?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0) + 4;
    let found = Digest::of(digest.algorithm(), answer.get(end..).unwrap_or_default());
    if found == *digest {
        return Ok(());
    }
    let head = String::from_utf8_lossy(answer.get(..end.min(600)).unwrap_or_default()).into_owned();
    Err(io::Error::other(format!("{path} at {address} has the digest {found}: {head}")))
}

fn open_all(address: SocketAddr, connections: usize) -> io::Result<Vec<Connection>> {
    (0..connections).map(|_| Connection::open(address)).collect()
}

/// Readers that take `rate` bytes a second each until they are dropped, on a thread of their own.
pub struct SlowReaders {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SlowReaders {
    pub fn start(address: SocketAddr, path: &str, readers: usize, rate: usize) -> io::Result<SlowReaders> {
        let mut open = open_all(address, readers)?;
        for connection in &mut open {
            connection.ask(&request("GET", path, ""))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            let piece = (rate / 20).clamp(1, buffer.len());
            while !stopped.load(Ordering::Relaxed) {
                for connection in &mut open {
                    let _ = connection.socket.read(&mut buffer[..piece]);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(SlowReaders { stop, thread: Some(thread) })
    }
}

impl Drop for SlowReaders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A TLS configuration that trusts this certificate only, TLS 1.3, AES-128 first as Go has it.
pub fn tls_client(certificate: CertificateDer<'static>) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// As [`keep_asking`], over TLS: a real handshake, then so many requests in advance that the time is
/// up before they are answered. What comes is discarded as it is, so records count, not bodies.
pub fn keep_asking_tls(
    config: &Arc<rustls::ClientConfig>,
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> io::Result<Work> {
    const IN_ADVANCE: usize = 60;
    let requests = request("GET", path, "").repeat(IN_ADVANCE);
    let mut open = open_all(address, connections)?;
    for connection in &mut open {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut session = rustls::ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut connection.socket)?;
        }
        session.writer().write_all(&requests)?;
        while session.wants_write() {
            session.write_tls(&mut connection.socket)?;
        }
        connection.socket.set_nonblocking(true)?;
        connection.left = Some(u64::MAX);
        connection.expect_more()?;
    }
    let mut sink = Sink::of(open)?;
    let deadline = Instant::now() + time;
    let mut work = Work::default();
    while Instant::now() < deadline {
        sink.take(&mut work)?;
    }
    Ok(work)
}
