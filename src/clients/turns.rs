//! A number of places for which clients take turns.
//!
//! Who asks for many waits behind himself: a place that is given up goes to who has the fewest of those that wait, and
//! round the clients that have as many. Whoever holds one learns when somebody waits, and may give it up for that: as
//! many do as there are who wait, and no more.
//!
//! Truths: a place is given up by being dropped, also while it is on its way to who waits for it. While a client waits
//! who has none, the one with the most of them, and more than one, is called back from his oldest: so no client has
//! all, nor have several together, as long as who is called back lets go.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ClientId;
use super::queue::Queue;

/// How long who has no place waits before somebody is called back.
const GRACE: Duration = Duration::from_millis(250);

/// The places.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    places: usize,
    state: Mutex<State>,
    /// How many wait for whom nobody gives up a place yet.
    wanted: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    held: Vec<Held>,
    next: u64,
    waiting: Queue<Turn>,
    called_at: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    /// `None` for what no client waits for.
    client: Option<ClientId>,
    /// Cancelled when it is to be given up, or will be.
    called: CancellationToken,
}

/// A place.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    number: u64,
    called: CancellationToken,
}

/// Somebody who waits. He leaves the queue when this is dropped.
struct Waiting<'a> {
    turns: &'a Turns,
    turn: Option<oneshot::Receiver<Turn>>,
}

impl State {
    fn has(&self, client: ClientId) -> usize {
        self.held.iter().filter(|held| held.client == Some(client)).count()
    }

    fn called(&self) -> usize {
        self.held.iter().filter(|held| held.called.is_cancelled()).count()
    }

    fn wanted(&self) -> usize {
        self.waiting.len().saturating_sub(self.called())
    }

    fn hold(&mut self, turns: &Turns, client: Option<ClientId>) -> Turn {
        let (number, called) = (self.next, CancellationToken::new());
        self.next += 1;
        self.held.push(Held { number, client, called: called.clone() });
        Turn { turns: turns.clone(), number, called }
    }

    /// Whose turn it is.
    fn next(&mut self, turns: &Turns) -> Option<(oneshot::Sender<Turn>, Turn)> {
        let held = &self.held;
        let has = |client| held.iter().filter(|held| held.client == Some(client)).count();
        let (client, next) = self.waiting.pop(has)?;
        Some((next, self.hold(turns, Some(client))))
    }

    /// `client` waits: where he has none, one more is called back, unless that was done for all who have none.
    fn call_back(&mut self, client: ClientId, now: Instant) {
        if self.has(client) > 0 || self.called_at.is_some_and(|at| now < at + GRACE / 2) {
            return;
        }
        self.called_at = Some(now);
        let poor = self.waiting.clients().filter(|client| self.has(*client) == 0).count();
        if self.called() >= poor {
            return;
        }
        let stays = |held: &&Held| held.client.is_some() && !held.called.is_cancelled();
        let stay = |of: &Held| self.held.iter().filter(stays).filter(|held| held.client == of.client).count();
        // Of several the last one: the oldest.
        let first = self.held.iter().filter(stays).rev().max_by_key(|held| stay(held));
        if let Some(first) = first.filter(|first| stay(first) > 1) {
            first.called.cancel();
        }
    }
}

impl Turns {
    /// So many places.
    pub fn new(places: usize) -> Turns {
        Turns(Arc::new(Pool { places, state: Mutex::default(), wanted: watch::Sender::new(0) }))
    }

    /// How many there are.
    pub fn places(&self) -> usize {
        self.0.places
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.lock();
        let changed = change(&mut state);
        let now = state.wanted();
        self.0.wanted.send_if_modified(|wanted| std::mem::replace(wanted, now) != now);
        changed
    }

