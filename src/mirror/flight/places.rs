//! Places among the fills of one upstream, and who waits for one.
//!
//! Truth: what becomes free goes round the clients that wait, not first come, first served, so that nobody's
//! many requests stand before everybody else's. Whoever holds a place learns when somebody waits, and may
//! give it up for that: as many do as there are who wait, and no more. Who holds one besides the fills and does not
//! get on loses it to who wants one.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::clients::ClientId;
use crate::clients::queue::Queue;

/// How long who holds a place besides the fills may stand still while it is wanted.
const STILL: Duration = Duration::from_secs(1);

/// The places among the fills of one upstream.
#[derive(Debug)]
pub(crate) struct Lane {
    most: usize,
    /// How many requests may be under way besides the fills, for what is passed on without a place.
    relays: usize,
    state: Mutex<State>,
    /// How many wait for whom nobody gives up a place yet.
    wanted: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Who holds a place besides.
    relays: Vec<Weak<Mutex<Instant>>>,
    /// How many give their place up.
    leaving: usize,
    waiting: Queue<Place>,
}

/// A place among the fills, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<Lane>,
    leaving: bool,
}

/// A place besides the fills, free again when this is dropped, or when it is wanted and its holder stands still;
/// with when he last got on.
#[derive(Debug)]
pub struct RelayPlace(Arc<Mutex<Instant>>);

/// Somebody who waits. He leaves the queue when this is dropped.
struct Waiting<'a> {
    lane: &'a Lane,
    turn: Option<oneshot::Receiver<Place>>,
}

impl State {
    fn wanted(&self) -> usize {
        self.waiting.len().saturating_sub(self.leaving)
    }
}

impl Lane {
    pub(crate) fn new(most: usize, relays: usize) -> Lane {
        Lane { most, relays, state: Mutex::default(), wanted: watch::Sender::new(0) }
    }

    /// Whether it has so many places, and so many besides.
    pub(crate) fn has(&self, fills: usize, relays: usize) -> bool {
        (self.most, self.relays) == (fills, relays)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        let now = state.wanted();
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, now) != now);
        changed
    }

    /// Waits for a place, in the turn of `client`.
    pub(crate) async fn place(self: &Arc<Lane>, client: ClientId) -> Place {
        loop {
            let turn = self.change(|state| {
                if state.taken < self.most {
                    state.taken += 1;
                    return None;
                }
                Some(state.waiting.push(client))
            });
            let Some(turn) = turn else { return Place { lane: Arc::clone(self), leaving: false } };
            let mut waiting = Waiting { lane: self, turn: Some(turn) };
            if let Some(turn) = &mut waiting.turn
                && let Ok(place) = turn.await
            {
                return place;
            }
        }
    }

    /// A place that nobody will miss, for what no client waits for: at least half of them stay free.
    pub(crate) fn spare_place(self: &Arc<Lane>) -> Option<Place> {
        self.change(|state| {
            let left = self.most.checked_sub(state.taken + 1).filter(|left| left * 2 >= self.most);
            left.map(|_| state.taken += 1)
        })?;
        Some(Place { lane: Arc::clone(self), leaving: false })
    }

    /// A place besides the fills, if there is one. What it stands for is a connection, which its holder gives up
    /// by himself (see [`Gate`](crate::upstream::gate::Gate)).
    pub(crate) fn relay_place(&self) -> Option<RelayPlace> {
        self.change(|State { relays, .. }| {
            relays.retain(|held| held.strong_count() > 0);
            if relays.len() >= self.relays {
                let since = |held: &Weak<Mutex<Instant>>| held.upgrade().map(|moved| moved.lock().elapsed());
                let (still, at) = (0..relays.len()).map(|at| (relays.get(at).and_then(since), at)).max()?;
                still.filter(|still| *still >= STILL)?;
                relays.swap_remove(at);
            }
            let place = Arc::new(Mutex::new(Instant::now()));
            relays.push(Arc::downgrade(&place));
            Some(RelayPlace(place))
        })
    }

    /// Waits until somebody waits for whom nobody gives up a place yet.
    pub(crate) async fn is_wanted(&self) {
        let _ = self.wanted.subscribe().wait_for(|wanted| *wanted > 0).await;
    }
}

