//! Answers in memory that clients have still to take: lists, and manifests that could not be stored.
//!
//! Truth: they have one bound together, and those of one client a part of it, so that who reads nothing holds
//! none but his own. What many take at the same time is there once, and counts once. What is stored goes from
//! its file and does not count.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clients::ClientId;
use crate::metrics::Metrics;

/// The bound, and that of one client, in bytes. One answer may be longer.
const ALL: u64 = 64 << 20;
const OF_ONE: u64 = ALL / 4;
/// Shorter ones are not counted: connections bound them.
const SHORT: u64 = 64 << 10;

/// What is in hand.
#[derive(Debug, Default)]
pub struct InHand(Mutex<HashMap<usize, Held>>);

#[derive(Debug)]
struct Held {
    /// How many answers it goes into.
    answers: usize,
    bytes: u64,
    /// Who had it first.
    client: ClientId,
}

/// A share of what is in hand, until it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<InHand>,
    at: usize,
    metrics: Arc<Metrics>,
}

/// Too much is in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl InHand {
    /// An answer to `client` made of `bytes` bytes that lie at `at` in memory.
    ///
    /// # Errors
    /// [`TooMuch`] is in hand, of this client or of all.
    pub fn take(
        self: &Arc<InHand>,
        at: usize,
        bytes: u64,
        client: ClientId,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Share>, TooMuch> {
        if bytes <= SHORT {
            return Ok(None);
        }
        let mut held = self.0.lock();
        if let Some(held) = held.get_mut(&at) {
            held.answers += 1;
        } else {
            let sum = |of: &dyn Fn(&Held) -> bool| held.values().filter(|held| of(held)).map(|held| held.bytes).sum();
            let (all, his): (u64, u64) = (sum(&|_| true), sum(&|held| held.client == client));
            let fits = |taken: u64, most: u64| taken == 0 || taken.saturating_add(bytes) <= most;
            if !fits(all, ALL) || !fits(his, OF_ONE) {
                return Err(TooMuch);
            }
            held.insert(at, Held { answers: 1, bytes, client });
            metrics.in_hand(all + bytes);
        }
        drop(held);
        Ok(Some(Share { of: Arc::clone(self), at, metrics: Arc::clone(metrics) }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.0.lock();
        let Some(mine) = held.get_mut(&self.at) else { return };
        mine.answers -= 1;
        if mine.answers == 0 {
            held.remove(&self.at);
            self.metrics.in_hand(held.values().map(|held| held.bytes).sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_nothing_holds_none_but_his_own() {
        let (hand, metrics) = (Arc::new(InHand::default()), Arc::new(Metrics::new([])));
        let take = |at, bytes, client| hand.take(at, bytes, ClientId::V6(client), &metrics);
        let large = 8 << 20;
        let mut his: Vec<_> = (0..2).map(|at| take(at, large, 1).expect("there is room")).collect();
        assert_eq!(take(2, large, 1).expect_err("a third of one client"), TooMuch);
        // What is there already goes to anybody, however often.
        his.extend((0..1000).map(|_| take(1, large, 1).expect("it is there")));
        his.extend((0..10).map(|client| take(0, large, client).expect("it is there")));
        assert!(take(3, SHORT, 1).expect("short").is_none());
        let others: Vec<_> = (10..16).map(|at| take(at, large, at as u64).expect("there is room")).collect();
        assert_eq!(take(20, large, 20).expect_err("nothing is left"), TooMuch);
        drop(others);
        assert!(take(20, 2 * ALL, 20).is_err(), "longer than all, and something is there");
        drop(his);
        assert!(hand.0.lock().is_empty());
        drop(take(20, 2 * ALL, 20).expect("longer than all, and alone").expect("counted"));
        assert!(hand.0.lock().is_empty());
    }
}