    /// A place, when it is this client's turn. Dropping the future leaves the queue.
    pub async fn take(&self, client: ClientId) -> Turn {
        loop {
            let turn = match self.take_now_or_wait(client) {
                Ok(turn) => return turn,
                Err(turn) => turn,
            };
            let mut waiting = Waiting { turns: self, turn: Some(turn) };
            if let Some(turn) = &mut waiting.turn {
                tokio::select! {
                    biased;
                    given = turn => if let Ok(turn) = given { return turn },
                    never = self.call_back(client) => match never {},
                }
            }
        }
    }

    async fn call_back(&self, client: ClientId) -> Infallible {
        loop {
            tokio::time::sleep(GRACE).await;
            self.change(|state| state.call_back(client, Instant::now()));
        }
    }

    fn take_now_or_wait(&self, client: ClientId) -> Result<Turn, oneshot::Receiver<Turn>> {
        self.change(|state| {
            if state.held.len() < self.0.places {
                Ok(state.hold(self, Some(client)))
            } else {
                Err(state.waiting.push(client))
            }
        })
    }

    /// A place that nobody will miss, for what no client waits for: at least half of them stay free.
    pub fn spare(&self) -> Option<Turn> {
        self.change(|state| {
            let left = self.0.places.checked_sub(state.held.len() + 1)?;
            (left * 2 >= self.0.places).then(|| state.hold(self, None))
        })
    }

    /// Waits until somebody waits for whom nobody gives up a place yet.
    pub async fn are_wanted(&self) {
        let _ = self.0.wanted.subscribe().wait_for(|wanted| *wanted > 0).await;
    }
}

impl Turn {
    /// The places of which it is one.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Waits until it is to be given up.
    pub async fn called_back(&self) {
        self.called.cancelled().await;
    }

    /// Whether it is to be given up.
    pub fn is_called_back(&self) -> bool {
        self.called.is_cancelled()
    }

