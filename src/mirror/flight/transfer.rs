//! The bytes of one blob from upstream, in order and without gaps, resumed when the connection breaks.
//!
//! Content is named by its digest, so any answer for the same digest continues any other; nobody
//! has to ask whether it changed. What arrives is not trusted for that: whoever reads it verifies.
//! An upstream that will not give the rest, be it with a refusal or a connection that ends, may give the whole:
//! then that is asked for, and what is known of it is skipped. Where it has several addresses, the one that broke off
//! is told on, and asked last from then on.
//!
//! A connection on which bytes only trickle counts as broken: another one may be faster, and a fill
//! that never ends would keep everybody who joined it waiting. The file is long because what is asked next depends on
//! all that came before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use crate::metadata::Location;
use crate::mirror::flight::beside::or_instead;
use crate::mirror::flight::givers::Givers;
use crate::mirror::flight::progress::is_held_back;
use crate::mirror::flight::replica::AtReplica;
use crate::mirror::flight::shared::{InBucket, pace_beside};
use crate::oci::plausible::begins_like_a_page;
use crate::oci::{Digest, Span, Verifier};
use crate::tier::Waited;
use crate::upstream::{Contact, Giver, Upstream, UpstreamBlob, UpstreamError, UpstreamErrorClass};

/// How often in a row a transfer may break without getting anywhere in between; and how often nobody may be there to
/// go on with one that got somewhere.
const MAX_BREAKS: u32 = 3;
const MAX_AWAY: u32 = 5;
/// So many questions for a part are refused before the whole is asked for.
const MAX_REFUSED: u32 = 2;
/// How many bytes a connection must bring in [`PATIENCE`], and a new one to count as progress.
const TRICKLE: u64 = 4 << 10;
/// How long upstream is waited for, while nobody holds it up, before it is judged how much came.
const PATIENCE: Duration = Duration::from_secs(60);

/// A blob at an upstream.
#[derive(Clone)]
pub struct BlobSource {
    /// The registry to ask.
    pub upstream: Arc<dyn Upstream>,
    /// Its name and the repository.
    pub location: Location,
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes as others say who lead to it.
    pub told: Option<u64>,
    /// The same blob in the bucket, which is asked before the registry.
    pub shared: Option<Arc<InBucket>>,
    /// The same blob at the replica that fetches it, which is asked after the bucket.
    pub replica: Option<Arc<AtReplica>>,
    /// How long the look-up of it has waited for the bucket.
    pub(in crate::mirror) waited: Waited,
    /// Who gave some of it.
    pub(in crate::mirror) givers: Givers,
}

impl BlobSource {
    /// A blob that is asked for at its registry alone.
    pub fn at(upstream: Arc<dyn Upstream>, location: Location, digest: Digest) -> BlobSource {
        let (waited, givers) = (Waited::default(), Givers::default());
        BlobSource { upstream, location, digest, told: None, shared: None, replica: None, waited, givers }
    }

    /// The blob, or a part of it.
    async fn blob(&self, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let pace = pace_beside(&*self.upstream, &self.waited);
        if let Some(shared) = &self.shared
            && let Some(blob) = Box::pin(shared.blob(span, self.told, pace)).await
        {
            return Ok(blob);
        }
        if let Some(replica) = &self.replica
            && let Some(blob) = Box::pin(replica.blob(span, self.told, pace)).await
        {
            self.givers.note_untold();
            return Ok(blob);
        }
        let blob = match self.left_as_slow() {
            Some(patience) => self.of_upstream_or_slowly(span, patience).await?,
            None => self.of_upstream_or_after_all(span).await?,
        };
        self.givers.note(blob.giver.as_ref());
        Ok(blob)
    }

    async fn of_upstream(&self, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        self.upstream.blob(&self.location.repository, &self.digest, span).await
    }

    /// From the registry, or else from the bucket, which was passed over as long as that might give it.
    async fn of_upstream_or_after_all(&self, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let passed_over = self.shared.as_ref().filter(|shared| shared.is_passed_over());
        let Some(shared) = passed_over else { return self.of_upstream(span).await };
        let after_all = Box::pin(shared.after_all(span, self.told));
        let may_stand_in = |error: &UpstreamError| error.class.is_no_answer();
        or_instead(shared.patience(), Box::pin(self.of_upstream(span)), may_stand_in, after_all).await
    }

