//! Who makes room while others wait for a place: connections that rest, on which nothing was asked yet or that are
//! kept for the next request; and where none rests, those whose clients take next to nothing of an answer.
//!
//! Truth: nothing is looked at before all places are taken. Who rests twice in a row goes, as of a client that
//! sends nothing or a head that does not end. An answer that is under way is cut only where its client, for some
//! seconds in a row, took less than the slowest whom we bear, and first with the client who has most connections.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::BYTES_A_SECOND;
use super::half_closed::Answering;
use crate::clients::ClientId;

/// How long a client may take next to nothing while others wait for a place.
const GRACE: Duration = Duration::from_secs(3);
/// Looks that lie further apart have nothing to do with each other.
const APART: Duration = Duration::from_secs(2);
/// Of the slow connections of one client this part makes room at a time, and at least one.
const PART: usize = 8;

/// The connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Resting {
    next: AtomicU64,
    open: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    looked: Option<Instant>,
    of: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    /// Whose it is, where that is an address.
    client: Option<ClientId>,
    answering: Answering,
    /// The rest that it had when it was last looked at.
    rest: Option<u32>,
    /// Since when bytes wait for its client, and how many it had taken then.
    waits: Option<(Instant, u64)>,
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
    /// A connection of this client, with such answers.
    pub(super) fn add(self: &Arc<Resting>, client: Option<ClientId>, answering: Answering) -> Entry {
        let (number, ends) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let open = Open { client, answering, rest: None, waits: None, ends: ends.clone() };
        self.open.lock().of.insert(number, open);
        Entry { of: Arc::clone(self), number, ends }
    }

    /// Ends connections that rest as they did when they were last looked at; where none rests, some of the slowest.
    pub(super) fn make_room(&self) {
        let now = Instant::now();
        let mut table = self.open.lock();
        let table = &mut *table;
        let in_a_row = table.looked.replace(now).is_some_and(|looked| now - looked <= APART);
        let (mut rests, mut slow) = (false, HashMap::<_, Vec<_>>::new());
        for (number, open) in &mut table.of {
            let rest = open.answering.rest();
            rests |= rest.is_some();
            if rest.is_some() && rest == open.rest {
                open.ends.cancel();
            }
            open.rest = rest;
            if let (Some(taken), Some(client)) = (open.slow(now, in_a_row), open.client) {
                slow.entry(client).or_default().push((taken, *number));
            }
        }
        if rests || slow.is_empty() {
            return;
        }
        let mut have = HashMap::<_, usize>::new();
        table.of.values().filter_map(|open| open.client).for_each(|client| *have.entry(client).or_default() += 1);
        let Some((_, mut slow)) = slow.into_iter().max_by_key(|(client, _)| have.get(client).copied()) else { return };
        slow.sort_unstable();
        for (_, number) in slow.iter().take(slow.len().div_ceil(PART)) {
            if let Some(open) = table.of.get(number) {
                tracing::debug!("a client that takes next to nothing makes room for others");
                open.ends.cancel();
            }
        }
    }
}

impl Open {
    /// How little its client took, where that is too little for some time.
    fn slow(&mut self, now: Instant, in_a_row: bool) -> Option<u64> {
        let taken = self.answering.lets_wait();
        let (Some(taken), Some((since, before)), true) = (taken, self.waits, in_a_row) else {
            self.waits = taken.map(|taken| (now, taken));
            return None;
        };
        let waited = now - since;
        if waited < GRACE {
            return None;
        }
        let took = taken.saturating_sub(before);
        if took >= BYTES_A_SECOND * waited.as_secs() {
            self.waits = Some((now, taken));
            return None;
        }
        Some(took)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.of.open.lock().of.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::task::Poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_who_has_most_make_room_after_a_grace_and_who_gets_on_stays() {
        let resting = Arc::new(Resting::default());
        let client = |number: u8| Some(ClientId::from(IpAddr::from([127, 0, 0, number])));
        // Bytes taken a second: of one with three connections, of one with two, and at the socket.
        let open = [(client(1), 2000), (client(1), 900), (client(1), 300), (client(2), 0), (client(2), 0), (None, 0)];
        let open = open.map(|(client, speed)| {
            let answering = Answering::default();
            (speed, resting.add(client, answering.clone()), answering)
        });
        let mut gone = Vec::new();
        for second in 0..20 {
            for (speed, _, answering) in &open {
                let _ = answering.went(Poll::<()>::Pending);
                answering.taken(speed * second);
            }
            resting.make_room();
            let ended: Vec<_> = open.iter().map(|(_, entry, _)| entry.ends.is_cancelled()).collect();
            if gone.last().map(|(_, before)| before) != Some(&ended) {
                gone.push((second, ended));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let [none, first, ..] = &gone[..] else { panic!("{gone:?}") };
        assert_eq!((none.0, &none.1[..]), (0, &[false; 6][..]));
        assert_eq!((first.0, &first.1[..]), (3, &[false, false, true, false, false, false][..]), "{gone:?}");
        let (_, last) = gone.last().expect("some");
        assert!(!last[0] && !last[5], "who gets on stays, and who is no client: {last:?}");
    }
}
