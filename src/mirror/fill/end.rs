//! How a fill ends: verified and kept, verified and passed through, or with an error that every reader
//! is told.

use crate::blob_store::ingest::Ingest;
use crate::metadata::{MetadataStore, Proof, names};
use crate::metrics::FillResult;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::Fill;
use crate::mirror::flight::BlobKey;
use crate::mirror::flight::flights::Departure;
use crate::mirror::flight::progress::{Following, Phase};
use crate::mirror::flight::transfer::BlobSource;
use crate::mirror::recall::negatives::Missing;
use crate::mirror::room::Reservation;
use crate::oci::{Digest, Together};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// Why a fill ended without a verified ingest.
pub(super) enum End {
    /// It was passed on, and not kept for this reason.
    Unkept(String),
    /// There is neither a place nor a connection for it.
    Busy,
    Failed(MirrorError),
    Abandoned,
    /// The last reader has left.
    Deserted,
    /// What came is not the blob. No reader got any of it, and it may be had all the same.
    Doubted(MirrorError),
}

impl From<UpstreamError> for End {
    fn from(error: UpstreamError) -> End {
        End::Failed(MirrorError::upstream(Subject::Blob, error))
    }
}

/// Bytes in a file, and the room they take.
pub(super) struct Filled {
    pub(super) ingest: Ingest,
    pub(super) reservation: Reservation,
}

impl Fill {
    /// Keeps what was fetched, or tells readers and the log why there is nothing to keep.
    pub(super) async fn end(
        &self,
        fetched: Result<Option<Filled>, End>,
        departure: &Departure<BlobKey, Following>,
    ) -> FillResult {
        let source = &self.source;
        match fetched {
            Ok(Some(filled)) => self.keep(filled).await,
            Ok(None) => FillResult::Stored,
            Err(End::Unkept(reason)) => {
                tracing::warn!(blob = ?source, reason, "not kept, passed through");
                let verified = matches!(self.progress.borrow().phase, Phase::Verified);
                if verified {
                    self.prove().await;
                }
                FillResult::NotStored
            }
            Err(End::Busy) => {
                let upstream = source.location.upstream.clone();
                tracing::warn!(blob = ?source, "refused: all fills and connections of its upstream are taken");
                self.fail(MirrorError::Busy { upstream }, departure);
                FillResult::Abandoned
            }
            Err(End::Abandoned) => {
                self.fail(MirrorError::Internal("the mirror is stopping".to_owned()), departure);
                FillResult::Abandoned
            }
            Err(End::Deserted) => {
                tracing::info!(blob = ?source, "nobody reads it any more; what is there is kept for who comes next");
                FillResult::Abandoned
            }
            Err(End::Failed(error) | End::Doubted(error)) => {
                tracing::warn!(blob = ?source, %error, "fill failed");
                let class = error.upstream_class().unwrap_or(UpstreamErrorClass::Unavailable);
                self.fills.negatives.note(|| Missing::Blob(source.location.clone(), source.digest), class);
                // What is told to one caller says nothing to others.
                let for_all = !self.fills.stored.standing.is_of_callers(&source.location);
                if for_all && class == UpstreamErrorClass::NotFound {
                    self.forget().await;
                }
                let wrong = class == UpstreamErrorClass::Protocol;
                if wrong && !self.is_from_bucket() {
                    self.fills.came_wrong(&source.location, &error);
                }
                self.fail(error, departure);
                if wrong { FillResult::Mismatch } else { FillResult::UpstreamFailed }
            }
        }
    }

    /// What was verified proves what the repository has, also where another one had brought it before.
    async fn prove(&self) {
        let (stored, BlobSource { location, digest, .. }) = (&self.fills.stored, &self.source);
        if self.is_from_bucket() {
            return;
        }
        if let Some(content) = stored.blobs.open(digest).await {
            stored.add_blob_member(location, *digest, content.size, self.proof()).await;
        }
    }

    fn proof(&self) -> (Proof, Together) {
        let BlobSource { location, givers, .. } = &self.source;
        (Proof::Bytes, givers.places(self.fills.stored.standing.places_of(location)))
    }

    /// Leaves the table before anybody is told: who goes on with what is his own begins another one.
    fn fail(&self, error: MirrorError, departure: &Departure<BlobKey, Following>) {
        departure.leave_if(|| true);
        self.progress.send_modify(|progress| progress.phase = Phase::Failed(error));
    }

    /// The repository has it no longer: bytes that another one brings back are not for this one.
    async fn forget(&self) {
        let BlobSource { location, digest, .. } = self.source.clone();
        let forget = move |metadata: &dyn MetadataStore| match metadata.member(&location, &digest)? {
            Some(known) if known.descriptor.is_of_blob() => metadata.remove_member(&location, &digest),
            _ => Ok(()),
        };
        self.fills.stored.records.take_away("membership not forgotten", forget).await;
        let BlobSource { location, digest, .. } = &self.source;
        self.fills.stored.no_longer(|| names::member(location, digest));
    }

    /// Whether some of it came from the bucket: then it proves nothing of the repository. What another replica gives
    /// comes from that upstream and repository.
    fn is_from_bucket(&self) -> bool {
        let BlobSource { shared, replica, .. } = &self.source;
        shared.as_ref().is_some_and(|shared| shared.gave_some())
            || replica.as_ref().is_some_and(|replica| replica.is_of_bucket())
    }

    /// Commits, then records. Readers have the verified bytes already: what fails here fails nobody.
    async fn keep(&self, Filled { mut ingest, reservation }: Filled) -> FillResult {
        let (stored, BlobSource { location, digest, .. }) = (&self.fills.stored, &self.source);
        let size = ingest.written();
        ingest.keep_room(reservation);
        let _turn = self.fills.disk.turn().await;
        let BlobSource { shared, replica, .. } = &self.source;
        // Whoever else has it brings it up.
        let is_there = shared.as_ref().is_some_and(|shared| shared.gave_all())
            || replica.as_ref().is_some_and(|replica| replica.gave_all());
        let _quiet = stored.shared().filter(|_| is_there).map(|shared| shared.quiet(digest));
        if let Err(error) = stored.blobs.commit(ingest, digest).await {
            tracing::warn!(blob = ?self.source, %error, "verified and served, but not kept");
            return FillResult::NotStored;
        }
        stored.records.add_blob(digest, size).await;
        if !self.is_from_bucket() {
            stored.add_blob_member(location, *digest, size, self.proof()).await;
        }
        FillResult::Stored
    }
}

/// Whether `written` bytes with the digest `found` are the blob, which should have `total` bytes.
///
/// # Errors
/// Of [`UpstreamErrorClass::Protocol`] when they are not.
pub(super) fn compare(
    source: &BlobSource,
    found: Digest,
    total: Option<u64>,
    written: u64,
) -> Result<(), UpstreamError> {
    let BlobSource { location, digest, shared, .. } = source;
    let who = if shared.as_ref().is_some_and(|shared| shared.gave_all()) { "the bucket" } else { "upstream" };
    let broken = |what: String| {
        Err(UpstreamError::new(UpstreamErrorClass::Protocol, format!("{location}: blob {digest}: {what}")))
    };
    if total.is_some_and(|total| total != written) {
        return broken(format!("{who} sent {written} bytes of {total:?}"));
    }
    if found != *digest {
        return broken(format!("{who} sent {found}"));
    }
    Ok(())
}
