//! Lists: the tags of a repository, and the manifests that refer to one.
//!
//! They change at any time and prove nothing, so they are served without asking for half a minute at
//! most, and never made up from what else we know. An upstream that cannot answer is covered for with
//! the last list it sent, marked as stale, also after a restart (see `kept`); an answer of "not
//! found" is passed on and never turned into an empty list, because to a client that would mean that
//! an image has no signatures. That a registry keeps no list of referrers is remembered like a list.

mod kept;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use url::form_urlencoded::Serializer;

use self::kept::{Keeper, List};
use super::error::{MirrorError, Subject};
use super::flights::{Flights, Shareable};
use super::freshness::{self, Plan, Policy};
use super::{Location, Mirror, Shared};
use crate::clock::Timestamp;
use crate::metadata::{ListKey, MetadataError};
use crate::mirror::Route;
use crate::oci::{Cursor, Digest, Page};
use crate::outcome::Outcome;
use crate::upstream::{Allowance, ReferrerList, TagList, UpstreamError, UpstreamErrorClass};

/// How long a list is served without asking, at most; never longer than a tag.
const LIST_TTL: Duration = Duration::from_secs(30);
/// How many bytes of lists of one kind are remembered.
const CAPACITY: u64 = 16 << 20;
/// The largest page that we ask any upstream for: more is an error at Amazon's registries.
const LARGEST_PAGE: u32 = 1000;

/// An answer with tags.
#[derive(Clone, Debug)]
pub struct TagsAnswer {
    /// In the order of the upstream.
    pub tags: Vec<String>,
    /// Where the list goes on.
    pub next: Option<Page>,
    /// Where the list comes from.
    pub outcome: Outcome,
    /// For a stale answer, how long ago upstream sent the list.
    pub stale_for: Option<Duration>,
}

/// An answer with referrers.
#[derive(Clone, Debug)]
pub struct ReferrersAnswer {
    /// An image index, exactly as upstream sent it.
    pub index: Bytes,
    /// Whether upstream applied the filter for the type.
    pub filtered: bool,
    /// Where the list goes on.
    pub next: Option<Cursor>,
    /// Where the list comes from.
    pub outcome: Outcome,
    /// For a stale answer, how long ago upstream sent the list.
    pub stale_for: Option<Duration>,
}

impl Mirror {
    /// A part of the tags of a repository.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when upstream says no, or cannot answer and nothing is remembered.
    pub async fn tags(&self, route: &Route, page: &Page) -> Result<TagsAnswer, MirrorError> {
        let asked = Page { n: page.n.map(|n| n.clamp(1, LARGEST_PAGE)), ..page.clone() };
        let key = tags_key(&route.location, &asked);
        let (repository, upstream) = (route.location.repository.clone(), Arc::clone(&route.upstream));
        let is_down = upstream.is_down();
        let ask = || async move { upstream.tags(&repository, &asked).await };
        let found = self.0.tag_lists.look(&self.0, key, is_down, ask).await?;
        let (tags, next) = cut(&found.list, page);
        Ok(TagsAnswer { tags: tags.to_vec(), next, outcome: found.outcome, stale_for: found.stale_for })
    }

    /// A part of the manifests that refer to `digest`.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when upstream has no such list, says no, or cannot answer and nothing
    /// is remembered.
    pub async fn referrers(
        &self,
        route: &Route,
        digest: Digest,
        artifact_type: Option<&str>,
        cursor: Option<&Cursor>,
    ) -> Result<ReferrersAnswer, MirrorError> {
        let key = referrers_key(&route.location, &digest, artifact_type, cursor);
        let (repository, upstream) = (route.location.repository.clone(), Arc::clone(&route.upstream));
        let is_down = upstream.is_down();
        let (artifact_type, cursor) = (artifact_type.map(str::to_owned), cursor.cloned());
        let ask =
            || async move { upstream.referrers(&repository, &digest, artifact_type.as_deref(), cursor.as_ref()).await };
        let found = self.0.referrer_lists.look(&self.0, key, is_down, ask).await?;
        let ReferrerList { index, filtered, next } = ReferrerList::clone(&found.list);
        Ok(ReferrersAnswer { index, filtered, next, outcome: found.outcome, stale_for: found.stale_for })
    }
}

