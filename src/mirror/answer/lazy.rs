//! Lazy reads: small parts of a large blob that the fill has not reached yet, passed on from upstream at
//! once while the fill runs behind.
//!
//! The rule: a part ends when the whole blob is verified, like the whole. Who mounts a layer of gigabytes reads a few
//! kilobytes here and there, and cannot wait for it: of a blob that is known to have more than [`SMALL`] bytes a tenth
//! may be handed out before, whoever asks for it (see [`early`](crate::mirror::flight::early)). No digest covers that, so it is the one thing that nobody has
//! verified; what is passed on here is never stored. Its hash is kept and compared with the file once the blob is verified, and an
//! upstream that sent something else is told of in the log and counted.
//!
//! Only parts with an end are read this way. `bytes=N-` asks for everything from there on, and some
//! clients ask so from many places at once and hang up early: they follow the fill, or upstream would
//! be paid for twice. For the same reason only a tenth of a blob is read this way: who fetches all of
//! it in parallel parts follows the fill as well.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::mirror::answer::relay::Relay;
use crate::mirror::answer::witness::Witness;
use crate::mirror::error::MirrorError;
use crate::mirror::fill::Fills;
use crate::mirror::flight::early::SMALL;
use crate::mirror::flight::progress::{Following, is_over, started};
use crate::mirror::flight::transfer::BlobSource;
use crate::oci::{RangeHeader, Selection};

/// A part that begins no further than this ahead of the fill is waited for, in bytes.
const NEAR: u64 = 4 << 20;
/// How long it is waited for.
const PATIENCE: Duration = Duration::from_millis(250);
/// More than this at once is no lazy read, in bytes.
const LARGEST: u64 = 32 << 20;
/// Nor are more parts than these, each of which is a question to upstream.
const MOST: usize = 32;

/// Parts of a blob, each with who passes it on, or with nobody where the fill brings it soon.
type Parts = Vec<(Range<u64>, Option<Relay>)>;

/// The size of the blob and the parts of it that `range` selects, from upstream where the fill would keep
/// the client waiting for them; `None` where following the fill is the better way, or the only one.
///
/// # Errors
/// [`MirrorError::Range`] when the range selects nothing.
pub(super) async fn parts(
    fills: &Fills,
    following: &Following,
    source: &BlobSource,
    range: &RangeHeader,
) -> Result<Option<(u64, Parts)>, MirrorError> {
    let mut fill = following.clone();
    let Some(size) = size(&mut fill, source).await.filter(|size| *size > SMALL) else { return Ok(None) };
    let parts = match range.select(size) {
        Selection::Part(part) => vec![part],
        Selection::Parts(parts) => parts,
        Selection::Unsatisfiable => return Err(MirrorError::Range { size }),
        Selection::Whole => return Ok(None),
    };
    let parts = with_those_ahead(&mut fill, parts, size).await;
    let ahead = || parts.iter().filter(|(_, ahead)| *ahead).map(|(part, _)| part.end - part.start);
    let length = ahead().sum();
    let may_be = (1..=MOST).contains(&ahead().count()) && length <= LARGEST;
    let early = fill.borrow().early.clone().filter(|early| may_be && early.claim(length, size));
    let Some(early) = early else { return Ok(None) };
    let source = &BlobSource { shared: fill.borrow().shared.clone(), ..source.clone() };
    let witness = |part: &Range<u64>| {
        Witness::new(Arc::clone(&fills.metrics), fills.tasks.clone(), fill.clone(), source.clone(), part.start)
    };
    let (mut answer, mut asked) = (Vec::new(), false);
    for (part, ahead) in parts {
        let relay = match (ahead, asked) {
            (false, _) => None,
            // Whoever gives one part by itself gives the others, when it is their turn.
            (true, true) => Some(Relay::later(source.clone(), part.clone(), size, witness(&part))),
            (true, false) => match Relay::part(source.clone(), part.clone(), size, witness(&part)).await {
                Ok(Some(relay)) => Some(relay),
                told => {
                    let error = told.err().map(tracing::field::display);
                    tracing::debug!(blob = ?source, error, "no part is to be had by itself; waiting for the fill");
                    early.unclaim(length);
                    return Ok(None);
                }
            },
        };
        asked |= ahead;
        answer.push((part, relay));
    }
    Ok(Some((size, answer)))
}

/// The same parts, with whether the fill will not be there in a moment. A moment is waited for once. What comes with
/// others and reaches the end can wait until it is verified.
async fn with_those_ahead(fill: &mut Following, parts: Vec<Range<u64>>, size: u64) -> Vec<(Range<u64>, bool)> {
    let (mut found, mut waited, several) = (Vec::new(), false, parts.len() > 1);
    for part in parts {
        let ahead = if several && part.end == size {
            false
        } else if waited {
            fill.borrow().reached() <= part.start
        } else {
            !is_reached(fill, part.start).await
        };
        waited |= ahead;
        found.push((part, ahead));
    }
    found
}

/// The size of the blob, as the fill knows it in a moment, or else upstream. `None` also when the fill
/// has failed: the client is told by whoever follows it.
async fn size(fill: &mut Following, source: &BlobSource) -> Option<u64> {
    if let Ok(known) = tokio::time::timeout(PATIENCE, started(fill)).await
        && let Some(size) = known.ok()?.total
    {
        return Some(size);
    }
    source.upstream.stat(&source.location.repository, &source.digest).await.ok()?
}

/// Whether a reader of the fill gets on at `start`, or will in a moment.
async fn is_reached(fill: &mut Following, start: u64) -> bool {
    let reached = fill.borrow().reached();
    let patience = if start.saturating_sub(reached) <= NEAR { PATIENCE } else { Duration::ZERO };
    let reached = fill.wait_for(|progress| progress.reached() > start || is_over(&progress.phase));
    tokio::time::timeout(patience, reached).await.is_ok()
}
