//! `export` and `import`: bundles as bodies, in pieces as they come, never whole in memory.
//!
//! An export is planned before its first byte, so what cannot be is told with a status. What goes
//! wrong later breaks the connection off: a tar that ends well is whole. Who asks for frames is told
//! more: a line of JSON with the plan, lines that announce as many bytes as they say, and a last line
//! that says how it ended. A client that stands still for long is given up.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Refusal, bad, image_name, ok, respond_with};
use crate::admin::Body;
use crate::bundle::{ImportError, Selection};
use crate::mirror::Mirror;
use crate::mirror::images::bundles::Outgoing;
use crate::oci::Digest;

/// The longest order for an export, in bytes: a receipt names every blob of the other side.
pub(super) const LONGEST_ORDER: usize = 64 << 20;
/// How much of a bundle is sent at a time, in bytes.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a slow reader.
const QUEUE: usize = 4;
/// A client that takes or sends nothing for so long is given up.
const STANDSTILL: Duration = Duration::from_secs(300);
/// How long the rest of a refused bundle is read, so that the answer arrives.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// What is to be exported.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Order {
    images: Vec<String>,
    /// Everything that is stored.
    all: bool,
    /// Only what was used in the last so many seconds.
    used_since: Option<u64>,
    /// Those that are stored, when none are named.
    platforms: Vec<String>,
    /// What the other side has.
    since: Vec<Digest>,
    /// Only say what would be in it.
    dry_run: bool,
    /// The plan and the end are told around the bytes.
    framed: bool,
}

impl Order {
    fn selection(&self) -> Result<Selection, Refusal> {
        if self.images.is_empty() && !self.all && self.used_since.is_none() {
            return Err(bad("name images, or say all or used_since".to_owned()));
        }
        if self.all && !self.images.is_empty() {
            return Err(bad("all is all: name no images".to_owned()));
        }
        let platforms = self.platforms.iter();
        Ok(Selection {
            images: self.images.iter().map(|name| image_name(name)).collect::<Result<_, _>>()?,
            used_since: self.used_since.map(Duration::from_secs),
            platforms: platforms
                .map(|typed| typed.parse().map_err(|error| bad(format!("{typed:?}: {error}"))))
                .collect::<Result<_, _>>()?,
            since: self.since.iter().copied().collect(),
        })
    }
}

pub(super) async fn export(mirror: &Mirror, order: &Order) -> Result<Response<Body>, Refusal> {
    let outgoing = mirror
        .plan_bundle(order.selection()?)
        .await
        .map_err(|error| Refusal::of_class(StatusCode::INTERNAL_SERVER_ERROR, error.class(), error.to_string()))?;
    let mut plan = serde_json::to_value(outgoing.summary()).unwrap_or_default();
    if order.dry_run || order.framed {
        plan["event"] = "plan".into();
        plan["receipt"] = outgoing.receipt().iter().map(ToString::to_string).collect();
    }
    if order.dry_run {
        return Ok(ok(&plan));
    }
    // Who asked for frames reads it in the plan.
    if outgoing.is_empty() && !order.framed {
        let message = "there is nothing to export".to_owned();
        return Err(Refusal::of_class(StatusCode::NOT_FOUND, "nothing", message).with("plan", plan));
    }
    let (pieces, body) = mpsc::channel(QUEUE);
    let outlet = Outlet {
        pieces,
        buffer: BytesMut::new(),
        framed: order.framed,
        runtime: Handle::current(),
        stopping: mirror.stopping(),
    };
    tokio::spawn(send(outgoing, outlet, order.framed.then(|| line(&plan))));
    let frames = stream::unfold(body, |mut body| async move {
        let piece: io::Result<Bytes> = body.recv().await?;
        Some((piece.map(Frame::data), body))
    });
    let content_type = if order.framed { "application/octet-stream" } else { "application/x-tar" };
    Ok(respond_with(StatusCode::OK, content_type, StreamBody::new(frames).boxed()))
}

