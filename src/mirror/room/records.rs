//! What is written to the metadata, on threads that may block, because every change ends in a sync.
//!
//! Truths: a change that fails is logged, and the pull goes on without it. A pull waits for what it
//! adds, so that it is there when the client comes back, but not for long: an index or a disk that
//! stalls delays pulls by a second once, not for as long as it stalls. What is taken away is
//! waited for, and comes after what was added before, also where nobody waited for that.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::metadata::{BlobRecord, Location, Membership, MetadataError, MetadataStore};
use crate::oci::Digest;

/// How long a pull waits for what it adds. While something is late, the next do not wait at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// Each addition that is late keeps a thread from other work; beyond so many, none is begun.
const MOST_LATE: usize = 64;

/// What is remembered, as those see it who write.
pub(crate) struct Records {
    pub(in crate::mirror) metadata: Arc<dyn MetadataStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: TaskTracker,
    /// How many additions are under way that nobody waits for any more.
    late: watch::Sender<usize>,
    /// Told of each addition.
    grown: Arc<Notify>,
}

impl Records {
    pub(crate) fn new(metadata: Arc<dyn MetadataStore>, clock: Arc<dyn Clock>, tasks: TaskTracker) -> Records {
        Records { metadata, clock, tasks, late: watch::Sender::new(0), grown: Arc::default() }
    }

    /// Remembers that the repository has the content.
    pub(crate) async fn add_member(&self, location: &Location, membership: Membership) {
        let location = location.clone();
        self.add("membership not remembered", move |metadata| metadata.put_member(&location, &membership)).await;
    }

    /// Forgets that the repository has this as a manifest. What it has as a blob was not asked about.
    pub(crate) async fn forget_manifest(&self, location: &Location, digest: &Digest) {
        let (location, digest) = (location.clone(), *digest);
        let forget = move |metadata: &dyn MetadataStore| match metadata.member(&location, &digest)? {
            Some(known) if !known.descriptor.is_of_blob() => metadata.remove_member(&location, &digest),
            _ => Ok(()),
        };
        self.take_away("membership not forgotten", forget).await;
    }

    /// Remembers a blob that was just committed.
    pub(crate) async fn add_blob(&self, digest: &Digest, size: u64) {
        let (digest, record) = (*digest, BlobRecord::new(size, self.clock.now()));
        self.add("stored, but not in the index", move |metadata| metadata.put_blob(&digest, &record)).await;
    }

    /// Adds to the metadata. Returns when it is there, or when that takes long.
    pub(crate) async fn add(
        &self,
        otherwise: &'static str,
        change: impl FnOnce(&dyn MetadataStore) -> Result<(), MetadataError> + Send + 'static,
    ) {
        let late = *self.late.borrow();
        if late >= MOST_LATE {
            tracing::warn!(late, "{otherwise}: the metadata does not keep up");
            return;
        }
        let (changed, grown) = (self.with(change), Arc::clone(&self.grown));
        let mut changing = Box::pin(async move {
            let changed = changed.await;
            grown.notify_one();
            changed
        });
        let patience = if late == 0 { PATIENCE } else { Duration::ZERO };
        match tokio::time::timeout(patience, &mut changing).await {
            Ok(changed) => report(otherwise, changed),
            Err(_) => {
                let late = Late::one_more(&self.late);
                self.tasks.spawn(async move {
                    report(otherwise, changing.await);
                    drop(late);
                });
            }
        }
    }

    /// Waits until something was added since this was waited for last.
    pub(crate) async fn have_grown(&self) {
        self.grown.notified().await;
    }

    /// Takes something away from the metadata. Returns when it is gone.
    pub(crate) async fn take_away(
        &self,
        otherwise: &'static str,
        change: impl FnOnce(&dyn MetadataStore) -> Result<(), MetadataError> + Send + 'static,
    ) {
        self.nothing_late().await;
        report(otherwise, self.with(change).await);
    }

    /// Makes durable what was recorded.
    pub(crate) async fn flush(&self, otherwise: &'static str) {
        report(otherwise, self.with(|metadata| metadata.flush()).await);
    }

    /// Waits until everything that was added before is there.
    pub(crate) async fn nothing_late(&self) {
        let _ = self.late.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Does something with the metadata that may take long, whether or not anybody waits for it.
    ///
    /// # Errors
    /// What `work` fails with, or that it panicked.
    pub(crate) fn with<T, W>(&self, work: W) -> impl Future<Output = Result<T, MetadataError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&dyn MetadataStore) -> Result<T, MetadataError> + Send + 'static,
    {
        let metadata = Arc::clone(&self.metadata);
        let working = tokio::task::spawn_blocking(move || work(&*metadata));
        async { working.await.unwrap_or_else(|error| Err(MetadataError::new("a task", error))) }
    }
}

fn report(otherwise: &'static str, changed: Result<(), MetadataError>) {
    if let Err(error) = changed {
        tracing::warn!(%error, "{otherwise}");
    }
}

/// Counts as late until it is dropped.
struct Late(watch::Sender<usize>);

impl Late {
    fn one_more(count: &watch::Sender<usize>) -> Late {
        count.send_modify(|count| *count += 1);
        Late(count.clone())
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::metadata::memory::MemoryMetadata;

    #[tokio::test]
    async fn who_looks_after_room_is_told_of_what_is_added() {
        let records = Records::new(Arc::new(MemoryMetadata::new()), Arc::new(SystemClock), TaskTracker::new());
        assert!(futures_util::poll!(std::pin::pin!(records.have_grown())).is_pending());
        records.add("nothing", |_| Ok(())).await;
        records.have_grown().await;
        assert!(futures_util::poll!(std::pin::pin!(records.have_grown())).is_pending(), "once");
    }
}
