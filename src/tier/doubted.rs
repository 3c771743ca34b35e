//! Content that the bucket gave wrongly to this replica: for a while it is not read from there where somebody else has it.
//! That what goes up takes its place is [`owed`](crate::owed).

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::oci::Digest;

/// For how long.
const FOR: Duration = Duration::from_secs(10 * 60);
/// Of so much it is known.
const MOST: usize = 1000;

/// What it is.
#[derive(Debug, Default)]
pub struct Doubted {
    /// Since when.
    since: Mutex<HashMap<Digest, Instant>>,
}

impl Doubted {
    /// It was given wrongly just now.
    pub fn add(&self, digest: &Digest) {
        let mut known = self.since.lock();
        known.retain(|_, since| since.elapsed() < FOR);
        if known.len() >= MOST && !known.contains_key(digest) {
            let oldest = known.iter().min_by_key(|(_, since)| **since).map(|(oldest, _)| *oldest);
            oldest.map(|oldest| known.remove(&oldest));
        }
        known.insert(*digest, Instant::now());
    }

    /// What is there is right, or there is nothing.
    pub fn remove(&self, digest: &Digest) {
        self.since.lock().remove(digest);
    }

    /// Whether it was given wrongly lately.
    pub fn has(&self, digest: &Digest) -> bool {
        self.since.lock().get(digest).is_some_and(|since| since.elapsed() < FOR)
    }

    /// How much there is.
    pub fn len(&self) -> usize {
        self.since.lock().len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[tokio::test(start_paused = true)]
    async fn no_more_is_doubted_than_can_be_remembered_and_nothing_for_ever() {
        let (doubted, of) = (Doubted::default(), |n: usize| Digest::of(Algorithm::Sha256, &n.to_le_bytes()));
        for n in 0..MOST + 10 {
            doubted.add(&of(n));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(doubted.len(), MOST);
        assert!(!doubted.has(&of(9)) && doubted.has(&of(10)) && doubted.has(&of(MOST + 9)), "the oldest leave");
        tokio::time::advance(FOR).await;
        assert!(!doubted.has(&of(MOST + 9)));
        doubted.add(&of(1));
        assert_eq!(doubted.len(), 1);
        doubted.remove(&of(1));
        assert!(!doubted.has(&of(1)) && doubted.is_empty());
    }
}
