//! The interface for operators: HTTP and JSON below `/api/v1`.
//!
//! GET looks, POST does. A page in a browser can do neither. Every request needs a `Host` that is an
//! address or `localhost`, so that a name that its owner made point here (DNS rebinding) reads nothing,
//! least of all the names of images; a POST needs the header `X-Registry-Mirror: 1`, too, which no page
//! may send to another origin. The Unix socket has its file mode instead of the former. Health and
//! metrics, which name no image, are answered under any name, as probes and Prometheus use many. What
//! takes long answers with one JSON object a line while it goes on. Fields are added, never renamed: the commands and the page
//! read the same documents.

mod bundles;

use std::io;
use std::net::IpAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Body, Door, whole};
use crate::mirror::Mirror;
use crate::mirror::images::catalog::CatalogError;
use crate::mirror::images::image::Platforms;
use crate::oci::{Digest, ImageName, Platform};

/// What all paths of the interface begin with.
pub(super) const PREFIX: &str = "/api/v1/";

/// The header that says that a request was not sent by a page.
const CONSENT: &str = "x-registry-mirror";
/// A longer request is refused, in bytes.
const MAX_REQUEST: usize = 1 << 20;
/// Lines that wait for a slow reader.
const QUEUE: usize = 256;

/// Images and platforms, as in `{"images": ["redis:7"], "platforms": ["linux/arm64"]}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    images: Vec<String>,
    /// None: the one of this machine.
    platforms: Vec<String>,
    all_platforms: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Freeze {
    image: String,
    digest: Option<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Collect {
    dry_run: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Check {
    repair: bool,
    /// Bytes a second, 0 for as fast as the disk reads; None for the rate of the scrub.
    rate: Option<u64>,
}

/// Why a request is refused.
struct Refusal {
    status: StatusCode,
    /// `error`: a sentence; `class`: a word, where the status does not say it all.
    told: Value,
}

impl Refusal {
    fn new(status: StatusCode, message: String) -> Refusal {
        Refusal { status, told: json!({ "error": message }) }
    }

    fn of_class(status: StatusCode, class: &str, message: String) -> Refusal {
        Refusal { status, told: json!({ "error": message, "class": class }) }
    }

    fn with(mut self, key: &str, value: Value) -> Refusal {
        self.told[key] = value;
        self
    }
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Refusal {
        let status = match error {
            CatalogError::Unknown(_) => StatusCode::NOT_FOUND,
            CatalogError::Route(_) | CatalogError::NotATag(_) => StatusCode::BAD_REQUEST,
            CatalogError::Metadata(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, error.to_string())
    }
}

/// What can be looked at, with GET.
const LOOKS: [&str; 5] = ["status", "images", "images/inspect", "history", "receipt"];
/// What can be done, with POST.
const ACTS: [&str; 11] =
    ["pull", "ready", "pin", "unpin", "forget", "freeze", "unfreeze", "gc", "verify", "export", "import"];

/// Answers a request below [`PREFIX`]. Blobs are verified at `verify_rate`, in bytes a second,
/// unless the request names another.
pub(super) async fn answer(
    request: Request<Incoming>,
    mirror: &Mirror,
    verify_rate: u64,
    door: Door,
) -> Response<Body> {
    if door == Door::Address && !is_asked_by_address(&request) {
        let message = "ask this by its address or as localhost, not by another name";
        return respond(StatusCode::FORBIDDEN, &json!({ "error": message }));
    }
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let answered = match (LOOKS.contains(&path), ACTS.contains(&path), request.method()) {
        (true, _, &(Method::GET | Method::HEAD)) => look(&request, mirror).await,
        (_, true, &Method::POST) => act(request, mirror, verify_rate).await,
        (true, ..) => return not_allowed("GET, HEAD"),
        (_, true, _) => return not_allowed("POST"),
        _ => Err(not_found()),
    };
    answered.unwrap_or_else(|Refusal { status, told }| respond(status, &told))
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let message = format!("this is served for {allowed} only");
    let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": message }));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

async fn look(request: &Request<Incoming>, mirror: &Mirror) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path().strip_prefix(PREFIX) {
        Some("status") => Ok(ok(&mirror.status())),
        Some("images") => Ok(ok(&json!({ "images": mirror.images().await? }))),
        Some("images/inspect") => Ok(ok(&mirror.inspect(&asked_for(query)?).await?)),
        Some("history") => {
            let image = asked_for(query)?;
            Ok(ok(&json!({ "image": image.to_string(), "history": mirror.history(&image)? })))
        }
        Some("receipt") => bundles::receipt(mirror).await,
        _ => Err(not_found()),
    }
}

async fn act(request: Request<Incoming>, mirror: &Mirror, verify_rate: u64) -> Result<Response<Body>, Refusal> {
    refuse_pages(request.headers())?;
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
    if path == "import" {
        return bundles::import(request, mirror).await;
    }
    let longest = if path == "export" { bundles::LONGEST_ORDER } else { MAX_REQUEST };
    let body = Limited::new(request.into_body(), longest).collect().await;
    let body =
        body.map_err(|_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long".to_owned()))?.to_bytes();
    match path.as_str() {
        "pull" => {
            let order: Order = read(&body)?;
            Ok(pull(mirror.clone(), images(&order)?, platforms(&order)?))
        }
        "ready" => {
            let order: Order = read(&body)?;
            let platforms = platforms(&order)?;
            let mut answers = Vec::new();
            for image in images(&order)? {
                answers.push(mirror.readiness(&image, &platforms).await?);
            }
            Ok(ok(&json!({ "images": answers })))
        }
        "pin" | "unpin" | "forget" => {
            let order: Order = read(&body)?;
            let mut answers = Vec::new();
            for image in images(&order)? {
                let changed = match path.as_str() {
                    "pin" => mirror.pin(&image).map(|()| true),
                    "unpin" => mirror.unpin(&image),
                    _ => mirror.forget(&image).await,
                };
                answers.push(json!({ "image": image.to_string(), "changed": changed? }));
            }
            Ok(ok(&json!({ "images": answers })))
        }
        "freeze" => {
            let Freeze { image, digest } = read(&body)?;
            let image = image_name(&image)?;
            Ok(ok(&json!({ "image": image.to_string(), "digest": mirror.freeze(&image, digest)? })))
        }
        "unfreeze" => {
            let image = image_name(&read::<Freeze>(&body)?.image)?;
            Ok(ok(&json!({ "image": image.to_string(), "changed": mirror.unfreeze(&image)? })))
        }
        "gc" => Ok(ok(&mirror.collect_garbage(read::<Collect>(&body)?.dry_run).await?)),
        "export" => bundles::export(mirror, &read(&body)?).await,
        "verify" => Ok(verify(mirror.clone(), &read(&body)?, verify_rate)),
        _ => Err(not_found()),
    }
}

/// Refuses what a page in a browser could have sent.
fn refuse_pages(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get(CONSENT).is_none_or(|value| value != "1") {
        let message = "a request that changes something needs the header X-Registry-Mirror: 1".to_owned();
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    Ok(())
}

/// Whether a request names us in a way that nobody else can make theirs: in `Host`, and in the target
/// if that names a host, which then counts.
fn is_asked_by_address(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next());
    let target = request.uri().authority().is_none_or(|authority| is_address(authority.as_str()));
    second.is_none() && target && host.is_some_and(is_address)
}

/// Whether a `Host` is an address or this machine, which no foreign name can be made to look like.
fn is_address(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

fn pull(mirror: Mirror, images: Vec<ImageName>, platforms: Platforms) -> Response<Body> {
    let (events, lines) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for image in images {
            mirror.prefetch(&image, &platforms, &events).await;
        }
    });
    streamed(lines)
}

fn verify(mirror: Mirror, check: &Check, usual_rate: u64) -> Response<Body> {
    let (findings, lines) = mpsc::channel(QUEUE);
    let (repair, rate) = (check.repair, Some(check.rate.unwrap_or(usual_rate)));
    tokio::spawn(async move {
        if let Err(error) = mirror.verify(repair, rate, &findings).await {
            // The reader sees an answer without its last line.
            tracing::error!(%error, "the blobs cannot be listed");
        }
    });
    streamed(lines)
}

/// Values as they come, one JSON object a line.
fn streamed<T: Serialize + Send + 'static>(values: mpsc::Receiver<T>) -> Response<Body> {
    let lines = stream::unfold(values, |mut values| async move {
        let mut line = BytesMut::new().writer();
        let written = serde_json::to_writer(&mut line, &values.recv().await?);
        let mut line = line.into_inner();
        line.put_u8(b'\n');
        written.ok().map(|()| (Ok::<_, io::Error>(Frame::data(line.freeze())), values))
    });
    respond_with(StatusCode::OK, "application/jsonl", StreamBody::new(lines).boxed())
}

fn read<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Refusal> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| bad(format!("the request cannot be read: {error}")))
}