    /// How long the registry is waited for in place of who gave it slowly; `None` where nobody did.
    fn left_as_slow(&self) -> Option<Duration> {
        let bucket = self.shared.as_ref().filter(|shared| shared.is_slow()).map(|shared| shared.patience());
        bucket.or_else(|| self.replica.as_ref()?.left_as_slow())
    }

    /// The rest from the registry, or else from who gave it slowly.
    async fn of_upstream_or_slowly(&self, span: Span, patience: Duration) -> Result<UpstreamBlob, UpstreamError> {
        let failed = match tokio::time::timeout(patience, self.of_upstream(span)).await {
            Ok(Err(error)) if error.class.is_outage() => Some(error),
            Ok(answer) => return answer,
            Err(_) => None,
        };
        tracing::info!(blob = ?self, ?failed, "upstream does not give the rest: it comes slowly");
        if let Some(shared) = &self.shared
            && let Some(blob) = Box::pin(shared.however_slow(span, self.told)).await
        {
            return Ok(blob);
        }
        if let Some(replica) = &self.replica
            && let Some(blob) = Box::pin(replica.however_slow(span)).await
        {
            self.givers.note_untold();
            return Ok(blob);
        }
        match failed {
            Some(error) => Err(error),
            None => self.of_upstream(span).await,
        }
    }

    /// What came is not the blob: that is held against each address that gave some of it. Whether there is another.
    pub(crate) fn fell_short(&self) -> bool {
        self.givers.fell_short()
    }
}

impl std::fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.location, self.digest)
    }
}

/// Whether a blob may have this size in bytes: only one of all blobs is empty.
pub(crate) fn can_have(digest: &Digest, size: Option<u64>) -> bool {
    size != Some(0) || *digest == Digest::of(digest.algorithm(), b"")
}

