//! Manifests that are verified, in memory and given to who asked, and are being written to the store.
//!
//! Truth: who asks for one meanwhile gets the same bytes; who wants to find it in the store waits until it is there, or
//! could not be written. There are never more than a few.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::metadata::Location;
use crate::mirror::flight::BlobKey;
use crate::oci::Manifest;

/// How many are written at a time; more are given to nobody before it is their turn, or not kept.
const MOST: usize = 64;
/// How long one is waited for: then it is as if it were not kept.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those that are being written.
#[derive(Debug)]
pub(crate) struct Writing {
    of: watch::Sender<HashMap<BlobKey, (u64, Arc<Manifest>)>>,
    places: Arc<Semaphore>,
    next: Mutex<u64>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct BeingWritten {
    of: Arc<Writing>,
    key: BlobKey,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Default for Writing {
    fn default() -> Writing {
        Writing { of: watch::Sender::default(), places: Arc::new(Semaphore::new(MOST)), next: Mutex::default() }
    }
}

impl Writing {
    /// From now on it is, when it is its turn; `None` when that takes too long.
    pub(crate) async fn begin(self: &Arc<Writing>, key: BlobKey, manifest: &Arc<Manifest>) -> Option<BeingWritten> {
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()?;
        let number = {
            let mut next = self.next.lock();
            *next += 1;
            *next
        };
        self.of.send_modify(|of| drop(of.insert(key.clone(), (number, Arc::clone(manifest)))));
        Some(BeingWritten { of: Arc::clone(self), key, number, _place: place })
    }

    /// The manifest, while it is being written.
    pub(crate) fn get(&self, key: &BlobKey) -> Option<Arc<Manifest>> {
        self.of.borrow().get(key).map(|(_, manifest)| Arc::clone(manifest))
    }

    /// Waits until those are over that are being written now, of a repository or of any.
    pub(crate) async fn over(&self, location: Option<&Location>) {
        let last = *self.next.lock();
        let is_over = |of: &HashMap<BlobKey, (u64, Arc<Manifest>)>| {
            let concerns = |key: &BlobKey| location.is_none_or(|location| key.0 == *location);
            !of.iter().any(|(key, (number, _))| *number <= last && concerns(key))
        };
        let _ = tokio::time::timeout(PATIENCE, self.of.subscribe().wait_for(is_over)).await;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.of.borrow().len() as u64
    }
}

impl Drop for BeingWritten {
    fn drop(&mut self) {
        self.of.of.send_if_modified(|of| {
            // The same may have come once more meanwhile.
            let is_his = of.get(&self.key).is_some_and(|(number, _)| *number == self.number);
            is_his && of.remove(&self.key).is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::oci::{Algorithm, Digest};

    #[tokio::test(start_paused = true)]
    async fn few_are_written_at_a_time_and_who_waits_for_what_there_is_waits_for_no_more() {
        let writing = Arc::new(Writing::default());
        let location = Location {
            upstream: "docker.io".parse().expect("valid"),
            repository: "library/app".parse().expect("valid"),
        };
        let manifest = Arc::new(Manifest::from_wire("{}".into(), None, Algorithm::Sha256));
        let key = |number: usize| (location.clone(), Digest::of(Algorithm::Sha256, number.to_string().as_bytes()));
        let mut written = Vec::new();
        for number in 0..MOST {
            written.push(writing.begin(key(number), &manifest).await.expect("a place"));
        }
        assert!(writing.begin(key(MOST), &manifest).await.is_none(), "nobody ended");
        drop(written.drain(1..));
        let mut over = std::pin::pin!(writing.over(Some(&location)));
        assert!(poll!(&mut over).is_pending());
        // The same once more, and another: neither is waited for.
        let again = writing.begin(key(0), &manifest).await;
        let later = writing.begin(key(MOST), &manifest).await;
        drop(written);
        assert!(poll!(&mut over).is_ready() && writing.len() == 2);
        assert!(writing.get(&key(0)).is_some(), "it is written once more");
        drop((again, later));
        assert!(writing.len() == 0 && writing.get(&key(0)).is_none());
    }
}
