//! Places among the fills of one upstream, and besides them.
//!
//! Truth: what becomes free goes round the clients that wait (see [`Turns`]). Who holds a place besides the fills loses
//! it to who wants one when he does not get on, and when he has several and the other none.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clients::{ClientId, Turn, Turns};

/// How long who holds a place besides the fills may stand still while it is wanted.
const STILL: Duration = Duration::from_secs(1);

/// The places of one upstream.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Those among the fills.
    pub(crate) fills: Turns,
    /// How many requests may be under way besides the fills, for what is passed on without a place.
    most_relays: usize,
    /// Who holds a place besides.
    relays: Mutex<Vec<(ClientId, Weak<Mutex<Instant>>)>>,
}

/// A place among the fills, free again when this is dropped.
pub(crate) type Place = Turn;

/// A place besides the fills, free again when this is dropped, or when somebody else takes it; with when he last got on.
#[derive(Debug)]
pub struct RelayPlace(Arc<Mutex<Instant>>);

impl Lane {
    pub(crate) fn new(fills: usize, relays: usize) -> Lane {
        Lane { fills: Turns::new(fills), most_relays: relays, relays: Mutex::default() }
    }

    /// Whether it has so many places, and so many besides.
    pub(crate) fn has(&self, fills: usize, relays: usize) -> bool {
        (self.fills.places(), self.most_relays) == (fills, relays)
    }

    /// A place besides the fills for `client`, if there is one. What it stands for is a connection, which its holder
    /// gives up by himself (see [`Gate`](crate::upstream::gate::Gate)).
    pub(crate) fn relay_place(&self, client: ClientId) -> Option<RelayPlace> {
        let mut relays = self.relays.lock();
        relays.retain(|(_, held)| held.strong_count() > 0);
        if relays.len() >= self.most_relays {
            let has = |client: ClientId| relays.iter().filter(|(other, _)| *other == client).count();
            let wants_one = has(client) == 0;
            let first = relays.iter().enumerate().filter_map(|(at, (holder, held))| {
                let still = held.upgrade()?.lock().elapsed();
                (still >= STILL || wants_one && has(*holder) > 1).then(|| (still >= STILL, has(*holder), still, at))
            });
            let (.., first) = first.max()?;
            relays.swap_remove(first);
        }
        let place = Arc::new(Mutex::new(Instant::now()));
        relays.push((client, Arc::downgrade(&place)));
        Some(RelayPlace(place))
    }
}

impl RelayPlace {
    /// Its holder gets on.
    pub(crate) fn moved(&self) {
        *self.0.lock() = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: ClientId = ClientId::V6(1);
    const HONEST: ClientId = ClientId::V6(2);

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_besides_the_fills_loses_his_place_to_who_wants_one() {
        let lane = Lane::new(1, 2);
        let [still, gets_on] = [0, 1].map(|_| lane.relay_place(GREEDY).expect("two are free"));
        assert!(lane.relay_place(GREEDY).is_none());
        tokio::time::advance(STILL).await;
        gets_on.moved();
        let taken = lane.relay_place(GREEDY).expect("one stands still");
        assert!(lane.relay_place(GREEDY).is_none());
        drop(still);
        assert!(lane.relay_place(GREEDY).is_none(), "he had lost it already");
        drop((taken, gets_on));
        assert!(lane.relay_place(GREEDY).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_many_places_besides_the_fills_loses_one_to_who_has_none() {
        let lane = Lane::new(1, 3);
        let _many = [0, 1, 2].map(|_| lane.relay_place(GREEDY).expect("free"));
        assert!(lane.relay_place(GREEDY).is_none(), "from himself he gets none");
        let _one = lane.relay_place(HONEST).expect("of many");
        assert!(lane.relay_place(HONEST).is_none(), "he has one");
        let _other = lane.relay_place(ClientId::V6(3)).expect("of many");
        assert!(lane.relay_place(ClientId::V6(4)).is_none(), "everybody has one");
    }
}
