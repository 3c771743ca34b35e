//! A number of places for which clients take turns.
//!
//! Who asks for many waits behind himself: a place that is given up goes to the next client, not to the next
//! request. Truth: a place is given up by being dropped, also while it is on its way to who waits for it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ClientId;

/// Who has left is swept out of a queue that has become so long.
const SWEEP: usize = 64;

/// The places.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// Those who wait, in the order of their turns, each with what he waits for.
    waiting: VecDeque<(ClientId, VecDeque<oneshot::Sender<Turn>>)>,
}

/// A place.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    given: bool,
}

impl Turns {
    /// So many places.
    pub fn new(places: usize) -> Turns {
        Turns(Arc::new(Mutex::new(State { free: places, waiting: VecDeque::new() })))
    }

    /// A place, when it is this client's turn. Dropping the future leaves the queue.
    pub async fn take(&self, client: ClientId) -> Option<Turn> {
        match self.take_now_or_wait(client) {
            Ok(turn) => Some(turn),
            Err(waiting) => waiting.await.ok(),
        }
    }

    fn take_now_or_wait(&self, client: ClientId) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut state = self.0.lock();
        if let Some(turn) = self.free(&mut state) {
            return Ok(turn);
        }
        let (sender, receiver) = oneshot::channel();
        match state.waiting.iter_mut().find(|(waiting, _)| *waiting == client) {
            Some((_, his)) => {
                if his.len() >= SWEEP {
                    his.retain(|turn| !turn.is_closed());
                }
                his.push_back(sender);
            }
            None => {
                if state.waiting.len() >= SWEEP {
                    state.waiting.retain(|(_, his)| his.iter().any(|turn| !turn.is_closed()));
                }
                state.waiting.push_back((client, VecDeque::from([sender])));
            }
        }
        Err(receiver)
    }

    fn free(&self, state: &mut State) -> Option<Turn> {
        state.free = state.free.checked_sub(1)?;
        Some(Turn { turns: self.clone(), given: false })
    }

    /// Whose turn is next; where nobody waits, the place is free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.0.lock();
        while let Some((client, mut his)) = state.waiting.pop_front() {
            let next = his.pop_front();
            if !his.is_empty() {
                state.waiting.push_back((client, his));
            }
            if next.is_some() {
                return next;
            }
        }
        state.free += 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.given {
            return;
        }
        while let Some(next) = self.turns.next() {
            match next.send(Turn { turns: self.turns.clone(), given: false }) {
                Ok(()) => return,
                // He has left: the place is still ours to give.
                Err(mut back) => back.given = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Turns {
        fn take_now(&self) -> Option<Turn> {
            self.free(&mut self.0.lock())
        }

        fn is_awaited(&self) -> bool {
            self.0.lock().waiting.iter().any(|(_, his)| his.iter().any(|turn| !turn.is_closed()))
        }
    }

    const GREEDY: ClientId = ClientId::V6(1);
    const HONEST: ClientId = ClientId::V6(2);

    #[tokio::test]
    async fn a_place_goes_to_the_next_client_and_not_to_the_next_request() {
        let turns = Turns::new(1);
        let held = turns.take(GREEDY).await;
        let mut greedy: Vec<_> = (0..100).map(|_| turns.take_now_or_wait(GREEDY).expect_err("taken")).collect();
        let mut honest = turns.take_now_or_wait(HONEST).expect_err("taken");
        assert!(turns.take_now().is_none() && turns.is_awaited());
        drop(held);
        let first = greedy.remove(0).await;
        assert!(honest.try_recv().is_err());
        drop(first);
        let second = honest.await.expect("after one of the other, not after a hundred");
        drop(second);
        drop(greedy.remove(0).await.expect("and on"));
        drop(greedy);
        assert!(!turns.is_awaited());
        assert!(turns.take_now().is_some());
    }

    #[tokio::test]
    async fn who_leaves_takes_no_place_along() {
        let turns = Turns::new(1);
        let held = turns.take(GREEDY).await;
        let gone = turns.take_now_or_wait(GREEDY).expect_err("taken");
        let stays = turns.take_now_or_wait(HONEST).expect_err("taken");
        drop(gone);
        drop(held);
        let on_its_way = stays;
        // Given, and never looked at.
        drop(on_its_way);
        assert!(turns.take_now().is_some());
    }

    #[tokio::test]
    async fn who_comes_and_goes_is_not_remembered() {
        let turns = Turns::new(0);
        for n in 0..10_000 {
            drop(turns.take_now_or_wait(ClientId::V6(n % 1000)));
        }
        let state = turns.0.lock();
        assert!(state.waiting.len() <= SWEEP + 1);
        assert!(state.waiting.iter().all(|(_, his)| his.len() <= SWEEP + 1));
    }
}
