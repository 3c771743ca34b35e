//! Stored content, as far as it may be served: what a repository may have, and what still is what its
//! digest says.
//!
//! A commit syncs the file, renames it and syncs the folder, so what is visible is whole where the disk
//! keeps its word. What was stored shortly before an unclean stop, and not recorded durably, is hashed
//! before its first use all the same. Other damage is done later: by the disk, or behind our back. A blob
//! whose length is not the one of its membership is hashed before it is served, also when the index
//! was lost; with `verify_on_read` every blob is. Damaged content is taken out of sight at once, so
//! the next request fetches it again.
//! What counts of what was proven [`Standing`] says.

mod trust;

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::blob_store::{BlobStore, Content};
use crate::metadata::uses::Uses;
use crate::metadata::{Location, Membership, MetadataStore, Proof, Standing, TagRecord};
use crate::metrics::Metrics;
use crate::mirror::flight::replica::{AtReplica, Replicas};
use crate::mirror::flight::shared::InBucket;
use crate::mirror::recall::denials::Denials;
use crate::mirror::recall::memory::Stamp;
use crate::mirror::room::doubts::{Doubts, is_enough};
use crate::mirror::room::records::Records;
use crate::mirror::room::shared::{Behind, Shared};
use crate::oci::{Descriptor, Digest, Manifest, Together, Whereabouts};
use crate::tier::{Pace, Waited};
use crate::upstream::heard::Heard;

pub(crate) use trust::Hashing;
use trust::{Likeness, Trust};

/// What is stored, and what is known of it.
pub(crate) struct Stored {
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) records: Arc<Records>,
    /// What is stored and not served.
    pub(crate) denials: Arc<Denials>,
    /// What is served and has to be proven once more.
    pub(crate) doubts: Arc<Doubts>,
    pub(crate) standing: Arc<Standing>,
    uses: Arc<Uses>,
    trust: Trust,
    metrics: Arc<Metrics>,
    /// The bucket, where there is one.
    shared: Option<Arc<Shared>>,
}

impl Stored {
    /// With `verify_on_read` everything is hashed before it is served.
    pub(crate) fn new(
        blobs: Arc<dyn BlobStore>,
        records: Records,
        metrics: Arc<Metrics>,
        standing: Arc<Standing>,
        verify_on_read: bool,
    ) -> Stored {
        let denials = Arc::new(Denials::new(Arc::clone(&records.metadata), Arc::clone(&records.clock)));
        let (records, doubts, uses) = (Arc::new(records), Arc::default(), Arc::default());
        let (trust, shared) = (Trust::new(verify_on_read), None);
        Stored { blobs, records, denials, doubts, standing, uses, trust, metrics, shared }
    }

    /// The same, with a bucket behind it.
    pub(crate) fn before(self, behind: Option<Behind>) -> Stored {
        let shared = behind.map(|behind| {
            let Records { metadata, clock, tasks, .. } = &*self.records;
            let (denials, clock) = (Arc::clone(&self.denials), Arc::clone(clock));
            Arc::new(Shared::new(behind, Arc::clone(metadata), denials, clock, tasks.clone()))
        });
        Stored { shared, ..self }
    }

    #[cfg(test)]
    pub(super) fn with(self, shared: &Arc<Shared>) -> Stored {
        Stored { shared: Some(Arc::clone(shared)), ..self }
    }