/// A transfer that survives breaks.
pub struct Transfer {
    source: BlobSource,
    /// The next byte to hand out.
    position: u64,
    /// The first byte that is not wanted.
    end: Option<u64>,
    size: Option<u64>,
    body: Option<BoxStream<'static, Result<Bytes, UpstreamError>>>,
    breaks: u32,
    /// How many bytes came since the last break.
    progress: u64,
    /// Whether upstream sends again what lies before `position`.
    repeats: bool,
    /// Whether upstream sends only what was asked for.
    part: bool,
    /// How many questions for a part were refused: after [`MAX_REFUSED`] the next is for everything.
    refused: u32,
    /// What came so far, where all of it was seen: tells the end where nobody told the size.
    seen: Option<Verifier>,
    /// Which address gives what comes now.
    giver: Option<Giver>,
    /// Whether what comes now may end before the blob does, and nothing tells.
    may_be_a_part: bool,
    /// Whether who reads it begins anew where that goes unnoticed.
    begins_anew: bool,
    /// Whether what comes is called a page for people.
    page: bool,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer")
            .field("source", &self.source)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Transfer {
    /// Asks for `span` of the blob, of which `size` in bytes may be known.
    ///
    /// # Errors
    /// What upstream says to the first request; only later breaks are resumed.
    pub async fn open(source: BlobSource, span: Span, size: Option<u64>) -> Result<Transfer, UpstreamError> {
        let mut transfer = Transfer::of(source, span, size);
        transfer.connect().await?;
        Ok(transfer)
    }

    /// The same from `start` on, of an upstream that will not give a part: the whole is asked for.
    ///
    /// # Errors
    /// Those of [`Transfer::open`].
    pub async fn open_whole(source: BlobSource, start: u64) -> Result<Transfer, UpstreamError> {
        let mut transfer = Transfer { refused: MAX_REFUSED, ..Transfer::of(source, Span::from(start), None) };
        transfer.connect().await?;
        Ok(transfer)
    }

    /// The same for the rest of what upstream gives already: it is asked when the first bytes are wanted,
    /// and again like after a break.
    pub fn of(source: BlobSource, span: Span, size: Option<u64>) -> Transfer {
        let seen = (span.is_whole() && size.is_none()).then(|| Verifier::new(source.digest.algorithm()));
        Transfer {
            source,
            position: span.start,
            end: span.end,
            size,
            body: None,
            breaks: 0,
            progress: 0,
            repeats: false,
            part: true,
            refused: 0,
            seen,
            giver: None,
            may_be_a_part: false,
            begins_anew: false,
            page: false,
        }
    }

    /// The same, for who begins anew where that goes unnoticed: see [`Giver::fell_short`].
    #[must_use]
    pub fn or_anew(self) -> Transfer {
        Transfer { begins_anew: true, ..self }
    }

    /// Whether who gives it is one of several addresses.
    pub const fn has_another(&self) -> bool {
        self.giver.is_some()
    }

    /// Whether what comes is called a page for people: somebody on the way may have answered.
    pub const fn is_page(&self) -> bool {
        self.page
    }

    /// The size of the whole blob in bytes, if upstream said it.
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether upstream does not do ranges, and sends everything from the start.
    pub const fn repeats(&self) -> bool {
        self.repeats
    }

    /// Whether upstream sends only the part that was asked for.
    pub const fn is_part(&self) -> bool {
        self.part
    }

    /// The first byte that is not wanted; `None` for everything up to the end.
    pub const fn end(&self) -> Option<u64> {
        self.end
    }

    /// Takes everything of an upstream that sends everything, whatever end was asked for.
    pub fn widen(&mut self) {
        self.end = self.end.filter(|_| self.part).map(|end| end.min(self.size.unwrap_or(end)));
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the transfer broke too often without progress, or upstream contradicts itself.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            if self.end.is_some_and(|end| self.position >= end) {
                return Ok(None);
            }
            let broken = match self.read().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) if self.is_complete() && !self.is_cut_short() => return Ok(None),
                Ok(None) => self.error(UpstreamErrorClass::Unavailable, "the body ended early").answered(),
                Err(error) if error.class.is_outage() && self.is_all_there() => {
                    tracing::debug!(blob = ?self.source, %error, "all of it has come");
                    return Ok(None);
                }
                Err(error) if error.class.is_outage() => error,
                Err(error) => return Err(error),
            };
            // Who had the connection taken away did nothing.
            let giver = self.giver.take().filter(|_| broken.contact != Contact::Unreachable);
            let may_another = giver.is_some_and(|giver| giver.fell_short());
            if may_another && self.has_gone_wrong_at_its_beginning() {
                // What came may be no part of it.
                return Err(self.error(UpstreamErrorClass::Protocol, "broke off at its beginning"));
            }
            self.resume(broken).await?;
        }
    }

    /// The next bytes of the present connection that were not seen before.
    async fn read(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let Some(mut bytes) = body.next().await.transpose()? else { return Ok(None) };
        let limit = self.end.or(self.size).unwrap_or(u64::MAX) - self.position;
        if bytes.len() as u64 > limit {
            if self.end.is_none() {
                return Err(self.error(UpstreamErrorClass::Protocol, "more bytes than the blob has"));
            }
            bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        if self.position == 0 && begins_like_a_page(&bytes) {
            self.may_be_a_part = false;
        }
        if let Some(seen) = &mut self.seen {
            seen.update(&bytes);
        }
        self.position += bytes.len() as u64;
        self.progress += bytes.len() as u64;
        if self.progress >= TRICKLE {
            self.breaks = 0;
        }
        Ok(Some(bytes))
    }

    fn is_complete(&self) -> bool {
        self.end.or(self.size).is_none_or(|end| self.position >= end)
    }

    /// Whether nothing is missing, however the body ended.
    fn is_all_there(&self) -> bool {
        match self.end.or(self.size) {
            Some(end) => self.position >= end,
            None => self.seen.as_ref().is_some_and(|seen| seen.clone().finish() == self.source.digest),
        }
    }

    /// Whether all that came before it broke can be had once more from somebody else, without a reader noticing.
    fn has_gone_wrong_at_its_beginning(&self) -> bool {
        self.begins_anew && self.position == self.progress && is_held_back(self.size, self.position)
    }

    /// Whether a body that only the end of its connection ends, or that is shorter than the blob is said to be, is a part,
    /// and another address may have the rest.
    /// What no reader has yet may as well begin anew.
    fn is_cut_short(&mut self) -> bool {
        let is_no_blob = |seen: &Verifier| seen.clone().finish() != self.source.digest;
        let may_be_a_part = self.may_be_a_part || self.source.told.is_some_and(|told| self.position < told);
        let is_short = self.end.or(self.size).is_none() && !is_held_back(None, self.position) && may_be_a_part;
        let is_short = is_short && self.seen.as_ref().is_some_and(is_no_blob);
        is_short && self.giver.take().is_some_and(|giver| giver.fell_short())
    }

    async fn resume(&mut self, mut broken: UpstreamError) -> Result<(), UpstreamError> {
        self.body = None;
        let is_worth_waiting = self.position >= TRICKLE;
        let most = |broken: &UpstreamError| match broken.contact {
            Contact::Unreachable if is_worth_waiting => MAX_AWAY,
            _ => MAX_BREAKS,
        };
        while let Some(pause) = pause(self.breaks, most(&broken)) {
            tracing::debug!(blob = ?self.source, position = self.position, error = %broken, "resuming a transfer");
            tokio::time::sleep(pause).await;
            self.breaks += 1;
            match self.connect().await {
                Err(error) if error.class.is_outage() => broken = error,
                result => return result,
            }
        }
        Err(broken)
    }

    async fn connect(&mut self) -> Result<(), UpstreamError> {
        let before = self.source.givers.count();
        let blob = self.ask().await?;
        if self.has_another_size(&blob) {
            // Of two that contradict one another the one that broke off is believed less.
            if before > 0 {
                self.source.givers.keep_first(before);
            }
            return Err(self.error(UpstreamErrorClass::Protocol, "another size than before"));
        }
        let is_odd = self.position == 0 && self.source.told.zip(blob.size).is_some_and(|(told, size)| told != size);
        if is_odd && blob.giver.as_ref().is_some_and(Giver::fell_short) {
            return Err(self.error(UpstreamErrorClass::Protocol, "another size than its manifest says"));
        }
        self.size = self.size.or(blob.size);
        self.seen = self.seen.take().filter(|_| self.size.is_none());
        if !can_have(&self.source.digest, self.size) || self.size.is_some_and(|size| size < self.position) {
            return Err(self.error(UpstreamErrorClass::Protocol, "a size that the blob cannot have"));
        }
        self.repeats = blob.offset < self.position;
        self.part = blob.part;
        self.progress = 0;
        (self.giver, self.may_be_a_part, self.page) = (blob.giver, blob.until_close, blob.page);
        self.body = Some(skip(steady(blob.body), self.position.saturating_sub(blob.offset)));
        Ok(())
    }

    /// Asks for what is missing. Where that is refused, and would not be at the beginning of a download,
    /// the whole is asked for: at once, or later where it may have been an outage.
    async fn ask(&mut self) -> Result<UpstreamBlob, UpstreamError> {
        let span = Span { start: self.position, end: self.end };
        let is_part = !span.is_whole();
        // Of a blob that is read in pieces nobody wants all that lies before one, because somebody is away.
        let is_rest = self.end.is_none_or(|end| self.size == Some(end));
        if is_part && self.refused < MAX_REFUSED {
            let refused = match self.source.blob(span).await {
                Err(error) if error.class.is_outage() => {
                    self.refused += if is_rest { refusals(&error) } else { 0 };
                    return Err(error);
                }
                Err(error) => error,
                Ok(blob) if self.has_another_size(&blob) && !self.may_begin_anew(&blob) => {
                    // Readers have some of what the other gave.
                    let _ = blob.giver.as_ref().map(Giver::fell_short);
                    self.error(UpstreamErrorClass::Protocol, "another size")
                }
                answer => return answer,
            };
            tracing::debug!(blob = ?self.source, error = %refused, "no answer to a range, asking for everything");
        }
        let answer = self.source.blob(Span::default()).await;
        if is_part {
            // Where the whole is not to be had either, it may not have been the range.
            self.refused = if answer.is_ok() { MAX_REFUSED } else { MAX_REFUSED - 1 };
        }
        answer
    }

    /// Whether that cannot be the blob of which the rest is missing.
    fn has_another_size(&self, blob: &UpstreamBlob) -> bool {
        self.size.zip(blob.size).is_some_and(|(before, now)| before != now)
    }

    /// Whether it is of another address, and no reader has any of what came before.
    fn may_begin_anew(&self, blob: &UpstreamBlob) -> bool {
        blob.giver.is_some() && is_held_back(self.size, self.position)
    }

    fn error(&self, class: UpstreamErrorClass, what: &str) -> UpstreamError {
        let BlobSource { location, digest, .. } = &self.source;
        UpstreamError::new(class, format!("{location}: blob {digest}: {what}, at byte {}", self.position))
    }
}

