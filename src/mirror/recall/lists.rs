//! Lists of one kind that are remembered, and those being asked for.
//!
//! Truth: an upstream that cannot answer is covered for with the last list it sent; its "not found"
//! is passed on and never turned into an empty list.

use std::sync::Arc;
use std::time::Duration;

use moka::Entry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::metadata::ListKey;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::flight::beside::or_instead;
use crate::mirror::flight::flights::{Flights, Landing, Shareable};
use crate::mirror::recall::freshness::{Consulted, Policy, Question, Remembered, overdue};
use crate::mirror::recall::keeper::Keeper;
use crate::mirror::recall::known::{Known, List};
use crate::mirror::routes::Route;
use crate::outcome::Outcome;
use crate::tier::Pace;
use crate::upstream::{Allowance, Resource, UpstreamError, UpstreamErrorClass};

/// How long a list is served without asking, at most; never longer than a tag.
const LIST_TTL: Duration = Duration::from_secs(30);
/// How many bytes of lists of one kind are remembered.
const CAPACITY: u64 = 32 << 20;

/// Lists of one kind that are remembered, and those being asked for.
pub(crate) struct Lists<V> {
    policy: Policy,
    negative_ttl: Duration,
    known: Cache<ListKey, Known<V>>,
    flights: Flights<ListKey, Shareable<Result<Arc<V>, MirrorError>>>,
    keeper: Keeper,
    clock: Arc<dyn Clock>,
}

/// A list that was found.
pub(crate) struct Found<V> {
    pub(crate) list: Arc<V>,
    pub(crate) outcome: Outcome,
    pub(crate) stale_for: Option<Duration>,
}

/// A question for a list.
pub(crate) struct ListQuestion<'a> {
    /// Where it is put, and who wants to know.
    pub(crate) route: &'a Route,
    /// What it is about.
    pub(crate) resource: Resource,
    /// Whether what is remembered may be the answer.
    pub(crate) may_remember: bool,
}

impl<V: List> Lists<V> {
    /// Nothing known yet.
    pub(crate) fn new(policy: Policy, negative_ttl: Duration, keeper: Keeper, clock: Arc<dyn Clock>) -> Lists<V> {
        let policy = Policy { tag_ttl: policy.tag_ttl.min(LIST_TTL), ..policy };
        let weigh = |key: &ListKey, known: &Known<V>| {
            let list = known.said.as_ref().map_or(0, |list| list.weight());
            u32::try_from(list + key.part.len() + 512).unwrap_or(u32::MAX)
        };
        let known = Cache::builder().max_capacity(CAPACITY).weigher(weigh).build();
        let negative_ttl = negative_ttl.min(policy.tag_ttl);
        Lists { policy, negative_ttl, known, flights: Flights::new(), keeper, clock }
    }

