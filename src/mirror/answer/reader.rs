//! Reading along with a running fill. Every reader has its own offset and its own pace; none of them is
//! known to the fill.

use std::cmp::Ordering;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicBool};

use bytes::Bytes;

use crate::clients::ClientId;
use crate::mirror::answer::relay::Relay;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::{Fills, Right};
use crate::mirror::flight::progress::{Following, HELD_BACK, Phase, Progress};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::flight::window::{Ticket, WINDOW};
use crate::oci::{Span, Verifier};
use crate::outcome::Outcome;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// Reads along with a running fill.
#[derive(Debug)]
pub struct FillReader {
    fill: Following,
    source: BlobSource,
    offset: u64,
    /// The first byte that is not wanted; `None` for everything up to the end.
    end: Option<u64>,
    /// The size of the blob in bytes, where the client was told one.
    total: Option<u64>,
    /// Whether it is a part that ends before the digest was verified.
    early: bool,
    _seat: Arc<AtomicBool>,
    /// The seat at what is passed on and not kept.
    ticket: Option<Ticket>,
    /// Whether what comes next is gone from there, or cannot wait there until it may be read.
    late: bool,
    /// How it goes on where what the fill is asked for with is refused: with what its own client shows.
    heir: Option<Heir>,
}

/// What it takes to begin a fill anew, for the sake of this client.
#[derive(Clone)]
pub(super) struct Heir {
    pub(super) fills: Arc<Fills>,
    pub(super) client: ClientId,
}

impl std::fmt::Debug for Heir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heir").field("client", &self.client).finish_non_exhaustive()
    }
}

/// The next bytes.
pub(super) enum Piece {
    /// In the growing file.
    Kept(Arc<File>, Range<u64>),
    /// In memory, where they are not kept.
    Passed(Bytes),
}

impl FillReader {
    /// Reads `span` of the blob that `fill` brings from `source`, for a client that was told it has `total`
    /// bytes.
    pub(super) fn new(fill: Following, source: BlobSource, span: Span, total: Option<u64>) -> FillReader {
        let seat = Arc::clone(&fill.borrow().seats);
        seat.store(true, atomic::Ordering::Relaxed);
        let early = total.zip(span.end.filter(|end| total.is_some_and(|total| *end < total)));
        let early = early.is_some_and(|(total, end)| {
            let length = end.saturating_sub(span.start);
            fill.borrow().early.as_ref().is_some_and(|early| early.claim(length, total))
        });
        let mut reader = FillReader {
            fill,
            source,
            offset: span.start,
            end: span.end,
            total,
            early,
            _seat: seat,
            ticket: None,
            late: false,
            heir: None,
        };
        let passed = reader.fill.borrow().passed.clone();
        reader.ticket = passed.map(|window| window.join(reader.offset));
        reader
    }

    /// The same, for who follows a fill that is asked for with what somebody else shows.
    pub(super) fn inherited_by(self, heir: Option<Heir>) -> FillReader {
        FillReader { heir, ..self }
    }

    /// Goes on where another fill is, which is asked for with what this client shows or somebody else who has come.
    /// Whether there is one: who led the one that was refused has his answer.
    fn inherits(&mut self, refused: &MirrorError) -> bool {
        if !refused.is_denial() && !refused.is_missing() {
            return false;
        }
        let Some(Heir { fills, client }) = self.heir.take() else { return false };
        let (fill, outcome) = fills.fly(self.source.clone(), Right::Of(client));
        let heir = (outcome == Outcome::Join).then_some(Heir { fills, client });
        let span = Span { start: self.offset, end: self.end };
        *self = FillReader::new(fill, self.source.clone(), span, self.total).inherited_by(heir);
        true
    }

    /// The next piece, of at most `limit` bytes. `None` at the end, and also when it is left behind: see
    /// [`FillReader::go_on_alone`].
    pub(super) async fn next(&mut self, limit: u64) -> Result<Option<Piece>, MirrorError> {
        loop {
            match self.step(limit) {
                Ok(Step::Read(chunk)) => return Ok(Some(chunk)),
                Ok(Step::End) => return Ok(None),
                Ok(Step::Wait) => {}
                Err(error) if self.inherits(&error) => continue,
                Err(error) => return Err(error),
            }
            if self.fill.changed().await.is_err() {
                // The fill is gone. Its last word counts; a fill without one has failed.
                return match self.step(limit) {
                    Ok(Step::Read(chunk)) => Ok(Some(chunk)),
                    Ok(Step::End) => Ok(None),
                    Err(error) if self.inherits(&error) => continue,
                    Err(error) => Err(error),
                    Ok(Step::Wait) => Err(MirrorError::Internal("the fill ended without a result".to_owned())),
                };
            }
        }
    }

