//! The accept loop of every listener: takes connections, bounds them, drains them.
//!
//! HTTP/1.1 only: no client that we know pulls over anything else. Every wait has a deadline: for
//! the head of a request, for a client that does not read its answer, and for the drain. All listeners,
//! for clients and for operators, go through [`serve`]; what a request means is not decided here. The file is long
//! because its tests are about connections, and stand beside what they hold.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Buffers, Wire};
use super::connection::Connection;
use super::greeting;
use super::half_closed::{Answer, Answering, HalfClosed};
use super::hold::Hold;
use super::io::plain::PlainStream;
use super::io::{Regions, untaken};
use super::record::Peer;
use super::seats::{Seated, Seats};
use super::tls::{Tls, Vouched};
use crate::clients::{ClientId, Clients, Place, TooMany};

/// How many connections are told at a time that their client has enough of them; more are closed at once.
const TURNED_AWAY: usize = 256;
/// How many connections are accepted and wait for a place; more wait to be accepted.
const WAITING: usize = 512;
/// How long a connection on which nothing is under way is still read when the listener closes: a client may have
/// asked already, and would take the close for a failure.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How long to wait after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How much of the drain time is for closing the store, at most.
const TO_CLOSE: Duration = Duration::from_secs(3);
/// Buffer for the head of a request, in bytes; a longer head is answered with 431.
const MAX_HEAD: usize = 128 << 10;

/// Connections that wait to be accepted, as far as the kernel allows more than its own default. When they
/// are too many the kernel breaks off connections that clients take for established.
const BACKLOG: u32 = 65_535;

/// Listens on an address.
///
/// # Errors
/// What the kernel says, such as [`io::ErrorKind::AddrInUse`].
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A daemon that starts again need not wait for the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Address(TcpListener),
    /// A Unix socket, for few connections: with nothing of what is done for speed.
    Socket(UnixListener),
}

enum Stream {
    Address(TcpStream),
    Socket(UnixStream),
}

/// What is spoken at an address.
#[derive(Clone, Debug)]
pub enum Transport {
    /// HTTP as it is.
    Plain,
    /// HTTP within TLS.
    Tls(Arc<Tls>),
    /// Whichever of the two a client begins with.
    Either(Arc<Tls>),
}

impl Transport {
    /// The TLS that a connection at an address is to begin with, if any.
    async fn of(self, stream: &TcpStream, patience: Duration) -> io::Result<Option<Arc<Tls>>> {
        /// The first byte of a handshake (RFC 8446, 5.1).
        const HANDSHAKE: u8 = 0x16;
        match self {
            Transport::Plain => Ok(None),
            Transport::Tls(tls) => Ok(Some(tls)),
            Transport::Either(tls) => {
                let mut first = [0];
                tokio::time::timeout(patience, stream.peek(&mut first)).await??;
                Ok((first == [HANDSHAKE]).then_some(tls))
            }
        }
    }
}

/// The bounds of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones wait in the backlog.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long a client may take nothing of an answer that waits for it, or less than 1 KiB a second.
    pub send_timeout: Duration,
    /// How long running responses may go on after the shutdown began.
    pub drain: Duration,
}

impl Limits {
    /// The same, with a part of the drain time left for what is to be done when the last response has ended.
    #[must_use]
    pub fn leaving_time_to_close(self) -> Limits {
        Limits { drain: self.drain - (self.drain / 10).min(TO_CLOSE), ..self }
    }
}

/// Who asks, and what leads to them.
#[derive(Clone, Debug)]
pub struct Client {
    /// The other side.
    pub peer: Peer,
    /// Whether the connection is one of TLS.
    pub encrypted: bool,
    /// Whose certificate was shown, if one was.
    pub certificate: Option<Vouched>,
    /// How the connection takes parts of files.
    pub wire: Wire,
    /// Its place among the connections of the listener.
    pub seat: Seat,
    /// How it gets on, and whether it has to make room for other clients.
    pub hold: Hold,
    /// The client has as many connections as he may have: this one is told so, and closed.
    pub turned_away: Option<TooMany>,
}

/// The place of a connection among [`Limits::max_connections`].
#[derive(Clone, Debug)]
pub struct Seat(Arc<Mutex<Option<Seated>>>);

impl Seat {
    /// Lets another connection have it. For whoever bounds this one in another way, and closes it
    /// after its answer.
    pub fn give_up(&self) {
        drop(self.0.lock().take());
    }
}

/// What clients have, as it is now.
pub type OfClients = Box<dyn Fn() -> Arc<Clients> + Send + Sync>;

/// Where a connection finds its place: among all, and among those of its client.
struct Seating {
    seats: Arc<Seats>,
    clients: Option<OfClients>,
    /// Connections that are being told that there is no place for them.
    turned_away: Semaphore,
    patience: Duration,
}

