//! The one budget of bodies in memory: manifests that somebody has in hand or at hand, blobs that are passed on,
//! and lists that clients have still to take. What is shared is there once and counts once, until the last who
//! has it lets go.
//!
//! Truth: who finds no room is told to come again; nobody gets half a body. What clients have not taken yet has
//! half of it at most, and an eighth of it is the most that one client has so, so that who reads nothing holds
//! none but his own. Fills have their own part, so that they wait for nobody who reads slowly (see `bounds`); so have
//! lists that are remembered (see `recall::lists`) and what is on its way in (see `upstream::http::whole`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clients::ClientId;

/// What bodies that are in hand may take together, in bytes, besides those that are at hand.
pub(crate) const IN_HAND: u64 = 128 << 20;
/// What clients have still to take may be one of so many parts of all, and that of one client one of so many.
const UNTAKEN: u64 = 2;
const UNTAKEN_OF_ONE: u64 = 8;
/// Shorter answers are not counted for who has still to take them: connections bound them.
const SHORT: u64 = 64 << 10;
/// What is counted at a time, in bytes.
const UNIT: usize = 1 << 10;

/// Room in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bodies {
    free: Arc<Semaphore>,
    units: usize,
    /// Answers that clients have still to take, by where they lie in memory.
    untaken: Arc<Mutex<HashMap<usize, Untaken>>>,
}

/// Bytes, and the room they take.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug)]
struct Untaken {
    /// How many answers it goes into.
    answers: usize,
    bytes: u64,
    /// Who had it first.
    client: ClientId,
    _room: Option<OwnedSemaphorePermit>,
}

/// A body in memory that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct InMemory {
    /// Where it lies.
    pub at: usize,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it takes room of the budget as it is.
    pub has_room: bool,
}

/// A share in a body that clients have still to take, until it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Bodies,
    at: usize,
}

/// Clients have still to take too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl Bodies {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: u64) -> Bodies {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Bodies { free: Arc::new(Semaphore::new(units)), units, untaken: Arc::default() }
    }

    /// The same bytes, which take room until nobody has them any more; `None` where there is none in time.
    pub(crate) async fn hold(&self, bytes: Bytes, patience: Duration) -> Option<Bytes> {
        let room = Arc::clone(&self.free).acquire_many_owned(self.units_of(bytes.len()));
        let _room = tokio::time::timeout(patience, room).await.ok()?.ok()?;
        Some(Bytes::from_owner(Held { bytes, _room }))
    }

    /// Room for so many bytes, if there is some just now.
    pub(crate) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    /// One more answer to `client`, made of this.
    ///
    /// # Errors
    /// [`TooMuch`] is still to be taken, by this client or by all. One answer may be longer than that.
    pub(crate) fn give(&self, body: InMemory, client: ClientId) -> Result<Option<Share>, TooMuch> {
        let InMemory { at, bytes, has_room } = body;
        if bytes <= SHORT {
            return Ok(None);
        }
        let mut untaken = self.untaken.lock();
        if let Some(there) = untaken.get_mut(&at) {
            there.answers += 1;
        } else {
            let most = self.used().1;
            let fits = |his: &dyn Fn(&Untaken) -> bool, most: u64| {
                let taken: u64 = untaken.values().filter(|there| his(there)).map(|there| there.bytes).sum();
                taken == 0 || taken.saturating_add(bytes) <= most
            };
            if !fits(&|_| true, most / UNTAKEN) || !fits(&|there| there.client == client, most / UNTAKEN_OF_ONE) {
                return Err(TooMuch);
            }
            let room = || self.room(usize::try_from(bytes).unwrap_or(usize::MAX)).ok_or(TooMuch);
            let _room = if has_room { None } else { Some(room()?) };
            untaken.insert(at, Untaken { answers: 1, bytes, client, _room });
        }
        Ok(Some(Share { of: self.clone(), at }))
    }

    /// How many bodies clients have still to take.
    pub(crate) fn untaken(&self) -> u64 {
        self.untaken.lock().len() as u64
    }

    /// How many bytes are taken, and how many may be.
    pub(crate) fn used(&self) -> (u64, u64) {
        let bytes = |units: usize| (units * UNIT) as u64;
        (bytes(self.units - self.free.available_permits()), bytes(self.units))
    }

    /// What is larger than all there is takes all of it.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).min(self.units)).unwrap_or(u32::MAX)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut untaken = self.of.untaken.lock();
        if let Some(mine) = untaken.get_mut(&self.at) {
            mine.answers -= 1;
            if mine.answers == 0 {
                untaken.remove(&self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_takes_room_until_the_last_who_has_it_lets_go() {
        let bodies = Bodies::new(10 << 10);
        let hold = |length: usize| bodies.hold(Bytes::from(vec![7; length]), Duration::ZERO);
        let one = hold(6000).await.expect("there is room");
        let part = one.slice(10..20);
        assert_eq!((one.len(), bodies.used()), (6000, (6 << 10, 10 << 10)));
        assert!(hold(6000).await.is_none() && bodies.room(6000).is_none());
        drop(one);
        assert!(hold(6000).await.is_none(), "a part of it is in hand still");
        drop(part);
        let all = hold(1 << 20).await.expect("what is larger than all takes all");
        assert_eq!(bodies.used().0, 10 << 10);
        let waiting = bodies.hold(Bytes::from_static(b"x"), Duration::from_secs(60));
        let (waited, ()) = tokio::join!(waiting, async { drop(all) });
        assert!(waited.is_some());
    }

    #[tokio::test]
    async fn who_reads_nothing_holds_none_but_his_own() {
        let (bodies, large) = (Bodies::new(128 << 20), 8 << 20);
        let give =
            |at, bytes, client| bodies.give(InMemory { at, bytes, has_room: false }, ClientId::V6(client)).map(Some);
        let mut his: Vec<_> = (0..2).map(|at| give(at, large, 1).expect("there is room")).collect();
        assert_eq!(give(2, large, 1).expect_err("a third of one client"), TooMuch);
        // What is there already goes to anybody, however often.
        his.extend((0..1000).map(|_| give(1, large, 1).expect("it is there")));
        his.extend((0..10).map(|client| give(0, large, client).expect("it is there")));
        assert!(give(3, SHORT, 1).expect("short").flatten().is_none());
        let others: Vec<_> = (10..16).map(|at| give(at, large, at as u64).expect("there is room")).collect();
        assert_eq!(give(20, large, 20).expect_err("nothing is left for who does not take it"), TooMuch);
        assert_eq!(bodies.used(), (64 << 20, 128 << 20));
        let half = bodies.hold(Bytes::from(vec![0; 64 << 20]), Duration::ZERO).await.expect("it is left for manifests");
        let held = InMemory { at: 0xbad, bytes: large, has_room: true };
        drop(others);
        let share = bodies.give(held, ClientId::V6(30)).expect("it has its room");
        assert_eq!(bodies.used().0, (16 + 64) << 20);
        drop((share, half));
        assert!(give(20, 1 << 40, 20).is_err(), "longer than all, and something is there");
        drop(his);
        assert_eq!((bodies.used().0, bodies.untaken()), (0, 0));
        drop(give(20, 1 << 40, 20).expect("longer than all, and alone"));
        assert_eq!((bodies.used().0, bodies.untaken()), (0, 0));
    }
}
