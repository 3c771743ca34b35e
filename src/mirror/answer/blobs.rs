//! Blobs: flows A (hit), B (cold miss) and C (joiner), until the head of an answer is known.
//!
//! Truth: a body that ends without an error was verified, but for lazy reads (see `lazy`). The head of an answer of
//! which nothing may be sent before waits for that a moment, too: then what is wrong is an error, and not a cut.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::access::{Access, Rule};
use crate::blob_store::Content;
use crate::metadata::{Location, Proof};
use crate::mirror::Mirror;
use crate::mirror::answer::body::{BlobBody, Selected, select};
use crate::mirror::answer::lazy;
use crate::mirror::answer::reader::{FillReader, Heir};
use crate::mirror::answer::relay::Relay;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::fill::{Fills, Right};
use crate::mirror::flight::beside::or_instead;
use crate::mirror::flight::progress::{Doubt, Following, Phase, Progress, finished, sendable, started};
use crate::mirror::flight::shared::pace_beside;
use crate::mirror::flight::transfer::{BlobSource, can_have};
use crate::mirror::recall::memory::{Damaged, LONGEST, Memory};
use crate::mirror::recall::negatives::{Missing, Negatives};
use crate::mirror::room::shared::Shared;
use crate::mirror::room::stored::Stored;
use crate::mirror::routes::Route;
use crate::oci::{Descriptor, Digest, RangeHeader, Span};
use crate::outcome::Outcome;
use crate::tier::Pace;
use crate::upstream::heard::listening;
use crate::upstream::{UpstreamError, UpstreamErrorClass};

/// How long the head of an answer waits where nothing of its body may be sent yet.
const VERDICT_WAIT: Duration = Duration::from_secs(3);
/// How long a part is waited for of a blob whose size only its end will tell, and what looks like a page for people.
/// Clients give up after 30 s.
const SIZE_WAIT: Duration = Duration::from_secs(20);

/// An answer with a blob, or with parts of it.
#[derive(Debug)]
pub struct BlobAnswer {
    /// What was asked for.
    pub digest: Digest,
    /// Size of the whole blob in bytes; unknown where upstream does not say it.
    pub size: Option<u64>,
    /// The bytes.
    pub selected: Selected,
    /// Where they come from.
    pub outcome: Outcome,
}

/// How a client learns that a body of unknown length is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It is told.
    Told,
    /// By the end of the connection, which may be a cut: it gets no body of unknown length.
    UntilClose,
}

/// The size of a blob, for clients that want no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStat {
    /// In bytes; unknown where upstream does not say it.
    pub size: Option<u64>,
    /// Where the answer comes from.
    pub outcome: Outcome,
}

/// Answers with blobs.
pub(crate) struct Blobs {
    pub(super) stored: Arc<Stored>,
    pub(super) memory: Arc<Memory>,
    pub(super) fills: Arc<Fills>,
    pub(super) negatives: Arc<Negatives>,
}

