//! Who waits for something, in turns: what becomes free goes round the clients that wait, and each has his own
//! requests behind one another.
//!
//! Truth: nobody's many requests stand before anybody else's one; who has left is not kept in mind.

use std::collections::VecDeque;
use std::iter::from_fn;

use tokio::sync::oneshot;

use super::ClientId;

/// Who has left is swept out of a queue that has become so long.
const SWEEP: usize = 64;

/// Those who wait for a `T`, by client; a client that had his turn stands behind the others again.
#[derive(Debug)]
pub(crate) struct Queue<T>(VecDeque<(ClientId, VecDeque<oneshot::Sender<T>>)>);

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue(VecDeque::new())
    }
}

impl<T> Queue<T> {
    /// Stands behind the client's other requests. Dropping what is returned leaves the queue.
    pub(crate) fn push(&mut self, client: ClientId) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        match self.0.iter_mut().find(|(waiting, _)| *waiting == client) {
            Some((_, his)) => {
                if his.len() >= SWEEP {
                    his.retain(|waiter| !waiter.is_closed());
                }
                his.push_back(sender);
            }
            None => {
                if self.0.len() >= SWEEP {
                    self.forget_who_left();
                }
                self.0.push_back((client, VecDeque::from([sender])));
            }
        }
        receiver
    }

    /// Whose turn it is: of those of whom `has` tells the least the first.
    pub(crate) fn pop(&mut self, has: impl Fn(ClientId) -> usize) -> Option<(ClientId, oneshot::Sender<T>)> {
        while let Some(at) = (0..self.0.len()).min_by_key(|at| self.0.get(*at).map(|(client, _)| has(*client)))
            && let Some((client, mut his)) = self.0.remove(at)
        {
            let next = from_fn(|| his.pop_front()).find(|waiter| !waiter.is_closed());
            if !his.is_empty() {
                self.0.push_back((client, his));
            }
            if let Some(next) = next {
                return Some((client, next));
            }
        }
        None
    }

    /// The clients that wait.
    pub(crate) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.0.iter().map(|(client, _)| *client)
    }

    /// Makes [`Queue::len`] exact.
    pub(crate) fn forget_who_left(&mut self) {
        self.0.iter_mut().for_each(|(_, his)| his.retain(|waiter| !waiter.is_closed()));
        self.0.retain(|(_, his)| !his.is_empty());
    }

    /// How many wait, with those who left and were not swept out yet.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|(_, his)| his.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_and_goes_is_not_remembered() {
        let mut queue: Queue<()> = Queue::default();
        for n in 0..10_000 {
            drop(queue.push(ClientId::V6(n % 1000)));
        }
        assert!(queue.0.len() <= SWEEP + 1);
        assert!(queue.0.iter().all(|(_, his)| his.len() <= SWEEP + 1));
        queue.forget_who_left();
        assert_eq!(queue.len(), 0);
    }
}
