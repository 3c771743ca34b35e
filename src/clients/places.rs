//! How many connections each client has.
//!
//! One more than he may have waits, and takes nothing from others meanwhile. What is remembered is bounded
//! by the connections there are: the last one of a client takes his entry along.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ClientId, Limit, TooMany};

/// How many connections wait for a place, of all clients together and of one. More are turned away at once.
const WAITING: usize = 512;
const WAITING_OF_ONE: usize = 32;
/// When a client that is turned away may come again.
const COME_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Places {
    /// For one client; 0 is no limit.
    limit: usize,
    of: Arc<Mutex<HashMap<ClientId, Arc<OfOne>>>>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug)]
struct OfOne {
    places: Arc<Semaphore>,
    /// How many places there are, and how many more are taken than there may be.
    limit: AtomicUsize,
    excess: AtomicUsize,
    waiting: Arc<Semaphore>,
    /// Whether the operator was told that he is held back.
    told: AtomicBool,
}

impl Places {
    pub(super) fn new(limit: usize) -> Places {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let waiting = Arc::new(Semaphore::new(WAITING));
        Places { limit, of: Arc::default(), waiting }
    }

    /// The same, with another limit for one: who has more connections than that keeps them, and gets no more.
    pub(super) fn under(&self, limit: usize) -> Places {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        if limit > 0 {
            self.of.lock().values().for_each(|of_one| of_one.have(limit));
        }
        Places { limit, of: Arc::clone(&self.of), waiting: Arc::clone(&self.waiting) }
    }

    /// How many clients have a connection.
    pub(super) fn clients(&self) -> u64 {
        self.of.lock().len() as u64
    }

    /// A place for one more connection; `None` where there is no limit.
    pub(super) fn take(&self, client: ClientId) -> Result<Option<Place>, Full> {
        if self.limit == 0 {
            return Ok(None);
        }
        let new = || {
            let (places, waiting) = (Semaphore::new(self.limit), Semaphore::new(WAITING_OF_ONE));
            let (limit, excess) = (AtomicUsize::new(self.limit), AtomicUsize::new(0));
            let (places, waiting) = (Arc::new(places), Arc::new(waiting));
            Arc::new(OfOne { places, limit, excess, waiting, told: AtomicBool::new(false) })
        };
        let of_one = Arc::clone(self.of.lock().entry(client).or_insert_with(new));
        let place = Arc::clone(&of_one.places).try_acquire_owned().ok();
        let is_free = place.is_some();
        if !is_free && !of_one.told.swap(true, Ordering::Relaxed) {
            let limit = self.limit;
            tracing::warn!(%client, limit, "no more connections for now: limits.connections_per_client");
        }
        let place = Place { of: Arc::clone(&self.of), client, of_one: Some(of_one), permit: place };
        if is_free {
            return Ok(Some(place));
        }
        Err(Full { place, waiting: Arc::clone(&self.waiting) })
    }
}

impl OfOne {
    /// There are so many places from here on. Only while the table is locked.
    fn have(&self, limit: usize) {
        let before = self.limit.swap(limit, Ordering::Relaxed);
        let excess = self.excess.load(Ordering::Relaxed);
        let (more, fewer) = (limit.saturating_sub(before), before.saturating_sub(limit));
        let (spared, fewer) = (excess.min(more), fewer - self.places.forget_permits(fewer));
        self.places.add_permits(more - spared);
        self.excess.store(excess - spared + fewer, Ordering::Relaxed);
    }
}

/// The place of one connection among those of its client.
#[derive(Debug)]
pub struct Place {
    of: Arc<Mutex<HashMap<ClientId, Arc<OfOne>>>>,
    client: ClientId,
    of_one: Option<Arc<OfOne>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.of.lock();
        match (self.permit.take(), &self.of_one) {
            (Some(permit), Some(of_one)) if of_one.excess.load(Ordering::Relaxed) > 0 => {
                of_one.excess.fetch_sub(1, Ordering::Relaxed);
                permit.forget();
            }
            (permit, _) => drop(permit),
        }
        drop(self.of_one.take());
        if let Entry::Occupied(entry) = of.entry(self.client)
            // Nobody but the table knows of it: he has no connection, and none waits.
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}

/// There is no place for another connection of a client yet.
#[derive(Debug)]
pub struct Full {
    place: Place,
    waiting: Arc<Semaphore>,
}

impl Full {
    /// Waits for a place, `patience` at most.
    ///
    /// # Errors
    /// [`TooMany`] when none was given up in time, or too many wait already.
    pub async fn wait(self, patience: Duration) -> Result<Place, TooMany> {
        let Full { mut place, waiting } = self;
        let refused = TooMany { limit: Limit::Connections, wait: COME_AGAIN };
        let Some(of_one) = place.of_one.clone() else { return Err(refused) };
        let waits = (waiting.try_acquire().ok(), of_one.waiting.try_acquire().ok());
        let (Some(_among_all), Some(_among_his)) = waits else { return Err(refused) };
        let free = tokio::time::timeout(patience, Arc::clone(&of_one.places).acquire_owned()).await;
        let Ok(Ok(permit)) = free else { return Err(refused) };
        place.permit = Some(permit);
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClientId = ClientId::V6(1);
    const OTHER: ClientId = ClientId::V6(2);

    #[tokio::test(start_paused = true)]
    async fn one_more_waits_and_others_do_not() {
        let places = Places::new(2);
        let first = places.take(ONE).expect("free");
        let second = places.take(ONE).expect("free");
        let third = places.take(ONE).expect_err("he has two");
        let refused = third.wait(Duration::from_secs(10)).await.expect_err("nobody left");
        assert_eq!(refused.limit, Limit::Connections);
        let other = places.take(OTHER).expect("free");
        let waits = places.take(ONE).expect_err("he has two").wait(Duration::from_secs(10));
        let (third, ()) = tokio::join!(waits, async { drop(first) });
        drop((second, third.expect("one left"), other));
        assert!(places.of.lock().is_empty(), "nobody is remembered who has no connection");
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_of_one_client_wait() {
        let places = Places::new(1);
        let _taken = places.take(ONE).expect("free");
        let waits = |_| places.take(ONE).expect_err("taken").wait(Duration::from_secs(10));
        let begun = tokio::time::Instant::now();
        let refused = futures_util::future::select_all((0..=WAITING_OF_ONE).map(|n| Box::pin(waits(n)))).await.0;
        assert!(refused.is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO, "one too many is told at once");
    }
}
