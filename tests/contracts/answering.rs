//! A server that answers by a function and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| value.to_str().expect("text").to_owned())
    }
}

/// An answer to give.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
    announced: Option<u64>,
    hangs: bool,
}

pub(crate) fn reply(status: u16) -> Reply {
    Reply { status, headers: HeaderMap::new(), body: String::new(), announced: None, hangs: false }
}

impl Reply {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        let name: HeaderName = name.parse().expect("name");
        self.headers.insert(name, HeaderValue::from_str(value).expect("value"));
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Reply {
        self.body = body.to_owned();
        self
    }

    /// Says that the body has this many bytes, whatever it has.
    pub(crate) fn announced(mut self, length: u64) -> Reply {
        self.announced = Some(length);
        self
    }

    /// Sends the body and then nothing, not even an end.
    pub(crate) fn hanging(mut self) -> Reply {
        self.hangs = true;
        self
    }
}

/// Listens on a loopback port until it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                    async move { Ok::<_, Infallible>(serve(request, &log, answer.as_ref()).await) }
                });
                connections
                    .spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Server { url, seen, task }
    }

    /// Everything asked so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("lock").clone()
    }

    /// Stops listening; gives back the address where nobody is any more.
    pub(crate) async fn stop(mut self) -> String {
        self.task.abort();
        let _cancelled = (&mut self.task).await;
        self.url.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    request: Request<Incoming>,
    log: &Mutex<Vec<Seen>>,
    answer: &(impl Fn(&Seen) -> Reply + Send + Sync),
) -> Response<http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("request body").to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    log.lock().expect("lock").push(seen.clone());
    let reply = answer(&seen);
    let length = reply.announced.unwrap_or(reply.body.len() as u64);
    let short = length > reply.body.len() as u64;
    let sent = futures_util::stream::iter([Ok(Frame::data(Bytes::from(reply.body)))]);
    let end = match (reply.hangs, short) {
        (true, _) => futures_util::stream::pending().boxed(),
        (false, true) => futures_util::stream::iter([Err(std::io::Error::other("scripted"))]).boxed(),
        (false, false) => futures_util::stream::empty().boxed(),
    };
    let body = BodyExt::boxed_unsync(StreamBody::new(sent.chain(end)));
    let mut response =
        Response::builder().status(reply.status).header("content-length", length).body(body).expect("reply");
    response.headers_mut().extend(reply.headers);
    response
}