/// For how many refusals of a part it counts that there was this outage. Who could not answer was asked more than
/// once; who could not be reached has not refused.
fn refusals(error: &UpstreamError) -> u32 {
    match (error.class, error.contact) {
        (UpstreamErrorClass::Unavailable, Contact::Unreachable) if !error.elsewhere => 0,
        (UpstreamErrorClass::Unavailable, Contact::Answered | Contact::Closed | Contact::Unreachable) => MAX_REFUSED,
        _ => 1,
    }
}

/// How long to wait after the transfer broke for the `breaks`-th time in a row, of `most`; `None` to give up.
fn pause(breaks: u32, most: u32) -> Option<Duration> {
    (breaks < most).then(|| Duration::from_millis(50 << (2 * breaks)))
}

/// Ends a body that trickles with an error.
fn steady(body: BoxStream<'static, Result<Bytes, UpstreamError>>) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
    stream::try_unfold((body, Duration::ZERO, 0), |(mut body, mut waited, mut came)| async move {
        let asked = Instant::now();
        let Some(bytes) = body.next().await.transpose()? else { return Ok(None) };
        waited += asked.elapsed();
        came += bytes.len() as u64;
        if waited >= PATIENCE {
            if came < TRICKLE {
                let message = format!("upstream sent {came} bytes in {} s", waited.as_secs());
                return Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message).answered());
            }
            (waited, came) = (Duration::ZERO, 0);
        }
        Ok(Some((bytes, (body, waited, came))))
    })
    .boxed()
}