async fn send(outgoing: Outgoing, outlet: Outlet, plan: Option<Bytes>) {
    let (pieces, framed) = (outlet.pieces.clone(), outlet.framed);
    if let Some(plan) = plan {
        let _ = pieces.send(Ok(plan)).await;
    }
    let last = match outgoing.send(outlet).await {
        Ok(()) => json!({ "event": "done" }),
        Err(error) => {
            tracing::warn!(%error, "a bundle was not sent to its end");
            if !framed {
                let _ = pieces.send(Err(io::Error::other(error))).await;
                return;
            }
            json!({ "event": "failed", "class": error.class(), "message": error.to_string() })
        }
    };
    if framed {
        let _ = pieces.send(Ok(line(&last))).await;
    }
}

fn line(value: &serde_json::Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

/// Takes what is written and hands it on in pieces. Blocks.
struct Outlet {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
    framed: bool,
    runtime: Handle,
    stopping: CancellationToken,
}

impl Outlet {
    fn hand_on(&self, piece: Bytes) -> io::Result<()> {
        let handed = self.runtime.block_on(async {
            tokio::select! {
                sent = tokio::time::timeout(STANDSTILL, self.pieces.send(Ok(piece))) => sent,
                () = self.stopping.cancelled() => return Err(stopping()),
            }
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the reader stands still"))
        })?;
        handed.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader is gone"))
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.buffer.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        if self.framed {
            self.hand_on(line(&json!({ "event": "data", "bytes": piece.len() })))?;
        }
        self.hand_on(piece)
    }
}

fn stopping() -> io::Error {
    io::Error::other("the daemon stops")
}

pub(super) async fn import(request: Request<Incoming>, mirror: &Mirror) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let name = pairs.find(|(key, _)| key == "name").map(|(_, name)| image_name(&name)).transpose()?;
    let inlet = Inlet {
        body: request.into_body(),
        rest: Bytes::new(),
        runtime: Handle::current(),
        stopping: mirror.stopping(),
    };
    let (imported, inlet) = mirror.take_in(inlet, name).await;
    if let Some(inlet) = inlet {
        tokio::spawn(inlet.empty());
    }
    imported.map(|imported| ok(&imported)).map_err(|error| {
        tracing::warn!(%error, "a bundle was not taken in");
        let status = match &error {
            ImportError::Hostile { .. } | ImportError::Malformed(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ImportError::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
            ImportError::Read(_) => StatusCode::BAD_REQUEST,
            ImportError::Store(_) | ImportError::Metadata(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::of_class(status, error.class(), error.to_string())
    })
}

/// What is stored here, for the next export of the other side: digests, one a line.
pub(super) async fn receipt(mirror: &Mirror) -> Result<Response<Body>, Refusal> {
    let receipt = mirror.receipt().await;
    let receipt = receipt.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let receipt: Vec<_> = receipt.iter().map(ToString::to_string).collect();
    Ok(ok(&json!({ "receipt": receipt })))
}

/// Reads what a client sends. Blocks.
struct Inlet {
    body: Incoming,
    rest: Bytes,
    runtime: Handle,
    stopping: CancellationToken,
}

impl Inlet {
    /// Lets the rest of a bundle go by: a client that is still sending would not hear the answer.
    async fn empty(mut self) {
        let rest = async { while let Some(Ok(_)) = self.body.frame().await {} };
        let _ = tokio::time::timeout(LEFTOVERS, rest).await;
    }
}

impl Read for Inlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let (body, stop) = (&mut self.body, &self.stopping);
            let frame = self.runtime.block_on(async {
                tokio::select! {
                    frame = tokio::time::timeout(STANDSTILL, body.frame()) => frame.map_err(|_| {
                        io::Error::new(io::ErrorKind::TimedOut, "the client stands still")
                    }),
                    () = stop.cancelled() => Err(stopping()),
                }
            })?;
            match frame {
                None => return Ok(0),
                Some(frame) => self.rest = frame.map_err(io::Error::other)?.into_data().unwrap_or_default(),
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
