//! What no name leads to any more: found from the roots, deleted only when asked to.
//!
//! What stays is told by [`crate::graph::links`]. Images that are pulled by digest have no name: what
//! was used lately stays, unless it was forgotten in every repository. Eviction, which makes room, is
//! another matter.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::documents::Garbage;
use crate::graph::links::Known;
use crate::graph::{Graph, Unreadable};
use crate::metadata::{BlobRecord, Location, MetadataError, MetadataStore};
use crate::mirror::Mirror;
use crate::mirror::keep::RoomKeeper;
use crate::oci::{Descriptor, Digest};

/// What was used more recently is pulled by digest, or is being pulled just now.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

impl Mirror {
    /// Deletes what no name leads to, or with `dry_run` only says what that is.
    ///
    /// # Errors
    /// [`MetadataError`] when it is not known what must stay; nothing is deleted then.
    pub async fn collect_garbage(&self, dry_run: bool) -> Result<Garbage, MetadataError> {
        let keeper = &self.0.room;
        let (held, now) = (keeper.holds.all(), keeper.clock.now());
        let (found, mut holders, mut garbage) = keeper.graph.ask(move |graph| find(graph, held, now)).await?;
        garbage.dry_run = dry_run;
        for (digest, record) in found {
            let holders = holders.remove(&digest).unwrap_or_default();
            if !dry_run && !keeper.delete(digest, &holders).await {
                garbage.failed += 1;
                continue;
            }
            garbage.blobs += 1;
            garbage.size_bytes += record.size;
            garbage.digests.push(digest);
        }
        if !dry_run {
            keeper.leave(None).await;
        }
        let Garbage { blobs, size_bytes: bytes, failed, .. } = garbage;
        tracing::info!(dry_run, blobs, bytes, failed, "looked for what no name leads to");
        Ok(garbage)
    }
}

impl RoomKeeper {
    /// Whether it is gone, also from these repositories. What somebody holds stays.
    async fn delete(&self, digest: Digest, holders: &[Location]) -> bool {
        let _nobody_takes_hold = self.room.one_at_a_time().await;
        if self.holds.has(&digest) {
            return false;
        }
        let (records, holders) = (&self.stored.records, holders.to_vec());
        // Before the blob: a fill that comes in between writes its membership after this.
        let forget = move |metadata: &dyn MetadataStore| {
            holders.iter().try_for_each(|location| metadata.remove_member(location, &digest))
        };
        records.take_away("deleted, but still in a repository", forget).await;
        if let Err(error) = self.stored.blobs.delete(&digest).await {
            tracing::warn!(%digest, %error, "could not be deleted");
            return false;
        }
        records.take_away("deleted, but still in the index", move |metadata| metadata.remove_blob(&digest)).await;
        true
    }
}

/// Blobs, and what is known of them.
type Stored = Vec<(Digest, BlobRecord)>;

/// The repositories that have a digest.
type Holders = HashMap<Digest, Vec<Location>>;

/// What may go, who has it, and what is to be said of manifests that cannot be read. Blocks.
fn find(graph: &Graph, held: HashSet<Digest>, now: Timestamp) -> Result<(Stored, Holders, Garbage), MetadataError> {
    let blobs = graph.metadata().blobs()?;
    let members = graph.metadata().members(None)?;
    // Read anew each time: what has rotted since is to be told.
    let mut known = Known::new();
    let links = graph.links(&members, &mut known);
    let kept = links.reach(graph.roots(None, held)?.all());
    let mut garbage = Garbage::default();
    for (manifest, why) in kept.iter().filter_map(|digest| Some((digest, links.unreadable(digest)?))) {
        tracing::warn!(%manifest, ?why, "cannot be read; what is in its repositories stays");
        garbage.unreadable += 1;
        garbage.damaged.extend((why == Unreadable::Damaged).then_some(*manifest));
    }
    let mut holders = Holders::new();
    for (location, Descriptor { digest, .. }) in &members {
        holders.entry(*digest).or_default().push(location.clone());
    }
    Ok((unused(&blobs, &kept, &holders, now), holders, garbage))
}

/// What may go: what nothing leads to, once it is old, or at once if it is in no repository.
fn unused(blobs: &[(Digest, BlobRecord)], kept: &HashSet<Digest>, holders: &Holders, now: Timestamp) -> Stored {
    let old = |at: Timestamp| at.age(now).is_some_and(|age| age >= GRACE);
    let may_go = |(digest, record): &&(Digest, BlobRecord)| {
        !kept.contains(digest) && (!holders.contains_key(digest) || old(record.used_at) && old(record.stored_at))
    };
    blobs.iter().filter(may_go).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    #[test]
    fn what_was_used_lately_stays_unless_it_is_in_no_repository() {
        let now = Timestamp(100 * 3_600_000);
        let blobs = [("kept", 1), ("old", 1), ("new", 99), ("in the future", 200), ("forgotten", 99)];
        let record = |used_at: u64| BlobRecord::new(1, Timestamp(used_at * 3_600_000));
        let blobs = blobs.map(|(name, used_at)| (digest(name), record(used_at)));
        let holders = ["kept", "old", "new", "in the future"].map(|name| (digest(name), Vec::new())).into();
        let gone = unused(&blobs, &HashSet::from([digest("kept")]), &holders, now);
        assert_eq!(gone.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), ["old", "forgotten"].map(digest));
    }
}