impl Mirror {
    /// A blob, or the parts of it that `range` selects, for a client that learns of its end by `framing`.
    ///
    /// # Errors
    /// [`MirrorError::Range`] when the range selects nothing; [`MirrorError::Upstream`] when the
    /// blob is not stored and upstream does not give it.
    pub async fn blob(
        &self,
        route: &Route,
        digest: Digest,
        range: Option<&RangeHeader>,
        framing: Framing,
    ) -> Result<BlobAnswer, MirrorError> {
        let blobs = &self.0.answers.blobs;
        blobs.written(route, &digest).await;
        if let Some((content, outcome)) = self.heard(route, blobs.sound(route, &digest).await)? {
            return blobs.hit(content, digest, range, outcome);
        }
        blobs.negatives.check(&Missing::Blob(route.location.clone(), digest))?;
        if blobs.fills.flights.join(&(route.location.clone(), digest)).is_none() {
            route.asker.question()?;
        }
        let source = BlobSource::at(Arc::clone(&route.upstream), route.location.clone(), digest);
        let source = BlobSource { waited: route.waited.clone(), ..source };
        let (client, of_callers) = (route.asker.client(), blobs.stored.standing.is_of_callers(&route.location));
        let (following, outcome) = blobs.fills.fly(source.clone(), Right::Of(client));
        let heir = |outcome| {
            (of_callers && outcome == Outcome::Join).then(|| Heir { fills: Arc::clone(&blobs.fills), client })
        };
        if let Some(range) = range.filter(|range| range.is_bounded())
            && let Some((size, parts)) = lazy::parts(&blobs.fills, &following, &source, range).await?
            // Each part but the first is one more question to upstream.
            && parts.iter().filter(|(_, relay)| relay.is_some()).skip(1).all(|_| route.asker.question().is_ok())
        {
            let bodies = parts.into_iter().map(|(part, relay)| {
                let span = Span { start: part.start, end: Some(part.end) };
                let follow = || {
                    let reader = FillReader::new(following.clone(), source.clone(), span, Some(size));
                    BlobBody::Filling(reader.inherited_by(heir(outcome)))
                };
                let body = relay.map_or_else(follow, |relay| BlobBody::Relayed(Box::new(relay)));
                (part, body)
            });
            let selected = Selected::of(bodies.collect());
            return Ok(BlobAnswer { digest, size: Some(size), selected, outcome: Outcome::Relayed });
        }
        let filled = filling(following, source.clone(), range, framing, (outcome, heir(outcome))).await;
        if outcome == Outcome::Join && filled.is_err() && of_callers {
            // It was refused to whom it was begun for, which says nothing to this one.
            let (following, outcome) = blobs.fills.fly(source.clone(), Right::Of(client));
            return filling(following, source, range, framing, (outcome, heir(outcome))).await;
        }
        self.heard(route, filled)
    }

    /// An address in the bucket that gives this blob to whoever knows it, for so long. `None` where the bucket has it not,
    /// or has not told in time, and where the blob is not everybody's.
    pub async fn in_bucket(&self, route: &Route, digest: &Digest, ttl: Duration) -> Option<Url> {
        if route.permit().is_private() {
            return None;
        }
        let (shared, _) = Box::pin(self.0.answers.blobs.whole_in_bucket(route, digest)).await?;
        if !shared.bucket.gives_content() || shared.bucket.doubted().has(digest) {
            return None;
        }
        shared.used(digest);
        shared.bucket.signed(digest, ttl).await
    }

    /// The bytes of a stored manifest that is too large to be in memory for as long as a client takes.
    pub async fn large(&self, route: &Route, manifest: &Descriptor) -> Option<BlobBody> {
        let stored = &self.0.answers.blobs.stored;
        if manifest.size <= LONGEST as u64 {
            return None;
        }
        let (_, content) = stored.open(&route.location, &manifest.digest).await?;
        let complaint = stored.complaint(manifest.digest, &content);
        (content.size == manifest.size).then(|| BlobBody::Stored(content, 0..manifest.size, complaint))
    }

    /// Whether a blob exists, and how large it is, without fetching it.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when the blob is not stored and upstream does not confirm it.
    pub async fn stat_blob(&self, route: &Route, digest: Digest) -> Result<BlobStat, MirrorError> {
        let blobs = &self.0.answers.blobs;
        blobs.written(route, &digest).await;
        if let Some((_, content)) = blobs.stored.open(&route.location, &digest).await {
            return Ok(BlobStat { size: Some(content.size), outcome: Outcome::Hit });
        }
        if let Some(mut following) = blobs.fills.flights.join(&(route.location.clone(), digest)) {
            let size = started(&mut following).await?.total;
            return Ok(BlobStat { size, outcome: Outcome::Join });
        }
        if let Some((_, size)) = Box::pin(blobs.whole_in_bucket(route, &digest)).await {
            return Ok(BlobStat { size: Some(size), outcome: Outcome::Tier });
        }
        let mut known = blobs.stored.open_any(&digest).await.map(|content| content.size);
        if known.is_some() && !blobs.stored.is_word_enough(&route.location, &digest).await {
            known = None;
        }
        for missing in [Missing::Blob(route.location.clone(), digest), Missing::Head(route.location.clone(), digest)] {
            blobs.negatives.check(&missing)?;
        }
        route.asker.question()?;
        let asked = async {
            let size = blobs.told_size(route, &digest, known).await;
            let size = size.map_err(|error| MirrorError::upstream(Subject::Blob, error))?.or(known);
            let outcome = if known.is_some() { Outcome::Revalidated } else { Outcome::Relayed };
            Ok(BlobStat { size, outcome })
        };
        let in_bucket = async {
            let (_, size) = Box::pin(blobs.whole_in_bucket(route, &digest)).await?;
            Some(BlobStat { size: Some(size), outcome: Outcome::Tier })
        };
        let told = blobs.or_after_all(route, Box::pin(asked), in_bucket).await;
        self.heard(route, told)
    }
}

