//! Lists beyond the life of the process: how they are written down, and when.
//!
//! They are written behind the client, which never waits for it, and read when memory does not know
//! them. A list that cannot be written or read is asked of upstream again: no pull depends on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Known;
use crate::clock::Timestamp;
use crate::metadata::{KeptList, ListKey, MetadataStore};
use crate::mirror::Shared;
use crate::mirror::error::{MirrorError, Subject};
use crate::oci::Page;
use crate::upstream::{ReferrerList, TagList, UpstreamError, UpstreamErrorClass};

/// A list that says the same as before is written again after this long, to tell its age.
const REWRITE_AFTER: Duration = Duration::from_secs(600);
/// So many lists are written at a time; more are not kept, so that a slow disk gathers no queue.
const WRITERS: usize = 8;

/// What can be kept.
pub(in crate::mirror) trait List: Clone + PartialEq + Send + Sync + 'static {
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
    tags: Vec<String>,
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
        self.tags.iter().map(|tag| tag.len() + size_of::<String>()).sum()
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

/// Writes lists down.
#[derive(Clone)]
pub(super) struct Keeper(Arc<Semaphore>);

impl Keeper {
    pub(super) fn new() -> Keeper {
        Keeper(Arc::new(Semaphore::new(WRITERS)))
    }

    /// What is to be remembered after upstream `said` something `now`, and, where it is worth writing
    /// down, leave to do so.
    pub(super) fn plan<V: List>(
        &self,
        before: Option<&Known<V>>,
        said: Result<Arc<V>, MirrorError>,
        now: Timestamp,
    ) -> (Known<V>, Option<OwnedSemaphorePermit>) {
        let same = |known: &&Known<V>| match (&known.said, &said) {
            (Ok(known), Ok(said)) => known == said,
            (known, said) => known.is_err() && said.is_err(),
        };
        let written = before.filter(same).and_then(|known| known.written);
        if written.and_then(|at| at.age(now)).is_some_and(|age| age < REWRITE_AFTER) {
            return (Known { said, at: now, written }, None);
        }
        let permit = Arc::clone(&self.0).try_acquire_owned().ok();
        (Known { said, at: now, written: permit.is_some().then_some(now) }, permit)
    }
}

/// Writes a list down, some time.
pub(super) fn write<V: List>(shared: &Arc<Shared>, key: ListKey, known: Known<V>, permit: OwnedSemaphorePermit) {
    let metadata = Arc::clone(&shared.metadata);
    shared.tasks.spawn_blocking(move || {
        // A registry answers for digests that it never heard of: those fill no disk.
        let ours = key.about.is_none_or(|digest| metadata.member(&key.location, &digest).is_ok_and(|m| m.is_some()));
        if ours {
            let body = known.said.ok().map(|list| Bytes::from(list.to_bytes()));
            report(metadata.put_list(&key, &KeptList { at: known.at, body }), "a list is not kept");
        }
        drop(permit);
    });
}

/// Removes all lists about the same thing, some time.
pub(super) fn remove(shared: &Arc<Shared>, key: &ListKey) {
    let (metadata, key) = (Arc::clone(&shared.metadata), key.clone());
    shared.tasks.spawn_blocking(move || {
        report(metadata.remove_lists(&key.location, key.about.as_ref()), "a list is not forgotten");
    });
}

/// What was written down before.
pub(super) async fn read<V: List>(metadata: Arc<dyn MetadataStore>, key: &ListKey) -> Option<Known<V>> {
    let key = key.clone();
    let read = tokio::task::spawn_blocking(move || metadata.list(&key)).await;
    let kept = match read {
        Ok(Ok(kept)) => kept?,
        Ok(Err(error)) => {
            tracing::debug!(%error, "asking upstream");
            return None;
        }
        Err(_) => return None,
    };
    let said = match kept.body {
        Some(body) => Ok(Arc::new(V::of_bytes(&body)?)),
        None => {
            let error = UpstreamError::new(UpstreamErrorClass::NotFound, "upstream said that it has no such list");
            Err(MirrorError::upstream(V::SUBJECT, error))
        }
    };
    Some(Known { said, at: kept.at, written: Some(kept.at) })
}

fn report(done: Result<(), crate::metadata::MetadataError>, otherwise: &str) {
    if let Err(error) = done {
        tracing::warn!(%error, "{otherwise}");
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
            let list = TagList { tags: vec!["a".to_owned(), "\"\n".to_owned()], next };
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

    #[test]
    fn the_same_list_is_written_now_and_again_and_another_at_once() {
        let keeper = Keeper::new();
        let list = |tag: &str| Ok(Arc::new(TagList { tags: vec![tag.to_owned()], next: None }));
        let at = |seconds: u64| Timestamp(1_000_000).plus(Duration::from_secs(seconds));
        let (first, permit) = keeper.plan(None, list("a"), at(0));
        assert!(permit.is_some());
        drop(permit);
        let (second, permit) = keeper.plan(Some(&first), list("a"), at(599));
        assert!(permit.is_none());
        assert_eq!((second.at, second.written), (at(599), Some(at(0))));
        assert!(keeper.plan(Some(&second), list("a"), at(600)).1.is_some());
        assert!(keeper.plan(Some(&second), list("b"), at(599)).1.is_some());
        let busy: Vec<_> = (0..WRITERS).map(|_| keeper.plan(None, list("a"), at(0)).1).collect();
        let (known, permit) = keeper.plan(None, list("a"), at(0));
        assert!(permit.is_none() && known.written.is_none() && busy.iter().all(Option::is_some));
    }
}
