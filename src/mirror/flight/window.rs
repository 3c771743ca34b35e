//! What is passed on and not kept: the latest bytes of a blob in memory, for all who read it together.
//!
//! Truth: memory is bounded, and the pace is that of the fastest reader, who waits for the others a little for
//! each byte; who is further behind then, or comes when the beginning is gone, goes on alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

/// How many bytes are in memory at most.
pub(crate) const WINDOW: usize = 4 << 20;
/// How close to the end the fastest reader has nothing to read: some of the end may be held back from all.
const NEAR_END: u64 = 128 << 10;
/// How long the fastest reader waits for the others at the most, and how much longer for each MiB.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_PER_MIB: Duration = Duration::from_millis(250);

/// The latest bytes of a blob.
#[derive(Debug)]
pub struct Window {
    /// Where it began: what lies before that was kept, and is in the file.
    origin: u64,
    state: Mutex<State>,
    /// A reader came, went on or left.
    moved: Notify,
    _share: Share,
}

/// One of the windows, and the memory for it.
type Share = (OwnedSemaphorePermit, OwnedSemaphorePermit);

#[derive(Debug)]
struct State {
    chunks: VecDeque<Bytes>,
    /// The offset of the first byte that is there, and of the first that is not there yet.
    start: u64,
    end: u64,
    /// How far each reader has come.
    readers: HashMap<u64, u64>,
    next_reader: u64,
    patience: Duration,
    /// Whether the beginning is gone.
    cut: bool,
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    /// There is; whether the beginning is gone.
    Wanted { beginning_gone: bool },
    /// Nobody is there to read it.
    Unwanted,
}

/// The seat of a reader.
#[derive(Debug)]
pub struct Ticket {
    window: Arc<Window>,
    reader: u64,
}

impl Window {
    pub(crate) fn new(origin: u64, share: Share) -> Window {
        let state = State {
            chunks: VecDeque::new(),
            start: origin,
            end: origin,
            readers: HashMap::new(),
            next_reader: 0,
            patience: PATIENCE,
            cut: false,
        };
        Window { origin, state: Mutex::new(state), moved: Notify::new(), _share: share }
    }

    /// Where it began.
    pub(crate) const fn origin(&self) -> u64 {
        self.origin
    }

    /// Reads along, from `offset` on.
    pub(crate) fn join(self: &Arc<Window>, offset: u64) -> Ticket {
        let mut state = self.state.lock();
        let reader = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(reader, offset);
        drop(state);
        self.moved.notify_waiters();
        Ticket { window: Arc::clone(self), reader }
    }

    /// Waits until `more` bytes may be pushed; `followers` tells how many there are who may read.
    pub(crate) async fn make_room(&self, more: usize, followers: impl Fn() -> usize) -> More {
        loop {
            let moved = self.moved.notified();
            let (starving, patience) = {
                let mut state = self.state.lock();
                if let Some(more) = state.make_room(more, followers()) {
                    return more;
                }
                (state.is_starving(), state.patience)
            };
            if starving && !patience.is_zero() {
                let begun = Instant::now();
                let _ = tokio::time::timeout(patience, moved).await;
                self.state.lock().patience = patience.saturating_sub(begun.elapsed());
            } else {
                moved.await;
            }
        }
    }

    /// Adds the next bytes.
    pub(crate) fn push(&self, bytes: Bytes) {
        let mut state = self.state.lock();
        state.end += bytes.len() as u64;
        let more = PATIENCE_PER_MIB.mul_f64(bytes.len() as f64 / f64::from(1 << 20));
        state.patience = (state.patience + more).min(PATIENCE);
        state.chunks.push_back(bytes);
    }
}

impl State {
    fn make_room(&mut self, more: usize, followers: usize) -> Option<More> {
        let most = (WINDOW.saturating_sub(more)) as u64;
        let (slowest, fastest) = (self.readers.values().min().copied(), self.readers.values().max().copied());
        let all_are_here = self.readers.len() >= followers;
        let done = if all_are_here { slowest } else { None };
        let done = if self.patience.is_zero() { fastest } else { done };
        while self.end - self.start > most
            && let Some(first) = self.chunks.front().map(|first| first.len() as u64)
            && done.is_some_and(|done| self.start + first <= done)
        {
            self.start += first;
            self.chunks.pop_front();
            self.cut = true;
        }
        if self.end - self.start <= most || self.chunks.is_empty() {
            return Some(More::Wanted { beginning_gone: self.cut });
        }
        let nobody = followers == 0 || (self.readers.is_empty() && self.patience.is_zero());
        nobody.then_some(More::Unwanted)
    }

    fn is_starving(&self) -> bool {
        self.readers.values().max().is_none_or(|fastest| fastest + NEAR_END >= self.end)
    }
}

impl Ticket {
    /// Whether it is for this window.
    pub(crate) fn is_for(&self, window: &Arc<Window>) -> bool {
        Arc::ptr_eq(&self.window, window)
    }

    /// The bytes at `offset`, at most up to `end`; `None` where they are gone.
    pub(crate) fn read(&self, offset: u64, end: u64) -> Option<Bytes> {
        let mut state = self.window.state.lock();
        let mut start = state.start;
        let mut found = None;
        for chunk in &state.chunks {
            let next = start + chunk.len() as u64;
            if start <= offset && offset < next {
                let at = |offset: u64| usize::try_from(offset - start).unwrap_or_default();
                found = Some(chunk.slice(at(offset)..at(end.min(next))));
                break;
            }
            start = next;
        }
        let read = found.as_ref().map_or(0, Bytes::len) as u64;
        state.readers.insert(self.reader, offset + read);
        drop(state);
        self.window.moved.notify_waiters();
        found
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.window.state.lock().readers.remove(&self.reader);
        self.window.moved.notify_waiters();
    }
}
