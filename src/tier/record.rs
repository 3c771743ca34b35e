//! What a small file of the store is to be, before it goes up: the record that its name says. Decisions only.
//!
//! Truth: nothing else that somebody laid there under that name leaves this machine.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::metadata::names::Name;
use crate::metadata::{HistoryEntry, KeptList, ListKey, Membership, Noted, TagRecord};
use crate::oci::Digest;

/// No record that is one JSON value is longer, in bytes.
const LONGEST_RECORD: u64 = 64 << 10;

/// How long the file of this name may be, in bytes; none is longer than `most`.
pub(super) fn longest(name: &Name, most: u64) -> u64 {
    match name {
        Name::History(..) | Name::List(..) => most,
        Name::Tag(_) | Name::Member(..) | Name::Note(_) | Name::Pin(_) | Name::Frozen(..) => LONGEST_RECORD,
    }
}

/// What goes up of the file of this name; `None` where it is no such record.
pub(super) fn of(name: &Name, bytes: Vec<u8>) -> Option<Bytes> {
    let is_one = match name {
        Name::Tag(_) => read::<TagRecord>(&bytes).is_some(),
        Name::Member(_, digest) => read::<Membership>(&bytes).is_some_and(|of| of.descriptor.digest == *digest),
        Name::Note(_) => read::<Noted>(&bytes).is_some(),
        Name::Frozen(..) => read::<Digest>(&bytes).is_some(),
        Name::List(location, about) => ListKey::of_written(location.clone(), *about, &bytes)
            .is_some_and(|key| KeptList::of_written(&key, &bytes).is_some()),
        // It is its name that counts, whatever is in it.
        Name::Pin(pin) => return serde_json::to_vec(&pin.to_string()).ok().map(Bytes::from),
        Name::History(..) => return history(&bytes),
    };
    is_one.then(|| bytes.into())
}

/// The lines of a history that can be read: one may have been cut.
fn history(bytes: &[u8]) -> Option<Bytes> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let whole: Vec<u8> = lines.filter(|line| read::<HistoryEntry>(line).is_some()).flatten().copied().collect();
    (bytes.is_empty() || !whole.is_empty()).then(|| whole.into())
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::names;

    #[test]
    fn what_is_no_record_of_its_name_goes_nowhere() {
        let name = |below: &str| names::parse(&format!("repositories/docker.io/a/{below}")).expect("a name");
        let (list, member) = (format!("_lists/tags.{}", "0".repeat(32)), format!("_links/sha256/{}", "0".repeat(64)));
        let secret = b"root:$6$secret:1:\n";
        for below in ["_public", "_denied", "_tags/1/history", "_tags/1/any", "_frozen/1", &list, &member] {
            assert_eq!(of(&name(below), secret.to_vec()), None, "{below}");
        }
        let pin = of(&name("_pins/1"), secret.to_vec());
        assert_eq!(pin.as_deref(), Some(&b"\"docker.io/a:1\""[..]), "it is made of its name");
        assert_eq!(of(&name("_public"), b"7".to_vec()).as_deref(), Some(&b"7"[..]));
    }
}