impl Seating {
    /// The places of a connection: among those of its client, for which it waits apart from all others, and among all.
    async fn places(&self, peer: Peer, waits: OwnedSemaphorePermit) -> Result<(Option<Place>, Seated), TooMany> {
        let mut waits = Some(waits);
        let place = match (&self.clients, peer) {
            (Some(clients), Peer::Address(address)) => match clients().connect(address.ip()) {
                Ok(place) => place,
                Err(full) => {
                    waits.take();
                    Some(full.wait(self.patience).await?)
                }
            },
            _ => None,
        };
        let client = match peer {
            Peer::Address(address) => address.ip().into(),
            _ => ClientId::Operator,
        };
        Ok((place, self.seats.take(client).await))
    }
}

/// What all connections of a listener have in common.
struct Serving {
    transport: Transport,
    limits: Limits,
    seating: Seating,
    buffers: Arc<Buffers>,
    /// Nothing new is accepted any more.
    closing: CancellationToken,
    /// The drain time has ended.
    drained: CancellationToken,
}

impl Serving {
    /// One connection, from its place to its end.
    async fn one<A, F, B>(
        &self,
        stream: Stream,
        peer: Peer,
        waits: OwnedSemaphorePermit,
        answer: A,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        A: Fn(Client, Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
    {
        let Serving { transport, limits, seating, buffers, closing, drained } = self;
        let limits = *limits;
        // Who was accepted is answered as long as there is a place for him, also when the listener has closed meanwhile.
        let places = tokio::select! {
            biased;
            places = seating.places(peer, waits) => places,
            () = closing.cancelled() => return Ok(()),
        };
        let (turned_away, (_place, seated)) = match places {
            Ok((place, seated)) => (None, (place, Some(seated))),
            Err(too_many) => (Some(too_many), (None, None)),
        };
        let _while_told = match turned_away.map(|_| seating.turned_away.try_acquire()) {
            Some(Err(_)) => return Ok(()),
            told => told,
        };
        let hold = seated.as_ref().map_or_else(|| Hold::under(drained), |seated| seated.hold.clone());
        let (answering, ends) = (hold.answering().clone(), hold.ends().clone());
        let seat = Seat(Arc::new(Mutex::new(seated)));
        let client =
            |wire, encrypted, certificate| Client { peer, encrypted, certificate, wire, seat, hold, turned_away };
        let spoken = async {
            let tls = match &stream {
                Stream::Address(stream) => transport.clone().of(stream, limits.header_timeout).await?,
                Stream::Socket(_) => None,
            };
            match (stream, tls) {
                (Stream::Address(stream), None) => {
                    let regions = Arc::new(Regions::default());
                    let stream = Connection::new(stream, limits.send_timeout, answering.clone(), untaken);
                    let stream = PlainStream::new(stream, Arc::clone(&regions));
                    let client = client(Wire::Plain(regions), false, None);
                    connection(stream, client, answering, limits, answer, closing).await?;
                }
                // In boxes, so that the many connections without TLS do not keep room for the others.
                (Stream::Address(stream), Some(tls)) => {
                    let Some(stream) = Box::pin(greeting::of_tls(stream, limits.header_timeout)).await? else {
                        return Ok(());
                    };
                    let stream = Connection::new(stream, limits.send_timeout, answering.clone(), untaken);
                    let (stream, certificate) = Box::pin(tls.accept(stream, limits.header_timeout)).await?;
                    let client = client(Wire::Buffered(Arc::clone(buffers)), true, certificate);
                    Box::pin(connection(stream, client, answering, limits, answer, closing)).await?;
                }
                (Stream::Socket(stream), _) => {
                    let client = client(Wire::Buffered(Arc::clone(buffers)), false, None);
                    Box::pin(connection(stream, client, answering, limits, answer, closing)).await?;
                }
            }
            Ok(())
        };
        let ended = ends.run_until_cancelled(spoken).await;
        if ended.is_none() && drained.is_cancelled() {
            tracing::debug!(%peer, "a connection was open when the drain time ended");
        }
        ended.unwrap_or(Ok(()))
    }
}

/// Answers every request with `answer` until `shutdown` completes, then lets running responses end
/// within the drain time. `transport` is for clients at an address; of `clients` each has only so many
/// connections.
pub async fn serve<A, F, B>(
    listener: Listener,
    transport: Transport,
    limits: Limits,
    clients: Option<OfClients>,
    answer: A,
    shutdown: impl Future<Output = ()>,
) where
    A: Fn(Client, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let (connections, closing, drained) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let seating = Seating {
        seats: Seats::new(limits.max_connections, drained.clone()),
        clients,
        turned_away: Semaphore::new(TURNED_AWAY),
        patience: limits.header_timeout,
    };
    let waiting = Arc::new(Semaphore::new(WAITING));
    let serving = Serving { transport, limits, seating, buffers: Arc::default(), closing, drained };
    let serving = Arc::new(serving);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            let waits = Arc::clone(&waiting).acquire_owned().await.ok()?;
            Some((waits, accepted(&listener, &limits).await))
        };
        let Some((waits, (stream, peer))) = (tokio::select! {
            next = next => next,
            () = &mut shutdown => None,
        }) else {
            break;
        };
        let (serving, answer) = (Arc::clone(&serving), answer.clone());
        connections.spawn(async move {
            // Of a request, how it ended is in its log line.
            if let Err(error) = serving.one(stream, peer, waits, answer).await {
                tracing::debug!(%peer, %error, "a connection broke");
            }
        });
    }
    drop(listener);
    serving.closing.cancel();
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!("closing connections that were still open when the drain time ended");
        serving.drained.cancel();
    }
}

