//! Lists: the tags of a repository, and the manifests that refer to one.
//!
//! They change at any time and prove nothing, so they are served without asking for half a minute at
//! most, and never made up from what else we know. An upstream that cannot answer is covered for with
//! the last list it sent, marked as stale, also after a restart (see `kept`); an answer of "not
//! found" is passed on and never turned into an empty list, because to a client that would mean that
//! an image has no signatures. That a registry keeps no list of referrers is remembered like a list.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::task::TaskTracker;
use url::form_urlencoded::Serializer;

use crate::clock::Clock;
use crate::metadata::{ListKey, Location, names};
use crate::mirror::Mirror;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::recall::freshness::Policy;
use crate::mirror::recall::keeper::{Elsewhere, Keeper};
use crate::mirror::recall::lists::{ListQuestion, Lists};
use crate::mirror::room::shared::Shared;
use crate::mirror::room::stored::Stored;
use crate::mirror::routes::Route;
use crate::oci::{AcceptSet, Cursor, Digest, Page, Reference, TagNames};
use crate::outcome::Outcome;
use crate::tier::Waited;
use crate::upstream::{ReferrerList, Resource, TagList, UpstreamError, UpstreamErrorClass};

/// The largest page that we ask any upstream for: more is an error at Amazon's registries.
const LARGEST_PAGE: u32 = 1000;

/// Some tags of a list that all who ask for them share.
#[derive(Clone, Debug)]
pub struct Tags {
    list: Arc<TagList>,
    part: Range<usize>,
}

impl Tags {
    /// All of these.
    pub fn of(tags: TagNames) -> Tags {
        Tags { part: 0..tags.len(), list: Arc::new(TagList { tags, next: None }) }
    }

    /// How many they are.
    pub const fn len(&self) -> usize {
        self.part.end - self.part.start
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the list lies in memory that all of its parts share.
    pub fn place(&self) -> usize {
        Arc::as_ptr(&self.list).addr()
    }

    /// What that takes, in bytes.
    pub fn weight(&self) -> u64 {
        self.list.tags.weight() as u64
    }

    /// JSON strings with commas between them: a part of that list.
    pub fn json(&self) -> Bytes {
        self.list.tags.json(self.part.clone())
    }
}

/// An answer with tags.
#[derive(Clone, Debug)]
pub struct TagsAnswer {
    /// In the order of the upstream.
    pub tags: Tags,
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

/// Answers with lists.
pub(crate) struct ListAnswers {
    tags: Lists<TagList>,
    referrers: Lists<ReferrerList>,
}

impl ListAnswers {
    /// How many bytes they take in memory, and how many they may take.
    pub(crate) fn in_memory(&self) -> (u64, u64) {
        let ((tags, most_tags), (referrers, most_referrers)) = (self.tags.in_memory(), self.referrers.in_memory());
        (tags + referrers, most_tags + most_referrers)
    }

    /// How many entries there are.
    pub(crate) fn tables(&self) -> [(&'static str, u64); 2] {
        [("lists_of_tags", self.tags.entries()), ("lists_of_referrers", self.referrers.entries())]
    }
}

impl Mirror {
    /// A part of the tags of a repository.
    ///
    /// # Errors
    /// [`MirrorError::Upstream`] when upstream says no, or cannot answer and nothing is remembered.
    pub async fn tags(&self, route: &Route, page: &Page) -> Result<TagsAnswer, MirrorError> {
        let asked = Page { n: page.n.map(|n| n.clamp(1, LARGEST_PAGE)), ..page.clone() };
        let key = self.of_ours(tags_key(&route.location, &asked));
        let (repository, upstream) = (route.location.repository.clone(), Arc::clone(&route.upstream));
        let about = self.question(route, Resource::tags(&repository)).await;
        let ask = || async move { upstream.tags(&repository, &asked).await };
        if self.0.fills.stored.standing.is_of_callers(&route.location) {
            let list = Arc::new(of_his_own(route, Subject::Tags, ask()).await?);
            let (part, next) = cut(&list, page);
            return Ok(TagsAnswer { tags: Tags { list, part }, next, outcome: Outcome::Relayed, stale_for: None });
        }
        let found = self.heard(route, self.0.answers.lists.tags.look(key, about, ask).await)?;
        let (part, next) = cut(&found.list, page);
        let tags = Tags { list: found.list, part };
        Ok(TagsAnswer { tags, next, outcome: found.outcome, stale_for: found.stale_for })
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
        // Only what is about manifests of ours is kept.
        self.0.answers.blobs.written(route, &digest).await;
        let key = self.of_ours(referrers_key(&route.location, &digest, artifact_type, cursor));
        let (repository, upstream) = (route.location.repository.clone(), Arc::clone(&route.upstream));
        let about = self.question(route, Resource::referrers(&repository, &digest)).await;
        let (artifact_type, cursor) = (artifact_type.map(str::to_owned), cursor.cloned());
        let ask =
            || async move { upstream.referrers(&repository, &digest, artifact_type.as_deref(), cursor.as_ref()).await };
        if self.0.fills.stored.standing.is_of_callers(&route.location) {
            let ReferrerList { index, filtered, next } = of_his_own(route, Subject::Referrers, ask()).await?;
            return Ok(ReferrersAnswer { index, filtered, next, outcome: Outcome::Relayed, stale_for: None });
        }
        let found = match self.heard(route, self.0.answers.lists.referrers.look(key, about, ask).await) {
            Err(MirrorError::Upstream { error, .. })
                if error.class == UpstreamErrorClass::Denied && self.is_refused(route, digest).await =>
            {
                return Err(MirrorError::upstream(Subject::Manifest, error));
            }
            found => found?,
        };
        let ReferrerList { index, filtered, next } = ReferrerList::clone(&found.list);
        Ok(ReferrersAnswer { index, filtered, next, outcome: found.outcome, stale_for: found.stale_for })
    }
}

impl Mirror {
    /// Whether upstream refuses not only the list of what refers to a manifest: that one, too.
    async fn is_refused(&self, route: &Route, manifest: Digest) -> bool {
        let (stored, Route { location, upstream, .. }) = (&self.0.fills.stored, route);
        if stored.denials.holds(location) {
            return true;
        }
        if stored.has(location, &manifest).await || route.asker.question().is_err() {
            return false;
        }
        let manifest = Reference::Digest(manifest);
        let asked = upstream.resolve(&location.repository, &manifest, AcceptSet::everything()).await;
        asked.is_err_and(|error| error.class == UpstreamErrorClass::Denied)
    }