impl Blobs {
    /// The bucket, if it has this blob for the repository, and how large it is there: as large as all say who are known
    /// to lead to it.
    async fn whole_in_bucket(&self, route: &Route, digest: &Digest) -> Option<(&Arc<Shared>, u64)> {
        let Route { location, waited, .. } = route;
        let shared = self.stored.recall(location, digest, waited).await?;
        let offered = shared.bucket.offers(digest, pace_beside(&*route.upstream, waited));
        let size = shared.bucket.within(waited, offered).await?.ok()??;
        let of_member = self.stored.member(location, digest).map(|member| member.descriptor.size);
        let of_manifest = self.fills.early_of(location, *digest).await.and_then(|early| early.size());
        let fits = [of_member, of_manifest].into_iter().flatten().all(|known| known == size);
        fits.then_some((shared, size))
    }

    /// The size of a blob as upstream tells it, which has so many bytes where that is known.
    async fn told_size(
        &self,
        route: &Route,
        digest: &Digest,
        known: Option<u64>,
    ) -> Result<Option<u64>, UpstreamError> {
        let Route { location, upstream, .. } = route;
        let told = self.fills.early_of(location, *digest).await.and_then(|early| early.size());
        let fits = |size| fits(location, digest, size, known.or(told));
        match self.head(route, digest, known).await.and_then(fits) {
            // What answers HEAD may know less than what answers GET.
            Err(error) if error.class == UpstreamErrorClass::Protocol => {
                upstream.stat_by_get(&location.repository, digest).await.and_then(fits)
            }
            size => size,
        }
    }

    /// What comes of asking upstream; or, where that fails or says nothing for long, what the bucket says after all, which
    /// was passed over as long as upstream might tell.
    async fn or_after_all<T>(
        &self,
        route: &Route,
        asked: impl Future<Output = Result<T, MirrorError>>,
        in_bucket: impl Future<Output = Option<T>>,
    ) -> Result<T, MirrorError> {
        let Some(shared) = self.stored.shared() else { return asked.await };
        let is_news = route.waited.pace() == Pace::Helps;
        let after_all = async {
            route.waited.has_nobody_else();
            if is_news { in_bucket.await } else { None }
        };
        or_instead(shared.bucket.patience(), asked, MirrorError::is_no_answer, Box::pin(after_all)).await
    }

    /// Who asks for a manifest as a blob, or what is about it, waits until it is there.
    pub(super) async fn written(&self, route: &Route, digest: &Digest) {
        let writing = &self.fills.writing;
        if writing.get(&(route.location.clone(), *digest)).is_some() {
            writing.over(Some(&route.location)).await;
        }
    }

