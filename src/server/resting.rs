//! Connections that rest: nothing was asked on them yet, or they are kept for the next request. They make room
//! while others wait for a place.
//!
//! Truth: nothing is looked at before all places are taken, and then who rests twice in a row goes, as of a
//! client that sends nothing or a head that does not end. An answer that is under way is never cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::half_closed::Answering;

/// The connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Resting {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    answering: Answering,
    /// The rest that it had when it was last looked at.
    rest: Option<u32>,
    ends: CancellationToken,
}

/// A connection, as long as it is open.
#[derive(Debug)]
pub(super) struct Entry {
    of: Arc<Resting>,
    number: u64,
    /// It has to make room.
    pub(super) ends: CancellationToken,
}

impl Resting {
    /// A connection with such answers.
    pub(super) fn add(self: &Arc<Resting>, answering: Answering) -> Entry {
        let (number, ends) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        self.open.lock().insert(number, Open { answering, rest: None, ends: ends.clone() });
        Entry { of: Arc::clone(self), number, ends }
    }

    /// Ends the connections that rest as they did when they were last looked at.
    pub(super) fn make_room(&self) {
        for open in self.open.lock().values_mut() {
            let rest = open.answering.rest();
            if rest.is_some() && rest == open.rest {
                open.ends.cancel();
            }
            open.rest = rest;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.of.open.lock().remove(&self.number);
    }
}