    /// How many bytes they take, and how many they may take.
    pub(crate) fn in_memory(&self) -> (u64, u64) {
        self.known.run_pending_tasks();
        (self.known.weighted_size(), CAPACITY)
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> u64 {
        self.known.entry_count() + self.flights.len() as u64
    }

    /// Forgets, in memory, what matches.
    pub(crate) fn forget(&self, matches: impl Fn(&ListKey) -> bool) {
        for (key, _) in &self.known {
            if matches(&key) {
                self.known.invalidate(&*key);
            }
        }
    }

    /// The list for `key`: remembered, asked for, or remembered after all. `ask` puts the
    /// question.
    pub(crate) async fn look<F>(
        &self,
        key: ListKey,
        ListQuestion { route, resource, may_remember }: ListQuestion<'_>,
        ask: impl FnOnce() -> F,
    ) -> Result<Found<V>, MirrorError>
    where
        F: Future<Output = Result<V, UpstreamError>> + Send + 'static,
    {
        let now = self.clock.now();
        let last = self.recall(&key, route).await;
        let seen = last.as_ref().map(|last| last.at);
        let last = last.filter(|_| may_remember);
        if let Some(Known { said: Err(no), at, .. }) = &last
            && at.age(now).is_some_and(|age| age < self.negative_ttl)
        {
            return Err(no.clone());
        }
        let remembered = last.and_then(Lists::remembered);
        let may_look_again = may_remember && remembered.is_none() && route.waited.pace() == Pace::Helps;
        // Lists are not among the pulls that an upstream counts.
        let upstream = &*route.upstream;
        let about = resource.clone();
        let question = Question { upstream, resource, subject: V::SUBJECT, allowance: Allowance::Free, in_vain: false };
        let (location, of) = (key.location.clone(), key.clone());
        let ask = async |patience| {
            if self.flights.join(&key).is_none() {
                route.asker.question()?;
            }
            self.ask(key, seen, patience, (route.clone(), about.clone()), ask).await
        };
        let consulted = Box::pin(self.policy.consult(&*self.clock, question, remembered, ask));
        // While upstream might have answered who else knows it was not asked, or not for long.
        let after_all = async {
            route.waited.has_nobody_else();
            let known = if may_look_again { self.keeper.find(&of, &route.waited).await? } else { return None };
            let known = self.known.entry_by_ref(&of).or_insert(known).into_value();
            self.policy.cover(&*self.clock, Lists::remembered(known), overdue(V::SUBJECT)).ok()
        };
        let (patience, after_all) = (self.policy.patience, Box::pin(after_all));
        match or_instead(patience, consulted, MirrorError::is_no_answer, after_all).await? {
            Consulted::Asked((list, outcome)) => {
                let stale_for = route.notice(|_| about.clone()).stale_for;
                Ok(Found { list, outcome: stale_for.map_or(outcome, |_| Outcome::Stale), stale_for })
            }
            Consulted::Remembered(said) => Ok(Found { list: said?, outcome: Outcome::Hit, stale_for: None }),
            Consulted::Stale(said, age, error) => {
                let error = error.as_ref().map(tracing::field::display);
                tracing::warn!(%location, error, "what upstream said of a list before stands in");
                Ok(Found { list: said?, outcome: Outcome::Stale, stale_for: Some(age) })
            }
        }
    }

    /// What may stand in for upstream.
    fn remembered(Known { said, at, .. }: Known<V>) -> Option<Remembered<Result<Arc<V>, MirrorError>>> {
        let may = said.is_ok() || V::SUBJECT == Subject::Referrers;
        may.then(|| Remembered { conclusive: said.is_ok(), checked_at: at, what: said, stored: true })
    }

    /// What upstream said last, as far as it is remembered.
    async fn recall(&self, key: &ListKey, route: &Route) -> Option<Known<V>> {
        if let Some(known) = self.known.get(key) {
            return Some(known);
        }
        let turn = self.keeper.turn(route.asker.client()).await;
        if let Some(known) = self.known.get(key) {
            return Some(known);
        }
        let read = match self.keeper.read(key, turn).await {
            Some(read) => read,
            None => self.keeper.find(key, &route.waited).await?,
        };
        // Somebody may have asked meanwhile.
        Some(self.known.entry_by_ref(key).or_insert(read).into_value())
    }

    /// Asks upstream, together with everybody else who asks for the same just now, unless something
    /// later than what was `seen` has come meanwhile. Waits as long as `patience` allows.
    async fn ask<F>(
        &self,
        key: ListKey,
        seen: Option<Timestamp>,
        patience: Option<Duration>,
        (route, about): (Route, Resource),
        ask: impl FnOnce() -> F,
    ) -> Result<(Arc<V>, Outcome), MirrorError>
    where
        F: Future<Output = Result<V, UpstreamError>> + Send + 'static,
    {
        let (known, keeper, policy) = (self.known.clone(), self.keeper.clone(), self.policy);
        let work = || {
            let (answer, key, clock) = (ask(), key.clone(), Arc::clone(&self.clock));
            async move {
                // The flight that ended between our look and our seat has left its answer there.
                if let Some(later) = known.get(&key).filter(|known| Some(known.at) != seen) {
                    return later.said;
                }
                let said = answer.await.map(Arc::new).map_err(|mut error| {
                    // Who sent such a list knows such lists: that it does not is no word of this one.
                    if error.status == Some(501) && known.get(&key).is_some_and(|known| known.said.is_ok()) {
                        error.class = UpstreamErrorClass::Protocol;
                    }
                    MirrorError::upstream(V::SUBJECT, error)
                });
                let class = said.as_ref().err().map(MirrorError::upstream_class);
                match class {
                    None | Some(Some(UpstreamErrorClass::NotFound)) => {
                        let before = known.get(&key);
                        let (now, stale_for) = (clock.now(), route.notice(|_| about).stale_for);
                        let stale_for = stale_for.filter(|_| said.is_ok());
                        let at = stale_for.map_or(now, |age| policy.stale_since(age, now));
                        let (now_known, permit) = keeper.plan(before.as_ref(), said.clone(), at);
                        known.insert(key.clone(), now_known.clone());
                        if class.is_some() && V::SUBJECT != Subject::Referrers {
                            keeper.remove(&key).await;
                        } else if let Some(permit) = permit {
                            // What it is about may be pulled a moment later: then it is worth it.
                            let unwritten = move |known: Option<Entry<ListKey, Known<V>>>| match known {
                                Some(known) => Op::Put(Known { written: None, ..known.into_value() }),
                                None => Op::Nop,
                            };
                            keeper.write(key, now_known, permit, move |key| {
                                known.entry_by_ref(key).and_compute_with(unwritten);
                            });
                        }
                    }
                    Some(Some(UpstreamErrorClass::Denied)) => {
                        keeper.remove(&key).await;
                        known.invalidate(&key);
                    }
                    Some(_) => {}
                }
                said
            }
        };
        match self.flights.share(self.keeper.tasks(), key.clone(), patience, work).await {
            Landing::Arrived(said, joined) => Ok((said?, if joined { Outcome::Join } else { Outcome::Fill })),
            Landing::Overdue => Err(overdue(V::SUBJECT)),
            Landing::Lost => Err(MirrorError::Internal("the look-up ended without a result".to_owned())),
        }
    }
}
