//! What the mirror was good for, also before this start: the totals and 24 hours, kept in `<store>/usage/`.
//!
//! What is counted, and when, is the business of [`Metrics`]; here its sums are looked at now and again, and what
//! is new is added to the ring. Truth: it may be lost, never in the way. A file that is damaged is begun anew,
//! one that cannot be written is tried again, and what a kill loses is what came after the last look.

mod ring;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::documents;
use crate::metrics::{Flow, Metrics};
use crate::{small_file, staged};
use ring::{Counts, Ring, Spared, Sum};

/// How often it is looked at and written.
const EVERY: Duration = Duration::from_secs(10);
/// A longer file is none of ours, in bytes.
const LONGEST: u64 = 1 << 20;

/// The totals and the hours.
pub struct Usage {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    started_at: Timestamp,
    state: Mutex<State>,
    /// Held by who writes: one at a time, and nothing old over what is new.
    writing: Mutex<()>,
}

struct State {
    ring: Ring,
    /// Since the start, as it was at the last look.
    counted: Sum,
    flows: Vec<Flow>,
    /// Whether something is new since the last time that it was written.
    unwritten: bool,
    /// Whether the log says already that it cannot be written.
    told: bool,
}

impl std::fmt::Debug for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usage").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Usage {
    /// What is known in this folder of a store, and what `metrics` count from now on.
    pub fn open(folder: PathBuf, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Usage {
        let started_at = clock.now();
        let ring = read(&folder).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(folder = %folder.display(), %error, "what was counted before cannot be read: counting begins anew");
            }
            Ring::new(started_at)
        });
        let (counted, flows) = (Sum::default(), metrics.flows());
        let state = State { ring, counted, flows, unwritten: false, told: false };
        Usage { metrics, clock, folder, started_at, state: Mutex::new(state), writing: Mutex::new(()) }
    }

    /// What clients got.
    pub fn document(&self) -> documents::Usage {
        let state = &mut *self.state.lock();
        let now = self.look(state);
        documents::Usage {
            started_at: self.started_at.into(),
            since_start: state.counted.document(),
            counted_since_at: state.ring.since.into(),
            of_all_time: state.ring.total.document(),
            hours: state.ring.day(now),
        }
    }

    /// Looks at it, and writes it, until the future is dropped.
    pub async fn keep(self: Arc<Usage>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let usage = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || usage.write()).await;
        }
    }

    /// Writes what is new. Blocks on the disk.
    pub fn write(&self) {
        let _turn = self.writing.lock();
        let mut state = self.state.lock();
        self.look(&mut state);
        if !std::mem::take(&mut state.unwritten) {
            return;
        }
        let written = serde_json::to_vec(&state.ring).map_err(io::Error::other);
        drop(state);
        let written = written.and_then(|bytes| write(&self.folder, &bytes));
        let mut state = self.state.lock();
        match written {
            Ok(()) => state.told = false,
            Err(error) => {
                state.unwritten = true;
                if !std::mem::replace(&mut state.told, true) {
                    tracing::warn!(folder = %self.folder.display(), %error, "what is counted cannot be written; a restart forgets it");
                }
            }
        }
    }

    /// Adds to the ring what the metrics counted since the last look.
    fn look(&self, state: &mut State) -> Timestamp {
        let (now, totals, flows) = (self.clock.now(), self.metrics.totals(), self.metrics.flows());
        let spared: Spared = flows
            .iter()
            .zip(&state.flows)
            .map(|(now, then)| Flow {
                upstream: now.upstream.clone(),
                sent: now.sent.saturating_sub(then.sent),
                received: now.received.saturating_sub(then.received),
                waited: now.waited - then.waited,
            })
            .collect();
        let (requests, sent) = (Counts::of(&totals.requests), Counts::of(&totals.sent));
        let mut new = Sum {
            requests: requests.since(&state.counted.requests),
            sent: sent.since(&state.counted.sent),
            received: totals.received.saturating_sub(state.counted.received),
            saved_ms: 0,
        };
        state.flows = flows;
        new.saved_ms = state.ring.spared(now, &spared);
        if new != Sum::default() {
            state.ring.add(now, &new);
            state.counted.add(&new);
            state.unwritten = true;
        }
        now
    }
}

fn place(folder: &Path) -> PathBuf {
    folder.join("ring.json")
}

fn read(folder: &Path) -> io::Result<Ring> {
    let ring: Ring = serde_json::from_slice(&small_file::read(&place(folder), LONGEST)?)?;
    ring.is_sound()
        .then_some(ring)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is of another version"))
}

/// Replaces the file as a whole.
fn write(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    staged::replace(&place(folder), 0o600, bytes)
}

#[cfg(test)]
mod tests;
