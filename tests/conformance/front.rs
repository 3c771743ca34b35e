//! Makes a mirror and the registry behind it look like one registry: writes go to the registry, and so do
//! questions about uploads; everything else is read through the mirror. One request for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use crate::support::loopback;

/// A running front. Dropping it ends it.
pub(crate) struct Front {
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl Front {
    /// Starts a front over these two.
    pub(crate) fn start(registry: SocketAddr, mirror: SocketAddr) -> Front {
        let address = loopback::unused_address();
        let listener = TcpListener::bind(address).expect("an unused address can be listened on");
        let accepting = thread::spawn(move || {
            let mut running = Vec::new();
            for client in listener.incoming() {
                let client = client.expect("a connection is accepted");
                match Head::read(&client) {
                    Some(head) => running.push(thread::spawn(move || relay(head, client, registry, mirror))),
                    None => break,
                }
            }
            for relayed in running {
                relayed.join().expect("nothing here panics").ok();
            }
        });
        Front { address, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // A connection without a request ends it.
        let told = TcpStream::connect(self.address).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| told) {
            accepting.join().ok();
        }
    }
}

/// The head of a request, and what was read beyond it.
struct Head {
    lines: Vec<String>,
    beyond: Vec<u8>,
}

impl Head {
    /// Nothing when the client sends no request at all.
    fn read(client: &TcpStream) -> Option<Head> {
        let mut reader = BufReader::new(client);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                return Some(Head { lines, beyond: reader.buffer().to_vec() });
            }
            lines.push(line.to_owned());
        }
    }

    fn is_read_through_the_mirror(&self) -> bool {
        let request = self.lines.first().map_or("", String::as_str);
        request.starts_with(['G', 'H']) && !request.contains("/blobs/uploads/")
    }

    /// The same request, but as the only one of its connection.
    fn bytes(&self) -> Vec<u8> {
        let kept = self.lines.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let mut head: String = kept.map(|line| format!("{line}\r\n")).collect();
        head.push_str("Connection: close\r\n\r\n");
        [head.into_bytes(), self.beyond.clone()].concat()
    }
}

/// Sends one request on, and its answer back.
fn relay(head: Head, client: TcpStream, registry: SocketAddr, mirror: SocketAddr) -> io::Result<()> {
    let target = if head.is_read_through_the_mirror() { mirror } else { registry };
    let mut server = TcpStream::connect(target)?;
    server.write_all(&head.bytes())?;
    let (body, sink) = (client.try_clone()?, server.try_clone()?);
    let sending = thread::spawn(move || copy(body, sink));
    let outcome = copy(server, client.try_clone()?);
    // Ends the reading of a body that nobody waits for any more.
    client.shutdown(Shutdown::Both).ok();
    sending.join().expect("nothing here panics").ok();
    outcome
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    io::copy(&mut from, &mut to).map(|_| ())
}
