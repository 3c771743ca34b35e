//! The raw floor of a cold blob: receive, hash, write, send, in a plain loop without any framework.
//!
//! What a mirror has to do and nothing else; how far ours is above it is our overhead.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use registry_mirror::oci::{Algorithm, Verifier};

/// Serves one request after the other, each passed on to `upstream`, with the body kept in `file`.
pub fn serve(listen: &str, upstream: &str, file: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    loop {
        let (client, _) = listener.accept()?;
        client.set_nodelay(true)?;
        // A client that hangs up ends its own request only.
        if let Err(error) = pass_on(client, upstream, file) {
            eprintln!("floor: {error}");
        }
    }
}

fn pass_on(mut client: TcpStream, upstream: &str, path: &Path) -> io::Result<()> {
    let mut upstream = TcpStream::connect(upstream)?;
    let (request, _) = head(&mut client)?;
    upstream.write_all(&request)?;
    let (answer, first) = head(&mut upstream)?;
    let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<u64>().ok());
    let mut left = length.ok_or_else(|| io::Error::other("no length"))?;
    client.write_all(&answer)?;
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, left)?;
    let mut verifier = Verifier::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    let mut keep = |piece: &[u8]| -> io::Result<()> {
        verifier.update(piece);
        file.write_all(piece)?;
        let mut unsent = piece.len();
        while unsent > 0 {
            unsent -= rustix::fs::sendfile(&client, &file, Some(&mut offset), unsent)?;
        }
        Ok(())
    };
    keep(&first)?;
    left -= first.len() as u64;
    while left > 0 {
        let read = upstream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        keep(&buffer[..read])?;
        left -= read as u64;
    }
    std::hint::black_box(verifier.finish());
    Ok(())
}

/// A head with its end, and what came behind it.
fn head(stream: &mut impl Read) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((bytes, rest));
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}
