//! Passing a blob on from upstream to one client, without keeping it.
//!
//! Truth: who reads to the end gets it verified; the tail is held back until then.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::mirror::answer::witness::Witness;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::flight::places::RelayPlace;
use crate::mirror::flight::progress::HELD_BACK;
use crate::mirror::flight::transfer::{BlobSource, Transfer};
use crate::oci::{Digest, Span, Verifier};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// Passes a blob on from upstream without keeping it, for one client.
#[derive(Debug)]
pub struct Relay {
    source: BlobSource,
    span: Span,
    /// The size of the blob in bytes, where it was told: it cannot change.
    total: Option<u64>,
    state: RelayState,
    /// What was read and not yet handed out.
    held: Held,
    /// Remembers what no digest covers.
    witness: Option<Witness>,
    /// Its place at upstream, where it has one.
    place: Option<Arc<RelayPlace>>,
}

#[derive(Debug)]
enum RelayState {
    /// Not asked yet. A verifier goes with the offset of the first byte that it has not seen.
    Closed(Option<(Verifier, u64)>),
    Open {
        transfer: Box<Transfer>,
        position: u64,
        verifier: Option<Verifier>,
    },
    Done,
}

impl Relay {
    /// What `span` selects, of a blob of which so many bytes as stand beside the verifier went through it already.
    ///
    /// A reader gets its end verified, even if that means reading what lies before its own start, and after its own end;
    /// without a verifier it is a part that need not be.
    pub(super) fn from(source: BlobSource, span: Span, total: Option<u64>, verifier: Option<(Verifier, u64)>) -> Relay {
        Relay {
            source,
            span,
            total,
            state: RelayState::Closed(verifier),
            held: Held::default(),
            witness: None,
            place: None,
        }
    }

    /// The same, in a place at upstream.
    pub(super) fn at(self, place: Option<Arc<RelayPlace>>) -> Relay {
        Relay { place, ..self }
    }

    /// A part of a blob, unverified, as far as `witness` can tell later. `None` when upstream would
    /// send everything that lies before it as well.
    pub(super) async fn part(
        source: BlobSource,
        range: Range<u64>,
        total: u64,
        witness: Witness,
    ) -> Result<Option<Relay>, UpstreamError> {
        let (span, total) = (Span { start: range.start, end: Some(range.end) }, Some(total));
        let transfer = Transfer::open(source.clone(), span, total).await?;
        if transfer.repeats() {
            return Ok(None);
        }
        let state = RelayState::Open { transfer: Box::new(transfer), position: range.start, verifier: None };
        Ok(Some(Relay { source, span, total, state, held: Held::default(), witness: Some(witness), place: None }))
    }

    /// The same, asked for when it is read.
    pub(super) fn later(source: BlobSource, range: Range<u64>, total: u64, witness: Witness) -> Relay {
        let (span, total) = (Span { start: range.start, end: Some(range.end) }, Some(total));
        let state = RelayState::Closed(None);
        Relay { source, span, total, state, held: Held::default(), witness: Some(witness), place: None }
    }

    /// How many bytes the blob has, by reading all of it; nobody else gets what was read.
    ///
    /// # Errors
    /// What the bytes are wrong with, or upstream.
    pub(super) async fn measure(source: BlobSource) -> Result<u64, MirrorError> {
        let verifier = Verifier::new(source.digest.algorithm());
        let (mut relay, mut size) = (Relay::from(source, Span::default(), None, Some((verifier, 0))), 0);
        while let Some(bytes) = relay.next().await? {
            size += bytes.len() as u64;
        }
        Ok(size)
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        if let Some(place) = &self.place {
            place.moved();
        }
        loop {
            if let Some(bytes) = self.held.release(matches!(self.state, RelayState::Done)) {
                if let Some(witness) = &mut self.witness {
                    witness.saw(&bytes);
                }
                return Ok(Some(bytes));
            }
            match &mut self.state {
                RelayState::Done => return Ok(None),
                RelayState::Closed(verifier) => {
                    let verifier = verifier.take();
                    self.state =
                        open(self.source.clone(), self.span, self.total, verifier).await.map_err(blob_error)?;
                }
                RelayState::Open { transfer, position, verifier } => {
                    match transfer.next().await.map_err(blob_error)? {
                        Some(bytes) => {
                            if let Some(verifier) = verifier {
                                verifier.update(&bytes);
                            }
                            let within = |at: u64| {
                                let offset = at.saturating_sub(*position);
                                usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())
                            };
                            let wanted = within(self.span.start)..self.span.end.map_or(bytes.len(), within);
                            *position += bytes.len() as u64;
                            if !wanted.is_empty() {
                                self.held.push(bytes.slice(wanted), verifier.is_some());
                            }
                        }
                        None => {
                            let found = verifier.take().map(Verifier::finish);
                            check(&self.source, found)?;
                            self.state = RelayState::Done;
                        }
                    }
                }
            }
        }
    }
}

/// Asks for what the relay needs: with a verifier everything that it has not seen, else the span.
async fn open(
    source: BlobSource,
    span: Span,
    total: Option<u64>,
    verifier: Option<(Verifier, u64)>,
) -> Result<RelayState, UpstreamError> {
    let (verifier, position, end) = match verifier {
        Some((verifier, seen)) => (Some(verifier), seen, None),
        None => (None, span.start, span.end),
    };
    let transfer = Box::new(Transfer::open(source, Span { start: position, end }, total).await?);
    Ok(RelayState::Open { transfer, position, verifier })
}

fn blob_error(error: UpstreamError) -> MirrorError {
    MirrorError::upstream(Subject::Blob, error)
}

fn check(source: &BlobSource, found: Option<Digest>) -> Result<(), MirrorError> {
    match found {
        Some(found) if found != source.digest => {
            let message = format!("{}: blob {}: upstream sent {found}", source.location, source.digest);
            Err(blob_error(UpstreamError::new(UpstreamErrorClass::Protocol, message)))
        }
        _ => Ok(()),
    }
}

/// The tail of a relayed body, kept back until its digest is verified.
#[derive(Debug, Default)]
struct Held {
    chunks: VecDeque<Bytes>,
    bytes: u64,
    /// How many bytes stay here as long as the body may turn out to be wrong.
    reserve: u64,
}

impl Held {
    fn push(&mut self, bytes: Bytes, verified_later: bool) {
        self.reserve = if verified_later { HELD_BACK } else { 0 };
        self.bytes += bytes.len() as u64;
        self.chunks.push_back(bytes);
    }

    fn release(&mut self, verified: bool) -> Option<Bytes> {
        let reserve = if verified { 0 } else { self.reserve };
        let surplus = usize::try_from(self.bytes.saturating_sub(reserve)).unwrap_or(usize::MAX);
        if surplus == 0 {
            return None;
        }
        let first = self.chunks.front_mut()?;
        let released = if first.len() <= surplus { self.chunks.pop_front()? } else { first.split_to(surplus) };
        self.bytes -= released.len() as u64;
        Some(released)
    }
}
