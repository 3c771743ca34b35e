//! Manifests: by digest from the store if it has them, by tag as fresh as the policy asks (flow D).
//!
//! A look-up of a tag always ends with the manifest in the store, also when the client only sent
//! HEAD: whoever got that answer must be able to get the manifest, even if upstream goes away in
//! between. The pointer is moved only after the new manifest is there, so that a tag that could be
//! served offline stays one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::blob_store::{Content, StoreError};
use crate::metadata::{TagKey, TagRecord};
use crate::mirror::answer::tag_moves;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::images::image;
use crate::mirror::images::image::Platforms;
use crate::mirror::recall::freshness;
use crate::mirror::recall::freshness::{Mode, Plan};
use crate::mirror::recall::memory::{Asked, Stamp};
use crate::mirror::recall::negatives::Missing;
use crate::mirror::{BlobKey, Location, Mirror, OCTET_STREAM, Route, Shared};
use crate::oci::manifest::MAX_MANIFEST_SIZE;
use crate::oci::{AcceptSet, Descriptor, Digest, Manifest, Reference, Tag};
use crate::outcome::Outcome;
use crate::upstream::{Resolved, UpstreamError, UpstreamErrorClass};

/// An answer with a manifest.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// Bytes and descriptor, exactly as upstream sent them.
    pub manifest: Arc<Manifest>,
    /// Where they come from.
    pub outcome: Outcome,
    /// For a stale answer, how long ago upstream last confirmed the tag.
    pub stale_for: Option<Duration>,
}

/// What the flights of this file bring.
pub(in crate::mirror) type Fetched = Result<(Arc<Manifest>, Outcome), MirrorError>;

impl Mirror {
    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when upstream says no, or cannot answer and nothing stored may
    /// stand in for it.
    pub async fn manifest(
        &self,
        route: &Route,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<ManifestAnswer, MirrorError> {
        let answer = match reference {
            Reference::Digest(digest) => self.0.answer_by_digest(route, *digest).await?,
            Reference::Tag(tag) => {
                let key = TagKey { location: route.location.clone(), tag: tag.clone(), accept };
                let stamp = self.0.stamp();
                match self.0.frozen(&route.location, tag) {
                    Some(digest) => {
                        let answer = self.0.answer_by_digest(route, digest).await?;
                        if answer.outcome == Outcome::Hit {
                            let asked = Asked::Tag(key.tag, accept);
                            self.0.keep_at_hand(&route.location, asked, &answer.manifest, None, stamp);
                        }
                        answer
                    }
                    None => self.0.manifest_by_tag(route, key, stamp).await?,
                }
            }
        };
        if self.0.complete_only && (self.0.policy.mode == Mode::Offline || answer.outcome == Outcome::Stale) {
            self.refuse_a_part(route, reference, &answer.manifest).await?;
        }
        Ok(answer)
    }

    /// Refuses a manifest of which nobody could pull the rest now.
    async fn refuse_a_part(&self, route: &Route, name: &Reference, manifest: &Manifest) -> Result<(), MirrorError> {
        let image = self.tree(&route.location, manifest.descriptor.clone(), 1).await;
        let stored = self.stored(&route.location, &image).await;
        let have = |part: &Descriptor| stored.contains(&part.digest);
        if image::is_pullable(&image, &have) {
            return Ok(());
        }
        let missing = image::completeness(&image, &Platforms::Machines, &have);
        let message = format!(
            "{}: {name} is incomplete here, {} parts with {} bytes are missing, and upstream is away",
            route.location,
            missing.missing.len(),
            missing.missing_bytes
        );
        Err(manifest_error(UpstreamError::new(UpstreamErrorClass::Unavailable, message)))
    }
}

impl Shared {
    /// Immutable: the store first, then upstream.
    async fn manifest_by_digest(self: &Arc<Self>, route: &Route, digest: Digest) -> Fetched {
        if let Some(manifest) = self.stored_manifest(route, &digest).await {
            return Ok((manifest, Outcome::Hit));
        }
        self.negatives.check(&Missing::manifest(&route.location, digest), self.clock.now())?;
        let key: BlobKey = (route.location.clone(), digest);
        let (shared, route) = (Arc::clone(self), route.clone());
        let work = || async move {
            if let Some(manifest) = shared.stored_manifest(&route, &digest).await {
                return Ok((manifest, Outcome::Hit));
            }
            shared.fetch_manifest(&route, digest).await.map(|manifest| (manifest, Outcome::Fill))
        };
        arrived(self.manifests.share(&self.tasks, key, work).await)
    }

