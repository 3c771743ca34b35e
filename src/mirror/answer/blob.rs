//! What an answer with a blob is, and which part of it was asked for.

use std::ops::Range;

use crate::mirror::answer::body::BlobBody;
use crate::mirror::error::MirrorError;
use crate::oci::{Digest, RangeHeader, Selection};
use crate::outcome::Outcome;

/// An answer with a blob, or with a part of it.
#[derive(Debug)]
pub struct BlobAnswer {
    /// What was asked for.
    pub digest: Digest,
    /// Size of the whole blob in bytes; unknown where upstream does not say it.
    pub size: Option<u64>,
    /// The part that was selected; `None` for the whole blob.
    pub part: Option<Range<u64>>,
    /// The bytes.
    pub body: BlobBody,
    /// Where they come from.
    pub outcome: Outcome,
}

/// The size of a blob, for clients that want no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStat {
    /// In bytes; unknown where upstream does not say it.
    pub size: Option<u64>,
    /// Where the answer comes from.
    pub outcome: Outcome,
}

pub(in crate::mirror) fn select(range: Option<&RangeHeader>, size: u64) -> Result<Option<Range<u64>>, MirrorError> {
    match range.map(|range| range.select(size)) {
        None | Some(Selection::Whole) => Ok(None),
        Some(Selection::Part(part)) => Ok(Some(part)),
        Some(Selection::Unsatisfiable) => Err(MirrorError::Range { size }),
    }
}
