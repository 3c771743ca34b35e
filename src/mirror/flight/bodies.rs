//! The one budget of bodies in memory: manifests that somebody has in hand or at hand, blobs that are passed on,
//! and lists that clients have still to take. What is shared is there once and counts once, until the last who
//! has it lets go.
//!
//! Truth: who finds no room is told to come again; nobody gets half a body. What clients have not taken yet has
//! half of it at most, and an eighth of it is the most that one client has so, so that who reads nothing holds
//! none but his own. While others wait for room, what nobody has taken anything of for some seconds makes way. Fills have their own part, so that they wait for nobody who reads slowly (see `bounds`); so have
//! lists that are remembered (see `recall::lists`) and what is on its way in (see `upstream::http::whole`).

use std::collections::HashMap;
use std::fmt::Debug;
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
/// How long nobody has taken anything of what is to make way for others.
const STILL: Duration = Duration::from_secs(3);
/// How often who waits for that looks, and how many wait at a time with what they are to be given at hand.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const WAITING: usize = 4;
/// What is counted at a time, in bytes.
const UNIT: usize = 1 << 10;

/// Room in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bodies {
    free: Arc<Semaphore>,
    units: usize,
    /// Answers that clients have still to take, by where they lie in memory.
    untaken: Arc<Mutex<HashMap<usize, Untaken>>>,
    waiting: Arc<Semaphore>,
}

/// Who takes a body.
pub trait Taker: Debug + Send + Sync {
    /// How long he has taken nothing of what waits for him.
    fn still_for(&self) -> Duration;
    /// Ends what he is sent.
    fn end(&self);
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
    /// Who takes the answers that it goes into.
    takers: Vec<Arc<dyn Taker>>,
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
    taker: Arc<dyn Taker>,
}

/// Too much is still to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMuch {
    /// By this client.
    OfOne,
    /// By all.
    OfAll,
}

