//! A fill that cannot be kept, or no longer: what comes is passed on from memory, once for all who read it.
//!
//! Truth: who reads to the end gets it verified, as from a fill that is kept. Upstream is asked once for all
//! who come in time; a later flight of the same blob has upstream's answer to itself.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::Fill;
use crate::mirror::fill::end::{End, compare};
use crate::mirror::fill::pieces::Chunk;
use crate::mirror::flight::BlobKey;
use crate::mirror::flight::flights::Departure;
use crate::mirror::flight::progress::{Doubt, Following, Phase, Progress};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::flight::unread;
use crate::mirror::flight::window::{More, Window};
use crate::oci::Verifier;
use crate::upstream::UpstreamError;

/// Where the store gave up, and why.
pub(super) struct Unkept {
    pub(super) reason: String,
    /// What was to be written then.
    pub(super) rest: VecDeque<Chunk>,
    /// The offset of the first byte that was not kept.
    pub(super) position: u64,
    /// What went through this came before.
    pub(super) verifier: Verifier,
}

/// Passes a blob on.
pub(super) struct Passing<'a> {
    window: Arc<Window>,
    verifier: Verifier,
    position: u64,
    total: Option<u64>,
    reason: String,
    progress: &'a watch::Sender<Progress>,
}

impl Unkept {
    /// From the beginning.
    pub(super) fn at_all(reason: String, source: &BlobSource) -> Unkept {
        Unkept { reason, rest: VecDeque::new(), position: 0, verifier: Verifier::new(source.digest.algorithm()) }
    }
}

impl Fill {
    /// Passes on what comes, until nothing more does. Without memory for it the readers go on by themselves.
    pub(super) async fn pass<'a>(
        &'a self,
        Unkept { reason, mut rest, position, verifier }: Unkept,
        total: Option<u64>,
        chunks: &mut mpsc::Receiver<Chunk>,
        departure: &Departure<BlobKey, Following>,
    ) -> Result<Passing<'a>, End> {
        let progress = &*self.progress;
        let Some(window) = self.fills.bounds.window(position) else {
            return Err(alone(progress, position, verifier, reason));
        };
        progress.send_modify(|progress| {
            progress.total = total;
            progress.written = position;
            // It cannot begin anew unnoticed any more.
            progress.doubt = Doubt::None;
            progress.passed = Some(Arc::clone(&window));
            progress.phase = Phase::Streaming;
        });
        let mut passing = Passing { window, verifier, position, total, reason, progress };
        let mut left = pin!(unread::left(progress));
        // Stands in for the handle of the table when that is gone, so that followers are counted as before.
        let mut stand_in = None;
        loop {
            let next = match rest.pop_front() {
                Some(chunk) => Some(chunk),
                None => tokio::select! {
                    next = chunks.recv() => next,
                    () = &mut left => return Err(End::Deserted),
                },
            };
            let Some(chunk) = next else { return Ok(passing) };
            let room = passing.window.make_room(chunk.bytes().len(), || unread::followers(progress)).await;
            match room {
                // What came ahead of its turn has no place in memory.
                More::Wanted { beginning_gone } if chunk.offset == passing.position => {
                    if beginning_gone {
                        stand_in.get_or_insert_with(|| progress.subscribe());
                        departure.leave_if(|| true);
                    }
                }
                _ => return Err(passing.stop()),
            }
            passing.take(&chunk);
        }
    }
}

impl Passing<'_> {
    fn take(&mut self, chunk: &Chunk) {
        self.verifier.update(chunk.bytes());
        self.position = chunk.end();
        self.window.push(Bytes::copy_from_slice(chunk.bytes()));
        self.progress.send_modify(|progress| progress.written = self.position);
    }

    /// Who still wants it goes on alone.
    fn stop(self) -> End {
        alone(self.progress, self.position, self.verifier, self.reason)
    }

    /// Whether what came is the blob; tells readers if it is.
    pub(super) fn verify(self, source: &BlobSource, pumped: Result<(), UpstreamError>) -> End {
        let Passing { verifier, position, total, reason, progress, .. } = self;
        let compared = pumped.and_then(|()| compare(source, verifier.finish(), total, position));
        match compared {
            Ok(()) => {
                progress.send_modify(|progress| {
                    progress.total = Some(position);
                    progress.phase = Phase::Verified;
                });
                End::Unkept(reason)
            }
            Err(error) => End::Failed(MirrorError::upstream(Subject::Blob, error)),
        }
    }
}

/// Readers keep what they can still have of it, and go on by themselves.
fn alone(progress: &watch::Sender<Progress>, position: u64, verifier: Verifier, reason: String) -> End {
    progress.send_modify(|progress| {
        progress.written = position;
        progress.phase = Phase::Unkept(verifier);
    });
    End::Unkept(reason)
}
