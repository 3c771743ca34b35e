//! Lists as they are kept: what upstream answered to one question about a repository.
//!
//! A list proves nothing and may be lost at any time; it is kept so that an upstream which is away
//! can be covered for, also right after a restart. Written down it is one line of JSON, a header, and then the list as
//! it was handed in, which is not read here. Truth: what is read is what was written for this very question, or nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Location;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest};

/// A question that is answered with a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListKey {
    /// The repository.
    pub location: Location,
    /// The manifest whose referrers are asked for; `None` for tags.
    pub about: Option<Digest>,
    /// Which part of the list, as a query.
    pub part: String,
}

impl ListKey {
    /// The question itself, as it stands in the header.
    fn question(&self) -> String {
        format!("{} {}?{}", self.location, about_this(self.about.as_ref()), self.part)
    }

    /// The question that a list was written down for; `None` for what is none of this repository.
    pub fn of_written(location: Location, about: Option<Digest>, written: &[u8]) -> Option<ListKey> {
        let of = header(written)?.0.of;
        let part = of.split_once('?')?.1.to_owned();
        Some(ListKey { location, about, part }).filter(|key| key.question() == of)
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptList {
    /// When upstream gave it.
    pub at: Timestamp,
    /// The list in the form of whoever kept it; `None` when upstream said that it has no such list.
    pub body: Option<Bytes>,
}

/// The first line of a list that is written down.
#[derive(Serialize, Deserialize)]
struct Header {
    of: String,
    at: Timestamp,
    /// Of the rest; `None` when upstream has no such list.
    digest: Option<Digest>,
}

impl KeptList {
    /// Written down as the answer to this question.
    pub(super) fn written(&self, key: &ListKey) -> Vec<u8> {
        let digest = self.body.as_ref().map(|body| Digest::of(Algorithm::Sha256, body));
        let header = Header { of: key.question(), at: self.at, digest };
        let mut bytes = serde_json::to_vec(&header).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// What was written down as the answer to this question; `None` for anything else.
    pub fn of_written(key: &ListKey, written: &[u8]) -> Option<KeptList> {
        let (header, body) = header(written)?;
        let whole = match header.digest {
            Some(digest) => digest == Digest::of(digest.algorithm(), body),
            None => body.is_empty(),
        };
        let body = header.digest.is_some().then(|| Bytes::copy_from_slice(body));
        (whole && header.of == key.question()).then_some(KeptList { at: header.at, body })
    }

    /// When upstream gave what is written down here; `None` for what is no list.
    pub fn written_at(written: &[u8]) -> Option<Timestamp> {
        header(written).map(|(header, _)| header.at)
    }
}

/// How the names of all lists about the same thing begin.
pub(super) fn about_this(about: Option<&Digest>) -> String {
    about.map_or_else(|| "tags.".to_owned(), |digest| format!("{}.{}.", digest.algorithm(), digest.hex()))
}

fn header(written: &[u8]) -> Option<(Header, &[u8])> {
    let end = written.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(written.get(..end)?).ok()?, written.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_the_answer_to_the_question_that_it_was_written_for_and_to_no_other() {
        let location =
            Location { upstream: "docker.io".parse().expect("a name"), repository: "a/b".parse().expect("a name") };
        let about = Some(Digest::of(Algorithm::Sha256, b"x"));
        let key = |about, part: &str| ListKey { location: location.clone(), about, part: part.to_owned() };
        let list = KeptList { at: Timestamp(7), body: Some(Bytes::from_static(b"\n{}?")) };
        for key in [key(None, ""), key(about, "artifactType=a%3F&x=?#own")] {
            let written = list.written(&key);
            assert_eq!(KeptList::of_written(&key, &written).as_ref(), Some(&list));
            assert_eq!(KeptList::written_at(&written), Some(list.at));
            assert_eq!(ListKey::of_written(location.clone(), key.about, &written), Some(key.clone()));
            let other = ListKey { part: "n=1".to_owned(), ..key.clone() };
            assert_eq!(KeptList::of_written(&other, &written), None);
            let elsewhere = Location { repository: "c".parse().expect("a name"), ..location.clone() };
            assert_eq!(ListKey::of_written(elsewhere, key.about, &written), None);
            assert_eq!(KeptList::of_written(&key, &written[..written.len() - 1]), None, "cut");
        }
    }
}
