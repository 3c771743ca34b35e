//! Bundles to and from a running daemon. What is sent and received never is in memory as a whole.

use std::io::{self, Read, Write};

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;

use super::Remote;
use super::endpoint::{Answer, broke, parsed};
use crate::cli::insist;
use crate::documents::{Code, Document, Error, Frame, Imported, Plan, orders};

/// How much of a file is sent at a time, in bytes.
const PIECE: usize = 256 << 10;

/// A bundle on its way: the plan was told, the bytes are to come.
pub(in crate::cli) struct Download<'r> {
    remote: &'r Remote,
    answer: Answer<'r>,
    pub(in crate::cli) plan: Plan,
}

impl Remote {
    /// Orders a bundle.
    pub(in crate::cli) fn export(&self, order: &orders::Export) -> Result<Download<'_>, Error> {
        let order = orders::Export { framed: true, ..order.clone() };
        self.runtime.block_on(async {
            let mut answer = self.endpoint.post("export", &order).await?;
            let plan = next(&mut answer).await?;
            Ok(Download { remote: self, answer, plan })
        })
    }

    /// Sends a bundle to be taken in; what came of it.
    pub(in crate::cli) fn import(&self, bundle: impl Read + Send + 'static, query: &str) -> Result<Imported, Error> {
        let (pieces, body) = mpsc::channel(2);
        // Not a task of the runtime: nobody waits for it when standard input has no end.
        std::thread::spawn(move || read_on(bundle, &pieces));
        let frames = stream::unfold(body, |mut body| async move {
            let piece: io::Result<Bytes> = body.recv().await?;
            Some((piece.map(hyper::body::Frame::data), body))
        });
        let path = format!("/api/v1/import{query}");
        self.runtime.block_on(async {
            let answer = self.endpoint.send(Method::POST, &path, StreamBody::new(frames).boxed()).await?;
            Ok(answer.success().await?.document().await?.0)
        })
    }
}

impl Download<'_> {
    /// Writes the bundle. What was written before an error is not one.
    pub(in crate::cli) fn write(mut self, out: &mut dyn Write) -> Result<(), Error> {
        let runtime = &self.remote.runtime;
        let failed_here = |error: io::Error| Error::new(Code::Write, format!("the bundle cannot be written: {error}"));
        loop {
            match runtime.block_on(next(&mut self.answer))? {
                Frame::Data { size_bytes: mut left } => {
                    while left > 0 {
                        let piece = runtime.block_on(self.answer.at_most(left))?;
                        left -= piece.len();
                        out.write_all(&piece).map_err(failed_here)?;
                    }
                }
                Frame::Done => return out.flush().map_err(failed_here),
            }
        }
    }
}

/// The next document, which has to come.
async fn next<T: Document>(answer: &mut Answer<'_>) -> Result<T, Error> {
    let line = answer.line().await?.ok_or_else(|| broke(&"it ended before the bundle did"))?;
    Ok(parsed(&line)?.0)
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
                insist(&format!("error: the bundle cannot be read: {error}"));
                Err(error)
            }
        };
        let last = piece.is_err();
        if pieces.blocking_send(piece).is_err() || last {
            return;
        }
    }
}