    /// The bucket, where there is one.
    pub(crate) fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref()
    }

    /// Takes over from the bucket that the repository has this content, where that is not known here; whether it
    /// may be had from the bucket now, as far as that is told in the time that the look-up has left.
    pub(crate) async fn recall(&self, location: &Location, digest: &Digest, waited: &Waited) -> Option<&Arc<Shared>> {
        let shared = self.shared.as_ref()?;
        if self.member(location, digest).is_none() {
            let at_pace = shared.at(waited.pace());
            let recalled = Box::pin(at_pace.recall_member(location, digest));
            shared.bucket.within(waited, recalled).await.filter(|taken_over| *taken_over)?;
        }
        self.hear_of_denial(location, waited).await;
        let member = self.member(location, digest).filter(|member| self.standing.is_given(location, member))?;
        // What is to be proven by upstream's bytes comes from upstream.
        (member.proof != Proof::Unknown && !self.denials.holds(location)).then_some(shared)
    }

    /// Whether a repository may be served by what is known here of its denial, without a look at what other replicas know.
    pub(crate) fn is_told_of_denial(&self, location: &Location) -> bool {
        let asked = self.shared.as_ref().filter(|_| !self.standing.is_of_callers(location));
        asked.is_none_or(|shared| shared.is_told_of_denial(location))
    }

    /// Learns what other replicas know of its denial, where that is not known here.
    pub(crate) async fn hear_of_denial(&self, location: &Location, waited: &Waited) {
        if let Some(shared) = self.shared.as_ref().filter(|_| !self.is_told_of_denial(location)) {
            Box::pin(shared.hear_of_denial(location, waited)).await;
        }
    }

    /// The bucket and the other replicas, while they tell each other what they ask for.
    pub(crate) fn replicas(&self) -> Option<(&Arc<Shared>, &Replicas)> {
        let shared = self.shared.as_ref()?;
        Some((shared, shared.replicas.as_ref().filter(|replicas| replicas.leases.are_on())?))
    }

    /// The blob at whichever replica fetches it, where they tell each other. `None` also for what is to be proven by
    /// upstream's own answer to us.
    pub(crate) fn at_replica(
        self: &Arc<Stored>,
        location: &Location,
        digest: &Digest,
        waited: &Waited,
    ) -> Option<Arc<AtReplica>> {
        let replicas = self.shared.as_ref()?.replicas.as_ref().filter(|replicas| replicas.leases.may_be_had())?;
        let is_doubted =
            |member: &Membership| member.proof == Proof::Unknown || !self.standing.is_given(location, member);
        if self.denials.holds(location) || self.member(location, digest).as_ref().is_some_and(is_doubted) {
            return None;
        }
        let (stored, of, still) = (Arc::clone(self), (location.clone(), *digest), waited.clone());
        let look_again = move || -> BoxFuture<'static, _> {
            let (stored, (location, digest), waited) = (Arc::clone(&stored), of.clone(), still.clone());
            Box::pin(async move {
                stored.shared()?.look_anew(&location, &digest);
                stored.blob_in_bucket(&location, &digest, &waited).await
            })
        };
        let of = (location.clone(), *digest);
        let standing = self.standing.in_a_word(location);
        Some(AtReplica::new(replicas.clone(), of, standing, waited.clone(), Box::new(look_again)))
    }

    /// A blob in the bucket, which this repository may have from there.
    pub(crate) async fn blob_in_bucket(
        &self,
        location: &Location,
        digest: &Digest,
        waited: &Waited,
    ) -> Option<Arc<InBucket>> {
        let shared = self.recall(location, digest, waited).await?;
        Some(shared.blob(digest, self.proven_size(location, digest), waited))
    }

    /// The same; where the bucket has not said in time whether it has it, one that is looked up when nobody else gives it.
    pub(crate) async fn blob_behind(
        self: &Arc<Stored>,
        location: &Location,
        digest: &Digest,
        waited: &Waited,
    ) -> Option<Arc<InBucket>> {
        let shared = self.shared.as_ref()?;
        let found = self.blob_in_bucket(location, digest, waited).await;
        let is_known = self.member(location, digest).is_some() || !shared.may_have(location, digest);
        if found.is_some() || is_known || self.denials.holds(location) {
            return found;
        }
        let (stored, location, of) = (Arc::clone(self), location.clone(), *digest);
        let look_up = move || -> BoxFuture<'static, _> {
            let (stored, location) = (Arc::clone(&stored), location.clone());
            Box::pin(async move {
                stored.recall(&location, &of, &Waited::of(true)).await?;
                Some(stored.proven_size(&location, &of))
            })
        };
        Some(shared.blob_to_look_up(digest, Box::new(look_up), waited))
    }

    /// The size of content in bytes, where that was counted, and not only said.
    pub(crate) fn proven_size(&self, location: &Location, digest: &Digest) -> Option<u64> {
        let member = self.member(location, digest).filter(|member| member.proof == Proof::Bytes);
        member.map(|member| member.descriptor.size)
    }

    /// A manifest from the bucket, with what it is: of this repository, and verified.
    pub(crate) async fn manifest_in_bucket(
        &self,
        location: &Location,
        digest: &Digest,
        (waited, pace): (&Waited, Pace),
    ) -> Option<Manifest> {
        let shared = self.recall(location, digest, waited).await?;
        let member = self.member(location, digest).filter(|member| !member.descriptor.is_of_blob())?;
        let bytes = shared.bucket.within(waited, Box::pin(shared.manifest(&member.descriptor, pace))).await??;
        let descriptor = Descriptor { size: bytes.len() as u64, ..member.descriptor };
        Some(Manifest { descriptor, bytes })
    }

    /// What others put into the bucket under this name goes, because it is no longer so.
    pub(crate) fn no_longer(&self, name: impl FnOnce() -> String) {
        if let Some(shared) = &self.shared {
            shared.away(&name());
        }
    }

    /// The same where upstreams are asked otherwise.
    pub(crate) fn under(&self, standing: Arc<Standing>, verify_on_read: bool) -> Stored {
        Stored {
            blobs: Arc::clone(&self.blobs),
            records: Arc::clone(&self.records),
            denials: Arc::clone(&self.denials),
            doubts: Arc::clone(&self.doubts),
            standing,
            uses: Arc::clone(&self.uses),
            trust: Trust::new(verify_on_read),
            metrics: Arc::clone(&self.metrics),
            shared: self.shared.clone(),
        }
    }

    /// How far changes are counted now. What is looked up after this call holds as long as this
    /// stays the same.
    pub(crate) fn stamp(&self) -> Stamp {
        let changes = self.records.metadata.changes().wrapping_add(self.denials.changes());
        Stamp { changes, removals: self.blobs.removals() }
    }

    /// How many entries there are in what grows with what is asked for.
    pub(crate) fn tables(&self) -> Vec<(&'static str, u64)> {
        let own = [("checked_lately", self.trust.lately.entry_count())];
        let own = own.into_iter().chain(self.denials.tables()).chain(self.doubts.tables());
        let shared = self.shared.iter().flat_map(|shared| shared.tables());
        own.chain(self.blobs.tables()).chain(shared).collect()
    }

    /// Opens content of this repository, with what is known of it. `None` when it is not stored, or
    /// when it was not proven that this repository has it, or upstream denies the repository. It counts as a use.
    pub(crate) async fn open(&self, location: &Location, digest: &Digest) -> Option<(Membership, Content)> {
        let member = self.member(location, digest).filter(|member| self.standing.is_given(location, member))?;
        self.hear_of_denial(location, &Waited::default()).await;
        if self.denials.holds(location) {
            return None;
        }
        let content = self.blobs.open(digest).await?;
        let content = self.trusted(digest, content, Some(member.descriptor.size)).await?;
        self.note(digest);
        // Who gives it to callers now is the one who had it, as far as anybody knows: from here on it is known.
        let is_unplaced = member.places.is_empty() && self.standing.is_of_callers(location);
        if member.descriptor.size != content.size || is_unplaced {
            // It was hashed, and need not be each time because of a length that somebody claimed.
            let descriptor = Descriptor { size: content.size, ..member.descriptor.clone() };
            let first = || self.standing.places.first_of(&location.upstream).into();
            let places = if is_unplaced { first() } else { member.places.clone() };
            self.records.add_member(location, Membership { descriptor, places, ..member.clone() }).await;
        }
        if member.proof == Proof::Unknown {
            self.doubts.add(location, digest);
        }
        Some((member, content))
    }

    /// Whether the word of an upstream that a repository has this content proves it: where that upstream had the
    /// bytes before, or has given them to everybody; not where it may only have heard of the digest.
    pub(crate) async fn is_word_enough(&self, location: &Location, digest: &Digest) -> bool {
        self.is_word_enough_at(location, digest, &self.standing.places).await
    }

    async fn is_word_enough_at(&self, location: &Location, digest: &Digest, places: &Whereabouts) -> bool {
        let digest = *digest;
        let holders = self.records.with(move |metadata| metadata.holders(&digest)).await.unwrap_or_else(|error| {
            tracing::warn!(%location, %digest, %error, "not known who has it, asking for the bytes");
            Vec::new()
        });
        is_enough(&location.upstream, &holders, &self.standing.public, places)
    }

    /// Where what the word of an upstream proves is from: where that was said, if it would be enough there alone, else
    /// all of its addresses together.
    pub(crate) async fn places_of_word(&self, location: &Location, digest: &Digest, heard: &Heard) -> Together {
        let Some(place) = heard.place() else { return self.standing.places_of(location) };
        let alone = self.standing.places.with_alone(&location.upstream, place.clone());
        let is_enough_there = self.is_word_enough_at(location, digest, &alone).await;
        if is_enough_there { place.into() } else { self.standing.places_of(location) }
    }

    /// Whether a tag is to be asked for anew.
    pub(crate) fn is_withdrawn(&self, location: &Location, record: &TagRecord) -> bool {
        let member = self.member(location, &record.descriptor.digest);
        self.standing.is_withdrawn(location, record, member.as_ref())
    }

    /// Where it was when it answered: at all of its addresses where it is not told at which of them.
    pub(crate) fn places_heard(&self, location: &Location, heard: &Heard) -> Together {
        heard.place().map_or_else(|| self.standing.places_of(location), Together::from)
    }

    /// Opens content of whatever repository. Who serves it asks first, and takes note of the use.
    pub(crate) async fn open_any(&self, digest: &Digest) -> Option<Content> {
        let content = self.blobs.open(digest).await?;
        self.trusted(digest, content, None).await
    }

    /// What is known of content of this repository. `None` when it was not proven that it has it.
    pub(crate) fn member(&self, location: &Location, digest: &Digest) -> Option<Membership> {
        self.records.metadata.member(location, digest).unwrap_or_else(|error| {
            tracing::warn!(%location, %digest, %error, "membership unknown, asking upstream");
            None
        })
    }

    /// Whether content is stored and known to be in this repository. Does not count as a use.
    pub(crate) async fn has(&self, location: &Location, digest: &Digest) -> bool {
        !self.denials.holds(location)
            && self.member(location, digest).is_some_and(|member| self.standing.is_given(location, &member))
            && self.blobs.open(digest).await.is_some()
    }

    /// Remembers that upstream has the content in this repository, and how and where it has just proven that.
    pub(crate) async fn add_member(&self, location: &Location, descriptor: Descriptor, proof: Proof, at: Together) {
        let (anonymous, digest, places) = (self.standing.asks_as_nobody(location), descriptor.digest, at.into());
        self.records.add_member(location, Membership { descriptor, proof, anonymous, places }).await;
        // It goes up, and may leave this disk before what the bucket said is forgotten.
        self.shared.iter().for_each(|shared| shared.look_anew(location, &digest));
    }

    /// The same for a blob. What is known as a manifest there stays one: clients may ask for a manifest among the
    /// blobs.
    pub(crate) async fn add_blob_member(
        &self,
        location: &Location,
        digest: Digest,
        size: u64,
        (proof, at): (Proof, Together),
    ) {
        let known = self.member(location, &digest).map(|known| known.descriptor).filter(|known| !known.is_of_blob());
        self.add_member(location, known.unwrap_or_else(|| Descriptor::of_blob(digest, size)), proof, at).await;
    }

    /// Content was served just now.
    pub(crate) fn note(&self, digest: &Digest) {
        self.uses.note(digest, self.records.clock.now());
    }

    /// Writes down what was noted.
    pub(crate) async fn write_uses(&self) {
        let uses = self.uses.drain();
        if uses.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let write = move |metadata: &dyn MetadataStore| {
            metadata.touch(&uses)?;
            shared.map_or(Ok(()), |shared| shared.tell_uses(&uses))
        };
        if let Err(error) = self.records.with(write).await {
            tracing::debug!(%error, "access times were not written");
        }
    }

    /// The content, if it may be served. `expected` is its size in bytes as upstream said it.
    async fn trusted(&self, digest: &Digest, content: Content, expected: Option<u64>) -> Option<Content> {
        let unproven = self.blobs.is_unproven(digest);
        let odd = unproven || expected.is_some_and(|expected| expected != content.size);
        if !odd && !self.trust.always {
            return Some(content);
        }
        // Before it is hashed, so that what is written meanwhile is seen.
        let likeness = Likeness::of(&content);
        if !odd && likeness.is_some() && self.trust.lately.get(digest) == likeness {
            return Some(content);
        }
        if !self.check(digest, &content).await {
            return None;
        }
        if unproven {
            self.blobs.vouch(digest);
        }
        if let Some(likeness) = likeness {
            self.trust.lately.insert(*digest, likeness);
        }
        Some(content)
    }

    /// Hashes content. What is damaged is taken out of sight.
    pub(crate) async fn check(&self, digest: &Digest, content: &Content) -> bool {
        let mut hashing = Hashing::of(*digest, content.clone());
        while hashing.more().await.is_some() {}
        self.hashed(hashing).await
    }

    /// Whether content that was hashed to its end is what it should be. What is damaged is taken out of sight.
    pub(crate) async fn hashed(&self, hashing: Hashing) -> bool {
        let (digest, content) = (hashing.digest, hashing.content.clone());
        self.metrics.checked(content.size);
        let reason = match hashing.found() {
            Ok(found) if found == digest => return true,
            Ok(found) => format!("its bytes have the digest {found}"),
            Err(error) => format!("it cannot be read: {error}"),
        };
        self.metrics.damaged();
        match self.blobs.set_aside(&digest, &content).await {
            Ok(_) => tracing::error!(%digest, reason, "a stored blob is damaged and was set aside"),
            Err(error) => {
                tracing::error!(%digest, reason, %error, "a stored blob is damaged and could not be set aside");
            }
        }
        false
    }

    /// All bytes of content that is small, if they have its digest. Else it is taken out of sight.
    pub(crate) async fn verified(&self, digest: &Digest, content: &Content) -> Option<Bytes> {
        let bytes = content.read_at(0, usize::try_from(content.size).ok()?).ok()?;
        if Digest::of(digest.algorithm(), &bytes) == *digest {
            return Some(bytes);
        }
        self.check(digest, content).await;
        None
    }

    /// For whoever sends this content.
    pub(crate) fn complaint(self: &Arc<Self>, digest: Digest, content: &Content) -> Complaint {
        Complaint { stored: Arc::downgrade(self), digest, content: content.clone() }
    }
}

/// How whoever sends a stored blob tells that it cannot be read: it is checked at once, and set aside
/// if that is so, so that the next request fetches it again.
#[derive(Clone)]
pub struct Complaint {
    stored: Weak<Stored>,
    digest: Digest,
    content: Content,
}

impl std::fmt::Debug for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Complaint").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Complaint {
    /// The blob could not be read to its end.
    pub fn raise(self) {
        let Some(stored) = self.stored.upgrade().filter(|_| Handle::try_current().is_ok()) else { return };
        let tasks = stored.records.tasks.clone();
        tasks.spawn(async move { stored.check(&self.digest, &self.content).await });
    }
}
