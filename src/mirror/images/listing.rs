//! The list of images, which takes long where there is much: who asks while one is made shares the next.
//!
//! Truth: a list was begun after whoever gets it asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Mutex;

use crate::documents::ImageSummary;
use crate::metadata::MetadataError;

/// A list, and the how many-th it is.
type Listed = (u64, Arc<[ImageSummary]>);

/// Lists of images, one at a time.
#[derive(Default)]
pub(crate) struct Listing {
    begun: AtomicU64,
    asking: AtomicUsize,
    /// The latest, for as long as somebody waits who may have it.
    latest: Mutex<Option<Listed>>,
}

/// Somebody who asks, until he has his list or leaves.
struct Asking<'l>(&'l AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Listing {
    /// What `list` gives: to whom calls it, or to somebody else who asked by then. Who leaves while he makes it leaves
    /// that to the next.
    ///
    /// # Errors
    /// Those of `list`, to whom called it.
    pub(crate) async fn share<F: Future<Output = Result<Vec<ImageSummary>, MetadataError>>>(
        &self,
        list: impl FnOnce() -> F,
    ) -> Result<Arc<[ImageSummary]>, MetadataError> {
        let before = self.begun.load(Ordering::Acquire);
        self.asking.fetch_add(1, Ordering::AcqRel);
        let _asking = Asking(&self.asking);
        let mut latest = self.latest.lock().await;
        let (number, listed) = match latest.take() {
            Some((number, listed)) if number > before => (number, listed),
            _ => (self.begun.fetch_add(1, Ordering::AcqRel) + 1, list().await?.into()),
        };
        if self.asking.load(Ordering::Acquire) > 1 {
            *latest = Some((number, Arc::clone(&listed)));
        }
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_asks_while_a_list_is_made_shares_the_next_and_nothing_is_kept() {
        let (listing, made, gate) = (Listing::default(), Cell::new(0), Semaphore::new(0));
        let ask = || {
            listing.share(|| async {
                made.set(made.get() + 1);
                let _ = gate.acquire().await;
                Ok(Vec::new())
            })
        };
        let mut all: Vec<_> = (0..60).map(|_| Box::pin(ask())).collect();
        for asked in &mut all {
            assert!(asked.now_or_never().is_none());
        }
        // The first is made, and those who wait for it asked before the second is begun.
        drop(all.remove(0));
        gate.add_permits(60);
        assert!(join_all(all).await.iter().all(Result::is_ok));
        assert_eq!(made.get(), 2);
        ask().await.expect("a list");
        assert_eq!(made.get(), 3, "who asks later is told what is so then");
        assert!(listing.latest.lock().await.is_none());
    }
}
