//! What upstream said of a list, and how that is written down.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mirror::error::{MirrorError, Subject};
use crate::oci::{Page, TagNames};
use crate::upstream::{ReferrerList, TagList};

/// What upstream said, and when.
#[derive(Clone)]
pub(super) struct Known<V> {
    pub(super) said: Result<Arc<V>, MirrorError>,
    pub(super) at: Timestamp,
    /// When the same was last written down.
    pub(super) written: Option<Timestamp>,
}

/// What can be kept.
pub(crate) trait List: Clone + PartialEq + Send + Sync + 'static {
    /// What is asked for when such a list is.
    const SUBJECT: Subject;
    /// The size in memory, in bytes.
    fn weight(&self) -> usize;
    /// Written down.
    fn to_bytes(&self) -> Vec<u8>;
    /// Read again; `None` for what cannot be it.
    fn of_bytes(bytes: &[u8]) -> Option<Self>;
}

#[derive(Serialize, Deserialize)]
struct WrittenTags {
    tags: TagNames,
    next: Option<WrittenPage>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPage {
    n: Option<u32>,
    last: Option<String>,
    cursor: Option<String>,
}

impl List for TagList {
    const SUBJECT: Subject = Subject::Tags;

    fn weight(&self) -> usize {
        self.tags.weight()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let next = self.next.clone().map(|Page { n, last, cursor }| {
            let cursor = cursor.map(|cursor| cursor.as_str().to_owned());
            WrittenPage { n, last, cursor }
        });
        serde_json::to_vec(&WrittenTags { tags: self.tags.clone(), next }).unwrap_or_default()
    }

    fn of_bytes(bytes: &[u8]) -> Option<TagList> {
        let WrittenTags { tags, next } = serde_json::from_slice(bytes).ok()?;
        let page = |WrittenPage { n, last, cursor }| {
            let cursor = cursor.map(|cursor| cursor.parse()).transpose().ok()?;
            Some(Page { n, last, cursor })
        };
        let next = match next {
            Some(next) => Some(page(next)?),
            None => None,
        };
        Some(TagList { tags, next })
    }
}

/// Stands in front of the index, which is kept byte for byte.
#[derive(Serialize, Deserialize)]
struct AboutReferrers {
    filtered: bool,
    next: Option<String>,
}

impl List for ReferrerList {
    const SUBJECT: Subject = Subject::Referrers;

    fn weight(&self) -> usize {
        self.index.len()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let next = self.next.as_ref().map(|cursor| cursor.as_str().to_owned());
        let mut bytes = serde_json::to_vec(&AboutReferrers { filtered: self.filtered, next }).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.index);
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<ReferrerList> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let AboutReferrers { filtered, next } = serde_json::from_slice(bytes.get(..end)?).ok()?;
        let next = next.map(|next| next.parse()).transpose().ok()?;
        Some(ReferrerList { index: Bytes::copy_from_slice(bytes.get(end + 1..)?), filtered, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_was_written() {
        let page = |n, last: Option<&str>, cursor: Option<&str>| Page {
            n,
            last: last.map(str::to_owned),
            cursor: cursor.map(|cursor| cursor.parse().expect("a cursor")),
        };
        for next in [None, Some(page(Some(3), Some("b"), None)), Some(page(None, None, Some("x=%2F&y")))] {
            let list = TagList { tags: ["a", "\"\n"].into_iter().collect(), next };
            assert_eq!(TagList::of_bytes(&list.to_bytes()), Some(list));
        }
        for next in [None, Some("page=2".parse().expect("a cursor"))] {
            let index = Bytes::from_static(b"{\n \"manifests\": [] }\n\n\xff");
            let list = ReferrerList { index, filtered: true, next };
            assert_eq!(ReferrerList::of_bytes(&list.to_bytes()), Some(list));
        }
        for garbage in ["", "\n", "{}", "{}\n", "[]\n{}", r#"{"tags":["a"],"next":{"cursor":"a b"}}"#] {
            assert!(TagList::of_bytes(garbage.as_bytes()).is_none(), "{garbage}");
            assert!(ReferrerList::of_bytes(garbage.as_bytes()).is_none(), "{garbage}");
        }
    }
}
