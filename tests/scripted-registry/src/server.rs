//! The wire: HTTP/1.1 by hand over TCP, so that every way of breaking an answer is possible.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::Answer;
use super::content::gzip;
use super::script::{Behaviour, Ending, Framing, Gate};
use super::state::Shared;
use super::{Listener, Recorded};

/// How much is written at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// Accepts connections until it is aborted, and then ends them.
pub async fn accept(listener: TcpListener, on: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let open = Open { number: shared.connected(), shared: Arc::clone(&shared) };
        connections.spawn(connection(open, stream, on));
        while connections.try_join_next().is_some() {}
    }
}

/// A connection, for as long as it is open. Dropped after its socket.
struct Open {
    number: usize,
    shared: Arc<Shared>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.disconnected();
    }
}

async fn connection(open: Open, mut stream: TcpStream, on: Listener) {
    let shared = &open.shared;
    let _ = stream.set_nodelay(true);
    let mut buffer = BytesMut::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, on, open.number).await {
        let (mut answer, behaviour) = shared.take(&request);
        let turn = Turn::of(shared, &request);
        if turn.is_none() {
            answer = Answer::error(429, "TOOMANYREQUESTS");
        }
        let keep = !asks_to_close(&request);
        let sent = send(&mut stream, &request, answer, &behaviour, shared).await;
        drop(turn);
        match sent {
            Ok(true) if keep => {}
            Ok(_) => return,
            Err(HungUp) => {
                shared.hung_up();
                return;
            }
        }
    }
}

/// A blob being sent, where only one may be.
struct Turn<'a>(Option<&'a Shared>);

impl Turn<'_> {
    /// `None` when it is somebody else's turn.
    fn of<'a>(shared: &'a Shared, request: &Recorded) -> Option<Turn<'a>> {
        let mut inside = shared.lock();
        if !inside.options.one_blob_at_a_time || request.method != "GET" || request.keyword() != Some("blobs") {
            return Some(Turn(None));
        }
        let free = !std::mem::replace(&mut inside.sends_a_blob, true);
        free.then(|| Turn(Some(shared)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.lock().sends_a_blob = false;
        }
    }
}

fn asks_to_close(request: &Recorded) -> bool {
    request.headers.get("connection").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// The client went away before the answer was over.
struct HungUp;

impl From<std::io::Error> for HungUp {
    fn from(_: std::io::Error) -> HungUp {
        HungUp
    }
}

/// Reads one request; `None` at the end of the connection, and for what is not HTTP.
async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    listener: Listener,
    at_connection: usize,
) -> Option<Recorded> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.advance(end + 4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        headers.append(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    let length = headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.split_to(length).freeze();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Recorded { method, path: path.to_owned(), query: query.to_owned(), headers, body, at_connection, listener })
}

/// Sends an answer as the script wants it. Whether the connection can be used again.
async fn send(
    stream: &mut TcpStream,
    request: &Recorded,
    answer: Answer,
    behaviour: &Behaviour,
    shared: &Shared,
) -> Result<bool, HungUp> {
    if let Some(gate) = &behaviour.before_headers {
        stand_at(gate, stream).await?;
    }
    match behaviour.ending {
        Ending::CloseAtOnce => return Ok(false),
        Ending::ResetAtOnce => {
            let _ = stream.set_zero_linger();
            return Ok(false);
        }
        _ => {}
    }
    let answer = bend(answer, request, behaviour);
    let digest = answer.digest;
    let body = if request.method == "HEAD" { Bytes::new() } else { answer.body.clone() };
    let head = head(&answer, behaviour);
    match &behaviour.drip_head {
        None => stream.write_all(head.as_bytes()).await?,
        Some(gate) => {
            for byte in head.bytes() {
                stand_at(gate, stream).await?;
                stream.write_all(&[byte]).await?;
            }
        }
    }
    if request.method == "HEAD" {
        return Ok(behaviour.ending == Ending::Whole);
    }
    let chunked = behaviour.framing == Framing::Chunked;
    let mut writer = BodyWriter { stream, behaviour, sent: 0, chunked, count: &|bytes| shared.count(digest, bytes) };
    let whole = writer.write(&body).await? && writer.write(&behaviour.extra).await?;
    if whole && behaviour.endless {
        while writer.write(&[0; PIECE]).await? {}
    }
    match behaviour.ending {
        Ending::ResetAfter(_) => {
            let _ = stream.set_zero_linger();
            return Ok(false);
        }
        _ if !whole => return Ok(false),
        _ if chunked => stream.write_all(b"0\r\n\r\n").await?,
        _ => {}
    }
    let sent = body.len() as u64 + behaviour.extra.len() as u64;
    let truthful = match behaviour.framing {
        Framing::Length | Framing::Chunked => true,
        Framing::Declared(length) => length == sent,
        Framing::UntilClose => false,
    };
    // Extra bytes stay on an open connection: a client that reuses it reads them as the next answer.
    let overlong = matches!(behaviour.framing, Framing::Declared(length) if length < sent);
    Ok((truthful || overlong) && behaviour.ending == Ending::Whole)
}

