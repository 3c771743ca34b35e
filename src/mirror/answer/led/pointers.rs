//! Which pointers of a tag are current. Pure.
//!
//! A registry may tell clients that accept other types something else: an index, or a manifest that the index names. So
//! a tag has a pointer for each set of types, and each is as old as the last client that came with it. One that is
//! older than another, which points elsewhere, may be what the tag led to before it moved.

use crate::clock::Timestamp;
use crate::metadata::TagRecord;
use crate::oci::manifest::is_index;
use crate::oci::{AcceptSet, Descriptor, Digest};

/// What a tag points at for clients that accept certain types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) accept: AcceptSet,
    pub(super) manifest: Descriptor,
    /// What others were told after that, which this is not: it is current where it is an index that names all of them.
    pub(super) told_since: Vec<Digest>,
    /// Whether the tag was asked for lately enough, for whatever types, that nobody need be asked.
    pub(super) is_known: bool,
}

impl Pointer {
    /// One that holds whatever anybody was told.
    pub(super) fn fixed(manifest: Descriptor) -> Pointer {
        Pointer { accept: AcceptSet::everything(), manifest, told_since: Vec::new(), is_known: true }
    }

    /// The registry has just told this.
    pub(super) fn is_told_after(&mut self, manifest: Digest) {
        if self.manifest.digest != manifest && !self.told_since.contains(&manifest) {
            self.told_since.push(manifest);
        }
    }

    /// Whether it may be what the registry says now, to whom it is said, although something else was told since.
    pub(super) fn may_be_above(&self) -> bool {
        is_index(&self.manifest.media_type)
    }
}

/// The pointers, each with what is against it. `head` is what the tag was last told to point at without having been
/// fetched; `now` is the time of the bucket's store, where that is known.
pub(super) fn compared(
    records: &[(AcceptSet, TagRecord)],
    head: Option<(Digest, Timestamp)>,
    now: Option<Timestamp>,
) -> Vec<Pointer> {
    let pointer = |(accept, record): &(AcceptSet, TagRecord)| {
        let digest = record.descriptor.digest;
        let later = records.iter().filter(|(_, other)| other.is_later_than(record, now));
        let later = later.map(|(_, other)| other.descriptor.digest);
        let head = head.filter(|(_, at)| *at > record.checked_at).map(|(digest, _)| digest);
        let mut told_since: Vec<_> = later.chain(head).filter(|other| *other != digest).collect();
        told_since.sort_unstable();
        told_since.dedup();
        Pointer { accept: accept.clone(), manifest: record.descriptor.clone(), told_since, is_known: false }
    };
    records.iter().map(pointer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType, Places};

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn record(name: &str, at: u64, observed: Option<u64>) -> TagRecord {
        let media_type = if name.contains("index") { MediaType::ImageIndex } else { MediaType::ImageManifest };
        let descriptor = Descriptor { digest: digest(name), size: 1, media_type };
        let (checked_at, observed_at) = (Timestamp(at), observed.map(Timestamp));
        TagRecord { descriptor, checked_at, since: Timestamp(0), observed_at, places: Places::default() }
    }

    #[test]
    fn a_pointer_is_doubtful_by_what_is_told_later_and_is_something_else() {
        let told = |records: &[TagRecord], head: Option<(&str, u64)>| -> Vec<Vec<Digest>> {
            let records: Vec<_> = records.iter().map(|record| (AcceptSet::default(), record.clone())).collect();
            let head = head.map(|(name, at)| (digest(name), Timestamp(at)));
            compared(&records, head, Some(Timestamp(100))).into_iter().map(|pointer| pointer.told_since).collect()
        };
        let (old, new) = (record("old", 5, None), record("new", 6, None));
        assert_eq!(told(&[old.clone(), new.clone()], None), [vec![digest("new")], vec![]]);
        assert_eq!(told(&[old.clone(), record("old", 6, None)], None), [vec![], vec![]], "the same");
        assert_eq!(told(&[old.clone(), record("new", 5, None)], None), [vec![], vec![]], "neither is later");
        let three = [old.clone(), new, record("new", 7, None)];
        assert_eq!(told(&three, None), [vec![digest("new")], vec![], vec![]], "each once");
        // What was told by HEAD counts as well.
        assert_eq!(told(std::slice::from_ref(&old), Some(("new", 6))), [vec![digest("new")]]);
        assert_eq!(told(std::slice::from_ref(&old), Some(("new", 5))), [vec![]]);
        assert_eq!(told(&[old], Some(("old", 6))), [vec![]]);
        // By the time of the store where it is known: clocks of replicas differ.
        let by_store = [record("old", 9, Some(5)), record("new", 6, Some(6))];
        assert_eq!(told(&by_store, None), [vec![digest("new")], vec![]]);
        assert!(compared(&[], Some((digest("new"), Timestamp(1))), None).is_empty());
    }

    #[test]
    fn an_index_may_be_above_what_was_told_since() {
        let records =
            [(AcceptSet::default(), record("index", 5, None)), (AcceptSet::everything(), record("x", 6, None))];
        let above: Vec<_> = compared(&records, None, None).iter().map(Pointer::may_be_above).collect();
        assert_eq!(above, [true, false]);
        let mut pointer = compared(&records, None, None).remove(1);
        pointer.is_told_after(digest("x"));
        assert_eq!(pointer.told_since, [], "it is that");
        pointer.is_told_after(digest("y"));
        pointer.is_told_after(digest("y"));
        assert_eq!(pointer.told_since, [digest("y")]);
    }
}
