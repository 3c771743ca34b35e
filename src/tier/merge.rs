//! What becomes of a small object that two replicas have written. Decisions only.
//!
//! Of two pointers of a tag the one stands that was checked later, and not while the store's clock was wrong, of two lists the one that upstream gave later; of two
//! memberships the better proof; a history has what both saw. Of everything else the last writer's stands.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::metadata::{HistoryEntry, KeptList, Membership, TagRecord, merged};

/// What is to be written where `mine` is here and `theirs` is there, `now` by the store's clock; `None` where that is right
/// already.
pub(super) fn merge(key: &str, mine: &Bytes, theirs: &Bytes, now: Option<Timestamp>) -> Option<Bytes> {
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
            (Some(mine), Some(theirs)) if !mine.is_later_than(&theirs, now) => None,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oci::{Algorithm, Descriptor, Digest, Places};

    const KEY: &str = "repositories/docker.io/library/app/_tags/1/any";

    fn pointer(observed_at: Option<Timestamp>, checked_at: u64) -> TagRecord {
        let digest = Digest::of(Algorithm::Sha256, &checked_at.to_le_bytes());
        let descriptor = Descriptor { media_type: crate::oci::MediaType::ImageManifest, digest, size: 1 };
        let (checked_at, places) = (Timestamp(checked_at), Places::default());
        TagRecord { descriptor, checked_at, since: checked_at, observed_at, places }
    }

    #[test]
    fn a_pointer_from_a_time_that_has_not_come_gives_way_and_takes_no_place() {
        let (now, seconds) = (Timestamp(1_000_000_000), Duration::from_secs);
        let at = |observed_at: Option<Timestamp>, checked_at| {
            let pointer = pointer(observed_at, checked_at);
            (Bytes::from(serde_json::to_vec(&pointer).expect("JSON")), pointer)
        };
        let (wrong, right) = (at(Some(now.plus(seconds(600))), 9), at(Some(now.minus(seconds(1))), 5));
        let (soon, unknown) = (at(Some(now.plus(seconds(4))), 1), at(None, 7));
        assert_eq!(merge(KEY, &right.0, &wrong.0, Some(now)), Some(right.0.clone()), "it is written over");
        assert_eq!(merge(KEY, &wrong.0, &right.0, Some(now)), None);
        assert_eq!(merge(KEY, &soon.0, &right.0, Some(now)), Some(soon.0.clone()), "clocks are never quite the same");
        assert_eq!(merge(KEY, &wrong.0, &right.0, None), Some(wrong.0.clone()), "while the time is not known");
        assert!(wrong.1.is_later_than(&unknown.1, Some(now)) && !unknown.1.is_later_than(&wrong.1, Some(now)));
        let later = at(Some(now.plus(seconds(500))), 10);
        assert!(later.1.is_later_than(&wrong.1, Some(now)), "of two the one that was checked later");
    }
}