    async fn answer_by_digest(self: &Arc<Self>, route: &Route, digest: Digest) -> Result<ManifestAnswer, MirrorError> {
        let (manifest, outcome) = self.manifest_by_digest(route, digest).await?;
        Ok(ManifestAnswer { manifest, outcome, stale_for: None })
    }

    /// Mutable: upstream first, when the tag is no longer fresh; then what is remembered.
    async fn manifest_by_tag(
        self: &Arc<Self>,
        route: &Route,
        key: TagKey,
        stamp: Stamp,
    ) -> Result<ManifestAnswer, MirrorError> {
        let record = self.metadata.tag(&key).unwrap_or_else(|error| {
            tracing::warn!(location = %key.location, tag = %key.tag, %error, "tag not remembered, asking upstream");
            None
        });
        let own = record.is_some();
        let record = record.or_else(|| self.record_of_others(&key));
        let checked_at = record.as_ref().map(|record| record.checked_at);
        let (now, health) = (self.clock.now(), route.upstream.health());
        let plan = match checked_at {
            Some(_) if !own => freshness::plan_without_own_record(&self.policy),
            checked_at => freshness::plan(checked_at, now, &self.policy, health.allowance),
        };
        let plan = match &record {
            Some(record) if health.is_down() && self.has(&route.location, &record.descriptor.digest).await => {
                freshness::in_doubt(plan, checked_at, now, &self.policy)
            }
            _ => plan,
        };
        if let (Plan::Spare(age), Some(record)) = (plan, &record)
            && let Some(manifest) = self.stored_manifest(route, &record.descriptor.digest).await
        {
            return Ok(ManifestAnswer { manifest, outcome: Outcome::Stale, stale_for: Some(age) });
        }
        let asked = match plan {
            Plan::Serve => None,
            Plan::Ask | Plan::Spare(_) => Some(self.look_up(route, key.clone(), record.clone().filter(|_| own)).await),
            Plan::AskBriefly(patience) => {
                let look_up = self.look_up(route, key.clone(), record.clone().filter(|_| own));
                Some(tokio::time::timeout(patience, look_up).await.unwrap_or_else(|_| Err(too_slow(&key, patience))))
            }
        };
        let (error, stale_for) = match asked {
            Some(Ok((manifest, outcome))) => return Ok(ManifestAnswer { manifest, outcome, stale_for: None }),
            Some(Err(error)) => {
                let class = error.upstream_class().unwrap_or(UpstreamErrorClass::Protocol);
                let stand_in = freshness::stand_in(checked_at, class, self.clock.now(), &self.policy);
                let Some(age) = stand_in else { return Err(error) };
                (Some(error), Some(age))
            }
            None => (None, None),
        };
        let digest = record.map(|record| record.descriptor.digest);
        let answer = self.remembered(route, &key, digest, error, stale_for).await?;
        if own && plan == Plan::Serve && answer.outcome == Outcome::Hit {
            let asked = Asked::Tag(key.tag, key.accept);
            self.keep_at_hand(&route.location, asked, &answer.manifest, checked_at, stamp);
        }
        Ok(answer)
    }

    /// The manifest that an operator froze the tag to.
    fn frozen(&self, location: &Location, tag: &Tag) -> Option<Digest> {
        self.metadata.frozen(location, tag).unwrap_or_else(|error| {
            tracing::warn!(%location, %tag, %error, "not known whether the tag is frozen, answering as if it were not");
            None
        })
    }

    /// What clients that accept other types were told last, where this client can read that too.
    /// Upstream may tell this client something else, so it stands in for upstream and no more.
    fn record_of_others(&self, key: &TagKey) -> Option<TagRecord> {
        let records = self.metadata.tag_records(&key.location, &key.tag).ok()?;
        let readable = records.into_iter().filter(|(_, record)| key.accept.takes(&record.descriptor.media_type));
        readable.map(|(_, record)| record).max_by_key(|record| record.checked_at)
    }