impl Bodies {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: u64) -> Bodies {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        let [free, waiting] = [units, WAITING].map(|permits| Arc::new(Semaphore::new(permits)));
        Bodies { free, units, untaken: Arc::default(), waiting }
    }

    /// The same bytes, which take room until nobody has them any more; `None` where there is none in time.
    pub(crate) async fn hold(&self, bytes: Bytes, patience: Duration) -> Option<Bytes> {
        let room = Arc::clone(&self.free).acquire_many_owned(self.units_of(bytes.len()));
        let mut room = std::pin::pin!(tokio::time::timeout(patience, room));
        let _room = loop {
            tokio::select! {
                biased;
                room = &mut room => break room.ok()?.ok()?,
                () = tokio::time::sleep(LOOK_EVERY) => self.make_way(),
            }
        };
        Some(Bytes::from_owner(Held { bytes, _room }))
    }

    /// Room for so many bytes, if there is some just now.
    pub(crate) fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    /// One more answer to `client`, made of this. Where there is no room, what nobody takes makes some within `patience`.
    ///
    /// # Errors
    /// [`TooMuch`] is still to be taken, by this client or by all. One answer may be longer than that.
    pub(crate) async fn give<T: Taker + Clone + 'static>(
        &self,
        body: InMemory,
        client: ClientId,
        taker: &T,
        patience: Duration,
    ) -> Result<Option<Share>, TooMuch> {
        if body.bytes <= SHORT {
            return Ok(None);
        }
        let taker: Arc<dyn Taker> = Arc::new(taker.clone());
        let given = self.give_now(body, client, &taker);
        let (Err(TooMuch::OfAll), Ok(_waits)) = (&given, self.waiting.try_acquire()) else { return given.map(Some) };
        let waited = async {
            loop {
                self.make_way();
                tokio::time::sleep(LOOK_EVERY).await;
                match self.give_now(body, client, &taker) {
                    Err(TooMuch::OfAll) => {}
                    given => return given,
                }
            }
        };
        tokio::time::timeout(patience, waited).await.unwrap_or(Err(TooMuch::OfAll)).map(Some)
    }

    fn give_now(&self, body: InMemory, client: ClientId, taker: &Arc<dyn Taker>) -> Result<Share, TooMuch> {
        let InMemory { at, bytes, has_room } = body;
        let mut untaken = self.untaken.lock();
        if let Some(there) = untaken.get_mut(&at) {
            there.takers.push(Arc::clone(taker));
        } else {
            let most = self.used().1;
            let fits = |his: &dyn Fn(&Untaken) -> bool, most: u64| {
                let taken: u64 = untaken.values().filter(|there| his(there)).map(|there| there.bytes).sum();
                taken == 0 || taken.saturating_add(bytes) <= most
            };
            if !fits(&|there| there.client == client, most / UNTAKEN_OF_ONE) {
                return Err(TooMuch::OfOne);
            }
            if !fits(&|_| true, most / UNTAKEN) {
                return Err(TooMuch::OfAll);
            }
            let room = || self.room(usize::try_from(bytes).unwrap_or(usize::MAX)).ok_or(TooMuch::OfAll);
            let _room = if has_room { None } else { Some(room()?) };
            untaken.insert(at, Untaken { takers: vec![Arc::clone(taker)], bytes, client, _room });
        }
        Ok(Share { of: self.clone(), at, taker: Arc::clone(taker) })
    }

    /// Ends what nobody has taken anything of for longest.
    fn make_way(&self) {
        let untaken = self.untaken.lock();
        let still = |there: &&Untaken| there.takers.iter().map(|taker| taker.still_for()).min().unwrap_or_default();
        let stillest = untaken.values().max_by_key(still).filter(|there| still(there) >= STILL);
        stillest.iter().flat_map(|there| &there.takers).for_each(|taker| taker.end());
    }

    /// How many bytes clients have still to take, and how many they may.
    pub(crate) fn untaken_bytes(&self) -> (u64, u64) {
        (self.untaken.lock().values().map(|there| there.bytes).sum(), self.used().1 / UNTAKEN)
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
            mine.takers.retain(|taker| !Arc::ptr_eq(taker, &self.taker));
            if mine.takers.is_empty() {
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

    /// Who takes something, or has taken nothing for so long; and whether he was ended.
    #[derive(Clone, Debug, Default)]
    struct Reader(Duration, Arc<std::sync::atomic::AtomicBool>);

    impl Taker for Reader {
        fn still_for(&self) -> Duration {
            self.0
        }

        fn end(&self) {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl Reader {
        fn is_ended(&self) -> bool {
            self.1.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn who_reads_nothing_holds_none_but_his_own() {
        let (bodies, large) = (Bodies::new(128 << 20), 8 << 20);
        let give = async |at, bytes, client| {
            let body = InMemory { at, bytes, has_room: false };
            bodies.give(body, ClientId::V6(client), &Reader::default(), Duration::ZERO).await
        };
        let mut his = Vec::new();
        for at in 0..2 {
            his.push(give(at, large, 1).await.expect("there is room"));
        }
        assert_eq!(give(2, large, 1).await.expect_err("a third of one client"), TooMuch::OfOne);
        // What is there already goes to anybody, however often.
        for client in std::iter::repeat_n(1, 1000).chain(0..10) {
            his.push(give(1, large, client).await.expect("it is there"));
        }
        assert!(give(3, SHORT, 1).await.expect("short").is_none());
        let mut others = Vec::new();
        for at in 10..16 {
            others.push(give(at, large, at as u64).await.expect("there is room"));
        }
        assert_eq!(give(20, large, 20).await.expect_err("nothing is left for who does not take it"), TooMuch::OfAll);
        assert_eq!((bodies.used(), bodies.untaken_bytes()), ((64 << 20, 128 << 20), (64 << 20, 64 << 20)));
        let half = bodies.hold(Bytes::from(vec![0; 64 << 20]), Duration::ZERO).await.expect("it is left for manifests");
        drop(others);
        let held = InMemory { at: 0xbad, bytes: large, has_room: true };
        let share = bodies.give(held, ClientId::V6(30), &Reader::default(), Duration::ZERO).await;
        assert_eq!(bodies.used().0, (16 + 64) << 20);
        drop((share.expect("it has its room"), half));
        assert!(give(20, 1 << 40, 20).await.is_err(), "longer than all, and something is there");
        drop(his);
        assert_eq!((bodies.used().0, bodies.untaken()), (0, 0));
        drop(give(20, 1 << 40, 20).await.expect("longer than all, and alone"));
        assert_eq!((bodies.used().0, bodies.untaken()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_makes_way_for_who_waits_and_what_somebody_takes_stays() {
        let (bodies, large, patience) = (Bodies::new(32 << 20), 4 << 20, Duration::from_secs(60));
        let reader = |seconds| Reader(Duration::from_secs(seconds), Arc::default());
        let readers = [reader(2), reader(100), reader(0), reader(5), reader(9), reader(2)];
        let give = async |at, reader: &Reader| {
            let body = InMemory { at, bytes: large, has_room: false };
            bodies.give(body, ClientId::V6(at as u64), reader, patience).await
        };
        let mut shares = Vec::new();
        // One body has two readers, of whom one takes it.
        for (at, reader) in [0, 1, 1, 2, 3, 4].into_iter().zip(&readers).filter(|(at, _)| *at < 4) {
            shares.push(give(at, reader).await.expect("there is room"));
        }
        let none = Reader::default();
        let mut waits = std::pin::pin!(give(9, &none));
        assert!(futures_util::poll!(&mut waits).is_pending());
        let ended: Vec<_> = readers.iter().map(Reader::is_ended).collect();
        assert_eq!(ended, [false, false, false, false, true, false]);
        shares.pop();
        let kept = waits.await.expect("room was made");
        let refused = give(10, &none).await.expect_err("and the rest of it is being taken");
        assert_eq!((refused, readers[3].is_ended(), readers[0].is_ended()), (TooMuch::OfAll, true, false));
        drop(kept);
    }
}