    fn step(&mut self, limit: u64) -> Result<Step, MirrorError> {
        let FillReader { fill, source, offset, end, total, early, ticket, late, .. } = self;
        let progress = fill.borrow_and_update();
        if let (Some(told), Some(total)) = (*total, progress.total)
            && told != total
        {
            let message = format!("{source:?}: a client was told that it has {told} bytes, and it has {total}");
            return Err(MirrorError::upstream(
                Subject::Blob,
                UpstreamError::new(UpstreamErrorClass::Protocol, message),
            ));
        }
        let part = end.filter(|end| progress.total.is_some_and(|total| *end < total));
        let readable = part.map_or(progress.readable(), |end| progress.readable_of(end, *early));
        let mut piece = *offset..readable.min(offset.saturating_add(limit));
        if let Some(window) = &progress.passed {
            if part.is_some_and(|end| !*early && outlasts_the_window(&progress, end)) {
                *late = true;
                return Ok(Step::End);
            }
            let ticket = match ticket {
                Some(ticket) if ticket.is_for(window) => ticket,
                ticket => ticket.insert(window.join(*offset)),
            };
            if piece.start >= window.origin() && !piece.is_empty() {
                let Some(bytes) = ticket.read(piece.start, piece.end) else {
                    *late = true;
                    return Ok(Step::End);
                };
                *offset += bytes.len() as u64;
                if let Some(place) = &progress.relay {
                    place.moved();
                }
                return Ok(Step::Read(Piece::Passed(bytes)));
            }
            piece.end = piece.end.min(window.origin());
        }
        if let (false, Some(file)) = (piece.is_empty(), &progress.file) {
            *offset = piece.end;
            return Ok(Step::Read(Piece::Kept(Arc::clone(file), piece)));
        }
        match &progress.phase {
            _ if part.is_some_and(|end| *offset >= end) => Ok(Step::End),
            Phase::Starting | Phase::Streaming => Ok(Step::Wait),
            Phase::Verified | Phase::Unkept(_) => Ok(Step::End),
            Phase::Failed(error) => Err(error.clone()),
        }
    }

    /// After the fill was given up, or went on without this reader: the rest of its bytes, straight from
    /// upstream.
    pub(super) fn go_on_alone(&self) -> Option<Relay> {
        let progress = self.fill.borrow();
        match &progress.phase {
            Phase::Unkept(verifier) => {
                let span = Span { start: self.offset, end: self.end };
                // Who got nothing of what is in the file needs that, too.
                let (seen, verifier) = match self.offset.cmp(&progress.written) {
                    Ordering::Less => (0, Verifier::new(self.source.digest.algorithm())),
                    _ => (progress.written, verifier.clone()),
                };
                let total = progress.total.or(self.total);
                let verifier = (!self.early).then_some((verifier, seen));
                Some(Relay::from(self.source.clone(), span, total, verifier).at(progress.relay.clone()))
            }
            _ if self.late => {
                let span = Span { start: self.offset, end: self.end };
                let verifier = (!self.early).then(|| (Verifier::new(self.source.digest.algorithm()), 0));
                let total = progress.total.or(self.total);
                Some(Relay::from(self.source.clone(), span, total, verifier).at(progress.relay.clone()))
            }
            _ => None,
        }
    }
}

/// Whether what is passed on would wait for ever for the reader of a part up to `end`, who gets the last of it when the
/// whole blob is verified: more is to come until then than memory is sure to have room for.
fn outlasts_the_window(progress: &Progress, end: u64) -> bool {
    let left = progress.total.unwrap_or_default().saturating_sub(end.saturating_sub(HELD_BACK));
    !matches!(progress.phase, Phase::Verified) && left > WINDOW as u64 / 2
}

enum Step {
    Read(Piece),
    Wait,
    End,
}
