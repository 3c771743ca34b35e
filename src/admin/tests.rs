//! The admin listener, as a probe and as a scraper see it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

fn state(readiness: Readiness) -> AdminState {
    AdminState {
        bucket: Arc::new(|| None),
        metrics: Arc::new(Metrics::new([])),
        readiness: Arc::new(move || readiness.clone()),
        mirror: None,
        guard: Arc::new(Guard::new(None, false)),
        pull: Arc::new([]),
        tls: None,
        usage: None,
        page: None,
        configuration: None,
        audit: None,
        reload: None,
        explain: None,
        carry: None,
    }
}

async fn get(method: Method, path: &str, state: &AdminState) -> (u16, String, String) {
    get_as(Format::default(), method, path, state).await
}

async fn get_as(format: Format, method: Method, path: &str, state: &AdminState) -> (u16, String, String) {
    let response = answer(&method, path, format, state);
    let content_type = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body in memory").to_bytes();
    (status, content_type, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn a_process_is_alive_before_it_is_ready() {
    let opening = state(Readiness::NotReady("the store is being opened"));
    assert_eq!(get(Method::GET, "/livez", &opening).await.0, 200);
    let (status, _, body) = get(Method::GET, "/readyz", &opening).await;
    assert_eq!((status, body.as_str()), (503, "not ready: the store is being opened\n"));
    assert_eq!(get(Method::GET, "/readyz", &state(Readiness::Ready)).await.0, 200);
    let (status, _, body) = get(Method::GET, "/readyz", &state(Readiness::Degraded("bucket"))).await;
    assert_eq!((status, body.as_str()), (200, "ok: degraded (bucket)\n"));
}

#[tokio::test]
async fn metrics_are_in_the_format_of_prometheus_or_in_the_one_that_was_asked_for() {
    for (format, expected) in
        [(Format::Prometheus, "text/plain; version=0.0.4"), (Format::OpenMetrics, "application/openmetrics-text; ")]
    {
        let (status, content_type, body) = get_as(format, Method::GET, "/metrics", &state(Readiness::Ready)).await;
        assert!(status == 200 && content_type.starts_with(expected), "{content_type}");
        assert_eq!(body.ends_with("# EOF\n"), format == Format::OpenMetrics, "{body}");
    }
}

#[tokio::test]
async fn anything_else_is_refused_in_json() {
    let state = state(Readiness::Ready);
    for (method, path, expected) in [
        (Method::GET, "/page.json", 404),
        (Method::GET, "/v2/", 404),
        (Method::GET, "/livez/", 404),
        (Method::POST, "/livez", 405),
    ] {
        let (status, content_type, body) = get(method, path, &state).await;
        assert_eq!((status, content_type.as_str()), (expected, "application/json"), "{path}");
        assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok(), "{body}");
    }
}

/// A listener on port 0 with one connection to it.
async fn start() -> (TcpStream, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let server = tokio::spawn(serve(Listener::Address(listener), Reach::Machine, state(Readiness::Ready), shutdown));
    (TcpStream::connect(address).await.expect("connects"), stop, server)
}

#[tokio::test]
async fn a_shutdown_ends_idle_connections_after_their_answers() {
    let (mut client, stop, server) = start().await;
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sends");
    let mut answer = [0; 15];
    client.read_exact(&mut answer).await.expect("receives");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    stop.send(()).expect("still serving");
    server.await.expect("ends");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("is closed");
    assert!(rest.ends_with(b"ok\n"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_its_head_is_let_go() {
    let (mut client, stop, server) = start().await;
    client.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("sends");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("is closed");
    stop.send(()).expect("still serving");
    server.await.expect("ends");
}
