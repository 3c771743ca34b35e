//! Replicas that say nothing: who leads to one does not wait for it again each time.
//!
//! One that said nothing for as long as a reader is patient is left alone for a few seconds, longer each time; then one
//! reader asks it. Meanwhile its leases are as if nobody had them.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::breaker::Breaker;

/// For how long it is left alone the first time, and at most.
const AT_FIRST: Duration = Duration::from_secs(4);
const AT_MOST: Duration = Duration::from_secs(30);
/// Of so many it is known.
const MOST: usize = 256;

/// Which they are, by their addresses.
#[derive(Debug, Default)]
pub struct Silent {
    known: Mutex<HashMap<String, Breaker>>,
}

impl Silent {
    /// Whether it may be asked. Of those who come after a pause the first may.
    pub fn may_be_asked(&self, replica: &str) -> bool {
        self.known.lock().get(replica).is_none_or(Breaker::admits)
    }

    /// Whether it is left alone. Takes nobody's turn.
    pub fn is_left_alone(&self, replica: &str) -> bool {
        self.known.lock().get(replica).is_some_and(|known| !known.waits().is_zero())
    }

    /// It said nothing while it was waited for.
    pub fn says_nothing(&self, replica: &str) {
        let mut known = self.known.lock();
        if known.len() >= MOST && !known.contains_key(replica) {
            known.retain(|_, silent| !silent.waits().is_zero());
        }
        if known.len() < MOST || known.contains_key(replica) {
            let new = || Breaker::after(1).resting(AT_MOST).at_first(AT_FIRST);
            known.entry(replica.to_owned()).or_insert_with(new).ill("it says nothing");
        }
    }

    /// It said something.
    pub fn answers(&self, replica: &str) {
        self.known.lock().remove(replica);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_left_alone_for_longer_each_time_and_then_asked_once() {
        let silent = Silent::default();
        assert!(silent.may_be_asked("a") && !silent.is_left_alone("a"));
        for seconds in [4, 8, 16, 30, 30] {
            silent.says_nothing("a");
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(silent.is_left_alone("a") && !silent.may_be_asked("a") && silent.may_be_asked("b"), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(silent.may_be_asked("a") && !silent.may_be_asked("a"), "{seconds}: one, and nobody beside him");
        }
        silent.answers("a");
        assert!(silent.may_be_asked("a") && silent.may_be_asked("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_known_to_be_silent_than_can_be_remembered() {
        let silent = Silent::default();
        (0..2 * MOST).for_each(|n| silent.says_nothing(&n.to_string()));
        assert_eq!(silent.known.lock().len(), MOST);
        tokio::time::advance(AT_MOST).await;
        silent.says_nothing("another");
        assert!(silent.is_left_alone("another") && silent.known.lock().len() == 1);
    }
}
