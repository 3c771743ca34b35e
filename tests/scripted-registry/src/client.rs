//! A raw HTTP/1.1 client: sends what it is told, reads as slowly as it is told, and says whether a
//! body ended as announced. Forgives nothing and repairs nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// Where somebody listens.
#[derive(Clone, Debug)]
pub enum Place {
    /// An address.
    Address(SocketAddr),
    /// A Unix socket.
    Socket(PathBuf),
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Place {
        Place::Address(address)
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Place {
        Place::Socket(path.to_owned())
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Place {
        Place::Socket(path)
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, as they came.
    pub headers: HeaderMap,
    /// What came of the body.
    pub body: Bytes,
    /// Whether the body ended as announced: `Content-Length` bytes came, or the last chunk. A body
    /// that the end of the connection delimits is complete when that end was orderly.
    pub complete: bool,
}

impl Response {
    /// A header as text, `None` if it is not there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// GET on a connection of its own.
pub async fn get(place: impl Into<Place>, path: &str, headers: &[(&str, &str)]) -> Response {
    request(place, "GET", path, headers).await
}

/// HEAD on a connection of its own.
pub async fn head(place: impl Into<Place>, path: &str, headers: &[(&str, &str)]) -> Response {
    request(place, "HEAD", path, headers).await
}

/// Any method, on a connection of its own.
pub async fn request(place: impl Into<Place>, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    Stream::request(place, method, path, headers).await.expect("a response head").finish().await
}

/// POST with a body, on a connection of its own.
pub async fn post(place: impl Into<Place>, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
    let connection = Connection::open(place).await;
    connection.send_with("POST", path, headers, body.as_ref()).await.expect("a response head").finish().await
}

/// Sends these bytes, closes its own half, and reads whatever comes until the end. For garbage.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Bytes {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    // The other side may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = BytesMut::new();
    while stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
    answer.freeze()
}

/// A connection on which several requests can be sent.
pub struct Connection {
    stream: Either<TcpStream, UnixStream>,
    buffer: BytesMut,
}

impl Connection {
    /// Opens one.
    pub async fn open(place: impl Into<Place>) -> Connection {
        let stream = match place.into() {
            Place::Address(address) => Either::Left(TcpStream::connect(address).await.expect("somebody listens")),
            Place::Socket(path) => Either::Right(UnixStream::connect(path).await.expect("somebody listens")),
        };
        Connection { stream, buffer: BytesMut::new() }
    }

    /// With a small receive buffer, so that a client that does not read is felt by the other side soon.
    pub async fn open_narrow(address: SocketAddr, receive_buffer: u32) -> Connection {
        Connection::open_narrow_from([127, 0, 0, 1], address, receive_buffer).await
    }

    /// The same from an address of its own.
    pub async fn open_narrow_from(from: [u8; 4], address: SocketAddr, receive_buffer: u32) -> Connection {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(receive_buffer).expect("an option of every socket");
        socket.bind((from, 0).into()).expect("an address of this machine");
        let stream = socket.connect(address).await.expect("somebody listens");
        Connection { stream: Either::Left(stream), buffer: BytesMut::new() }
    }

    /// From an address of its own, such as another one of the loopback network.
    pub async fn open_from(from: [u8; 4], to: SocketAddr) -> Connection {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("an address of this machine");
        let stream = socket.connect(to).await.expect("somebody listens");
        Connection { stream: Either::Left(stream), buffer: BytesMut::new() }
    }

    /// Sends a request and reads the head of the response; `None` if none came.
    pub async fn send(self, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Stream> {
        self.send_with(method, path, headers, b"").await
    }

    /// The same, with a body.
    pub async fn send_with(
        mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Stream> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += "Host: mirror.test\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.stream.write_all(&[(head + "\r\n").as_bytes(), body].concat()).await.ok()?;
        self.receive(method == "HEAD").await
    }

    async fn receive(mut self, bodyless: bool) -> Option<Stream> {
        let (end, skip) = loop {
            if let Some(end) = head_end(&self.buffer) {
                break end;
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer.split_to(end + skip)[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            headers.append(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let left = if bodyless || status == 204 || status == 304 {
            Left::Bytes(0)
        } else if text("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            Left::Chunks { in_chunk: 0 }
        } else {
            text("content-length").map_or(Left::UntilClose, |length| Left::Bytes(length.parse().unwrap_or(0)))
        };
        Some(Stream { status, headers, connection: self, left })
    }
}

fn head_end(buffer: &[u8]) -> Option<(usize, usize)> {
    let crlf = buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|end| (end, 4));
    crlf.or_else(|| buffer.windows(2).position(|window| window == b"\n\n").map(|end| (end, 2)))
}

/// A response whose body is read piece by piece. Dropping it hangs up.
pub struct Stream {
    /// The status.
    pub status: u16,
    /// The headers, as they came.
    pub headers: HeaderMap,
    connection: Connection,
    left: Left,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunks {
        in_chunk: u64,
    },
    UntilClose,
    /// It ended as announced.
    Nothing,
    /// It ended too early.
    Broken,
}

impl Stream {
    /// Sends a request on a connection of its own.
    pub async fn request(
        place: impl Into<Place>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<Stream> {
        Connection::open(place).await.send(method, path, headers).await
    }

    /// GET on a connection of its own.
    pub async fn get(place: impl Into<Place>, path: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::request(place, "GET", path, headers).await.expect("a response head")
    }

    /// The next bytes of the body, at most `most`; empty at its end.
    pub async fn read(&mut self, most: usize) -> Bytes {
        loop {
            match self.left {
                Left::Nothing | Left::Broken => return Bytes::new(),
                Left::Bytes(0) => self.left = Left::Nothing,
                Left::Bytes(left) => {
                    let piece = self.piece(most.min(usize::try_from(left).unwrap_or(usize::MAX)), Left::Broken).await;
                    if self.left != Left::Broken {
                        self.left = Left::Bytes(left - piece.len() as u64);
                    }
                    return piece;
                }
                Left::UntilClose => return self.piece(most, Left::Nothing).await,
                Left::Chunks { in_chunk: 0 } => self.left = self.next_chunk().await.unwrap_or(Left::Broken),
                Left::Chunks { in_chunk } => {
                    let most = most.min(usize::try_from(in_chunk).unwrap_or(usize::MAX));
                    let piece = self.piece(most, Left::Broken).await;
                    if self.left == Left::Broken {
                        return piece;
                    }
                    let in_chunk = in_chunk - piece.len() as u64;
                    self.left = Left::Chunks { in_chunk };
                    if in_chunk == 0 && self.line().await.is_none() {
                        self.left = Left::Broken;
                    }
                    return piece;
                }
            }
        }
    }

    /// Exactly `length` bytes of the body, or fewer where it ends before that.
    pub async fn read_exactly(&mut self, length: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            let piece = self.read(length - bytes.len()).await;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        bytes.freeze()
    }

    /// The rest of the body.
    pub async fn finish(mut self) -> Response {
        let mut body = BytesMut::new();
        loop {
            let piece = self.read(1 << 20).await;
            if piece.is_empty() {
                break;
            }
            body.extend_from_slice(&piece);
        }
        let complete = self.left == Left::Nothing;
        Response { status: self.status, headers: self.headers, body: body.freeze(), complete }
    }

    /// Reads to the end of the body and hands the connection back; `None` if the body broke.
    pub async fn done(mut self) -> Option<Connection> {
        while !self.read(1 << 20).await.is_empty() {}
        (self.left == Left::Nothing).then_some(self.connection)
    }

    /// A header as text, `None` if it is not there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Hangs up with a reset.
    pub fn reset(self) {
        if let Either::Left(stream) = &self.connection.stream {
            let _ = stream.set_zero_linger();
        }
    }

    async fn piece(&mut self, most: usize, at_end: Left) -> Bytes {
        if self.connection.buffer.is_empty() {
            match self.connection.stream.read_buf(&mut self.connection.buffer).await {
                Ok(0) => self.left = at_end,
                Ok(_) => {}
                Err(_) => self.left = Left::Broken,
            }
        }
        let length = most.min(self.connection.buffer.len());
        self.connection.buffer.split_to(length).freeze()
    }

    async fn next_chunk(&mut self) -> Option<Left> {
        let line = self.line().await?;
        let size = u64::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size > 0 {
            return Some(Left::Chunks { in_chunk: size });
        }
        while !self.line().await?.is_empty() {}
        Some(Left::Nothing)
    }

    async fn line(&mut self) -> Option<String> {
        let connection = &mut self.connection;
        loop {
            if let Some(end) = connection.buffer.iter().position(|byte| *byte == b'\n') {
                let line = connection.buffer.split_to(end + 1);
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if connection.stream.read_buf(&mut connection.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }
}