impl Place {
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Promises to give the place up, if somebody waits for whom nobody else does; whether it did.
    pub(crate) fn gives_way(&mut self) -> bool {
        let lane = Arc::clone(&self.lane);
        self.leaving = self.leaving
            || lane.change(|state| {
                let wanted = state.wanted() > 0;
                state.leaving += usize::from(wanted);
                wanted
            });
        self.leaving
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = self.lane.change(|state| {
            state.leaving -= usize::from(self.leaving);
            let next = state.waiting.pop();
            state.taken -= usize::from(next.is_none());
            next
        });
        if let Some(next) = next {
            // Whoever left in this moment does not take it: then it is dropped, and goes to the next.
            drop(next.send(Place { lane: Arc::clone(&self.lane), leaving: false }));
        }
    }
}

impl RelayPlace {
    /// Its holder gets on.
    pub(crate) fn moved(&self) {
        *self.0.lock() = Instant::now();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A place that was on its way goes to the next, before the queue is looked at.
        self.turn = None;
        self.lane.change(|state| state.waiting.forget_who_left());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    fn client(number: u8) -> ClientId {
        IpAddr::from([127, 0, 0, number]).into()
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_goes_round_the_clients_that_wait() {
        let lane = Arc::new(Lane::new(1, 0));
        let first = lane.place(client(1)).await;
        // One client with many requests, then another with one.
        let waiter = |number| {
            let (lane, client) = (Arc::clone(&lane), client(number));
            (number, Box::pin(async move { lane.place(client).await }))
        };
        let mut waiting: Vec<_> = [1, 1, 1, 2, 3].into_iter().map(waiter).collect();
        for (_, waiter) in &mut waiting {
            assert!(poll!(waiter).is_pending());
        }
        drop(first);
        let mut served = Vec::new();
        while !waiting.is_empty() {
            for at in (0..waiting.len()).rev() {
                if let std::task::Poll::Ready(place) = poll!(&mut waiting[at].1) {
                    served.push(waiting.remove(at).0);
                    drop(place);
                    break;
                }
            }
        }
        assert_eq!(served, [1, 2, 3, 1, 1]);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_is_no_longer_waited_for_and_keeps_no_place() {
        let lane = Arc::new(Lane::new(1, 0));
        let mut held = lane.place(client(1)).await;
        {
            let mut left = pin!(lane.place(client(2)));
            assert!(poll!(&mut left).is_pending());
            assert!(poll!(pin!(lane.is_wanted())).is_ready());
        }
        assert!(poll!(pin!(lane.is_wanted())).is_pending() && !held.gives_way());
        let mut late = Box::pin(lane.place(client(2)));
        assert!(poll!(&mut late).is_pending());
        drop(held);
        // The place is on its way to somebody who leaves now.
        drop(late);
        assert!(poll!(pin!(lane.place(client(3)))).is_ready());
    }

    #[tokio::test]
    async fn as_many_give_way_as_there_are_who_wait() {
        let lane = Arc::new(Lane::new(3, 0));
        let mut places = [lane.place(client(1)).await, lane.place(client(1)).await, lane.place(client(1)).await];
        let mut waiter = pin!(lane.place(client(2)));
        assert!(poll!(&mut waiter).is_pending());
        let gave: Vec<bool> = places.iter_mut().map(Place::gives_way).collect();
        assert_eq!(gave, [true, false, false]);
        let [first, ..] = places;
        drop(first);
        assert!(poll!(&mut waiter).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_besides_the_fills_loses_his_place_to_who_wants_one() {
        let lane = Lane::new(1, 2);
        let [still, gets_on] = [lane.relay_place(), lane.relay_place()].map(|place| place.expect("two are free"));
        assert!(lane.relay_place().is_none());
        tokio::time::advance(STILL).await;
        gets_on.moved();
        let taken = lane.relay_place().expect("one stands still");
        assert!(lane.relay_place().is_none());
        drop(still);
        assert!(lane.relay_place().is_none(), "he had lost it already");
        drop((taken, gets_on));
        assert!(lane.relay_place().is_some());
    }

    #[test]
    fn a_spare_place_leaves_half_of_them_free() {
        for (fills, spare) in [(1, 0), (2, 1), (3, 1), (4, 2), (64, 32)] {
            let lane = Arc::new(Lane::new(fills, 0));
            let taken: Vec<_> = std::iter::from_fn(|| lane.spare_place()).collect();
            assert_eq!(taken.len(), spare, "of {fills}");
            drop(taken);
            assert_eq!(lane.spare_place().is_some(), spare > 0, "again, of {fills}");
        }
    }
}
