//! Taking away: what is about to go is claimed, looked at once more, and goes if nothing saves it.
//!
//! Truth: no deletion is sent later than [`claims::SENT_WITHIN`] after its claim, also by who slept meanwhile, and a claim
//! goes when its deletion was answered, or none of it can come to pass any more. Others take over what one leaves that
//! is gone; as long as claims of nobody stand, what they are about is owed.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::{AT_ONCE, Collector, ROUND_EVERY};
use crate::clock::Timestamp;
use crate::tier::claims::{self, Claim, claim_of};
use crate::tier::{Listed, Trouble};

/// So much is claimed together.
pub(super) const AT_A_TIME: usize = 32;
/// Of so many claims it is remembered that their deletion was not answered; others find the rest.
const MOST_LEFT: usize = 1_000;

/// A moment by both clocks: one of them may have stood still, the other may have been set back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(Instant, Timestamp);

/// A claim of which it is not known whether its deletion comes to pass.
#[derive(Debug)]
pub(super) struct Left {
    key: String,
    since: Moment,
}

/// What is claimed, and is to go, or to stay.
pub(super) struct Claimed<'a> {
    collector: &'a Collector,
    keys: HashSet<String>,
    since: Moment,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.collector.leave(self.keys.drain());
    }
}

impl Claimed<'_> {
    /// Whether this is claimed, and may be taken still.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains(key) && self.collector.since(self.since) < claims::SENT_WITHIN
    }

    /// Takes it away; whether that may still be done.
    pub(super) async fn take(&mut self, key: &str) -> Result<bool, Trouble> {
        if !self.has(key) {
            return Ok(false);
        }
        let bucket = &self.collector.bucket;
        if bucket.remove_for_certain(key).await.is_err() {
            // Whatever comes of that, it is known later.
            self.keys.remove(key);
            self.collector.leave([key.to_owned()]);
            bucket.remove(key).await?;
            return Ok(true);
        }
        bucket.remove(&claim_of(key)).await?;
        self.keys.remove(key);
        Ok(true)
    }

    /// The rest stays.
    pub(super) async fn let_go(mut self) -> Result<(), Trouble> {
        let (bucket, keys) = (&self.collector.bucket, self.keys.clone());
        let gone = stream::iter(keys).map(|key| async move { bucket.remove(&claim_of(&key)).await.map(|()| key) });
        let mut gone = gone.buffer_unordered(AT_ONCE);
        while let Some(key) = gone.try_next().await? {
            self.keys.remove(&key);
        }
        Ok(())
    }
}

impl Collector {
    pub(super) fn now(&self) -> Moment {
        Moment(Instant::now(), self.clock.now())
    }

    /// How long ago that was.
    pub(super) fn since(&self, Moment(instant, at): Moment) -> Duration {
        instant.elapsed().max(at.age(self.clock.now()).unwrap_or_default())
    }

    /// Claims these; those that nobody else has claimed.
    pub(super) async fn claim(&self, keys: Vec<String>) -> Result<Claimed<'_>, Trouble> {
        let claim = Claim { claimed_at: self.clock.now(), by: self.round_number() };
        let written = Bytes::from(serde_json::to_vec(&claim).unwrap_or_default());
        // As of before the first of them.
        let mut claimed = Claimed { collector: self, keys: keys.iter().cloned().collect(), since: self.now() };
        let claims = keys.into_iter().map(|key| {
            let written = written.clone();
            async move {
                let is_ours = match self.bucket.create(&claim_of(&key), written).await {
                    // It may be what came of the first try.
                    Err(Trouble::Changed) => self.claim_on(&key).await?.is_some_and(|known| known.by == claim.by),
                    created => created.map(|()| true)?,
                };
                Ok::<_, Trouble>((key, is_ours))
            }
        });
        let claims: Vec<_> = claims.collect();
        let mut claims = stream::iter(claims).buffer_unordered(AT_ONCE);
        while let Some((key, is_ours)) = claims.try_next().await? {
            if !is_ours {
                claimed.keys.remove(&key);
            }
        }
        Ok(claimed)
    }

    async fn claim_on(&self, key: &str) -> Result<Option<Claim>, Trouble> {
        let found = self.bucket.read(&claim_of(key), claims::LONGEST).await?;
        Ok(found.and_then(|found| serde_json::from_slice(&found.bytes).ok()))
    }

    /// It is not known whether what was claimed goes: its claim stands until none of it can come to pass.
    fn leave(&self, keys: impl IntoIterator<Item = String>) {
        let (mut left, since) = (self.left.lock(), self.now());
        for key in keys {
            if left.len() < MOST_LEFT {
                left.push(Left { key, since });
            }
        }
    }

    /// Removes claims of ours whose deletion cannot come to pass any more, as long as no other collector can have written
    /// one in their place.
    pub(super) async fn let_go_of_left(&self) -> Result<(), Trouble> {
        let all = std::mem::take(&mut *self.left.lock());
        let (due, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|left| self.since(left.since) >= claims::OUTLASTS);
        self.left.lock().extend(rest);
        for Left { key, since } in due {
            let is_ours = self.claim_on(&key).await?.is_some_and(|claim| claim.by == self.round_number());
            if is_ours && self.since(since) < ROUND_EVERY / 3 {
                self.bucket.remove(&claim_of(&key)).await?;
            }
        }
        Ok(())
    }

    /// Removes claims of those that are gone.
    pub(super) async fn let_go_of_old(&self) -> Result<(), Trouble> {
        let (began, mut all) = (self.now(), self.bucket.list(claims::FOLDER));
        while let Some(Listed { key, modified, .. }) = all.next().await.transpose()? {
            let there = self.bucket.time().and_then(|there| modified.age(there));
            let age = match (there, key.strip_prefix(claims::FOLDER).and_then(|key| key.strip_prefix('/'))) {
                (Some(age), _) => Some(age),
                (None, Some(key)) => self.claim_on(key).await?.and_then(|of| of.claimed_at.age(self.clock.now())),
                (None, None) => None,
            };
            if age.is_some_and(|age| age >= claims::OUTLASTS) && self.since(began) < ROUND_EVERY / 3 {
                self.bucket.remove(&key).await?;
            }
        }
        Ok(())
    }
}
