//! How an upstream is asked: at several addresses in order, each guarded, the last one again.
//!
//! The next address is asked when one cannot answer, wants rest, sends what cannot be an answer or says that its
//! answer is stale, and only then: whoever says no is taken at its word, unless the operator says that an address
//! holds only a part, or somebody gave some of it before. Each has its own guard, so that a dead first one costs one
//! time-out and not one for every request. Only the last is asked again at once: where there is another address, that
//! is the better second try. Who fell short of something is asked last for it. The file is long because the port has
//! one method for each question.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::credentials::{Fingerprint, Presented};
use super::guard::Guard;
use super::health::Health;
use super::heard::Heard;
use super::limit::{LONGEST_WAIT, Lane, Limits};
use super::resource::Resource;
use super::settings::{OnMissing, Timeouts};
use super::shortfalls::Shortfalls;
use super::{
    Allowance, Contact, Notices, Outlook, ReferrerList, Resolved, TagList, Upstream, UpstreamBlob, UpstreamError,
    UpstreamErrorClass,
};
use super::{UpstreamObserver, retry};
use crate::clock::Clock;
use crate::oci::challenge::Challenge;
use crate::oci::{AcceptSet, Cursor, Digest, Manifest, Page, Place, Reference, RegistryName, Repository, Span};

/// So many who present credentials of their own are known to be limited, each.
const MOST_LIMITS: u64 = 4096;

/// A connection that is refused is so within this time; where it takes longer nobody is heard of.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

/// So long HEAD is waited for, at most, before GET is tried beside it.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// So long one who has a stale answer waits for the next address to know better.
const BETTER_WITHIN: Duration = Duration::from_secs(2);

/// An upstream with all its addresses.
pub struct Asking {
    /// In the order to try.
    addresses: Vec<Address>,
    streams: usize,
    on_missing: OnMissing,
    /// How long one address may take for an answer, with everything that belongs to it.
    longest: Duration,
    /// How long HEAD is waited for alone.
    head_within: Duration,
    shortfalls: Shortfalls,
    clock: Arc<dyn Clock>,
    /// Who wants to know which address answered.
    heard: Option<Heard>,
}

#[derive(Clone)]
struct Address {
    /// Its place in the configuration.
    number: usize,
    /// Where it is, if that is told.
    place: Option<Place>,
    upstream: Arc<dyn Upstream>,
    guard: Arc<Guard>,
    /// Whether it said of its latest answer that it is stale: then it does not know what is missing either.
    is_behind: Arc<AtomicBool>,
    /// What limits those who present a credential of their own, each for himself.
    others: LimitsOfOthers,
    /// What limits this one; `None` where we ask as ourselves.
    own: Option<Arc<Mutex<Limits>>>,
}

type LimitsOfOthers = Cache<Option<Fingerprint>, Arc<Mutex<Limits>>>;

fn nobody_limited() -> LimitsOfOthers {
    Cache::builder().max_capacity(MOST_LIMITS).time_to_live(LONGEST_WAIT).build()
}

impl Address {
    fn new(number: usize, upstream: Arc<dyn Upstream>, guard: Guard) -> Address {
        let (guard, is_behind, others) = (Arc::new(guard), Arc::default(), nobody_limited());
        let place = upstream.place();
        Address { number, place, upstream, guard, is_behind, others, own: None }
    }

    /// The same address, as somebody asks it with what he presents.
    fn presenting(&self, presented: &Presented) -> Option<Address> {
        let upstream = self.upstream.presenting(presented)?;
        let own = self.others.get_with(presented.fingerprint, Arc::default);
        Some(Address { upstream, own: Some(own), ..self.clone() })
    }

    async fn ask<T>(
        &self,
        lane: Lane,
        resource: &Resource,
        answer: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        self.guard.ask(lane, resource, self.own.as_deref(), answer).await
    }
}