    /// Serves what the tag pointed at when it was last checked.
    async fn remembered(
        self: &Arc<Self>,
        route: &Route,
        key: &TagKey,
        digest: Option<Digest>,
        error: Option<MirrorError>,
        stale_for: Option<Duration>,
    ) -> Result<ManifestAnswer, MirrorError> {
        let Some(digest) = digest else { return Err(error.unwrap_or_else(|| unknown_offline(key))) };
        match (self.stored_manifest(route, &digest).await, error) {
            (Some(manifest), None) => Ok(ManifestAnswer { manifest, outcome: Outcome::Hit, stale_for }),
            (Some(manifest), Some(error)) => {
                tracing::warn!(location = %key.location, tag = %key.tag, %digest, %error, "served stale");
                Ok(ManifestAnswer { manifest, outcome: Outcome::Stale, stale_for })
            }
            (None, Some(error)) => Err(error),
            (None, None) => {
                let (manifest, outcome) = self.manifest_by_digest(route, digest).await?;
                Ok(ManifestAnswer { manifest, outcome, stale_for })
            }
        }
    }

    /// Asks upstream what the tag points at, together with everybody else who asks just now.
    async fn look_up(self: &Arc<Self>, route: &Route, key: TagKey, record: Option<TagRecord>) -> Fetched {
        self.negatives.check(&Missing::Tag(key.clone()), self.clock.now())?;
        let (shared, route, of) = (Arc::clone(self), route.clone(), key.clone());
        arrived(self.tags.share(&self.tasks, key, || async move { shared.resolve(&route, of, record).await }).await)
    }

    async fn resolve(self: &Arc<Self>, route: &Route, key: TagKey, record: Option<TagRecord>) -> Fetched {
        let reference = Reference::Tag(key.tag.clone());
        let resolved = route.upstream.resolve(&route.location.repository, &reference, key.accept).await;
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(error) => return Err(self.told(&key, error).await),
        };
        let digest = resolved.descriptor().digest;
        let known = self.stored_manifest(route, &digest).await;
        if known.is_none() {
            // Upstream has just said that it is there.
            self.negatives.forget(&Missing::manifest(&route.location, digest));
        }
        let (manifest, outcome) = match (known, resolved) {
            (Some(manifest), _) => (manifest, Outcome::Revalidated),
            (None, Resolved::Fetched(manifest)) => (self.keep_and_record(route, manifest).await, Outcome::Fill),
            (None, Resolved::Told(_)) => self.manifest_by_digest(route, digest).await?,
        };
        self.point(key, record, manifest.descriptor.clone()).await;
        Ok((manifest, outcome))
    }

    /// Takes note of what upstream said in place of an answer: a tag that is gone, or not ours to
    /// see, is forgotten.
    async fn told(&self, key: &TagKey, error: UpstreamError) -> MirrorError {
        if matches!(error.class, UpstreamErrorClass::NotFound | UpstreamErrorClass::Denied) {
            let TagKey { location, tag, .. } = key.clone();
            self.take_away("a tag is gone and not forgotten", move |metadata| metadata.remove_tag(&location, &tag))
                .await;
        }
        self.negatives.note(|| Missing::Tag(key.clone()), error.class, self.clock.now());
        manifest_error(error)
    }

    /// Remembers what the tag points at now.
    async fn point(&self, key: TagKey, before: Option<TagRecord>, descriptor: Descriptor) {
        let now = self.clock.now();
        let moved_from =
            before.as_ref().map(|before| before.descriptor.digest).filter(|from| *from != descriptor.digest);
        let since = before.filter(|_| moved_from.is_none()).map_or(now, |before| before.since);
        let record = TagRecord { descriptor, checked_at: now, since };
        let metrics = Arc::clone(&self.metrics);
        self.add("tag not remembered", move |metadata| {
            if let Some(from) = moved_from {
                tag_moves::report(&key, from, record.descriptor.digest, metadata, &metrics);
            }
            metadata.put_tag(&key, &record)
        })
        .await;
    }

