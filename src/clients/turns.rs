//! A number of places for which clients take turns.
//!
//! Who asks for many waits behind himself: a place that is given up goes to the next client, not to the next
//! request. Truth: a place is given up by being dropped, also while it is on its way to who waits for it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ClientId;
use super::queue::Queue;

/// The places.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: Queue<Turn>,
}

/// A place.
#[derive(Debug)]
pub struct Turn(Turns);

impl Turns {
    /// So many places.
    pub fn new(places: usize) -> Turns {
        Turns(Arc::new(Mutex::new(State { free: places, waiting: Queue::default() })))
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
        self.free(&mut state).ok_or_else(|| state.waiting.push(client))
    }

    fn free(&self, state: &mut State) -> Option<Turn> {
        state.free = state.free.checked_sub(1)?;
        Some(Turn(self.clone()))
    }

    /// Whose turn is next; where nobody waits, the place is free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.0.lock();
        let next = state.waiting.pop();
        state.free += usize::from(next.is_none());
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(next) = self.0.next() {
            // Whoever left in this moment does not take it: then it is dropped, and goes to the next.
            drop(next.send(Turn(self.0.clone())));
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
            self.0.lock().waiting.len() > 0
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
}