impl Asking {
    /// Asks the upstream `name` at `addresses`, in this order: for each its host and port, as logs and
    /// metrics name it, and who asks there.
    pub fn new(
        name: &RegistryName,
        addresses: impl IntoIterator<Item = (String, Arc<dyn Upstream>)>,
        clock: Arc<dyn Clock>,
        observer: &Arc<dyn UpstreamObserver>,
    ) -> Asking {
        let mut addresses = addresses.into_iter().peekable();
        let mut guarded = Vec::new();
        while let Some((endpoint, upstream)) = addresses.next() {
            let has_deputy = addresses.peek().is_some();
            let guard = Guard::new(name.clone(), endpoint, has_deputy, Arc::clone(&clock), Arc::clone(observer));
            guarded.push(Address::new(guarded.len(), upstream, guard));
        }
        let on_missing = OnMissing::default();
        let (longest, head_within) = (Timeouts::default().longest(), HEAD_WITHIN);
        let shortfalls = Shortfalls::default();
        Asking { addresses: guarded, streams: 1, on_missing, longest, head_within, shortfalls, clock, heard: None }
    }

    /// Large blobs may be read through so many connections at once.
    #[must_use]
    pub fn with_streams(self, streams: usize) -> Asking {
        Asking { streams, ..self }
    }

    /// What it means that one address has not got something.
    #[must_use]
    pub fn with_on_missing(self, on_missing: OnMissing) -> Asking {
        let addresses = self.addresses;
        if on_missing == OnMissing::Next {
            addresses.iter().for_each(|address| address.guard.has_no_deputy());
        }
        Asking { addresses, on_missing, ..self }
    }

    /// No answer may take longer than these add up to.
    #[must_use]
    pub fn with_timeouts(self, timeouts: Timeouts) -> Asking {
        let head_within = HEAD_WITHIN.min(timeouts.first_byte / 2);
        Asking { longest: timeouts.longest(), head_within, ..self }
    }

    /// Puts a question to one address after the other, until one answers.
    async fn put<'a, T, F>(
        &'a self,
        lane: Lane,
        resource: &Resource,
        question: impl Fn(&'a dyn Upstream) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        self.put_in_ways(lane, resource, |address, _| question(&*address.upstream)).await
    }

    /// The same for a question that may be put in another way: where the first failed, or where nothing else is
    /// heard than that something is wrong. Of what was given in part before, a no is not the last word.
    async fn put_in_ways<'a, T, F>(
        &'a self,
        lane: Lane,
        resource: &Resource,
        question: impl Fn(&'a Address, bool) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let (addresses, fell_short) = self.in_order(resource);
        let Some((&last, others)) = addresses.split_last() else {
            return Err(UpstreamError::new(UpstreamErrorClass::Unavailable, "no address to ask"));
        };
        let was_given = lane == Lane::Rest || fell_short;
        let (mut away, mut stale) = (None, None);
        for address in others {
            let answer = address.ask(lane, resource, self.in_all(question(address, false)));
            let answer = self.or_stale(&mut stale, address, resource, answer).await;
            match answer.inspect_err(|error| self.judge(resource, address, error)) {
                Err(error) if error.class.is_no_answer() => {
                    tracing::debug!(%error, "trying the next address");
                    away = Some(error);
                }
                Err(error)
                    if was_given
                        || error.class == UpstreamErrorClass::NotFound
                            && (self.on_missing == OnMissing::Next || address.is_behind.load(Ordering::Relaxed)) =>
                {
                    tracing::debug!(%error, "not there, trying the next address");
                }
                Ok(None) => tracing::debug!(?resource, "a stale answer, trying the next address"),
                Ok(Some(answer)) => return Ok(self.heard_at(address, answer)),
                Err(error) => return stale.map(|(at, answer)| self.heard_at(at, answer)).ok_or(error),
            }
        }
        // Who wants the rest of something asks again himself, and in another way.
        let tries = if lane == Lane::Rest { 2 } else { 3 };
        let again = |attempt: usize, error: &UpstreamError, took: Duration| {
            let is_silent = match error.contact {
                Contact::Silent => true,
                Contact::Unreachable => took >= REFUSED_WITHIN,
                Contact::Closed | Contact::Answered => false,
            };
            attempt < tries && !is_silent && !last.guard.is_failing()
        };
        let answer =
            self.in_all(retry::again(again, |attempt| question(last, attempt == 2 || last.guard.is_failing())));
        let answer = async { last.ask(lane, resource, answer).await.map(|answer| self.heard_at(last, answer)) };
        if let Some((at, stale)) = stale {
            let better = tokio::time::timeout(BETTER_WITHIN, answer).await;
            return Ok(better.ok().and_then(Result::ok).unwrap_or_else(|| self.heard_at(at, stale)));
        }
        match (answer.await.inspect_err(|error| self.judge(resource, last, error)), away) {
            // Where each holds a part, or gave some of it, the one that is away may have it.
            (Err(missing), Some(away))
                if was_given && !missing.class.is_no_answer()
                    || missing.class == UpstreamErrorClass::NotFound && self.on_missing == OnMissing::Next =>
            {
                Err(away)
            }
            (answer, _) => answer,
        }
    }

