//! A run: which pulls are done in which order, and what they came to.
//!
//! Direct, cold and warm pulls take turns, so that a drift of the machine or the network hits all
//! three. One pull that is not measured comes before the first warm one, which makes sure that it is.
//! How a mirror is made cold, and where its upstream bytes are read, is the business of [`Ground`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::pull::{self, Event, Order, PullError, Pulled};
use crate::documents::Way;
use crate::upstream::Upstream;

/// Below this part of the bytes of an image, a pull that fetched them was not a cold one.
const COLD_PART: f64 = 0.5;

/// How often each way, and by how many clients at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rounds past the mirror.
    pub direct: usize,
    /// Rounds for which the mirror is made cold.
    pub cold: usize,
    /// Rounds with the image in the mirror.
    pub warm: usize,
    /// Clients that pull at once in each round.
    pub clients: usize,
}

impl Plan {
    /// The rounds in order: the ways take turns while there are rounds of them left.
    pub fn rounds(&self) -> Vec<Way> {
        let turns = self.direct.max(self.cold).max(self.warm);
        let turn = |turn| {
            let counts = [(Way::Direct, self.direct), (Way::Cold, self.cold), (Way::Warm, self.warm)];
            counts.into_iter().filter(move |(_, count)| turn < *count).map(|(way, _)| way)
        };
        (0..turns).flat_map(turn).collect()
    }
}

/// Where the pulls of a run go.
#[async_trait]
pub trait Ground: Send + Sync {
    /// A client without connections; not asked for [`Way::Direct`] unless such rounds are planned.
    ///
    /// # Errors
    /// Why there is none, for people.
    fn client(&self, way: Way) -> Result<Arc<dyn Upstream>, String>;

    /// Makes the mirror forget the image.
    ///
    /// # Errors
    /// Why that did not work, for people.
    async fn make_cold(&self) -> Result<(), String>;

    /// Bytes of content that the mirror has received from upstreams so far; `None` if it does not tell.
    async fn upstream_bytes(&self) -> Option<u64>;

    /// Waits until the mirror has stored what it fetched: clients have their last byte before that.
    async fn settle(&self);

    /// Is told before every round, and of every event in it.
    fn watch(&self, what: Watched);
}

/// What a run tells while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Round `number` of `of` begins; no number: the pull that is not measured.
    Round {
        /// Which way.
        way: Way,
        /// From 1.
        number: Option<usize>,
        /// Rounds in all.
        of: usize,
    },
    /// Something came, for one of the clients.
    Pull(Event),
}

/// What one round came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Which way.
    pub way: Way,
    /// From the start of the first client to the end of the last.
    pub elapsed: Duration,
    /// One for each client.
    pub pulls: Vec<Pulled>,
    /// What the mirror received from upstreams meanwhile, for whomever; `None` if it does not tell.
    pub upstream_bytes: Option<u64>,
}

impl Round {
    /// Bytes that all clients got.
    pub fn bytes(&self) -> u64 {
        self.pulls.iter().map(|pulled| pulled.bytes).sum()
    }

    /// Whether a cold pull was one: `None` where the mirror does not tell what it fetched.
    pub fn fetched(&self) -> Option<bool> {
        let image = self.pulls.first()?.bytes;
        self.upstream_bytes.map(|bytes| bytes as f64 >= image as f64 * COLD_PART)
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A pull failed.
    #[error("the {} pull failed: {source}", way.as_str())]
    Pull {
        /// Which way.
        way: Way,
        /// How.
        source: PullError,
    },
    /// There is no client, or the mirror cannot be made cold.
    #[error("before the {} pull: {reason}", way.as_str())]
    Ground {
        /// Which way.
        way: Way,
        /// Why, for people.
        reason: String,
    },
}

/// Runs a plan.
///
/// # Errors
/// The first pull that fails ends the run: a benchmark of pulls that fail is none.
pub async fn run(plan: &Plan, order: &Order, ground: &dyn Ground) -> Result<Vec<Round>, RunError> {
    let mut rounds = Vec::new();
    let planned = plan.rounds();
    for (before, way) in planned.iter().copied().enumerate() {
        if way == Way::Warm && !rounds.iter().any(|round: &Round| round.way == Way::Warm) {
            ground.watch(Watched::Round { way, number: None, of: planned.len() });
            pull_round(way, 1, order, ground).await?;
        }
        if way == Way::Cold {
            ground.make_cold().await.map_err(|reason| RunError::Ground { way, reason })?;
        }
        ground.watch(Watched::Round { way, number: Some(before + 1), of: planned.len() });
        rounds.push(pull_round(way, plan.clients.max(1), order, ground).await?);
        if way == Way::Cold {
            ground.settle().await;
        }
    }
    Ok(rounds)
}

async fn pull_round(way: Way, clients: usize, order: &Order, ground: &dyn Ground) -> Result<Round, RunError> {
    let registries: Result<Vec<_>, String> = (0..clients).map(|_| ground.client(way)).collect();
    let registries = registries.map_err(|reason| RunError::Ground { way, reason })?;
    let before = ground.upstream_bytes().await;
    let watch = |event| ground.watch(Watched::Pull(event));
    let start = Instant::now();
    let pulls = registries.iter().map(|registry| pull::pull(registry.as_ref(), order, &watch));
    let pulls = try_join_all(pulls).await.map_err(|source| RunError::Pull { way, source })?;
    let elapsed = start.elapsed();
    // A direct pull says nothing about the mirror.
    let after = if way == Way::Direct { None } else { ground.upstream_bytes().await };
    let upstream_bytes = before.zip(after).and_then(|(before, after)| after.checked_sub(before));
    Ok(Round { way, elapsed, pulls, upstream_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_take_turns() {
        use Way::{Cold, Direct, Warm};
        let plan = |direct, cold, warm| Plan { direct, cold, warm, clients: 1 }.rounds();
        assert_eq!(plan(2, 1, 3), [Direct, Cold, Warm, Direct, Warm, Warm]);
        assert_eq!(plan(0, 2, 0), [Cold, Cold]);
        assert_eq!(plan(0, 0, 0), []);
    }

    #[test]
    fn a_round_that_fetched_nothing_was_not_cold() {
        let pulled = Pulled {
            manifest: crate::oci::Digest::of(crate::oci::Algorithm::Sha256, b""),
            elapsed: Duration::ZERO,
            first_byte: Duration::ZERO,
            bytes: 1000,
            blobs: Vec::new(),
        };
        for (upstream_bytes, fetched) in [(None, None), (Some(10), Some(false)), (Some(1003), Some(true))] {
            let round =
                Round { way: Way::Cold, elapsed: Duration::ZERO, pulls: vec![pulled.clone(); 4], upstream_bytes };
            assert_eq!(round.fetched(), fetched, "{upstream_bytes:?}");
            assert_eq!(round.bytes(), 4000);
        }
    }
}