/// Leaves out what an upstream without ranges sends again.
fn skip(
    body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    mut seen: u64,
) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
    if seen == 0 {
        return body;
    }
    let unseen = move |item: Result<Bytes, UpstreamError>| {
        let rest = item.map(|mut bytes| {
            let known = usize::try_from(seen).unwrap_or(usize::MAX).min(bytes.len());
            seen -= known as u64;
            bytes.split_off(known)
        });
        let nothing_new = rest.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready((!nothing_new).then_some(rest))
    };
    body.filter_map(unseen).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Contact;

    /// So many chunks, one each second.
    fn dripping(bytes: usize, times: usize) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
        let drops = stream::iter(0..times).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Bytes::from(vec![0; bytes]))
        });
        drops.boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_broken_off() {
        let mut body = steady(dripping(1, 1000));
        let mut came = 0;
        let broken = loop {
            match body.next().await {
                Some(Ok(_)) => came += 1,
                other => break other,
            }
        };
        assert_eq!(came, 59);
        assert!(
            broken.expect("an error").is_err_and(|error| error.class.is_outage() && error.contact == Contact::Answered)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_read_to_its_end() {
        assert!(steady(dripping(100, 1000)).all(|item| std::future::ready(item.is_ok())).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_does_not_make_upstream_slow() {
        let mut body = steady(dripping(1, 50));
        while let Some(item) = body.next().await {
            assert!(item.is_ok());
            tokio::time::sleep(PATIENCE).await;
        }
    }
}