    /// The manifest from the store, verified: it is small, and its media type is not in its bytes.
    async fn stored_manifest(&self, route: &Route, digest: &Digest) -> Option<Arc<Manifest>> {
        let stamp = self.stamp();
        let (descriptor, content) = self.open_member(&route.location, digest).await?;
        // A blob that was fetched as a blob does not know that it is a manifest.
        if descriptor.media_type.as_ref() == OCTET_STREAM || content.size > MAX_MANIFEST_SIZE {
            return None;
        }
        let bytes = match self.bytes_at_hand(&route.location, &descriptor) {
            Some(bytes) => bytes,
            None => self.verified_bytes(digest, &content).await?,
        };
        let descriptor = Descriptor { size: content.size, ..descriptor };
        let manifest = Manifest { descriptor, bytes };
        self.keep_at_hand(&route.location, Asked::Manifest(*digest), &manifest, None, stamp);
        Some(Arc::new(manifest))
    }

    async fn verified_bytes(&self, digest: &Digest, content: &Content) -> Option<Bytes> {
        let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
        if Digest::of(digest.algorithm(), &bytes) == *digest {
            return Some(bytes);
        }
        tracing::error!(%digest, "a stored manifest was damaged; fetching it again");
        self.metrics.damaged();
        let _ = self.blobs.set_aside(digest, content).await;
        None
    }

    pub(in crate::mirror) async fn fetch_manifest(
        self: &Arc<Self>,
        route: &Route,
        digest: Digest,
    ) -> Result<Arc<Manifest>, MirrorError> {
        let reference = Reference::Digest(digest);
        let fetched = route.upstream.manifest(&route.location.repository, &reference, AcceptSet::everything()).await;
        let manifest = match fetched {
            Ok(manifest) => manifest,
            Err(error) => {
                if matches!(error.class, UpstreamErrorClass::NotFound | UpstreamErrorClass::Denied) {
                    self.forget_member(&route.location, &digest).await;
                }
                self.negatives.note(|| Missing::manifest(&route.location, digest), error.class, self.clock.now());
                return Err(manifest_error(error));
            }
        };
        if manifest.descriptor.digest != digest {
            let message =
                format!("{}: manifest {digest}: upstream sent {}", route.location, manifest.descriptor.digest);
            return Err(manifest_error(UpstreamError::new(UpstreamErrorClass::Protocol, message)));
        }
        Ok(self.keep_and_record(route, manifest).await)
    }

    /// Keeps a verified manifest, if the store can.
    async fn keep_and_record(self: &Arc<Self>, route: &Route, manifest: Manifest) -> Arc<Manifest> {
        let descriptor = &manifest.descriptor;
        match self.keep_manifest(&manifest).await {
            Ok(()) => {
                self.record_blob(&descriptor.digest, descriptor.size).await;
                self.record_member(&route.location, descriptor.clone()).await;
            }
            Err(error) => {
                tracing::warn!(location = %route.location, digest = %descriptor.digest, %error, "verified and served, but not kept");
            }
        }
        Arc::new(manifest)
    }

    async fn keep_manifest(self: &Arc<Self>, manifest: &Manifest) -> Result<(), StoreError> {
        let Manifest { descriptor, bytes } = manifest.clone();
        let _reservation = self.reserve(descriptor.size).await?;
        let shared = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let mut ingest = shared.ingests.begin(&descriptor.digest, Some(descriptor.size))?;
            ingest.append(&bytes)?;
            Ok(ingest)
        });
        let ingest = written.await.unwrap_or_else(|error| Err(StoreError::Io(std::io::Error::other(error))))?;
        self.blobs.commit(ingest, &manifest.descriptor.digest).await
    }
}

/// What a shared flight brought, with `Join` for those who did not lead it.
fn arrived((value, joined): (Option<Fetched>, bool)) -> Fetched {
    let (manifest, outcome) =
        value.unwrap_or_else(|| Err(MirrorError::Internal("the look-up ended without a result".to_owned())))?;
    let outcome = if joined { Outcome::Join } else { outcome };
    Ok((manifest, outcome))
}

fn manifest_error(error: UpstreamError) -> MirrorError {
    MirrorError::upstream(Subject::Manifest, error)
}

fn too_slow(key: &TagKey, patience: Duration) -> MirrorError {
    let message = format!("{}:{}: no answer within {patience:?}", key.location, key.tag);
    manifest_error(UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}

fn unknown_offline(key: &TagKey) -> MirrorError {
    let message = format!("{}:{} was never pulled through this mirror", key.location, key.tag);
    manifest_error(UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}
