//! How long answers take, as one client with one connection sees it, on a thread of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};

/// How long an answer may take at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client with a connection that is kept.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What a client met.
#[derive(Debug, Default)]
pub struct Met {
    pub waits: Vec<Duration>,
    /// Answers that were not 200.
    pub refused: usize,
}

impl Client {
    /// At an address of its own.
    pub fn connect(from: [u8; 4], to: SocketAddr) -> anyhow::Result<Client> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
        rustix::net::connect(&socket, &to)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, buffer: vec![0; 1 << 20] })
    }

    /// Asks, and reads the answer to its end. Its status.
    pub fn ask(&mut self, path: &str) -> anyhow::Result<u16> {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n")?;
        let mut length = 0;
        let end = loop {
            let read = self.stream.read(&mut self.buffer[length..])?;
            anyhow::ensure!(read > 0, "{path}: the connection ended");
            length += read;
            if let Some(end) = self.buffer[..length].windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let body = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let mut left = body.unwrap_or_default().saturating_sub(length - end - 4);
        while left > 0 {
            let read = self.stream.read(&mut self.buffer)?;
            anyhow::ensure!(read > 0, "{path}: the body ended early");
            left = left.saturating_sub(read);
        }
        Ok(head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default())
    }

    /// Asks for one after another for about `time`, `pause` apart or more.
    pub fn keep_asking(&mut self, paths: &[String], time: Duration, pause: Duration) -> anyhow::Result<Met> {
        let (begun, mut met) = (Instant::now(), Met::default());
        for (number, path) in paths.iter().cycle().enumerate() {
            let due = begun + pause * u32::try_from(number)?;
            if begun.elapsed() > time {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let asked = Instant::now();
            let status = self.ask(path)?;
            met.waits.push(asked.elapsed());
            met.refused += usize::from(status != 200);
        }
        Ok(met)
    }
}

/// The wait that so many in a hundred are no longer than.
pub fn percentile(waits: &[Duration], hundredths: usize) -> f64 {
    let mut waits = waits.to_vec();
    waits.sort_unstable();
    let place = (waits.len() * hundredths).div_ceil(100).saturating_sub(1);
    waits.get(place).map_or(f64::NAN, Duration::as_secs_f64)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
