//! An upstream that breaks: passes bytes on, and cuts the connection where it was told to.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Stands in front of an upstream for as long as the benchmark runs.
pub struct Cutter {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// After how many bytes to its client the next connections are cut.
    cuts: Mutex<VecDeque<u64>>,
    passed: AtomicU64,
}

impl Cutter {
    pub fn start(upstream: SocketAddr) -> io::Result<Cutter> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let cutter = Cutter { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || pass(client, upstream, &shared));
            }
        });
        Ok(cutter)
    }

    /// From now on counts, and cuts the first connections that get this far.
    pub fn cut_after(&self, bytes: &[u64]) {
        *self.shared.cuts.lock() = bytes.iter().copied().collect();
        self.shared.passed.store(0, Ordering::Relaxed);
    }

    /// How many bytes went to clients.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }
}

fn pass(client: TcpStream, upstream: SocketAddr, shared: &Shared) -> Option<()> {
    let upstream = TcpStream::connect(upstream).ok()?;
    let (mut from_client, mut to_upstream) = (client.try_clone().ok()?, upstream.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_upstream);
        let _ = to_upstream.shutdown(Shutdown::Both);
    });
    let (mut upstream, mut client) = (upstream, client);
    let mut buffer = vec![0; 256 << 10];
    let mut sent = 0;
    loop {
        let read = upstream.read(&mut buffer).ok().filter(|read| *read > 0);
        let Some(read) = read else { break };
        let cut = {
            let mut cuts = shared.cuts.lock();
            let reached = cuts.front().is_some_and(|cut| sent + read as u64 > *cut);
            if reached { cuts.pop_front() } else { None }
        };
        let passed = cut.map_or(read, |cut| usize::try_from(cut - sent.min(cut)).unwrap_or(0).min(read));
        client.write_all(&buffer[..passed]).ok()?;
        sent += passed as u64;
        shared.passed.fetch_add(passed as u64, Ordering::Relaxed);
        if cut.is_some() {
            break;
        }
    }
    let _ = upstream.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    Some(())
}
