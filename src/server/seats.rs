//! The places of a listener, and who makes room while others wait for one: connections that rest, on which nothing was
//! asked yet or that are kept for the next request; where none rests, those whose clients take next to nothing of an
//! answer; and those that only wait for one.
//!
//! Truth: nothing is looked at before all places are taken. A place goes to who has the fewest, round the clients that
//! wait. Who rests for half a second goes, as of a client that sends nothing or a head that does not end. An answer that
//! is under way is cut only where its client, for some seconds in a row, took less than the slowest whom we bear, and
//! first with the client who has most connections. From who has most, and waits for longest, a place is called back for
//! who has fewer: so clients that wait for a silent upstream, however many they are, keep no place from who has none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::BYTES_A_SECOND;
use super::hold::Hold;
use crate::clients::ClientId;
use crate::clients::queue::Queue;

/// How long a connection may rest while others wait for a place, and how long who has several may wait for an answer;
/// twice as long at the most.
const REST: Duration = Duration::from_millis(500);
/// How long a client may take next to nothing while others wait for a place, and how long who has only one connection
/// may wait for an answer while others have none.
const GRACE: Duration = Duration::from_secs(3);
/// Looks that lie further apart have nothing to do with each other.
const APART: Duration = Duration::from_secs(2);
/// Of the slow connections of one client this part makes room at a time, and at least one.
const PART: usize = 8;

/// The places of a listener, and the connections that have them.
#[derive(Debug)]
pub(super) struct Seats(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// When all connections are to end.
    all: CancellationToken,
    free: usize,
    next: u64,
    waiting: Queue<Seated>,
    looked: Option<Instant>,
    of: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    /// Whose it is; what is at the Unix socket is the operator's.
    client: ClientId,
    hold: Hold,
    /// The rest that it had when it was last looked at.
    rest: Option<u32>,
    /// Since when bytes wait for its client, and how many it had taken then.
    waits: Option<(Instant, u64)>,
    /// When it was asked to make room.
    called: Option<Instant>,
}

/// A connection that has a place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seated {
    of: Arc<Seats>,
    number: u64,
    pub(super) hold: Hold,
}

impl Seats {
    /// So many places, for connections that end, at the latest, with `all`.
    pub(super) fn new(places: usize, all: CancellationToken) -> Arc<Seats> {
        Arc::new(Seats(Mutex::new(Table { free: places, all, ..Table::default() })))
    }

    /// A place for a connection of this client, when it is his turn.
    pub(super) async fn take(self: &Arc<Seats>, client: ClientId) -> Seated {
        loop {
            let mut turn = match self.take_now_or_wait(client) {
                Ok(seated) => return seated,
                Err(turn) => turn,
            };
            loop {
                self.make_room(client);
                match tokio::time::timeout(REST, &mut turn).await {
                    Ok(Ok(seated)) => return seated,
                    Ok(Err(_)) => break,
                    Err(_) => {}
                }
            }
        }
    }

    fn take_now_or_wait(self: &Arc<Seats>, client: ClientId) -> Result<Seated, oneshot::Receiver<Seated>> {
        let mut table = self.0.lock();
        match table.free.checked_sub(1) {
            Some(free) => {
                table.free = free;
                Ok(table.seat(self, client))
            }
            None => Err(table.waiting.push(client)),
        }
    }

    /// `client` waits for a place: who should makes room.
    fn make_room(&self, client: ClientId) {
        let now = Instant::now();
        let mut table = self.0.lock();
        let looked = table.looked.map(|looked| now - looked);
        if looked.is_none_or(|since| since >= REST) {
            table.looked = Some(now);
            if table.look(now, looked.is_some_and(|since| since <= APART)) {
                return;
            }
        }
        table.call_back(client, now);
    }
}

impl Table {
    fn seat(&mut self, seats: &Arc<Seats>, client: ClientId) -> Seated {
        let hold = Hold::under(&self.all);
        self.next += 1;
        self.of.insert(self.next, Open { client, hold: hold.clone(), rest: None, waits: None, called: None });
        Seated { of: Arc::clone(seats), number: self.next, hold }
    }

    /// How many places each client has that stay his.
    fn have(&self) -> HashMap<ClientId, usize> {
        let mut have = HashMap::new();
        let stay = self.of.values().filter(|open| open.called.is_none());
        stay.for_each(|open| *have.entry(open.client).or_default() += 1);
        have
    }

    /// Ends connections that rest as they did when they were last looked at; where none rests, some of the slowest.
    /// Whether there is nothing more to be done now.
    fn look(&mut self, now: Instant, in_a_row: bool) -> bool {
        let (mut rests, mut ended, mut slow) = (false, false, HashMap::<_, Vec<_>>::new());
        for (number, open) in &mut self.of {
            let rest = open.hold.answering().rest();
            rests |= rest.is_some();
            if rest.is_some() && rest == open.rest || open.called.is_some_and(|called| now - called >= REST) {
                open.end(now);
                ended = true;
            }
            open.rest = rest;
            if let (Some(taken), true) = (open.slow(now, in_a_row), open.client != ClientId::Operator) {
                slow.entry(open.client).or_default().push((taken, *number));
            }
        }
        if rests || slow.is_empty() {
            return ended || rests && !in_a_row;
        }
        let have = self.have();
        let Some((_, mut slow)) = slow.into_iter().max_by_key(|(client, _)| have.get(client).copied()) else {
            return false;
        };
        slow.sort_unstable();
        for (_, number) in slow.iter().take(slow.len().div_ceil(PART)) {
            if let Some(open) = self.of.get_mut(number) {
                tracing::debug!("a client that takes next to nothing makes room for others");
                open.end(now);
            }
        }
        true
    }