    /// The blob from the store, if this repository may have it: that was proven before, or is now by the word of
    /// upstream. `None` also where only the whole blob can tell.
    pub(crate) async fn stored(
        &self,
        route: &Route,
        digest: &Digest,
    ) -> Result<Option<(Content, Outcome)>, MirrorError> {
        if let Some((_, content)) = self.stored.open(&route.location, digest).await {
            return Ok(Some((content, Outcome::Hit)));
        }
        if self.stored.recall(&route.location, digest, &route.waited).await.is_some()
            && let Some((_, content)) = self.stored.open(&route.location, digest).await
        {
            return Ok(Some((content, Outcome::Hit)));
        }
        let Some(content) = self.stored.open_any(digest).await else { return Ok(None) };
        let asked = async {
            let is_confirmed = self.confirm(route, digest, content.size).await?;
            Ok(is_confirmed.then_some((content, Outcome::Revalidated)))
        };
        let in_bucket = async {
            self.stored.recall(&route.location, digest, &route.waited).await?;
            let (_, content) = self.stored.open(&route.location, digest).await?;
            Some(Some((content, Outcome::Hit)))
        };
        let confirmed = self.or_after_all(route, Box::pin(asked), in_bucket).await?;
        confirmed.iter().for_each(|_| self.stored.note(digest));
        Ok(confirmed)
    }

    /// The same, in memory where it is small. `None` also when it turns out to be damaged; it was then
    /// taken out of sight.
    async fn sound(&self, route: &Route, digest: &Digest) -> Result<Option<(Content, Outcome)>, MirrorError> {
        let stamp = self.stored.stamp();
        let Some((content, outcome)) = self.stored(route, digest).await? else { return Ok(None) };
        let content = match self.memory.load(&route.location, digest, content, stamp).await {
            Ok(content) => Some(content),
            // Read and hashed once more, and set aside if that is how it is.
            Err(Damaged(content)) => self.stored.check(digest, &content).await.then_some(content),
        };
        Ok(content.map(|content| (content, outcome)))
    }

    /// Asks upstream whether the repository has a blob of `size` bytes, and remembers a yes. A no to HEAD is
    /// no answer to who wants GET, nor is a yes soon after a no to GET: a byte of the blob is asked for, before the whole of
    /// it. Where not everybody may know what is stored, that is asked at once, and its no is the answer: who asks for
    /// what is stored elsewhere costs upstream one question, as if it were not.
    async fn confirm(&self, route: &Route, digest: &Digest, size: u64) -> Result<bool, MirrorError> {
        let Route { location, upstream, asker, .. } = route;
        self.negatives.check(&Missing::Blob(location.clone(), *digest))?;
        if !self.stored.is_word_enough(location, digest).await {
            return Ok(false);
        }
        asker.question()?;
        let told_to_all = matches!(route.permit().rule(), Rule::Mode(Access::Public) | Rule::Operator);
        let for_all = told_to_all && self.stored.standing.asks_as_nobody(location);
        let blob = Missing::Blob(location.clone(), *digest);
        let heads_tell = for_all && !self.negatives.was_missing(&blob);
        if heads_tell && self.negatives.check(&Missing::Head(location.clone(), *digest)).is_ok() {
            match self.head(route, digest, Some(size)).await {
                Ok(_) => return Ok(true),
                // Who answers that something is wrong may have it wrong with HEAD alone.
                Err(error) if error.class.is_outage() && !error.is_trouble_told() => {
                    return Err(MirrorError::upstream(Subject::Blob, error));
                }
                Err(_) => {}
            }
        }
        let (upstream, heard) = listening(upstream);
        match upstream.stat_by_get(&location.repository, digest).await {
            Ok(Some(told)) if told == size => {
                self.negatives.forget(&blob);
                let at = self.stored.places_of_word(location, digest, &heard).await;
                self.stored.add_blob_member(location, *digest, size, (Proof::Head, at)).await;
                Ok(true)
            }
            Err(error) if error.class.is_outage() => Err(MirrorError::upstream(Subject::Blob, error)),
            Err(error)
                if !for_all && matches!(error.class, UpstreamErrorClass::NotFound | UpstreamErrorClass::Denied) =>
            {
                self.negatives.note(|| blob, error.class);
                Err(MirrorError::upstream(Subject::Blob, error))
            }
            // Some have it and not in parts.
            _ => Ok(false),
        }
    }

