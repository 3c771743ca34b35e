//! An S3 server in memory with one bucket, as far as object stores are used for blobs and small files: whole and
//! partial reads, conditional writes, uploads in parts, lists. It looks at no signature.
//!
//! A [`Fault`] changes what becomes of requests; a liar takes conditions and does not keep to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status, and nothing is done.
    Status(u16),
    /// Who asks is sent to this address, for the same.
    Elsewhere(SocketAddr),
    /// There is no such bucket.
    NoBucket,
    /// It is never answered.
    Stall,
    /// It is answered after so long.
    Slow(Duration),
    /// So many bytes of its body come, and then nothing more.
    StallAfter(usize),
    /// So many bytes of its body come, and then the connection ends.
    CutAfter(usize),
    /// It is done, and the connection ends before the answer.
    LoseAnswer,
    /// The connection ends.
    Hang,
    /// Its body comes at so many bytes a second.
    Drip(usize),
    /// A list is longer than any can be: so many bytes. All else is well.
    LongList(usize),
    /// A list has the same page again and again. All else is well.
    SameList,
    /// Its body comes with one bit of it turned.
    Flip,
    /// The same once, and from then on all is well.
    FlipOnce,
    /// Who asks may not list: that is refused, and so is what is absent.
    NoList,
    /// Half of its body comes, and the head says that it is all; from then on all is well.
    HalveOnce,
}