    /// Calls one place back for `client`, unless that was done for all who wait: where he has fewer than who has most of
    /// those that wait for an answer, or has none while they wait for long.
    fn call_back(&mut self, client: ClientId, now: Instant) {
        self.waiting.forget_who_left();
        if self.of.values().filter(|open| open.called.is_some()).count() >= self.waiting.len() {
            return;
        }
        let have = self.have();
        let has = have.get(&client).copied().unwrap_or_default();
        let waits = |open: &Open| {
            let waited = now.saturating_duration_since(open.hold.answering().waits_since()?);
            let most = have.get(&open.client).copied()?;
            let may = if most > has + 1 { waited >= REST } else { has == 0 && waited >= GRACE };
            (may && open.called.is_none() && open.client != ClientId::Operator).then_some((most, waited))
        };
        let longest =
            self.of.values_mut().filter_map(|open| Some((waits(open)?, open))).max_by_key(|(waits, _)| *waits);
        if let Some((_, open)) = longest {
            tracing::debug!("a client that waits for an answer makes room for who has fewer connections");
            open.called = Some(now);
            open.hold.makes_room().cancel();
        }
    }
}

impl Open {
    fn end(&mut self, now: Instant) {
        self.called = Some(now);
        self.hold.ends().cancel();
    }

    /// How little its client took, where that is too little for some time.
    fn slow(&mut self, now: Instant, in_a_row: bool) -> Option<u64> {
        let taken = self.hold.answering().lets_wait();
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

impl Drop for Seated {
    fn drop(&mut self) {
        let next = {
            let mut table = self.of.0.lock();
            table.of.remove(&self.number);
            let have = if table.waiting.len() == 0 { HashMap::new() } else { table.have() };
            let next = table.waiting.pop(|client| have.get(&client).copied().unwrap_or_default());
            match next {
                Some((client, waiter)) => Some((waiter, table.seat(&self.of, client))),
                None => {
                    table.free += 1;
                    None
                }
            }
        };
        if let Some((waiter, seated)) = next {
            // Whoever left in this moment does not take it: then it is dropped, and goes to the next.
            drop(waiter.send(seated));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn client(number: u64) -> ClientId {
        ClientId::V6(number)
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_who_has_most_make_room_after_a_grace_and_who_gets_on_stays() {
        // Bytes taken a second: of one with three connections, of one with two, and at the socket.
        let open = [(1, 2000), (1, 900), (1, 300), (2, 0), (2, 0)].map(|(number, speed)| (client(number), speed));
        let open = [&open[..], &[(ClientId::Operator, 0)]].concat();
        let seats = Seats::new(open.len(), CancellationToken::new());
        let mut seated = Vec::new();
        for (client, speed) in open {
            seated.push((speed, seats.take(client).await));
        }
        let mut gone = Vec::new();
        for second in 0..20 {
            for (speed, entry) in &seated {
                let _ = entry.hold.answering().went(Poll::<()>::Pending);
                entry.hold.answering().taken(speed * second);
            }
            seats.make_room(client(3));
            let ended: Vec<_> = seated.iter().map(|(_, entry)| entry.hold.ends().is_cancelled()).collect();
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

    /// Whether each of them is asked to make room, while all wait for an answer.
    async fn called(seats: &Arc<Seats>, seated: &[Seated], who: u64, times: usize) -> Vec<bool> {
        for _ in 0..times {
            let came = tokio::time::timeout(REST, seats.take(client(who))).await;
            assert!(came.is_err(), "nobody has left");
        }
        seated.iter().map(|entry| entry.hold.makes_room().is_cancelled()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_fewer_is_given_a_place_of_who_has_most_and_waits_for_longest() {
        let seats = Seats::new(5, CancellationToken::new());
        let (mut seated, mut answers) = (Vec::new(), Vec::new());
        for number in [1, 2, 2, 2, 1] {
            seated.push(seats.take(client(number)).await);
            answers.extend(seated.last().map(|entry| entry.hold.answering().begin()));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(called(&seats, &seated, 2, 10).await, [false; 5], "he has most");
        assert_eq!(called(&seats, &seated, 1, 10).await, [false; 5], "he has one less");
        // Of who waits on, one is called back, and no more.
        let mut comes = std::pin::pin!(seats.take(client(3)));
        assert!(futures_util::poll!(&mut comes).is_pending());
        let is_called: Vec<_> = seated.iter().map(|entry| entry.hold.makes_room().is_cancelled()).collect();
        assert_eq!(is_called, [false, true, false, false, false]);
        // Who had asked for more before him waits on.
        let mut again = std::pin::pin!(seats.take(client(2)));
        assert!(futures_util::poll!(&mut again).is_pending());
        drop(seated.remove(1));
        let came = futures_util::poll!(&mut comes);
        assert!(came.is_ready() && futures_util::poll!(&mut again).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_connection_of_a_client_makes_room_for_who_has_none_when_it_has_waited_for_long() {
        let seats = Seats::new(2, CancellationToken::new());
        let seated = [seats.take(client(1)).await, seats.take(client(2)).await];
        let _answers = [seated[0].hold.answering().begin(), seated[1].hold.answering().begin()];
        assert_eq!(called(&seats, &seated, 3, 5).await, [false; 2]);
        let called = called(&seats, &seated, 3, 2).await;
        assert_eq!(called.iter().filter(|called| **called).count(), 1);
    }
}
