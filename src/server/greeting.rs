//! The first byte of a connection to a port that speaks TLS: who speaks plain HTTP there is told so.
//!
//! Nothing is looked at but that byte, and nothing is told but which scheme to use.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How much of a request is read away, in bytes, so that the answer is not lost to a reset.
const MAX_REQUEST: usize = 32 << 10;

const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 101\r\n\
    Connection: close\r\n\r\n\
    This port of the mirror speaks TLS: use https:// in the address of the mirror, in place of http://.\r\n";

/// Hands the connection back when TLS begins on it. `None` for a client that speaks plain HTTP: it was
/// answered.
///
/// # Errors
/// What the socket says; [`io::ErrorKind::TimedOut`] when nothing came for `patience`.
pub(super) async fn of_tls(mut stream: TcpStream, patience: Duration) -> io::Result<Option<TcpStream>> {
    let mut first = [0];
    tokio::time::timeout(patience, stream.peek(&mut first)).await??;
    // As HTTP begins: with a method, or with empty lines before it (RFC 9112, 2.2).
    if !first[0].is_ascii_alphabetic() && !matches!(first[0], b'\r' | b'\n') {
        return Ok(Some(stream));
    }
    tokio::time::timeout(patience, answer(&mut stream)).await??;
    Ok(None)
}

async fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let is_said = |request: &[u8]| request.trim_ascii_start().windows(4).any(|window| window == b"\r\n\r\n");
    while !is_said(&request) && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    stream.write_all(ANSWER.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
