//! Whether a store keeps its word about conditional writes: some take the headers and do not look at them.

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::{Bucket, Trouble};

/// How many create the same object at once.
const RACERS: usize = 16;
const ROUNDS: usize = 3;

/// What a store does with the condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// It does what it says: of many who create an object one has created it, and nobody replaces another version
    /// than he names.
    Right,
    /// Creating is right; replacing a version is refused to everybody, or done for everybody.
    CreateOnly,
    /// Several have created the same object.
    Lies,
}

impl Conditional {
    /// Finds out, with a few objects below `probe/`.
    ///
    /// # Errors
    /// [`Trouble`] when the store does not answer.
    pub async fn examine(bucket: &Bucket) -> Result<Conditional, Trouble> {
        let name = format!("probe/{:016x}", rand::random::<u64>());
        let present = format!("{name}-present");
        bucket.write(&present, Bytes::from_static(b"here")).await?;
        let looked = bucket.look_for_absence(&present).await;
        let _ = bucket.remove(&present).await;
        looked?;
        let rounds = (0..ROUNDS).map(|round| has_one_winner(bucket, format!("{name}-{round}")));
        if try_join_all(rounds).await?.contains(&false) {
            return Ok(Conditional::Lies);
        }
        let key = format!("{name}-replaced");
        bucket.write(&key, Bytes::from_static(b"one")).await?;
        let version = bucket.read(&key, 64).await?.and_then(|object| object.version).unwrap_or_default();
        let right = bucket.replace(&key, Bytes::from_static(b"two"), &version).await;
        let stale = bucket.replace(&key, Bytes::from_static(b"three"), &version).await;
        bucket.remove(&key).await?;
        let replaces = count([right])? == 1 && count([stale])? == 0;
        Ok(if replaces { Conditional::Right } else { Conditional::CreateOnly })
    }

    /// Whether one of many is told that he was the first.
    pub const fn creates(self) -> bool {
        !matches!(self, Conditional::Lies)
    }
}

/// Whether of many who create an object at once one has, and nobody later.
async fn has_one_winner(bucket: &Bucket, key: String) -> Result<bool, Trouble> {
    let race = join_all((0..RACERS).map(|n| bucket.create(&key, Bytes::from(n.to_string())))).await;
    let late = bucket.create(&key, Bytes::from_static(b"late")).await;
    let has_one = count(race)? == 1 && count([late])? == 0;
    bucket.remove(&key).await.map(|()| has_one)
}

/// How many have written. One that was told to come again has not.
fn count(written: impl IntoIterator<Item = Result<(), Trouble>>) -> Result<usize, Trouble> {
    written.into_iter().try_fold(0, |winners, one| match one {
        Ok(()) => Ok(winners + 1),
        Err(Trouble::Changed) => Ok(winners),
        Err(trouble) => Err(trouble),
    })
}