    /// Asks by HEAD, or as well by GET where that is known or soon found to stay without an answer.
    async fn by_head_or_get<T>(
        &self,
        guard: &Guard,
        resource: &Resource,
        head: impl Future<Output = Result<T, UpstreamError>>,
        get: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        if guard.is_silent_to_heads(resource) {
            return get.await.inspect(|_| guard.answers_get_alone());
        }
        // Where nothing is heard it may be slow, and not silent to HEAD.
        let is_there = guard.is_there();
        let mut head = pin!(head);
        if let Ok(told) = tokio::time::timeout(self.head_within, &mut head).await {
            return told;
        }
        let mut get = pin!(get);
        tokio::select! {
            told = &mut head => told,
            told = &mut get => match told {
                Err(error) if error.class.is_no_answer() => head.await.map_err(|_| error),
                told => {
                    if is_there && told.is_ok() {
                        guard.answers_get_alone();
                    }
                    told
                }
            },
        }
    }

    /// The addresses in the order to try for `resource`: who fell short of it least often first. Whether anybody did.
    /// Where each has a part, one that is silent is asked when the others have not got it.
    fn in_order(&self, resource: &Resource) -> (Vec<&Address>, bool) {
        let mut addresses: Vec<_> = self.addresses.iter().collect();
        if addresses.len() < 2 {
            return (addresses, false);
        }
        let counts: Vec<_> = addresses.iter().map(|address| self.shortfalls.of(resource, address.number)).collect();
        let is_silent = |address: &Address| self.on_missing == OnMissing::Next && address.guard.is_silent();
        addresses.sort_by_cached_key(|address| (is_silent(address), counts.get(address.number)));
        (addresses, counts.iter().any(|count| *count > 0))
    }

    /// The address that would be asked: the first, unless that is left alone.
    fn asked(&self) -> Option<&Address> {
        self.addresses.iter().find(|address| address.guard.is_asked(self.clock.now()))
    }

    /// Holds it against an address that what it sent broke off, or cannot be `resource`.
    fn judge(&self, resource: &Resource, address: &Address, error: &UpstreamError) {
        let broke_off = error.contact == Contact::Answered && error.status.is_none() && !error.elsewhere;
        let fell_short = match error.class {
            UpstreamErrorClass::Protocol => true,
            UpstreamErrorClass::Unavailable => broke_off,
            _ => false,
        };
        if fell_short && self.addresses.len() > 1 {
            self.shortfalls.note(resource, address.number);
        }
    }

