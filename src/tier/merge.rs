//! What becomes of a small object that two replicas have written. Decisions only.
//!
//! Of two pointers of a tag the one stands that was checked later, of two lists the one that upstream gave later; of two
//! memberships the better proof; a history has what both saw. Of everything else the last writer's stands.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::metadata::{HistoryEntry, KeptList, Membership, TagRecord, merged};

/// What is to be written where `mine` is here and `theirs` is there; `None` where that is right already.
pub(super) fn merge(key: &str, mine: &Bytes, theirs: &Bytes) -> Option<Bytes> {
    if mine == theirs {
        return None;
    }
    let parts: Vec<&str> = key.rsplit('/').take(3).collect();
    match parts.as_slice() {
        ["history", _, "_tags"] => {
            let (mine, theirs) = (lines(mine), lines(theirs));
            let all = merged(mine, theirs.clone());
            (all != theirs).then(|| all.iter().filter_map(line).flatten().collect::<Vec<u8>>().into())
        }
        [_, _, "_tags"] => match (read::<TagRecord>(mine), read::<TagRecord>(theirs)) {
            (Some(mine), Some(theirs)) if !mine.is_later_than(&theirs) => None,
            _ => Some(mine.clone()),
        },
        [_, "_lists", _] if KeptList::written_at(mine) <= KeptList::written_at(theirs) => None,
        [_, _, "_links"] => match (read::<Membership>(mine), read::<Membership>(theirs)) {
            (Some(mine), Some(theirs)) => {
                let both = mine.after(Some(&theirs));
                if both == theirs { None } else { serde_json::to_vec(&both).ok().map(Into::into) }
            }
            _ => Some(mine.clone()),
        },
        _ => Some(mine.clone()),
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// The changes of a history, without what cannot be read.
fn lines(bytes: &[u8]) -> Vec<HistoryEntry> {
    bytes.split(|byte| *byte == b'\n').filter_map(read).collect()
}

fn line(entry: &HistoryEntry) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(entry).ok()?;
    line.push(b'\n');
    Some(line)
}
