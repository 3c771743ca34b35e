//! Lists beyond the life of the process: how they are written down, and when.
//!
//! They are written behind the client, which never waits for it, and read when memory does not know
//! them. What upstream refuses is removed before the client is told. A list that cannot be written or
//! read is asked of upstream again: no pull depends on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::clients::{ClientId, Turn, Turns};
use crate::clock::Timestamp;
use crate::metadata::{KeptList, ListKey, MetadataStore};
use crate::mirror::error::MirrorError;
use crate::mirror::recall::known::{Known, List};
use crate::tier::Waited;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// A list that says the same as before is written again after this long, to tell its age.
const REWRITE_AFTER: Duration = Duration::from_secs(600);
/// So many lists are written at a time; more are not kept, so that a slow disk gathers no queue.
const WRITERS: usize = 8;
/// So many are read at a time; more wait for their client's turn, and by then another may have read theirs.
const READERS: usize = 8;

/// What other replicas were told.
pub(crate) struct Elsewhere {
    /// Finds what one of them was told, as far as that is known in the time that the look-up has left.
    pub(crate) find: Box<dyn Fn(ListKey, Waited) -> BoxFuture<'static, Option<KeptList>> + Send + Sync>,
    /// Tells them that it is no longer so.
    pub(crate) away: Box<dyn Fn(&ListKey) + Send + Sync>,
}

/// Writes lists down, and reads them again.
#[derive(Clone)]
pub(crate) struct Keeper {
    metadata: Arc<dyn MetadataStore>,
    elsewhere: Option<Arc<Elsewhere>>,
    tasks: TaskTracker,
    writers: Arc<Semaphore>,
    readers: Turns,
}

impl Keeper {
    pub(crate) fn new(
        metadata: Arc<dyn MetadataStore>,
        elsewhere: Option<Arc<Elsewhere>>,
        tasks: TaskTracker,
    ) -> Keeper {
        Keeper { metadata, elsewhere, tasks, writers: Arc::new(Semaphore::new(WRITERS)), readers: Turns::new(READERS) }
    }

    /// What outlives those who ask is run here.
    pub(super) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
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
        let permit = Arc::clone(&self.writers).try_acquire_owned().ok();
        (Known { said, at: now, written: permit.is_some().then_some(now) }, permit)
    }

    /// Writes a list down, some time; or says that it is not ours to keep.
    pub(super) fn write<V: List>(
        &self,
        key: ListKey,
        known: Known<V>,
        permit: OwnedSemaphorePermit,
        not_ours: impl FnOnce(&ListKey) + Send + 'static,
    ) {
        let metadata = Arc::clone(&self.metadata);
        self.tasks.spawn_blocking(move || {
            // A registry answers for digests that it never heard of: those fill no disk.
            let ours =
                key.about.is_none_or(|digest| metadata.member(&key.location, &digest).is_ok_and(|m| m.is_some()));
            if ours {
                let body = known.said.ok().map(|list| Bytes::from(list.to_bytes()));
                report(metadata.put_list(&key, &KeptList { at: known.at, body }), "a list is not kept");
            } else {
                not_ours(&key);
            }
            drop(permit);
        });
    }

    /// Removes all lists about the same thing. Whoever asks afterwards does not find them.
    pub(super) async fn remove(&self, key: &ListKey) {
        // The others have it, where it was taken over and gave way here since.
        self.elsewhere.iter().for_each(|elsewhere| (elsewhere.away)(key));
        let (metadata, key) = (Arc::clone(&self.metadata), key.clone());
        let removing = self.tasks.spawn_blocking(move || {
            report(metadata.remove_lists(&key.location, key.about.as_ref()), "a list is not forgotten");
        });
        let _ = removing.await;
    }

    /// A turn to read.
    pub(super) async fn turn(&self, client: ClientId) -> Turn {
        self.readers.take(client).await
    }

    /// What was written down before.
    pub(super) async fn read<V: List>(&self, key: &ListKey, turn: Turn) -> Option<Known<V>> {
        let (metadata, key) = (Arc::clone(&self.metadata), key.clone());
        // A long list takes as long to read as a disk may.
        let read = move || {
            let _turn = turn;
            match metadata.list(&key) {
                Ok(kept) => Keeper::known(kept?),
                Err(error) => {
                    tracing::debug!(%error, "asking upstream");
                    None
                }
            }
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// What another replica was told.
    pub(super) async fn find<V: List>(&self, key: &ListKey, waited: &Waited) -> Option<Known<V>> {
        Keeper::known((self.elsewhere.as_ref()?.find)(key.clone(), waited.clone()).await?)
    }

    fn known<V: List>(kept: KeptList) -> Option<Known<V>> {
        let said = match kept.body {
            Some(body) => Ok(Arc::new(V::of_bytes(&body)?)),
            None => {
                let error = UpstreamError::new(UpstreamErrorClass::NotFound, "upstream said that it has no such list");
                Err(MirrorError::upstream(V::SUBJECT, error))
            }
        };
        Some(Known { said, at: kept.at, written: Some(kept.at) })
    }
}

fn report(done: Result<(), crate::metadata::MetadataError>, otherwise: &str) {
    if let Err(error) = done {
        tracing::warn!(%error, "{otherwise}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::memory::MemoryMetadata;
    use crate::upstream::TagList;

    #[test]
    fn the_same_list_is_written_now_and_again_and_another_at_once() {
        let keeper = Keeper::new(Arc::new(MemoryMetadata::new()), None, TaskTracker::new());
        let list = |tag: &str| Ok(Arc::new(TagList { tags: [tag].into_iter().collect(), next: None }));
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