    /// Promises to give it up, if somebody waits for whom nobody else does; whether it did.
    pub fn gives_way(&self) -> bool {
        self.turns.change(|state| {
            if state.wanted() > 0 {
                self.called.cancel();
            }
        });
        self.is_called_back()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.turns.change(|state| {
            state.held.retain(|held| held.number != self.number);
            state.next(&self.turns)
        });
        if let Some((waiter, turn)) = next {
            // Whoever left in this moment does not take it: then it is dropped, and goes to the next.
            drop(waiter.send(turn));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A place that was on its way goes to the next, before the queue is looked at.
        self.turn = None;
        self.turns.change(|state| state.waiting.forget_who_left());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    impl Turns {
        fn is_awaited(&self) -> bool {
            self.0.state.lock().waiting.len() > 0
        }
    }

    const GREEDY: ClientId = ClientId::V6(1);
    const HONEST: ClientId = ClientId::V6(2);

    async fn take(turns: &Turns, client: ClientId, places: usize) -> Vec<Turn> {
        let mut held = Vec::new();
        for _ in 0..places {
            held.push(turns.take(client).await);
        }
        held
    }

    #[tokio::test]
    async fn a_place_goes_to_the_next_client_and_not_to_the_next_request() {
        let turns = Turns::new(1);
        let held = turns.take(GREEDY).await;
        let mut greedy: Vec<_> = (0..100).map(|_| turns.take_now_or_wait(GREEDY).expect_err("taken")).collect();
        let mut honest = turns.take_now_or_wait(HONEST).expect_err("taken");
        assert!(turns.spare().is_none() && turns.is_awaited());
        drop(held);
        let first = greedy.remove(0).await;
        assert!(honest.try_recv().is_err());
        drop(first);
        let second = honest.await.expect("after one of the other, not after a hundred");
        drop(second);
        drop(greedy.remove(0).await.expect("and on"));
        drop(greedy);
        assert!(poll!(pin!(turns.take(HONEST))).is_ready());
    }

    #[tokio::test]
    async fn what_is_given_up_goes_to_who_has_the_fewest() {
        let turns = Turns::new(3);
        let mut greedy = take(&turns, GREEDY, 2).await;
        let honest = turns.take(HONEST).await;
        let mut first = pin!(turns.take(GREEDY));
        let mut second = pin!(turns.take(HONEST));
        let mut third = pin!(turns.take(ClientId::V6(3)));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        greedy.pop();
        let third = poll!(&mut third);
        assert!(third.is_ready(), "he had none");
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(honest);
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_ready(), "he had none by then");
        drop(third);
    }

    #[tokio::test]
    async fn who_leaves_takes_no_place_along() {
        let turns = Turns::new(1);
        let held = turns.take(GREEDY).await;
        {
            let mut gone = pin!(turns.take(GREEDY));
            assert!(poll!(&mut gone).is_pending() && turns.is_awaited());
            assert!(poll!(pin!(turns.are_wanted())).is_ready());
        }
        assert!(!turns.is_awaited() && poll!(pin!(turns.are_wanted())).is_pending() && !held.gives_way());
        let mut stays = Box::pin(turns.take(HONEST));
        assert!(poll!(&mut stays).is_pending());
        drop(held);
        // Given, and never looked at.
        drop(stays);
        assert!(poll!(pin!(turns.take(HONEST))).is_ready());
    }

    #[tokio::test]
    async fn as_many_give_way_as_there_are_who_wait() {
        let turns = Turns::new(3);
        let mut places = take(&turns, GREEDY, 3).await;
        let mut waiter = pin!(turns.take(HONEST));
        assert!(poll!(&mut waiter).is_pending());
        let gave: Vec<bool> = places.iter().map(Turn::gives_way).collect();
        assert_eq!(gave, [true, false, false]);
        drop(places.remove(0));
        assert!(poll!(&mut waiter).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn neither_one_client_nor_several_keep_all_places_while_another_has_none() {
        let turns = Turns::new(6);
        let (one, other) = (take(&turns, GREEDY, 4).await, take(&turns, ClientId::V6(3), 2).await);
        let called = || [&one, &other].map(|held| held.iter().map(Turn::is_called_back).collect::<Vec<_>>());
        let mut again = Box::pin(turns.take(GREEDY));
        let mut honest: Vec<_> = [2, 2, 4, 5].map(|n| Box::pin(turns.take(ClientId::V6(n)))).into();
        let waits = async |turn: &mut std::pin::Pin<Box<_>>| tokio::time::timeout(10 * GRACE, turn).await.is_err();
        assert!(waits(&mut again).await);
        assert_eq!(called(), [vec![false; 4], vec![false; 2]], "who has some waits for his turn");
        // Each who has none calls one back, however often he asks, and of those who have most.
        assert!(waits(&mut honest[0]).await && waits(&mut honest[1]).await);
        assert_eq!(called(), [vec![true, false, false, false], vec![false; 2]]);
        assert!(waits(&mut honest[2]).await && waits(&mut honest[3]).await);
        assert_eq!(called(), [vec![true, true, true, false], vec![false; 2]], "of those who stay");
        drop((one, other));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_called_back_from_the_only_place_that_he_has() {
        let turns = Turns::new(2);
        let held = [turns.take(GREEDY).await, turns.take(ClientId::V6(3)).await];
        assert!(tokio::time::timeout(10 * GRACE, turns.take(HONEST)).await.is_err());
        assert!(held.iter().all(|held| !held.is_called_back()));
    }

    #[test]
    fn a_spare_place_leaves_half_of_them_free() {
        for (places, spare) in [(1, 0), (2, 1), (3, 1), (4, 2), (64, 32)] {
            let turns = Turns::new(places);
            let taken: Vec<_> = std::iter::from_fn(|| turns.spare()).collect();
            assert_eq!(taken.len(), spare, "of {places}");
            drop(taken);
            assert_eq!(turns.spare().is_some(), spare > 0, "again, of {places}");
        }
    }
}
