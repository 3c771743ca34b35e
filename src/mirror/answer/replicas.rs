//! What other replicas get: blobs that this one fetches, as they come, until they are in the bucket.
//!
//! Who asks has proven that he is a replica; whether its client may have it that one knows. Nobody is asked for it, and
//! nothing is begun.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::mirror::Mirror;
use crate::mirror::answer::blobs::{BlobAnswer, Framing, filling};
use crate::mirror::flight::progress::{Following, sendable, started};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::routes::Found;
use crate::oci::{Digest, RangeHeader};
use crate::outcome::Outcome;
use crate::tier::Question;

/// How long a replica waits at most until there is something to send before it is told to ask again, so that it sees that
/// we live.
const TOLD_WITHIN: Duration = Duration::from_millis(500);
/// So many get something at a time.
pub(super) const AT_A_TIME: usize = 1024;

/// What a replica is told.
#[derive(Debug)]
pub enum ToReplica {
    /// Here it comes.
    Given(Box<BlobAnswer>, OwnedSemaphorePermit),
    /// Upstream has not answered yet.
    NotYet,
    /// It is not fetched here.
    Absent,
    /// As many get something as may.
    TooMany,
}

impl Mirror {
    /// Whether it is a replica that asks, as what it shows says.
    pub fn is_of_replica(&self, found: &Found, method: &str, path: &str, shown: &str) -> bool {
        let stored = &self.0.fills.stored;
        let Some(replicas) = stored.shared().and_then(|shared| shared.replicas.as_ref()) else { return false };
        let (upstream, standing) = (found.location().upstream.as_str(), stored.standing.in_a_word(found.location()));
        replicas.leases.is_proven(&Question { method, upstream, standing: &standing, path }, shown)
    }

    /// A blob for another replica, or the part of it that `range` selects.
    pub async fn give_to_replica(&self, found: &Found, digest: Digest, range: Option<&RangeHeader>) -> ToReplica {
        let Ok(turn) = Arc::clone(&self.0.answers.for_replicas).try_acquire_owned() else { return ToReplica::TooMany };
        let (location, blobs) = (found.location(), &self.0.answers.blobs);
        let key = (location.clone(), digest);
        // What goes on under earlier terms may come from who was asked otherwise.
        let standing = blobs.stored.standing.in_a_word(location);
        let mut alike = self.all_fills().filter(|fills| fills.stored.standing.in_a_word(location) == standing);
        let answer = if let Some(mut following) = alike.find_map(|fills| fills.flights.join(&key)) {
            let is_ours =
                |following: &Following| following.borrow().replica.as_ref().is_some_and(|replica| replica.is_ours());
            if !is_ours(&following) {
                return ToReplica::Absent;
            }
            let patience = blobs.stored.replicas().map_or(TOLD_WITHIN, |(_, replicas)| replicas.patience / 4);
            let has_some = async { started(&mut following).await.map(drop).and(sendable(&mut following).await) };
            match tokio::time::timeout(TOLD_WITHIN.min(patience), has_some).await {
                Err(_) => return ToReplica::NotYet,
                // Another one may have been faster with the lease.
                Ok(_) if !is_ours(&following) => return ToReplica::Absent,
                Ok(_) => {}
            }
            let source = BlobSource::at(Arc::clone(found.upstream()), location.clone(), digest);
            filling(following, source, range, Framing::Told, (Outcome::Join, None)).await
        } else {
            let is_owed = blobs.stored.shared().is_some_and(|shared| shared.is_owed(&digest));
            match blobs.stored.open(location, &digest).await {
                Some((_, content)) if is_owed => blobs.hit(content, digest, range, Outcome::Hit),
                _ => return ToReplica::Absent,
            }
        };
        match answer {
            Ok(answer) => ToReplica::Given(Box::new(answer), turn),
            Err(error) => {
                tracing::debug!(%location, %digest, %error, "not given to a replica");
                ToReplica::Absent
            }
        }
    }
}
