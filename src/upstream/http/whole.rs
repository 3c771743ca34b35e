//! What is read whole of upstreams: manifests and lists, before anybody can tell what they are.
//!
//! Truths: all of them together have one bound in memory, and those of one upstream half of it, so that none
//! keeps the others waiting by sending slowly. While one waits for memory, the one that has most of it gives way, the
//! oldest of several: so nobody's large bodies keep all others out. What is short is not counted: connections bound it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The bound, in bytes.
const ALL: usize = 64 << 20;
const OF_ONE: usize = ALL / 2;
/// What is not counted of a body, in bytes.
const SHORT: usize = 64 << 10;
/// How much is taken at a time for a body whose length nobody told, in bytes.
const STEP: usize = 1 << 20;
/// How long a body waits for memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits before another gives way.
const GRACE: Duration = Duration::from_secs(1);

/// The memory for what is read whole of one upstream.
#[derive(Clone, Debug)]
pub struct Whole {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    /// What each upstream has.
    owns: Arc<Mutex<Vec<Weak<Semaphore>>>>,
    /// Those that come, of all upstreams, the oldest first.
    coming: Arc<Mutex<Vec<Weak<Claim>>>>,
}

/// What a body that comes has of the memory.
#[derive(Debug)]
struct Claim {
    own: Arc<Semaphore>,
    bytes: AtomicUsize,
    /// Cancelled when it is to give way.
    over: CancellationToken,
}

impl Default for Whole {
    fn default() -> Whole {
        let [all, own] = [ALL, OF_ONE].map(|bytes| Arc::new(Semaphore::new(bytes)));
        let owns = Arc::new(Mutex::new(vec![Arc::downgrade(&own)]));
        Whole { all, own, owns, coming: Arc::default() }
    }
}

/// There was no memory in time.
#[derive(Debug)]
pub(super) struct NoMemory;

impl Whole {
    /// How many bytes are taken, and how many may be: by all upstreams together, and by the one that has most.
    pub fn used(&self) -> [(u64, u64); 2] {
        let mut owns = self.owns.lock();
        owns.retain(|own| own.strong_count() > 0);
        let most = owns.iter().filter_map(Weak::upgrade).map(|own| OF_ONE - own.available_permits()).max();
        let all = ALL - self.all.available_permits();
        [(all, ALL), (most.unwrap_or_default(), OF_ONE)].map(|(used, most)| (used as u64, most as u64))
    }

    /// That of another upstream.
    #[must_use]
    pub fn of_another(&self) -> Whole {
        let own = Arc::new(Semaphore::new(OF_ONE));
        self.owns.lock().push(Arc::downgrade(&own));
        Whole { own, ..self.clone() }
    }

    /// Some of `memory`, before long. Meanwhile others give way, one by one.
    async fn take(&self, memory: &Arc<Semaphore>, bytes: u32) -> Option<OwnedSemaphorePermit> {
        let mut taken = std::pin::pin!(tokio::time::timeout(PATIENCE, Arc::clone(memory).acquire_many_owned(bytes)));
        loop {
            tokio::select! {
                biased;
                taken = &mut taken => return taken.ok()?.ok(),
                () = tokio::time::sleep(GRACE) => self.make_way(memory),
            }
        }
    }

    fn make_way(&self, memory: &Arc<Semaphore>) {
        let coming: Vec<_> = self.coming.lock().iter().filter_map(Weak::upgrade).collect();
        let has_some = |claim: &&Arc<Claim>| Arc::ptr_eq(memory, &self.all) || Arc::ptr_eq(memory, &claim.own);
        let bytes = |claim: &&Arc<Claim>| claim.bytes.load(Ordering::Relaxed);
        // Of several that have most the last one: the oldest.
        let most = coming.iter().rev().filter(has_some).max_by_key(bytes);
        if let Some(most) = most.filter(|most| bytes(most) > 0) {
            most.over.cancel();
        }
    }
}

/// A body as it comes, with the memory that it may have.
pub(super) struct Coming {
    bytes: BytesMut,
    whole: Whole,
    held: Vec<OwnedSemaphorePermit>,
    claim: Arc<Claim>,
    /// How many bytes it may have by now.
    may: usize,
    told: Option<usize>,
}

impl Coming {
    /// A body of which so many bytes were announced, if any were.
    pub(super) fn new(whole: Whole, told: Option<u64>) -> Coming {
        let told = told.and_then(|told| usize::try_from(told).ok());
        let claim = Claim { own: Arc::clone(&whole.own), bytes: AtomicUsize::new(0), over: CancellationToken::new() };
        let claim = Arc::new(claim);
        let mut coming = whole.coming.lock();
        coming.retain(|claim| claim.strong_count() > 0);
        coming.push(Arc::downgrade(&claim));
        drop(coming);
        Coming { bytes: BytesMut::new(), whole, held: Vec::new(), claim, may: SHORT, told }
    }

    /// Ends when it is to give way to others.
    pub(super) fn gives_way(&self) -> impl Future<Output = ()> + use<> {
        self.claim.over.clone().cancelled_owned()
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
            self.held.push(self.whole.take(memory, bytes).await.ok_or(NoMemory)?);
        }
        self.claim.bytes.fetch_add(bytes as usize, Ordering::Relaxed);
        Ok(())
    }

    /// All of it. The memory is free for others with the last copy.
    pub(super) fn done(self) -> Bytes {
        let Coming { bytes, held, .. } = self;
        if held.is_empty() { bytes.freeze() } else { Bytes::from_owner(Held { bytes, _memory: held }) }
    }
}

struct Held {
    bytes: BytesMut,
    _memory: Vec<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
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
        let [(all, most), (of_one, most_of_one)] = one.used();
        assert_eq!((of_one, most, most_of_one), (OF_ONE as u64 - 4 * SHORT as u64, ALL as u64, OF_ONE as u64));
        assert!(all > of_one && all <= most, "{all}");
        held.clear();
        let longest = read(&one, None, 2 * OF_ONE).await.expect("one that is longer than all counts as all");
        assert_eq!(longest.len(), 2 * OF_ONE);
        drop(longest);
        assert_eq!((one.own.available_permits(), one.all.available_permits()), (OF_ONE, ALL));
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_that_do_not_end_give_way_to_who_waits_for_memory() {
        let one = Whole::default();
        let mut stay = Vec::new();
        for _ in 0..4 {
            let mut coming = Coming::new(one.clone(), Some(LARGE as u64));
            coming.add(&vec![7; LARGE - 1]).await.expect("there is memory");
            stay.push(Some(coming));
        }
        let begun = tokio::time::Instant::now();
        let oldest = async {
            stay[0].as_ref().expect("it comes").gives_way().await;
            stay[0] = None;
        };
        let (read, ()) = tokio::join!(read(&one, Some(LARGE as u64), LARGE), oldest);
        assert_eq!(read.expect("one gave way").len(), LARGE);
        assert_eq!(begun.elapsed(), GRACE);
        assert!(stay[1..].iter().flatten().all(|coming| !coming.claim.over.is_cancelled()));
    }
}
