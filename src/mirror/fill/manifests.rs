//! Manifests from upstream into the store. Each is small: it is verified and written in one piece, and
//! nobody reads along.
//!
//! It is given to who asked while it is written (see [`Writing`](crate::mirror::flight::writing::Writing)). Its
//! membership, and tags that point at it, are recorded when it is there: nothing is named that a power cut could take.

use std::sync::Arc;

use crate::blob_store::StoreError;
use crate::blob_store::ingest::Ingest;
use crate::metadata::{Location, Proof, names};
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::Fills;
use crate::mirror::recall::memory::LONGEST;
use crate::mirror::recall::negatives::Missing;
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Digest, Manifest, Reference};
use crate::tier::{Pace, Waited};
use crate::upstream::heard::{Heard, listening};
use crate::upstream::{UpstreamError, UpstreamErrorClass};

impl Fills {
    /// Asks upstream for a manifest by digest, by one of all known types or of those in `accept`, and keeps it
    /// if the store can.
    pub(crate) async fn manifest(
        self: &Arc<Fills>,
        route: &Route,
        digest: Digest,
        accept: &AcceptSet,
    ) -> Result<Arc<Manifest>, MirrorError> {
        let Route { location, upstream, .. } = route;
        let reference = Reference::Digest(digest);
        let known =
            self.stored.member(location, &digest).map(|known| known.descriptor).filter(|known| !known.is_of_blob());
        let asked = AcceptSet::everything().and(accept);
        let asked = known.iter().fold(asked, |asked, known| asked.naming(&known.media_type));
        let (asked_there, heard) = listening(upstream);
        let fetched = asked_there.manifest(&location.repository, &reference, asked).await;
        let error = match fetched {
            Ok(manifest) if manifest.descriptor.digest == digest => {
                self.stored.denials.lift(location).await;
                return self.keep_manifest(location, manifest, &heard).await;
            }
            Ok(Manifest { descriptor, .. }) => {
                let message = format!("{location}: manifest {digest}: upstream sent {}", descriptor.digest);
                self.came_wrong(location, &message);
                UpstreamError::new(UpstreamErrorClass::Protocol, message)
            }
            Err(error) => error,
        };
        let missing = Missing::Manifest(location.clone(), digest, accept.others());
        Err(self.no_manifest(route, digest, missing, error).await)
    }

    /// Takes note of what upstream said in place of a manifest.
    pub(crate) async fn no_manifest(
        &self,
        route: &Route,
        digest: Digest,
        missing: Missing,
        error: UpstreamError,
    ) -> MirrorError {
        if error.class == UpstreamErrorClass::NotFound && !self.stored.standing.is_of_callers(&route.location) {
            self.stored.records.forget_manifest(&route.location, &digest).await;
            self.stored.no_longer(|| names::member(&route.location, &digest));
        }
        self.negatives.note(|| missing, error.class);
        MirrorError::upstream(Subject::Manifest, error)
    }

    /// Begins to keep a verified manifest of the address that was heard, if the store can.
    ///
    /// # Errors
    /// [`MirrorError::Crowded`].
    pub(crate) async fn keep_manifest(
        self: &Arc<Fills>,
        location: &Location,
        Manifest { descriptor, bytes }: Manifest,
        heard: &Heard,
    ) -> Result<Arc<Manifest>, MirrorError> {
        let bytes = self.bounds.bodies.hold(bytes, self.bounds.fill_wait).await.ok_or(MirrorError::Crowded)?;
        let manifest = Arc::new(Manifest { descriptor, bytes });
        let digest = manifest.descriptor.digest;
        let Some(being_written) = self.writing.begin((location.clone(), digest), &manifest).await else {
            tracing::warn!(%location, %digest, "verified and served, but not kept: the disk does not keep up");
            return Ok(manifest);
        };
        let (fills, place, kept) = (Arc::clone(self), location.clone(), Arc::clone(&manifest));
        let at = self.stored.places_heard(location, heard);
        self.tasks.spawn(async move {
            let descriptor = &kept.descriptor;
            match fills.write_manifest(Manifest::clone(&kept)).await {
                Ok(()) => {
                    fills.stored.records.add_blob(&descriptor.digest, descriptor.size).await;
                    fills.stored.add_member(&place, descriptor.clone(), Proof::Bytes, at).await;
                }
                Err(error) => {
                    tracing::warn!(location = %place, digest = %descriptor.digest, %error, "verified and served, but not kept");
                }
            }
            drop(being_written);
        });
        if manifest.bytes.len() > LONGEST {
            // It goes to clients from its file, however slowly they take it.
            self.writing.over(Some(location)).await;
        }
        Ok(manifest)
    }

    /// Keeps a manifest that came from the bucket, which says itself what is known of it.
    pub(crate) async fn manifest_in_bucket(
        &self,
        location: &Location,
        digest: &Digest,
        waits: (&Waited, Pace),
    ) -> Option<Arc<Manifest>> {
        let Manifest { descriptor, bytes } = self.stored.manifest_in_bucket(location, digest, waits).await?;
        let bytes = self.bounds.bodies.hold(bytes, self.bounds.fill_wait).await?;
        let manifest = Manifest { descriptor, bytes };
        let _quiet = self.stored.shared().map(|shared| shared.quiet(digest));
        match self.write_manifest(manifest.clone()).await {
            Ok(()) => self.stored.records.add_blob(digest, manifest.descriptor.size).await,
            Err(error) => tracing::warn!(%location, %digest, %error, "from the bucket, and not kept"),
        }
        Some(Arc::new(manifest))
    }

    async fn write_manifest(&self, Manifest { descriptor, bytes }: Manifest) -> Result<(), StoreError> {
        let reservation = self.room.reserve(descriptor.size, 0).await?;
        let (ingests, digest) = (Arc::clone(&self.ingests), descriptor.digest);
        let written = self.disk.run(move || -> Result<Ingest, StoreError> {
            let mut ingest = ingests.begin(&digest)?;
            ingest.append(&bytes)?;
            if ingest.is_uncut() {
                Ok(ingest)
            } else {
                Err(std::io::Error::other("it was cut while it was written").into())
            }
        });
        let mut ingest = written.await??;
        ingest.keep_room(reservation);
        let _turn = self.disk.turn().await;
        self.stored.blobs.commit(ingest, &digest).await
    }
}