/// The part of `list` that the client asked for, and where it goes on: not every upstream keeps to
/// `n` and `last`, and what it was asked for may be less than what the client wants.
fn cut<'a>(list: &'a TagList, asked: &Page) -> (&'a [String], Option<Page>) {
    let seen = asked.last.as_ref().and_then(|last| list.tags.iter().position(|tag| tag == last));
    let tags = seen.and_then(|seen| list.tags.get(seen + 1..)).unwrap_or(&list.tags);
    let wanted = asked.n.map_or(tags.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
    match tags.get(..wanted) {
        Some([]) if wanted == 0 => (&[], None),
        Some(page) if page.len() < tags.len() => {
            (page, Some(Page { n: asked.n, last: page.last().cloned(), cursor: None }))
        }
        _ => (tags, list.next.clone().map(|next| Page { n: asked.n.or(next.n), ..next })),
    }
}

fn tags_key(location: &Location, page: &Page) -> ListKey {
    ListKey { location: location.clone(), about: None, part: page.upstream_query().unwrap_or_default() }
}

fn referrers_key(location: &Location, about: &Digest, artifact_type: Option<&str>, cursor: Option<&Cursor>) -> ListKey {
    let mut part = Serializer::new(String::new());
    artifact_type.map(|wanted| part.append_pair("artifactType", wanted));
    cursor.map(|cursor| part.append_pair("cursor", cursor.as_str()));
    ListKey { location: location.clone(), about: Some(*about), part: part.finish() }
}

/// Lists of one kind that are remembered, and those being asked for.
pub(super) struct Lists<V> {
    policy: Policy,
    negative_ttl: Duration,
    known: Cache<ListKey, Known<V>>,
    flights: Flights<ListKey, Shareable<Result<Arc<V>, MirrorError>>>,
    keeper: Keeper,
}

/// What upstream said, and when.
#[derive(Clone)]
struct Known<V> {
    said: Result<Arc<V>, MirrorError>,
    at: Timestamp,
    /// When the same was last written down.
    written: Option<Timestamp>,
}

/// A list that was found.
struct Found<V> {
    list: Arc<V>,
    outcome: Outcome,
    stale_for: Option<Duration>,
}

impl<V: List> Lists<V> {
    /// Nothing known yet.
    pub(super) fn new(policy: Policy, negative_ttl: Duration) -> Lists<V> {
        let policy = Policy { tag_ttl: policy.tag_ttl.min(LIST_TTL), ..policy };
        let weigh = |key: &ListKey, known: &Known<V>| {
            let list = known.said.as_ref().map_or(0, |list| list.weight());
            u32::try_from(list + key.part.len() + 512).unwrap_or(u32::MAX)
        };
        let known = Cache::builder().max_capacity(CAPACITY).weigher(weigh).build();
        let negative_ttl = negative_ttl.min(policy.tag_ttl);
        Lists { policy, negative_ttl, known, flights: Flights::new(), keeper: Keeper::new() }
    }

    /// Forgets, in memory, what matches.
    pub(super) fn forget(&self, matches: impl Fn(&ListKey) -> bool) {
        for (key, _) in &self.known {
            if matches(&key) {
                self.known.invalidate(&*key);
            }
        }
    }

    /// The list for `key`: remembered, asked for, or remembered after all. `is_down` says that upstream
    /// did not answer when it was last asked.
    async fn look<F>(
        &self,
        shared: &Arc<Shared>,
        key: ListKey,
        is_down: bool,
        ask: impl FnOnce() -> F,
    ) -> Result<Found<V>, MirrorError>
    where
        F: Future<Output = Result<V, UpstreamError>> + Send + 'static,
    {
        let now = shared.clock.now();
        let last = self.recall(shared, &key).await;
        let seen = last.as_ref().map(|last| last.at);
        if let Some(Known { said: Err(no), at, .. }) = &last
            && at.age(now).is_some_and(|age| age < self.negative_ttl)
        {
            return Err(no.clone());
        }
        let last = last.filter(|last| last.said.is_ok() || V::SUBJECT == Subject::Referrers);
        let checked_at = last.as_ref().map(|last| last.at);
        // Lists are not among the pulls that an upstream counts.
        let mut plan = freshness::plan(checked_at, now, &self.policy, Allowance::Free);
        if is_down {
            plan = freshness::in_doubt(plan, checked_at, now, &self.policy);
        }
        let asked = match (plan, &last) {
            (Plan::Serve, Some(Known { said: Ok(list), .. })) => {
                return Ok(Found { list: Arc::clone(list), outcome: Outcome::Hit, stale_for: None });
            }
            (Plan::AskBriefly(patience), _) => {
                let asked = tokio::time::timeout(patience, self.ask(shared, key, seen, ask)).await;
                asked.unwrap_or_else(|_| Err(too_slow(V::SUBJECT, patience)))
            }
            _ => self.ask(shared, key, seen, ask).await,
        };
        let error = match asked {
            Ok((list, outcome)) => return Ok(Found { list, outcome, stale_for: None }),
            Err(error) => error,
        };
        let class = error.upstream_class().unwrap_or(UpstreamErrorClass::Protocol);
        let stale_for = freshness::stand_in(checked_at, class, shared.clock.now(), &self.policy);
        match (last, stale_for) {
            (Some(Known { said: Ok(list), .. }), Some(_)) => {
                tracing::warn!(%error, "served a stale list");
                Ok(Found { list, outcome: Outcome::Stale, stale_for })
            }
            (Some(Known { said: Err(no), .. }), Some(_)) => {
                tracing::warn!(%error, "there was no such list when upstream last answered");
                Err(no)
            }
            _ => Err(error),
        }
    }

    /// What upstream said last, as far as it is remembered.
    async fn recall(&self, shared: &Arc<Shared>, key: &ListKey) -> Option<Known<V>> {
        if let Some(known) = self.known.get(key) {
            return Some(known);
        }
        let read = kept::read(Arc::clone(&shared.metadata), key).await?;
        // Somebody may have asked meanwhile.
        Some(self.known.entry_by_ref(key).or_insert(read).into_value())
    }

    /// Asks upstream, together with everybody else who asks for the same just now, unless something
    /// later than what was `seen` has come meanwhile.
    async fn ask<F>(
        &self,
        shared: &Arc<Shared>,
        key: ListKey,
        seen: Option<Timestamp>,
        ask: impl FnOnce() -> F,
    ) -> Result<(Arc<V>, Outcome), MirrorError>
    where
        F: Future<Output = Result<V, UpstreamError>> + Send + 'static,
    {
        let (known, keeper) = (self.known.clone(), self.keeper.clone());
        let work = || {
            let (answer, key, shared) = (ask(), key.clone(), Arc::clone(shared));
            async move {
                // The flight that ended between our look and our seat has left its answer there.
                if let Some(later) = known.get(&key).filter(|known| Some(known.at) != seen) {
                    return later.said;
                }
                let said = answer.await.map(Arc::new).map_err(|error| MirrorError::upstream(V::SUBJECT, error));
                let class = said.as_ref().err().map(MirrorError::upstream_class);
                match class {
                    None | Some(Some(UpstreamErrorClass::NotFound)) => {
                        let before = known.get(&key);
                        let (now_known, permit) = keeper.plan(before.as_ref(), said.clone(), shared.clock.now());
                        known.insert(key.clone(), now_known.clone());
                        if class.is_some() && V::SUBJECT != Subject::Referrers {
                            kept::remove(&shared, &key);
                        } else if let Some(permit) = permit {
                            kept::write(&shared, key, now_known, permit);
                        }
                    }
                    Some(Some(UpstreamErrorClass::Denied)) => {
                        known.invalidate(&key);
                        kept::remove(&shared, &key);
                    }
                    Some(_) => {}
                }
                said
            }
        };
        let (said, joined) = self.flights.share(&shared.tasks, key.clone(), work).await;
        let said = said.unwrap_or_else(|| Err(MirrorError::Internal("the look-up ended without a result".to_owned())));
        Ok((said?, if joined { Outcome::Join } else { Outcome::Fill }))
    }
}

impl Shared {
    /// Forgets the lists of tags of a repository and those about the manifests that left it.
    pub(super) fn forget_lists(&self, location: &Location, gone: &[Digest]) -> Result<(), MetadataError> {
        self.tag_lists.forget(|key| key.location == *location);
        self.referrer_lists.forget(|key| key.location == *location && key.about.is_some_and(|d| gone.contains(&d)));
        self.metadata.remove_lists(location, None)?;
        gone.iter().try_for_each(|digest| self.metadata.remove_lists(location, Some(digest)))
    }
}

fn too_slow(subject: Subject, patience: Duration) -> MirrorError {
    let message = format!("no list within {patience:?}");
    MirrorError::upstream(subject, UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(n: Option<u32>, last: &str) -> Page {
        Page { n, last: (!last.is_empty()).then(|| last.to_owned()), cursor: None }
    }

    #[test]
    fn a_page_has_what_was_asked_for_and_says_where_it_goes_on() {
        let cursor = |n| Page { n, cursor: "page=2".parse().ok(), ..Page::default() };
        for (upstream_next, asked, tags, next) in [
            (None, after(None, ""), "abcd", None),
            (None, after(Some(0), ""), "", None),
            (None, after(Some(2), ""), "ab", Some(after(Some(2), "b"))),
            (None, after(Some(2), "b"), "cd", None),
            (None, after(Some(4), ""), "abcd", None),
            (None, after(Some(9), "c"), "d", None),
            (None, after(None, "d"), "", None),
            (None, after(None, "not there"), "abcd", None),
            (Some(after(Some(4), "d")), after(None, ""), "abcd", Some(after(Some(4), "d"))),
            (Some(after(Some(4), "d")), after(Some(9), ""), "abcd", Some(after(Some(9), "d"))),
            (Some(after(Some(4), "d")), after(Some(0), ""), "", None),
            (Some(cursor(None)), after(Some(4), ""), "abcd", Some(cursor(Some(4)))),
            (Some(cursor(None)), after(Some(3), ""), "abc", Some(after(Some(3), "c"))),
        ] {
            let list = TagList { tags: ["a", "b", "c", "d"].map(str::to_owned).to_vec(), next: upstream_next };
            let (page, goes_on) = cut(&list, &asked);
            assert_eq!((page.concat().as_str(), goes_on), (tags, next), "{asked:?}");
        }
    }
}