/// Which requests it becomes of: those with one of the methods (all, when empty) whose key contains this.
type Rule = (Vec<&'static str>, String, Fault);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Bytes, String, SystemTime)>,
    /// How far its clock is ahead.
    ahead: Duration,
    uploads: BTreeMap<String, (String, BTreeMap<usize, Bytes>)>,
    requests: Vec<(String, String)>,
    faults: Vec<Rule>,
    lies: bool,
    serial: u64,
    /// How many bytes of lists that are too long were taken.
    taken: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// A running store. Dropping it ends its connections.
pub struct Bucket {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bucket {
    /// Starts an empty store on a free loopback port.
    pub async fn start() -> Bucket {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared: Arc<Shared> = Arc::default();
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Bucket { shared, address, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// An object.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|(bytes, ..)| bytes.clone())
    }

    /// Puts an object there behind everybody's back.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.state().write(key.to_owned(), bytes.into());
        self.shared.changed.notify_waiters();
    }

    /// Takes an object away.
    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// How many uploads in parts were begun and neither ended nor aborted.
    pub fn uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// How many bytes were taken of lists that are longer than any can be.
    pub fn taken(&self) -> usize {
        self.state().taken
    }

    /// What was asked for, with the methods.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.state().requests.clone()
    }

    /// From now on this becomes of requests with one of `methods`, or with any, whose key contains `part`.
    pub fn fault(&self, methods: &[&'static str], part: &str, fault: Fault) {
        self.state().faults.push((methods.to_vec(), part.to_owned(), fault));
    }

    /// All is well again.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Moves its clock.
    pub fn advance(&self, by: Duration) {
        self.state().ahead += by;
    }

    /// From now on conditions are taken and not kept to.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// Waits until what is there is as `wanted` says.
    pub async fn until(&self, wanted: impl Fn(&Bucket) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if wanted(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until there is an object.
    pub async fn has(&self, key: &str) {
        self.until(|bucket| bucket.object(key).is_some()).await;
    }
}

impl State {
    #[allow(clippy::disallowed_methods, reason = "a store writes the time of day on its answers")]
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    fn write(&mut self, key: String, bytes: Bytes) -> String {
        self.serial += 1;
        let tag = format!("\"{}\"", self.serial);
        self.objects.insert(key, (bytes, tag.clone(), self.now()));
        tag
    }
}

struct Request {
    method: String,
    target: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Bytes,
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    fn of(status: u16) -> Answer {
        let body = if status < 400 { Bytes::new() } else { format!("<Error><Code>E{status}</Code></Error>").into() };
        Answer { status, body, ..Answer::default() }
    }

    fn xml(name: &str, inside: &str) -> Answer {
        Answer { status: 200, body: format!("<{name}>{inside}</{name}>").into(), ..Answer::default() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer).await {
        let fault = {
            let mut state = shared.state.lock().unwrap();
            state.requests.push((request.method.clone(), request.key.clone()));
            let applies = |(methods, part, _): &&Rule| {
                (methods.is_empty() || methods.contains(&request.method.as_str()))
                    && request.key.contains(part.as_str())
            };
            let found = state.faults.iter().position(|rule| applies(&rule));
            let fault = found.map(|at| (at, state.faults[at].2));
            if let Some((at, Fault::FlipOnce | Fault::HalveOnce)) = fault {
                state.faults.remove(at);
            }
            fault.map(|(_, fault)| fault)
        };
        shared.changed.notify_waiters();
        let answer = match fault {
            Some(Fault::Hang) => return,
            Some(Fault::Stall) => return std::future::pending().await,
            Some(Fault::Status(status)) => Answer::of(status),
            Some(Fault::Elsewhere(address)) => {
                Answer::of(307).with("Location", format!("http://{address}{}", request.target))
            }
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                answer(&mut shared.state.lock().unwrap(), &request)
            }
            Some(Fault::NoBucket) => {
                Answer { body: "<Error><Code>NoSuchBucket</Code></Error>".into(), ..Answer::of(404) }
            }
            Some(Fault::LongList(length)) if is_list(&request) => return endless(stream, length, &shared).await,
            Some(Fault::NoList) if is_list(&request) => Answer::of(403),
            Some(Fault::SameList) if is_list(&request) => again(&mut shared.state.lock().unwrap(), &request),
            _ => {
                let mut answer = answer(&mut shared.state.lock().unwrap(), &request);
                shared.changed.notify_waiters();
                let half = answer.body.len() / 2;
                match fault {
                    Some(Fault::Flip | Fault::FlipOnce) if !answer.body.is_empty() => {
                        let mut body = answer.body.to_vec();
                        body[half] ^= 1;
                        answer.body = body.into();
                    }
                    Some(Fault::HalveOnce) => answer.body.truncate(half),
                    Some(Fault::NoList) if answer.status == 404 => answer = Answer::of(403),
                    _ => {}
                }
                answer
            }
        };
        if fault == Some(Fault::LoseAnswer) {
            return;
        }
        let date = httpdate::fmt_http_date(shared.state.lock().unwrap().now());
        let mut head = format!("HTTP/1.1 {} X\r\nDate: {date}\r\n", answer.status);
        let length = answer.headers.iter().any(|(name, _)| *name == "Content-Length");
        if !length {
            head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let body = if request.method == "HEAD" { Bytes::new() } else { answer.body };
        match fault {
            Some(Fault::CutAfter(most) | Fault::StallAfter(most)) if most < body.len() => {
                let _ = stream.write_all(&body[..most]).await;
                if matches!(fault, Some(Fault::StallAfter(_))) {
                    std::future::pending::<()>().await;
                }
                return;
            }
            Some(Fault::Drip(rate)) => {
                const TIMES: usize = 20;
                for drop in body.chunks((rate / TIMES).max(1)) {
                    if stream.write_all(drop).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(1) / TIMES as u32).await;
                }
            }
            _ => {
                if stream.write_all(&body).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn is_list(request: &Request) -> bool {
    request.method == "GET" && request.key.is_empty()
}

/// A list that says that it goes on, with what was asked for.
fn again(state: &mut State, request: &Request) -> Answer {
    let Answer { body, .. } = answer(state, request);
    let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>";
    let body = String::from_utf8_lossy(&body).replace("</ListBucketResult>", more);
    Answer { status: 200, body: body.into(), ..Answer::default() }
}

async fn endless(mut stream: TcpStream, length: usize, shared: &Shared) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n<ListBucketResult>");
    let _ = stream.write_all(head.as_bytes()).await;
    let piece = vec![b' '; 64 << 10];
    for _ in 0..length / piece.len() {
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        shared.state.lock().unwrap().taken += piece.len();
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        buffer.reserve(64 << 10);
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        buffer.reserve(64 << 10);
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = Bytes::from(buffer.drain(..length).collect::<Vec<_>>());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    // What is before the second slash is the name of the bucket.
    let path = path.trim_start_matches('/');
    let key = decoded(path.split_once('/').map_or("", |(_, key)| key));
    Some(Request { method, target, key, query, headers, body })
}

fn decoded(text: &str) -> String {
    // A plus stands for itself in a path.
    let text = text.replace('+', "%2B");
    let pairs = url::form_urlencoded::parse(text.as_bytes()).next().map(|(key, _)| key.into_owned());
    pairs.unwrap_or_default()
}

fn answer(state: &mut State, request: &Request) -> Answer {
    let Request { method, key, query, headers, body, .. } = request;
    let asked = |name: &str| query.get(name);
    match method.as_str() {
        "GET" if key.is_empty() => list(state, asked("prefix").map_or("", String::as_str)),
        "GET" | "HEAD" => get(state, key, headers.get("range")),
        "PUT" => match asked("uploadId") {
            Some(id) => {
                let part = asked("partNumber").and_then(|part| part.parse().ok()).unwrap_or(0);
                match state.uploads.get_mut(id) {
                    Some((_, parts)) => {
                        parts.insert(part, body.clone());
                        Answer::of(200).with("ETag", format!("\"part{part}\""))
                    }
                    None => Answer::of(404),
                }
            }
            None => put(state, key, headers, body),
        },
        "POST" if query.contains_key("uploads") => {
            state.serial += 1;
            let id = format!("upload{}", state.serial);
            state.uploads.insert(id.clone(), (key.clone(), BTreeMap::new()));
            Answer::xml("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>"))
        }
        "POST" => match asked("uploadId").and_then(|id| state.uploads.remove(id)) {
            Some((key, parts)) => {
                let whole: Vec<u8> = parts.into_values().flatten().collect();
                let tag = state.write(key, whole.into());
                Answer::xml("CompleteMultipartUploadResult", &format!("<ETag>{tag}</ETag>"))
            }
            None => Answer::of(404),
        },
        "DELETE" => match asked("uploadId") {
            Some(id) => Answer::of(if state.uploads.remove(id).is_some() { 204 } else { 404 }),
            None => {
                state.objects.remove(key);
                Answer::of(204)
            }
        },
        _ => Answer::of(405),
    }
}

fn put(state: &mut State, key: &str, headers: &BTreeMap<String, String>, body: &Bytes) -> Answer {
    let there = state.objects.get(key).map(|(_, tag, _)| tag.trim_matches('"').to_owned());
    let exists = headers.contains_key("if-none-match") && there.is_some();
    let another = headers.get("if-match").is_some_and(|tag| there.as_deref() != Some(tag.trim_matches('"')));
    if !state.lies && (exists || another) {
        return Answer::of(412);
    }
    let tag = state.write(key.to_owned(), body.clone());
    Answer::of(200).with("ETag", tag)
}

fn get(state: &State, key: &str, range: Option<&String>) -> Answer {
    let Some((bytes, tag, written)) = state.objects.get(key) else { return Answer::of(404) };
    let (mut status, mut span) = (200, 0..bytes.len());
    if let Some((start, end)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        let start: usize = start.parse().unwrap_or(0);
        let end = end.parse::<usize>().map_or(bytes.len(), |end| end + 1).min(bytes.len());
        if start >= bytes.len() {
            return Answer::of(416);
        }
        (status, span) = (206, start..end);
    }
    let mut answer = Answer { status, body: bytes.slice(span.clone()), ..Answer::default() }
        .with("ETag", tag)
        .with("Last-Modified", httpdate::fmt_http_date(*written))
        .with("Content-Length", span.len().to_string());
    if status == 206 {
        answer = answer.with("Content-Range", format!("bytes {}-{}/{}", span.start, span.end - 1, bytes.len()));
    }
    answer
}

fn list(state: &State, prefix: &str) -> Answer {
    let found = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
    let contents: String = found
        .map(|(key, (bytes, tag, written))| {
            let (size, written) = (bytes.len(), in_iso(*written));
            format!(
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{written}</LastModified><ETag>{tag}</ETag></Contents>"
            )
        })
        .collect();
    Answer::xml("ListBucketResult", &contents)
}

/// A moment as lists have it.
fn in_iso(moment: SystemTime) -> String {
    let text = httpdate::fmt_http_date(moment);
    let [_, day, month, year, time, _] = text.split(' ').collect::<Vec<_>>()[..] else { return text };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month).map_or(1, |place| place + 1);
    format!("{year}-{month:02}-{day}T{time}.000Z")
}