    /// What upstream says to HEAD, to whom has the blob, with a size in bytes that upstream may confirm, or has not.
    /// Remembers a yes that confirms it, unless GET was told no just now, and a no.
    async fn head(&self, route: &Route, digest: &Digest, known: Option<u64>) -> Result<Option<u64>, UpstreamError> {
        let Route { location, upstream, .. } = route;
        let (upstream, heard) = listening(upstream);
        let size = upstream.stat(&location.repository, digest).await;
        let size = size.inspect_err(|error| {
            self.negatives.note(|| Missing::Head(location.clone(), *digest), error.class);
        })?;
        let size = fits(location, digest, size, known)?;
        let was_missing = self.negatives.was_missing(&Missing::Blob(location.clone(), *digest));
        if let Some(size) = size.and(known).filter(|_| !was_missing) {
            let at = self.stored.places_of_word(location, digest, &heard).await;
            self.stored.add_blob_member(location, *digest, size, (Proof::Head, at)).await;
        }
        Ok(size)
    }

    pub(super) fn hit(
        &self,
        content: Content,
        digest: Digest,
        range: Option<&RangeHeader>,
        outcome: Outcome,
    ) -> Result<BlobAnswer, MirrorError> {
        let size = content.size;
        let complaint = self.stored.complaint(digest, &content);
        let body = |part: Option<&Range<u64>>| {
            BlobBody::Stored(content.clone(), part.cloned().unwrap_or(0..size), complaint.clone())
        };
        Ok(BlobAnswer { digest, size: Some(size), selected: select(range, Some(size), body)?, outcome })
    }
}

/// The same size of a blob in bytes, if it may have that one, as far as others say which it has.
fn fits(
    location: &Location,
    digest: &Digest,
    size: Option<u64>,
    expected: Option<u64>,
) -> Result<Option<u64>, UpstreamError> {
    if can_have(digest, size) && size.zip(expected).is_none_or(|(size, expected)| size == expected) {
        return Ok(size);
    }
    let size = size.unwrap_or_default();
    let message = format!("{location}: blob {digest}: upstream says that it has {size} bytes");
    Err(UpstreamError::new(UpstreamErrorClass::Protocol, message))
}

pub(super) async fn filling(
    mut following: Following,
    source: BlobSource,
    range: Option<&RangeHeader>,
    framing: Framing,
    (outcome, heir): (Outcome, Option<Heir>),
) -> Result<BlobAnswer, MirrorError> {
    started(&mut following).await?;
    tokio::time::timeout(VERDICT_WAIT, sendable(&mut following)).await.unwrap_or(Ok(()))?;
    if following.borrow().doubt == Doubt::Page {
        tokio::time::timeout(SIZE_WAIT, sendable(&mut following)).await.unwrap_or(Ok(()))?;
    }
    let progress = following.borrow().clone();
    let is_from_tier = progress.is_from_tier();
    let Progress { mut total, phase, passed, .. } = progress;
    let is_relayed = passed.is_some() || matches!(phase, Phase::Unkept(_));
    let outcome = match outcome {
        _ if is_relayed => Outcome::Relayed,
        Outcome::Fill if is_from_tier => Outcome::Tier,
        outcome => outcome,
    };
    if total.is_none() && framing == Framing::UntilClose {
        total = finished(&mut following).await?;
    } else if total.is_none() && range.is_some() {
        // Without a size there are no parts, and who waits too long gets all of it.
        total = tokio::time::timeout(SIZE_WAIT, finished(&mut following)).await.unwrap_or(Ok(None))?;
    }
    if total.is_none() && framing == Framing::UntilClose {
        // The store gave up, and there is nowhere to keep what is not verified yet: it is fetched for its
        // length first, and a second time for the client.
        total = Some(Relay::measure(source.clone()).await?);
    }
    let digest = source.digest;
    let body = |part: Option<&Range<u64>>| {
        let span = part.map_or(Span::default(), |part| Span { start: part.start, end: Some(part.end) });
        BlobBody::Filling(FillReader::new(following.clone(), source.clone(), span, total).inherited_by(heir.clone()))
    };
    Ok(BlobAnswer { digest, size: total, selected: select(range, total, body)?, outcome })
}