/// One connection, to its end: every request is answered with `answer`, and of those after `closing` the first is
/// the last.
async fn connection<S, A, F, B>(
    stream: S,
    client: Client,
    answering: Answering,
    limits: Limits,
    answer: A,
    closing: &CancellationToken,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Client, Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let stream = HalfClosed { stream, answering: answering.clone() };
    let rests = answering.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (said, sent_ahead) = (request.body().is_end_stream(), answering.was_sent_ahead());
        // In a box, for hyper keeps room for it also while no request is there.
        let answered = Box::pin(Answer::of(&answering, said, answer(client.clone(), request)));
        async move {
            // Nothing of it is waited for, so that it would go on and on before anybody else has a turn.
            if sent_ahead {
                tokio::task::yield_now().await;
            }
            Ok::<_, Infallible>(answered.await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD)
        // Frames must arrive as they are; the default is a guess that may change.
        .writev(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = closing.cancelled() => {}
    }
    let rest = rests.rest();
    let last_request = poll_fn(|context| match connection.as_mut().poll(context) {
        Poll::Pending if rest.is_none() || rests.rest() != rest => Poll::Ready(None),
        ended => ended.map(Some),
    });
    if let Ok(Some(ended)) = tokio::time::timeout(LAST_REQUEST, last_request).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// The next connection, however often accepting fails before: it does when file descriptors run out.
async fn accepted(listener: &Listener, limits: &Limits) -> (Stream, Peer) {
    loop {
        match accept(listener, limits).await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(listener: &Listener, limits: &Limits) -> io::Result<(Stream, Peer)> {
    match listener {
        Listener::Socket(listener) => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            Ok((Stream::Socket(stream), Peer::Socket { uid }))
        }
        Listener::Address(listener) => {
            let (stream, peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // The kernel ends connections to clients that vanished, and to those that are there but do not read.
            let milliseconds = u32::try_from(limits.send_timeout.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(&stream, milliseconds)?;
            Ok((Stream::Address(stream), Peer::Address(peer)))
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// More than the standard library and tokio let wait.
    const MANY: usize = 1100;

    #[tokio::test]
    async fn who_sends_requests_ahead_lets_others_have_their_turns() {
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("bound");
        let order = Arc::new(Mutex::new(Vec::new()));
        let answer = {
            let order = Arc::clone(&order);
            move |_: Client, request: Request<Incoming>| {
                let (order, path) = (Arc::clone(&order), request.uri().path().to_owned());
                async move {
                    order.lock().push(path);
                    Response::new(Full::new(Bytes::new()))
                }
            }
        };
        let (hour, max_connections) = (Duration::from_secs(3600), 2);
        let limits = Limits { max_connections, header_timeout: hour, send_timeout: hour, drain: hour };
        let listener = Listener::Address(listener);
        tokio::spawn(serve(listener, Transport::Plain, limits, None, answer, std::future::pending()));
        let question = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
        let (mut many, mut one) = (
            TcpStream::connect(address).await.expect("connects"),
            TcpStream::connect(address).await.expect("connects"),
        );
        let mut some = [0; 1024];
        for client in [&mut many, &mut one] {
            client.write_all(&question("/first")).await.expect("sends");
            assert!(client.read(&mut some).await.expect("an answer") > 0);
        }
        // The server has its turn when both have sent all of it.
        many.write_all(&question("/many").repeat(64)).await.expect("sends");
        one.write_all(&question("/one")).await.expect("sends");
        assert!(one.read(&mut some).await.expect("an answer") > 0);
        let place = order.lock().iter().skip(2).position(|path| path == "/one");
        assert!(place.is_some_and(|place| place <= 2), "{place:?}");
    }

    #[tokio::test]
    async fn as_many_connections_wait_to_be_accepted_as_the_kernel_allows() {
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).expect("up to the hard limit");
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
        let waiting = allowed.trim().parse().map_or(MANY, |allowed: usize| allowed.min(MANY));
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("bound");
        // Where the queue is full, the kernel lets a connection wait for a second try, at the earliest after 1 s.
        let patience = Duration::from_millis(900);
        let connect = || std::net::TcpStream::connect_timeout(&address, patience);
        let connected: Vec<_> = (0..waiting).map_while(|_| connect().ok()).collect();
        assert_eq!(connected.len(), waiting);
    }
}
