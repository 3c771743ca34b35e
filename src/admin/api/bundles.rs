//! `export` and `import`: bundles as bodies, in pieces as they come, never whole in memory.
//!
//! An export is planned before its first byte, so what cannot be is told with a status. What goes
//! wrong later breaks the connection off: a tar that ends well is whole. Who asks for frames is told
//! more: the plan, documents that announce as many bytes as they say, and a last one that says how it
//! ended. A client that stands still for long is given up.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::naming::image_name;
use super::noting::Noting;
use super::ok;
use crate::admin::guard::Place;
use crate::admin::{Body, respond_with};
use crate::documents::{self, Code, Document, Error, Fate, Frame, ImportedImage, Plan, StoredReceipt, orders};
use crate::mirror::Mirror;
use crate::mirror::images::bundles::Outgoing;

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

pub(super) async fn export(
    mirror: &Mirror,
    order: &orders::Export,
    noting: &mut Noting,
) -> Result<Response<Body>, Error> {
    let outgoing = mirror.plan_bundle(order.try_into()?).await?;
    let plan = outgoing.document();
    if order.dry_run {
        return Ok(ok(&plan));
    }
    // Who asked for frames reads it in the plan.
    if outgoing.is_empty() && !order.framed {
        return Err(nothing(&plan));
    }
    let images = plan.exported.images.iter().map(|image| (image, true));
    let missing = plan.exported.unavailable.iter().map(|image| (&image.image, false));
    for (image, is_there) in images.chain(missing) {
        image.parse().iter().for_each(|name| noting.done_to(name, is_there, None));
    }
    let (pieces, body) = mpsc::channel(QUEUE);
    let outlet = Outlet {
        pieces,
        buffer: BytesMut::new(),
        framed: order.framed,
        runtime: Handle::current(),
        stopping: mirror.stopping(),
        bytes: noting.bytes(),
    };
    tokio::spawn(send(outgoing, outlet, order.framed.then(|| line(&plan)), noting.goes_on()));
    let frames = stream::unfold(body, |mut body| async move {
        let piece: io::Result<Bytes> = body.recv().await?;
        Some((piece.map(hyper::body::Frame::data), body))
    });
    let content_type = if order.framed { "application/octet-stream" } else { "application/x-tar" };
    Ok(respond_with(StatusCode::OK, content_type, StreamBody::new(frames).boxed()))
}

fn nothing(plan: &Plan) -> Error {
    let names: Vec<_> = plan.exported.unavailable.iter().map(|image| image.image.as_str()).collect();
    let why = if names.is_empty() { String::new() } else { format!("; not stored: {}", names.join(", ")) };
    Error::new(Code::Nothing, format!("there is nothing to export{why}"))
        .with_hint("with dry_run the plan says what is missing")
}

async fn send(outgoing: Outgoing, outlet: Outlet, plan: Option<Bytes>, noting: Noting) {
    let (pieces, framed) = (outlet.pieces.clone(), outlet.framed);
    if let Some(plan) = plan {
        let _ = pieces.send(Ok(plan)).await;
    }
    let sent = outgoing.send(outlet).await;
    noting.came_to(sent.is_ok());
    let last = match sent {
        Ok(()) if framed => Ok(line(&Frame::Done)),
        Ok(()) => return,
        Err(error) => {
            tracing::warn!(%error, "a bundle was not sent to its end");
            if framed { Ok(line(&Error::from(error))) } else { Err(io::Error::other(error)) }
        }
    };
    let _ = pieces.send(last).await;
}

fn line(document: &impl Document) -> Bytes {
    Bytes::from(documents::line(document) + "\n")
}

/// Takes what is written and hands it on in pieces. Blocks.
struct Outlet {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
    framed: bool,
    runtime: Handle,
    stopping: CancellationToken,
    bytes: Arc<AtomicU64>,
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
            self.hand_on(line(&Frame::Data { size_bytes: piece.len() }))?;
        }
        let length = piece.len() as u64;
        self.hand_on(piece)?;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

fn stopping() -> io::Error {
    io::Error::other("the daemon stops")
}

/// Takes a bundle in. `place` is held as long as its bytes may come.
pub(super) async fn import(
    request: Request<Incoming>,
    name: Option<String>,
    mirror: &Mirror,
    place: Place,
    noting: &mut Noting,
) -> Result<Response<Body>, Error> {
    let name = name.map(|name| image_name(&name, &[])).transpose()?;
    let inlet = Inlet {
        body: request.into_body(),
        rest: Bytes::new(),
        runtime: Handle::current(),
        stopping: mirror.stopping(),
        bytes: noting.bytes(),
    };
    let (imported, inlet) = mirror.take_in(inlet, name).await;
    if let Some(inlet) = inlet {
        tokio::spawn(async move {
            inlet.empty().await;
            drop(place);
        });
    }
    let imported = imported.inspect_err(|error| tracing::warn!(%error, "a bundle was not taken in"))?;
    for ImportedImage { image, digest, fate, .. } in &imported.images {
        // What is not wholly there, or has no name, belongs to no repository.
        let came = matches!(fate, Fate::Ready | Fate::KeptNewer);
        image.parse().iter().for_each(|name| noting.done_to(name, came, Some(digest)));
    }
    Ok(ok(&imported))
}

/// What is stored here, for the next export of the other side.
pub(super) async fn receipt(mirror: &Mirror) -> Result<Response<Body>, Error> {
    let receipt = mirror.receipt().await.map_err(|error| Error::new(Code::Store, error.to_string()))?;
    Ok(ok(&StoredReceipt { receipt }))
}

/// Reads what a client sends. Blocks.
struct Inlet {
    body: Incoming,
    rest: Bytes,
    runtime: Handle,
    stopping: CancellationToken,
    bytes: Arc<AtomicU64>,
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
        self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
