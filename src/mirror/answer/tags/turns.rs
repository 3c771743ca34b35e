//! Whose turn it is to ask what a tag points at, where several replicas share a bucket: one asks, the others take over
//! what it is told.
//!
//! The turn is a lease like that of a fill, of a digest made of the tag and of when it was last asked. Truth: who waits
//! in vain asks himself, and no caller is answered by what another one shows to upstream.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::metadata::{TagKey, TagRecord, names};
use crate::mirror::answer::tags::Tags;
use crate::mirror::flight::Fetched;
use crate::mirror::room::shared::Shared;
use crate::mirror::routes::Route;
use crate::oci::{Algorithm, Digest};
use crate::outcome::Outcome;
use crate::tier::{Found, Leases};

/// How long it is waited for who asks when the first one says nothing.
const SECOND_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked what he was told.
const AGAIN: Duration = Duration::from_millis(100);
/// How often at most it is looked whether what we were told is in the bucket.
const LOOKS: usize = 100;

/// Whose turn it is.
pub(crate) enum Turn {
    /// Ours, until it is dropped; nobody else's turn where there is nothing to drop.
    Ours(Option<Asking>),
    /// Another replica was told this meanwhile.
    Told(TagRecord),
}

/// Our turn. It ends when what came of it is in the bucket.
pub(crate) struct Asking {
    leases: Arc<Leases>,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    of: Digest,
    name: String,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (leases, shared, of) = (Arc::clone(&self.leases), Arc::clone(&self.shared), self.of);
        let name = std::mem::take(&mut self.name);
        self.tasks.spawn(async move {
            for _ in 0..LOOKS {
                if !shared.owes(&name) {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
            leases.over(&of).await;
        });
    }
}

impl Tags {
    /// Whose turn it is to ask, of a tag of which this was known so far.
    pub(crate) async fn turn(&self, route: &Route, key: &TagKey, known: Option<&TagRecord>) -> Turn {
        let stored = &self.manifests.stored;
        let replicas = stored.replicas().filter(|_| !stored.standing.is_of_callers(&key.location));
        let Some((shared, replicas)) = replicas else { return Turn::Ours(None) };
        let (leases, name) = (Arc::clone(&replicas.leases), names::tag(key));
        let last = known.and_then(|known| known.observed_at).map_or(0, |observed| observed.0);
        let of = Digest::of(Algorithm::Sha256, format!("{name} {last}").as_bytes());
        for (epoch, wait) in [(1, replicas.patience), (2, SECOND_WAIT)] {
            match leases.take(&of, epoch, &route.waited).await {
                Found::Ours => {
                    let (shared, tasks) = (Arc::clone(shared), self.tasks.clone());
                    return Turn::Ours(Some(Asking { leases, shared, tasks, of, name }));
                }
                Found::Unknown => break,
                Found::Nobodys => {}
                Found::Theirs(replica) if leases.silent().is_left_alone(&replica) => {}
                Found::Theirs(_) | Found::Over => {
                    let until = Instant::now() + wait;
                    loop {
                        let at = leases.look(&of, epoch, &route.waited).await;
                        let is_over = matches!(at, Found::Over | Found::Unknown);
                        shared.bucket.within(&route.waited, shared.at(route.waited.pace()).recall_tag(key)).await;
                        let now = self.metadata.tag(key).ok().flatten();
                        if let Some(told) =
                            now.filter(|now| known.is_none_or(|known| now.is_later_than(known, shared.bucket.time())))
                        {
                            return Turn::Told(told);
                        }
                        if is_over || Instant::now() >= until {
                            break;
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }
        Turn::Ours(None)
    }

    /// The manifest that another replica was told of. It is in the bucket in a moment, if it is not here.
    pub(crate) async fn as_told(&self, route: &Route, key: &TagKey, digest: &Digest) -> Fetched {
        let (manifests, location) = (&self.manifests, &route.location);
        for _ in 0..LOOKS / 5 {
            if manifests.stored.has(location, digest).await
                || manifests.in_bucket(route, digest, route.waited.pace()).await.is_some()
            {
                break;
            }
            if let Some(shared) = manifests.stored.shared() {
                shared.look_anew(location, digest);
            }
            tokio::time::sleep(AGAIN).await;
        }
        let (manifest, outcome) = manifests.by_digest(route, *digest, &key.accept).await?;
        Ok((manifest, if outcome == Outcome::Hit { Outcome::Revalidated } else { outcome }))
    }
}