fn asked_for(query: &str) -> Result<ImageName, Refusal> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let image = pairs.find(|(name, _)| name == "image").map(|(_, value)| value);
    image_name(&image.ok_or_else(|| bad("which image? Add ?image=NAME".to_owned()))?)
}

fn images(order: &Order) -> Result<Vec<ImageName>, Refusal> {
    if order.images.is_empty() {
        return Err(bad("no images are named".to_owned()));
    }
    order.images.iter().map(|name| image_name(name)).collect()
}

fn image_name(typed: &str) -> Result<ImageName, Refusal> {
    typed.parse().map_err(|error| bad(format!("{typed:?}: {error}")))
}

fn platforms(order: &Order) -> Result<Platforms, Refusal> {
    if order.all_platforms {
        return Ok(Platforms::All);
    }
    if order.platforms.is_empty() {
        return Ok(Platforms::Only(vec![Platform::default()]));
    }
    let platforms =
        order.platforms.iter().map(|typed| typed.parse().map_err(|error| bad(format!("{typed:?}: {error}"))));
    Ok(Platforms::Only(platforms.collect::<Result<_, _>>()?))
}

fn bad(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such request; see the README for what there is".to_owned())
}

fn ok(value: &impl Serialize) -> Response<Body> {
    respond(StatusCode::OK, value)
}

fn respond(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    respond_with(status, "application/json", whole(Full::new(Bytes::from(json))))
}

fn respond_with(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_or_localhost_is_a_host_that_cannot_be_forged() {
        for (host, expected) in [
            ("127.0.0.1:5080", true),
            ("127.0.0.1", true),
            ("[::1]:5080", true),
            ("localhost:5080", true),
            ("mirror.example:5080", false),
            ("127.0.0.1.example", false),
            ("", false),
        ] {
            assert_eq!(is_address(host), expected, "{host}");
        }
    }
}
