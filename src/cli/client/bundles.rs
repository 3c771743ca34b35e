//! Bundles to and from a running daemon. What is sent and received never is in memory as a whole.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Answer, Remote, broke};
use crate::bundle::{Exported, Receipt};
use crate::cli::{Exit, say};

/// How much of a file is sent at a time, in bytes.
const PIECE: usize = 256 << 10;

/// What a daemon says around the bytes of a bundle.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Said {
    Plan(Plan),
    Data { bytes: usize },
    Done,
    Failed { class: String, message: String },
}

#[derive(Debug, Deserialize)]
struct Plan {
    #[serde(flatten)]
    exported: Exported,
    receipt: Vec<crate::oci::Digest>,
}

/// A bundle on its way: the plan was told, the bytes are to come.
pub(in crate::cli) struct Download<'d> {
    answer: Answer<'d>,
    pub(in crate::cli) exported: Exported,
    pub(in crate::cli) receipt: Receipt,
}

impl Remote {
    /// Orders a bundle.
    pub(in crate::cli) fn export(&self, order: &Value) -> Result<Download<'_>, Exit> {
        let mut answer = self.runtime.block_on(self.ask(Method::POST, "export", Some(order)))?;
        match self.runtime.block_on(said(&mut answer))? {
            Said::Plan(Plan { exported, receipt }) => {
                Ok(Download { answer, exported, receipt: receipt.into_iter().collect() })
            }
            said => Err(broke(&format!("{said:?} where there should be a plan"))),
        }
    }

    /// Sends a bundle to be taken in. The status and what the daemon says.
    pub(in crate::cli) fn import(
        &self,
        bundle: impl Read + Send + 'static,
        query: &str,
    ) -> Result<(StatusCode, Value), Exit> {
        let (pieces, body) = mpsc::channel(2);
        // Not a task of the runtime: nobody waits for it when standard input has no end.
        std::thread::spawn(move || read_on(bundle, &pieces));
        let frames = stream::unfold(body, |mut body| async move {
            let piece: io::Result<Bytes> = body.recv().await?;
            Some((piece.map(Frame::data), body))
        });
        let path = format!("/api/v1/import{query}");
        self.runtime.block_on(async {
            let answer = self.send(Method::POST, &path, StreamBody::new(frames).boxed()).await?;
            let status = answer.status;
            let said = serde_json::from_slice(&answer.whole().await?).map_err(|error| broke(&error))?;
            Ok((status, said))
        })
    }
}

impl Download<'_> {
    /// Writes the bundle. What was written before an error is not one.
    pub(in crate::cli) fn write(mut self, mut out: impl Write) -> Result<(), Exit> {
        let runtime = &self.answer.daemon.runtime;
        let failed_here = |error: io::Error| {
            say(&format!("error: the bundle cannot be written: {error}"));
            Exit::Failed
        };
        loop {
            match runtime.block_on(said(&mut self.answer))? {
                Said::Data { mut bytes } => {
                    while bytes > 0 {
                        let piece = runtime.block_on(self.answer.at_most(bytes))?;
                        bytes -= piece.len();
                        out.write_all(&piece).map_err(failed_here)?;
                    }
                }
                Said::Done => return out.flush().map_err(failed_here),
                Said::Failed { class, message } => {
                    say(&format!("error: {message}"));
                    return Err(if class == "damaged" { Exit::Corrupt } else { Exit::Failed });
                }
                said @ Said::Plan(_) => return Err(broke(&format!("{said:?} a second time"))),
            }
        }
    }
}

async fn said(answer: &mut Answer<'_>) -> Result<Said, Exit> {
    let line = answer.line().await?.ok_or_else(|| broke(&"it ended before the bundle did"))?;
    serde_json::from_slice(&line).map_err(|error| broke(&error))
}

/// Reads to the end, or until nobody wants more.
fn read_on(mut bundle: impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match bundle.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => Ok(Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                say(&format!("error: the bundle cannot be read: {error}"));
                Err(error)
            }
        };
        let last = piece.is_err();
        if pieces.blocking_send(piece).is_err() || last {
            return;
        }
    }
}
