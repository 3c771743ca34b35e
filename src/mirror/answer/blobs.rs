//! Blobs: flows A (hit), B (cold miss) and C (joiner).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::blob_store::Content;
use crate::mirror::answer::blob::{BlobAnswer, BlobStat, select};
use crate::mirror::answer::body::{BlobBody, FillReader};
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::Fill;
use crate::mirror::flight::flights::Seat;
use crate::mirror::flight::progress::{Following, Phase, Progress, finished, started};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::keep::scrub::Complaint;
use crate::mirror::recall::negatives::Missing;
use crate::mirror::{Mirror, Route, Shared};
use crate::oci::{Digest, RangeHeader, Span};
use crate::outcome::Outcome;

impl Mirror {
    /// A blob, or the part of it that `range` selects.
    ///
    /// # Errors
    /// [`MirrorError::Range`] when the range selects nothing; [`MirrorError::Upstream`] when the
    /// blob is not stored and upstream does not give it.
    pub async fn blob(
        &self,
        route: &Route,
        digest: Digest,
        range: Option<&RangeHeader>,
    ) -> Result<BlobAnswer, MirrorError> {
        let stamp = self.0.stamp();
        if let Some((content, outcome)) = self.stored_blob(route, &digest).await?
            && let Some(content) = self.0.blob_in_memory(&route.location, &digest, content, stamp).await
        {
            return stored(&self.0, content, digest, range, outcome);
        }
        self.0.negatives.check(&Missing::blob(&route.location, digest), self.0.clock.now())?;
        let source = BlobSource { upstream: Arc::clone(&route.upstream), location: route.location.clone(), digest };
        let (following, outcome) = self.0.clone().fly(source.clone(), None);
        if let Some(range) = range.filter(|range| range.is_bounded())
            && let Some(answer) = self.0.lazy_part(&following, &source, range).await?
        {
            return Ok(answer);
        }
        filling(following, source, range, outcome).await
    }

    /// Whether a blob exists, and how large it is, without fetching it.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when the blob is not stored and upstream does not confirm it.
    pub async fn stat_blob(&self, route: &Route, digest: Digest) -> Result<BlobStat, MirrorError> {
        if let Some((content, outcome)) = self.stored_blob(route, &digest).await? {
            return Ok(BlobStat { size: Some(content.size), outcome });
        }
        if let Some(mut following) = self.0.fills.join(&(route.location.clone(), digest)) {
            let size = started(&mut following).await?.total;
            return Ok(BlobStat { size, outcome: Outcome::Join });
        }
        let size = self.confirm(route, &digest).await?;
        Ok(BlobStat { size, outcome: Outcome::Relayed })
    }

    /// The blob from the store, if this repository may have it: upstream said so before, or says so
    /// now.
    pub(in crate::mirror) async fn stored_blob(
        &self,
        route: &Route,
        digest: &Digest,
    ) -> Result<Option<(Content, Outcome)>, MirrorError> {
        if let Some((_, content)) = self.0.open_member(&route.location, digest).await {
            return Ok(Some((content, Outcome::Hit)));
        }
        let Some(content) = self.0.blobs.open(digest).await else { return Ok(None) };
        let Some(content) = self.0.trusted(digest, content, None).await else { return Ok(None) };
        self.confirm(route, digest).await?;
        self.0.uses.note(digest, self.0.clock.now());
        Ok(Some((content, Outcome::Revalidated)))
    }

    /// Asks upstream whether the repository has the blob, and remembers a yes.
    async fn confirm(&self, route: &Route, digest: &Digest) -> Result<Option<u64>, MirrorError> {
        self.0.negatives.check(&Missing::blob(&route.location, *digest), self.0.clock.now())?;
        let stat = route.upstream.stat(&route.location.repository, digest).await;
        let size = stat.map_err(|error| {
            self.0.negatives.note(|| Missing::blob(&route.location, *digest), error.class, self.0.clock.now());
            MirrorError::upstream(Subject::Blob, error)
        })?;
        if let Some(size) = size {
            self.0.record_blob_member(&route.location, *digest, size).await;
        }
        Ok(size)
    }
}

impl Shared {
    /// Joins the fill of a blob, or starts it; at `place` among the fills, or else at the next that
    /// is free.
    pub(in crate::mirror) fn fly(
        self: Arc<Shared>,
        source: BlobSource,
        place: Option<OwnedSemaphorePermit>,
    ) -> (Following, Outcome) {
        let mut opened = None;
        let seat = self.fills.seat((source.location.clone(), source.digest), || {
            let (progress, following) = watch::channel(Progress::starting());
            opened = Some(progress);
            following
        });
        match (seat, opened) {
            (Seat::Lead(following, departure), Some(progress)) => {
                let fill = Fill { shared: Arc::clone(&self), source, progress, departure, place };
                self.tasks.spawn(fill.run());
                (following, Outcome::Fill)
            }
            (Seat::Lead(following, _) | Seat::Join(following), _) => (following, Outcome::Join),
        }
    }
}

fn stored(
    shared: &Arc<Shared>,
    content: Content,
    digest: Digest,
    range: Option<&RangeHeader>,
    outcome: Outcome,
) -> Result<BlobAnswer, MirrorError> {
    let size = content.size;
    let part = select(range, size)?;
    let complaint = Complaint::new(shared, digest, &content);
    let body = BlobBody::Stored(content, part.clone().unwrap_or(0..size), complaint);
    Ok(BlobAnswer { digest, size: Some(size), part, body, outcome })
}

async fn filling(
    mut following: Following,
    source: BlobSource,
    range: Option<&RangeHeader>,
    outcome: Outcome,
) -> Result<BlobAnswer, MirrorError> {
    let Progress { mut total, phase, .. } = started(&mut following).await?;
    let outcome = if matches!(phase, Phase::Unkept(_)) { Outcome::Relayed } else { outcome };
    if total.is_none() && range.is_some() {
        total = finished(&mut following).await?;
    }
    let part = match total {
        Some(size) => select(range, size)?,
        None => None,
    };
    let span = part.as_ref().map_or(Span::default(), |part| Span { start: part.start, end: Some(part.end) });
    let digest = source.digest;
    let body = BlobBody::Filling(FillReader::new(following, source, span));
    Ok(BlobAnswer { digest, size: total, part, body, outcome })
}