/// Writes a body in pieces that end where the script wants something to happen.
struct BodyWriter<'a> {
    stream: &'a mut TcpStream,
    behaviour: &'a Behaviour,
    sent: u64,
    chunked: bool,
    count: &'a (dyn Fn(u64) + Sync),
}

impl BodyWriter<'_> {
    /// Whether everything was sent; not so where the script cuts the body.
    async fn write(&mut self, bytes: &[u8]) -> Result<bool, HungUp> {
        let mut rest = bytes;
        loop {
            for (_, gate) in self.behaviour.pauses.iter().filter(|(at, _)| *at == self.sent) {
                stand_at(gate, self.stream).await?;
            }
            let limit = match self.behaviour.ending {
                Ending::CloseAfter(limit) | Ending::ResetAfter(limit) => limit,
                _ => u64::MAX,
            };
            if self.sent >= limit {
                return Ok(false);
            }
            if rest.is_empty() {
                return Ok(true);
            }
            let next_stop = self.behaviour.pauses.iter().map(|(at, _)| *at).filter(|at| *at > self.sent).min();
            let until_stop = next_stop.unwrap_or(u64::MAX).min(limit) - self.sent;
            let mut length = rest.len().min(PIECE).min(usize::try_from(until_stop).unwrap_or(usize::MAX));
            if let Some((drop, gate)) = &self.behaviour.drip {
                stand_at(gate, self.stream).await?;
                length = length.min(*drop);
            }
            let (piece, after) = rest.split_at(length);
            self.piece(piece).await?;
            self.sent += length as u64;
            (self.count)(length as u64);
            rest = after;
        }
    }

    async fn piece(&mut self, piece: &[u8]) -> Result<(), HungUp> {
        if !self.chunked {
            return Ok(self.stream.write_all(piece).await?);
        }
        self.stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        self.stream.write_all(piece).await?;
        Ok(self.stream.write_all(b"\r\n").await?)
    }
}

/// Waits at a gate, or until the client is gone.
async fn stand_at(gate: &Gate, stream: &TcpStream) -> Result<(), HungUp> {
    let mut byte = [0];
    tokio::select! {
        () = gate.pass() => Ok(()),
        peeked = stream.peek(&mut byte) => match peeked {
            Ok(1..) => { gate.pass().await; Ok(()) }
            _ => Err(HungUp),
        },
    }
}

/// Changes the honest answer as the script wants it.
fn bend(mut answer: Answer, request: &Recorded, behaviour: &Behaviour) -> Answer {
    if let Some(replacement) = &behaviour.replace {
        answer = Answer::new(replacement.status, &replacement.content_type, replacement.body.clone());
    }
    if let Some(base) = &behaviour.redirect_to_host {
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        let location = format!("{base}{}{query}", request.path);
        answer = Answer::new(307, "text/html", "").with("location", &location);
    }
    if let Some(whole) = answer.whole.clone().filter(|_| behaviour.ignore_range) {
        answer.status = 200;
        answer.remove("content-range");
        answer.remove("accept-ranges");
        (answer.body, answer.offset) = (whole, 0);
    }
    flip(&mut answer, behaviour);
    if behaviour.gzip {
        answer.body = gzip(&answer.body);
        answer.set("content-encoding", "gzip");
    }
    if let Some(status) = behaviour.status {
        answer.status = status;
    }
    for (name, value) in &behaviour.set_headers {
        answer.set(name, value);
    }
    for name in &behaviour.drop_headers {
        answer.remove(name);
    }
    answer
}

fn flip(answer: &mut Answer, behaviour: &Behaviour) {
    let size = answer.whole.as_ref().map_or(answer.body.len(), Bytes::len) as u64;
    let last = size.checked_sub(1).filter(|_| behaviour.flip_last);
    let wanted = behaviour.flip_at.iter().copied().chain(last);
    let places: Vec<usize> = wanted
        .filter_map(|at| usize::try_from(at.checked_sub(answer.offset)?).ok())
        .filter(|place| *place < answer.body.len())
        .collect();
    if places.is_empty() {
        return;
    }
    let mut body = answer.body.to_vec();
    places.into_iter().for_each(|place| body[place] ^= 1);
    answer.body = body.into();
}

fn head(answer: &Answer, behaviour: &Behaviour) -> String {
    let end = if behaviour.bare_lf { "\n" } else { "\r\n" };
    let reason = http::StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let mut head = format!("HTTP/1.1 {} {}{end}", answer.status, reason.unwrap_or("Odd"));
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}{end}");
    }
    let silenced = behaviour.drop_headers.iter().any(|name| name == "content-length");
    match behaviour.framing {
        Framing::Length if silenced => {}
        Framing::Length => head += &format!("content-length: {}{end}", answer.body.len()),
        Framing::Declared(length) => head += &format!("content-length: {length}{end}"),
        Framing::Chunked => head += &format!("transfer-encoding: chunked{end}"),
        Framing::UntilClose => head += &format!("connection: close{end}"),
    }
    head + end
}