    /// What was told to a credential of ours is not what is told to everybody: it has a key of its own.
    fn of_ours(&self, mut key: ListKey) -> ListKey {
        if !self.0.fills.stored.standing.asks_as_nobody(&key.location) {
            key.part.push_str("#own");
        }
        key
    }

    /// What is remembered of a list counts as long as upstream does not deny the repository.
    async fn question<'a>(&self, route: &'a Route, resource: Resource) -> ListQuestion<'a> {
        let stored = &self.0.fills.stored;
        stored.hear_of_denial(&route.location, &route.waited).await;
        let may_remember = !stored.denials.holds(&route.location);
        ListQuestion { route, resource, may_remember }
    }
}

/// A list that is told to one caller is neither kept nor shared.
async fn of_his_own<V>(
    route: &Route,
    subject: Subject,
    asked: impl Future<Output = Result<V, UpstreamError>>,
) -> Result<V, MirrorError> {
    route.asker.question()?;
    asked.await.map_err(|error| MirrorError::upstream(subject, error))
}

/// The part of `list` that the client asked for, and where it goes on: not every upstream keeps to
/// `n` and `last`, and what it was asked for may be less than what the client wants.
fn cut(list: &TagList, asked: &Page) -> (Range<usize>, Option<Page>) {
    let seen = asked.last.as_ref().and_then(|last| list.tags.position(last));
    let tags = seen.map_or(0, |seen| seen + 1)..list.tags.len();
    let wanted = asked.n.map_or(tags.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
    if wanted == 0 {
        return (0..0, None);
    }
    if wanted < tags.len() {
        let page = tags.start..tags.start + wanted;
        let last = list.tags.get(page.end - 1).map(Cow::into_owned);
        return (page, Some(Page { n: asked.n, last, cursor: None }));
    }
    (tags, list.next.clone().map(|next| Page { n: asked.n.or(next.n), ..next }))
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

impl ListAnswers {
    pub(crate) fn new(
        policy: Policy,
        negative_ttl: Duration,
        stored: &Stored,
        clock: &Arc<dyn Clock>,
        tasks: &TaskTracker,
    ) -> ListAnswers {
        let elsewhere = stored.shared().map(|shared| Arc::new(in_bucket(shared)));
        let metadata = &stored.records.metadata;
        let keeper = || Keeper::new(Arc::clone(metadata), elsewhere.clone(), tasks.clone());
        let tags = Lists::new(policy, negative_ttl, keeper(), Arc::clone(clock));
        let referrers = Lists::new(policy, negative_ttl, keeper(), Arc::clone(clock));
        ListAnswers { tags, referrers }
    }

    /// Forgets, in memory, the lists of tags of a repository and those about the manifests that left it.
    pub(crate) fn forget(&self, location: &Location, gone: &[Digest]) {
        self.tags.forget(|key| key.location == *location);
        self.referrers.forget(|key| key.location == *location && key.about.is_some_and(|d| gone.contains(&d)));
    }
}

/// What other replicas have put into the bucket.
fn in_bucket(shared: &Arc<Shared>) -> Elsewhere {
    let (finding, telling) = (Arc::clone(shared), Arc::clone(shared));
    let find = move |key: ListKey, waited: Waited| -> BoxFuture<'static, _> {
        let shared = Arc::clone(&finding);
        let at_pace = shared.at(waited.pace());
        Box::pin(async move { shared.bucket.within(&waited, at_pace.recall_list(&key)).await.flatten() })
    };
    let away = move |key: &ListKey| telling.away(&names::list(key));
    Elsewhere { find: Box::new(find), away: Box::new(away) }
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
            let list = TagList { tags: ["a", "b", "c", "d"].into_iter().collect(), next: upstream_next };
            let (page, goes_on) = cut(&list, &asked);
            let page: String = page.filter_map(|place| list.tags.get(place)).collect();
            assert_eq!((page.as_str(), goes_on), (tags, next), "{asked:?}");
        }
    }
}