    /// An answer, or nothing when it says that it is `stale`, and is kept as that. With one at hand, the next is not
    /// waited for without end.
    async fn or_stale<'a, T>(
        &self,
        stale: &mut Option<(&'a Address, T)>,
        address: &'a Address,
        resource: &Resource,
        answer: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<Option<T>, UpstreamError> {
        let answer = if stale.is_some() {
            let Ok(answer) = tokio::time::timeout(BETTER_WITHIN, answer).await else { return Ok(None) };
            answer?
        } else {
            answer.await?
        };
        let Some(notices) = self.notices().filter(|_| resource.can_be_stale()) else { return Ok(Some(answer)) };
        let is_stale = notices.of(|| resource.clone()).stale_for.is_some();
        address.is_behind.store(is_stale, Ordering::Relaxed);
        if is_stale {
            *stale = Some((address, answer));
            return Ok(None);
        }
        Ok(Some(answer))
    }

    /// The same answer, of this address.
    fn heard_at<T>(&self, address: &Address, answer: T) -> T {
        if let Some(heard) = &self.heard {
            heard.note(address.place.as_ref());
        }
        answer
    }

    /// The same, with other addresses and who wants to know which of them answered.
    fn with(&self, addresses: Vec<Address>, heard: Option<Heard>) -> Asking {
        let Asking { streams, on_missing, longest, head_within, ref shortfalls, ref clock, .. } = *self;
        let (shortfalls, clock) = (shortfalls.clone(), Arc::clone(clock));
        Asking { addresses, streams, on_missing, longest, head_within, shortfalls, clock, heard }
    }

    /// Everything that belongs to an answer has one time-out together: tokens, redirects, another try, and
    /// the body where it is waited for.
    async fn in_all<T>(&self, answer: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, UpstreamError> {
        tokio::time::timeout(self.longest, answer).await.unwrap_or_else(|_| {
            let message = format!("no whole answer within {:?}", self.longest);
            Err(UpstreamError::new(UpstreamErrorClass::Unavailable, message).answered())
        })
    }
}

#[async_trait]
impl Upstream for Asking {
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Resolved, UpstreamError> {
        let resource = Resource::manifest(repository, reference);
        let accept = &accept;
        let asked = &resource;
        // Some fail at HEAD alone: what they have is seen by GET.
        self.put_in_ways(Lane::Manifests, &resource, |Address { upstream, guard, .. }, by_get| async move {
            let get = async { upstream.manifest(repository, reference, accept.clone()).await.map(Resolved::Fetched) };
            if by_get {
                return get.await;
            }
            let head = upstream.resolve(repository, reference, accept.clone());
            self.by_head_or_get(guard, asked, head, get).await
        })
        .await
    }

    async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: AcceptSet,
    ) -> Result<Manifest, UpstreamError> {
        let resource = Resource::manifest(repository, reference);
        self.put(Lane::Manifests, &resource, |upstream| upstream.manifest(repository, reference, accept.clone())).await
    }

    async fn stat(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let resource = &Resource::head_of_blob(repository, digest);
        self.put_in_ways(Lane::Blobs, resource, |Address { upstream, guard, .. }, by_get| async move {
            let get = upstream.stat_by_get(repository, digest);
            if by_get {
                return get.await;
            }
            self.by_head_or_get(guard, resource, upstream.stat(repository, digest), get).await
        })
        .await
    }

    async fn stat_by_get(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let resource = Resource::blob(repository, digest);
        self.put(Lane::Blobs, &resource, |upstream| upstream.stat_by_get(repository, digest)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, span: Span) -> Result<UpstreamBlob, UpstreamError> {
        let resource = Resource::blob(repository, digest);
        let lane = if span.start > 0 { Lane::Rest } else { Lane::Blobs };
        let many = self.addresses.len();
        let (address, mut blob) = self
            .put_in_ways(lane, &resource, |address, _| async move {
                Ok((address, address.upstream.blob(repository, digest, span).await?))
            })
            .await?;
        let giver = || self.shortfalls.giver(resource, (address.number, address.place.clone()), many);
        blob.giver = (many > 1).then(giver);
        Ok(blob)
    }

    async fn tags(&self, repository: &Repository, page: &Page) -> Result<TagList, UpstreamError> {
        let resource = Resource::tags(repository);
        self.put(Lane::Manifests, &resource, |upstream| upstream.tags(repository, page)).await
    }

    async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrerList, UpstreamError> {
        let resource = Resource::referrers(repository, digest);
        self.put(Lane::Manifests, &resource, |upstream| upstream.referrers(repository, digest, artifact_type, cursor))
            .await
    }

    async fn enter(&self) -> Result<(), UpstreamError> {
        self.put(Lane::Manifests, &Resource::door(), |upstream| upstream.enter()).await
    }

    async fn challenge(&self, repository: Option<&Repository>) -> Result<Option<Challenge>, UpstreamError> {
        self.put(Lane::Manifests, &Resource::door(), |upstream| upstream.challenge(repository)).await
    }

    fn last_challenge(&self, repository: Option<&Repository>) -> Option<Challenge> {
        self.addresses.iter().find_map(|address| address.upstream.last_challenge(repository))
    }

    fn presenting(&self, presented: &Presented) -> Option<Arc<dyn Upstream>> {
        let addresses = self.addresses.iter().map(|address| address.presenting(presented)).collect::<Option<_>>()?;
        Some(Arc::new(self.with(addresses, self.heard.clone())))
    }

    fn noting(&self, heard: &Heard) -> Option<Arc<dyn Upstream>> {
        (self.addresses.len() > 1)
            .then(|| -> Arc<dyn Upstream> { Arc::new(self.with(self.addresses.clone(), Some(heard.clone()))) })
    }

    fn outlook(&self, resource: &Resource) -> Outlook {
        let outlook = |address: &Address| address.guard.outlook(resource, address.own.as_deref());
        // Where each has a part, whoever came to the last one had asked the others in vain.
        let last = self.in_order(resource).0.pop().filter(|_| self.on_missing == OnMissing::Next);
        if let Some(last) = last.filter(|last| last.guard.is_in_trouble(resource)) {
            return outlook(last);
        }
        let outlooks = self.addresses.iter().map(outlook);
        // That of the first address that would be asked.
        let mut last = Outlook::Well;
        for outlook in outlooks {
            last = outlook;
            if !matches!(last, Outlook::Spared(_)) {
                break;
            }
        }
        last
    }

    /// Of the address that would be asked.
    fn is_heard(&self) -> bool {
        self.asked().is_none_or(|address| address.guard.is_there())
    }

    /// All addresses share what they said.
    fn notices(&self) -> Option<&Notices> {
        self.addresses.first().and_then(|address| address.upstream.notices())
    }

    fn tables(&self) -> Vec<(&'static str, u64)> {
        let own = self.addresses.iter().flat_map(|address| {
            [("troubles", address.guard.troubles()), ("limits_of_presented", address.others.entry_count())]
        });
        let there = self.addresses.iter().flat_map(|address| address.upstream.tables());
        own.chain([("shortfalls", self.shortfalls.entries())]).chain(there).collect()
    }

    fn health(&self) -> Health {
        let now = self.clock.now();
        let known: Vec<_> = self.addresses.iter().map(|address| address.upstream.health()).collect();
        let asked = self.asked().and_then(|address| known.get(address.number));
        let allowance = asked.or(known.first()).map_or(Allowance::Free, |health| health.allowance);
        let guards = self.addresses.iter().map(|address| &address.guard);
        let no_credential = known.iter().find_map(|health| health.no_credential.clone());
        let endpoints = known.into_iter().zip(guards).flat_map(|(health, guard)| guard.seen(health.endpoints, now));
        let failing = self.addresses.last().is_some_and(|address| address.guard.is_failing());
        Health { endpoints: endpoints.collect(), allowance, streams: self.streams, failing, no_credential }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_credentials_of_callers_do_not_fill_the_memory() {
        let others = nobody_limited();
        for number in 0..2 * MOST_LIMITS {
            let mut fingerprint = [0; 32];
            fingerprint[..8].copy_from_slice(&number.to_le_bytes());
            others.insert(Some(Fingerprint(fingerprint)), Arc::default());
        }
        others.run_pending_tasks();
        assert!((1..=MOST_LIMITS).contains(&others.entry_count()), "{}", others.entry_count());
    }
}
