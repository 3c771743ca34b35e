//! The disk as fills use it: short calls on threads that may block, and few of them at a time for all
//! fills together.
//!
//! Truth: what fills want of the disk leaves threads for everybody else, however many fills there are
//! and however long the disk takes, so that hits, lists and the index never queue behind them.

use std::io;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many calls at a time for each CPU: while some wait for the disk, others hash.
const CALLS_PER_CPU: usize = 4;

/// Turns at the disk, first come, first served.
#[derive(Debug)]
pub(crate) struct Disk(Arc<Semaphore>);

/// May use the disk until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk::of(available_parallelism().map_or(1, usize::from) * CALLS_PER_CPU)
    }
}

impl Disk {
    fn of(calls: usize) -> Disk {
        Disk(Arc::new(Semaphore::new(calls)))
    }

    /// Waits for a turn, for what finds a thread by itself.
    pub(super) async fn turn(&self) -> Turn {
        Turn { _permit: Arc::clone(&self.0).acquire_owned().await.ok() }
    }

    /// Waits for a turn and does `work`, which should be about one call long, on a thread that may block. It
    /// is done to its end even when the caller goes away.
    ///
    /// # Errors
    /// That `work` panicked, or that the process stops.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let turn = self.turn().await;
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        working.await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn a_disk_that_stands_still_under_any_number_of_fills_leaves_a_thread_for_others() {
        const CALLS: usize = 3;
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(CALLS + 1).build();
        runtime.expect("a runtime").block_on(async {
            let (disk, (moves, stands)) = (Arc::new(Disk::of(CALLS)), mpsc::channel::<()>());
            let stands = Arc::new(parking_lot::Mutex::new(stands));
            let fills: Vec<_> = (0..100)
                .map(|_| {
                    let (disk, stands) = (Arc::clone(&disk), Arc::clone(&stands));
                    tokio::spawn(async move { disk.run(move || stands.lock().recv()).await.is_ok() })
                })
                .collect();
            while disk.0.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let hit = tokio::task::spawn_blocking(|| "bytes").await;
            assert_eq!(hit.expect("no panic"), "bytes");
            drop(moves);
            assert!(join_all(fills).await.into_iter().all(|fill| fill.is_ok_and(|done| done)));
        });
    }
}
