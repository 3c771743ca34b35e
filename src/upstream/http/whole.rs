//! What is read whole of upstreams: manifests and lists, before anybody can tell what they are.
//!
//! Truths: all of them together have one bound in memory, and those of one upstream half of it, so that none
//! keeps the others waiting by sending slowly. What is short is not counted: connections bound it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bound, in bytes.
const ALL: usize = 64 << 20;
const OF_ONE: usize = ALL / 2;
/// What is not counted of a body, in bytes.
const SHORT: usize = 64 << 10;
/// How much is taken at a time for a body whose length nobody told, in bytes.
const STEP: usize = 1 << 20;
/// How long a body waits for memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// The memory for what is read whole of one upstream.
#[derive(Clone, Debug)]
pub struct Whole {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Default for Whole {
    fn default() -> Whole {
        Whole { all: Arc::new(Semaphore::new(ALL)), own: Arc::new(Semaphore::new(OF_ONE)) }
    }
}

/// There was no memory in time.
#[derive(Debug)]
pub(super) struct NoMemory;

impl Whole {
    /// How many bytes are taken by all upstreams together, and how many may be.
    pub fn used(&self) -> (u64, u64) {
        ((ALL - self.all.available_permits()) as u64, ALL as u64)
    }

    /// That of another upstream.
    #[must_use]
    pub fn of_another(&self) -> Whole {
        Whole { all: Arc::clone(&self.all), ..Whole::default() }
    }
}

/// A body as it comes, with the memory that it may have.
pub(super) struct Coming {
    bytes: BytesMut,
    whole: Whole,
    held: Vec<OwnedSemaphorePermit>,
    /// How many bytes it may have by now.
    may: usize,
    told: Option<usize>,
}

impl Coming {
    /// A body of which so many bytes were announced, if any were.
    pub(super) fn new(whole: Whole, told: Option<u64>) -> Coming {
        let told = told.and_then(|told| usize::try_from(told).ok());
        Coming { bytes: BytesMut::new(), whole, held: Vec::new(), may: SHORT, told }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds what came, as soon as there is memory for it.
    pub(super) async fn add(&mut self, chunk: &[u8]) -> Result<(), NoMemory> {
        let length = self.bytes.len() + chunk.len();
        if length > self.may {
            // All at once where that is possible, so that no two wait for one another.
            let wanted = self.told.unwrap_or(length + STEP).max(length);
            self.take(wanted - self.may).await?;
            self.may = wanted;
            self.bytes.reserve(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// One that is longer than all that one upstream may have counts as that much.
    async fn take(&mut self, bytes: usize) -> Result<(), NoMemory> {
        let left = OF_ONE.saturating_sub(self.held.iter().step_by(2).map(OwnedSemaphorePermit::num_permits).sum());
        let bytes = u32::try_from(bytes.min(left)).unwrap_or(u32::MAX);
        for memory in [&self.whole.own, &self.whole.all] {
            let taken = tokio::time::timeout(PATIENCE, Arc::clone(memory).acquire_many_owned(bytes)).await;
            self.held.push(taken.ok().and_then(Result::ok).ok_or(NoMemory)?);
        }
        Ok(())
    }

    /// All of it. The memory is free for others with the last copy.
    pub(super) fn done(self) -> Bytes {
        if self.held.is_empty() { self.bytes.freeze() } else { Bytes::from_owner(Held(self)) }
    }
}

struct Held(Coming);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 8 << 20;

    async fn read(whole: &Whole, told: Option<u64>, length: usize) -> Result<Bytes, NoMemory> {
        let mut coming = Coming::new(whole.clone(), told);
        for piece in vec![7; length].chunks(100_000) {
            coming.add(piece).await?;
        }
        Ok(coming.done())
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_have_one_bound_and_one_upstream_half_of_it() {
        let one = Whole::default();
        let other = one.of_another();
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(read(&one, Some(LARGE as u64), LARGE).await.expect("there is memory"));
        }
        assert!(read(&one, Some(LARGE as u64), LARGE).await.is_err(), "a fifth of one upstream");
        assert!(read(&one, None, LARGE).await.is_err(), "nor piece by piece");
        assert_eq!(read(&one, None, SHORT).await.expect("short ones are not counted").len(), SHORT);
        // Less than four more, for something was taken beyond what was told.
        for _ in 0..3 {
            held.push(read(&other, None, LARGE).await.expect("there is memory for others"));
        }
        assert!(read(&one.of_another(), Some(LARGE as u64 * 2), LARGE * 2).await.is_err(), "all is taken");
        held.clear();
        let longest = read(&one, None, 2 * OF_ONE).await.expect("one that is longer than all counts as all");
        assert_eq!(longest.len(), 2 * OF_ONE);
        drop(longest);
        assert_eq!((one.own.available_permits(), one.all.available_permits()), (OF_ONE, ALL));
    }
}
