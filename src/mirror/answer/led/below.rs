//! What manifests lead to, those that are not here being fetched.
//!
//! Truths: what an index leads to is looked for once for all who ask, whatever they ask for, and how much is fetched for
//! that has a bound. It is nobody's question: one digest may take many.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use moka::sync::Cache;

use crate::metadata::Location;
use crate::mirror::Mirror;
use crate::mirror::error::MirrorError;
use crate::mirror::recall::sizes::LONGEST;
use crate::mirror::routes::Route;
use crate::oci::manifest::is_image;
use crate::oci::{AcceptSet, Digest, Manifest};

/// So many manifests are looked into for each one that a tag points at: an index may name many.
const MOST_MANIFESTS: usize = 128;
/// So many of them at a time.
const AT_A_TIME: usize = 4;
/// So many digests are remembered, of all manifests together, and for so long: what an index names may come later.
const MOST: u64 = 100_000;
const KEPT: Duration = Duration::from_secs(300);

/// What manifests lead to, as far as all of it was looked for.
pub(in crate::mirror::answer) struct Below(Cache<(Location, Digest), Arc<HashSet<Digest>>>);

impl Below {
    pub(in crate::mirror::answer) fn new() -> Below {
        let weigh = |_: &(Location, Digest), all: &Arc<HashSet<Digest>>| u32::try_from(all.len()).unwrap_or(u32::MAX);
        Below(
            Cache::builder()
                .max_capacity(MOST)
                .weigher(move |at, all| weigh(at, all).max(1))
                .time_to_live(KEPT)
                .build(),
        )
    }

    pub(in crate::mirror::answer) fn table(&self) -> (&'static str, u64) {
        ("led_below", self.0.weighted_size())
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is asked for as a manifest: an index names all that there are below it.
    pub is_manifest: bool,
}

/// A search for it.
pub(super) struct Search {
    pub(super) sought: Sought,
    /// The manifests that were looked into from above.
    begun: HashSet<Digest>,
    /// Why some of that could not be looked at.
    pub(super) unanswered: Option<MirrorError>,
}

impl Search {
    pub(super) fn new(sought: Sought) -> Search {
        Search { sought, begun: HashSet::new(), unanswered: None }
    }
}

/// Whether upstream says so itself that it does not give something.
pub(super) fn is_answer(error: &MirrorError) -> bool {
    error.is_missing() || error.is_denial() || error.is_refusal()
}

impl Mirror {
    /// Whether a manifest that was not looked at yet leads to what is sought, as it is or by what it names.
    pub(super) async fn leads_down(
        &self,
        route: &Route,
        root: Digest,
        search: &mut Search,
    ) -> Result<bool, MirrorError> {
        let Sought { digest, is_manifest } = search.sought;
        if root == digest || !search.begun.insert(root) {
            return Ok(root == digest);
        }
        let (known, key) = (&self.0.answers.below.0, (route.location.clone(), root));
        if let Some(all) = known.get(&key) {
            return Ok(all.contains(&digest));
        }
        let route = route.clone().asked_by(route.asker.counted());
        let (mut all, mut next, mut left, mut is_whole) =
            (HashSet::new(), VecDeque::from([root]), MOST_MANIFESTS, true);
        while left > 0 && !next.is_empty() {
            let some: Vec<_> = next.drain(..next.len().min(AT_A_TIME).min(left)).collect();
            left -= some.len();
            for fetched in self.fetched(&route, some).await {
                let manifest = match fetched {
                    Ok(manifest) => manifest,
                    Err(error) => {
                        is_whole &= error.is_missing();
                        if !is_answer(&error) {
                            search.unanswered.get_or_insert(error);
                        }
                        continue;
                    }
                };
                if manifest.descriptor.size > LONGEST {
                    // It is looked into in its turn, where it lies.
                    is_whole = false;
                    self.0.fills.writing.over(Some(&route.location)).await;
                    if self.leads(&route.location, manifest.descriptor.clone(), digest).await? {
                        return Ok(true);
                    }
                    continue;
                }
                let children = manifest.children();
                all.extend(children.blobs.iter().map(|blob| blob.digest));
                for (child, _) in children.manifests {
                    if is_manifest && is_image(&child.media_type) {
                        is_whole = false;
                    } else if !all.contains(&child.digest) {
                        next.push_back(child.digest);
                    }
                    all.insert(child.digest);
                }
            }
            if all.contains(&digest) {
                return Ok(true);
            }
        }
        if is_whole {
            known.insert(key, Arc::new(all));
        }
        Ok(false)
    }

    async fn fetched(&self, route: &Route, digests: Vec<Digest>) -> Vec<Result<Arc<Manifest>, MirrorError>> {
        let (manifests, accept) = (&self.0.answers.tags.manifests, AcceptSet::everything());
        let one = |digest| {
            let fetched = manifests.by_digest(route, digest, &accept);
            Box::pin(async move { fetched.await.map(|(manifest, _)| manifest) })
        };
        join_all(digests.into_iter().map(one)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn of_what_indexes_lead_to_so_much_is_remembered() {
        let (below, location) = (
            Below::new(),
            Location { upstream: "a.example".parse().expect("valid"), repository: "app".parse().expect("valid") },
        );
        let digest = |n: u64| Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        let all = Arc::new((0..1000).map(digest).collect::<HashSet<_>>());
        for n in 0..2 * MOST / 1000 {
            below.0.insert((location.clone(), digest(n)), Arc::clone(&all));
        }
        for n in 0..2 * MOST {
            below.0.insert((location.clone(), digest(n)), Arc::default());
        }
        below.0.run_pending_tasks();
        assert!((1..=MOST).contains(&below.table().1), "{}", below.table().1);
    }
}
