//! What others noted of repositories: that upstream denies them, or no longer, and that it gives them to everybody.
//!
//! A denial that one replica found out holds on all of them: of a repository that is asked for the bucket is looked at
//! again and again, behind the answers, and before one where the last look is too old. Truth: what was learned here and
//! is not in the bucket yet is never undone by a look. What upstream said last holds, to whichever replica: where it
//! denies a repository to one of them and gives it to another, each says so to all when it hears it, the one that is
//! refused at most once in half a minute.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock::Timestamp;
use crate::metadata::{Location, MetadataStore, Note, Noted, names};
use crate::mirror::flight::flights::Landing;
use crate::tier::Waited;

/// What was seen is looked at again, behind who asks, after so long.
const BEHIND: Duration = Duration::from_secs(15);
/// Nobody is answered by what was seen longer ago: with the time that a denial takes to come into the bucket, and an
/// answer to begin, that is less than half a minute.
const BEFORE: Duration = Duration::from_secs(25);
/// What was looked at in vain is looked at again after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// A look at whether a repository is denied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// As of when it counts: nobody waits twice for a bucket that does not tell.
    at: Timestamp,
    tried_at: Timestamp,
    in_vain: bool,
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Not,
    Behind,
    Before,
}

impl Look {
    fn due(self, now: Timestamp) -> Due {
        let rest = if self.in_vain { AGAIN } else { BEHIND };
        match (self.at.age(now), self.tried_at.age(now)) {
            (Some(age), Some(since)) if age < BEFORE && since < rest => Due::Not,
            (Some(age), Some(_)) if age < BEFORE => Due::Behind,
            _ => Due::Before,
        }
    }
}

impl Shared {
    /// Whether a repository may be served by what is known here of its denial, without a look before. One behind may be
    /// begun.
    pub(crate) fn is_told_of_denial(self: &Arc<Self>, location: &Location) -> bool {
        let (look, now) = (self.looks.get(location), self.clock.now());
        match look.map_or(Due::Before, |look| look.due(now)) {
            Due::Not => true,
            Due::Before => self.is_away(),
            Due::Behind => {
                if !self.is_away() {
                    look.into_iter()
                        .for_each(|look| self.looks.insert(location.clone(), Look { tried_at: now, ..look }));
                    let (shared, location) = (Arc::clone(self), location.clone());
                    self.tasks.spawn(async move { shared.look(&location).await });
                }
                true
            }
        }
    }

    /// Looks whether a repository is denied, where the last look is too old. A bucket that does not tell in the time that
    /// the look-up has left changes nothing.
    pub(crate) async fn hear_of_denial(self: &Arc<Self>, location: &Location, waited: &Waited) {
        if self.is_told_of_denial(location) {
            return;
        }
        let (shared, of) = (self.at(waited.pace()), location.clone());
        let patience = shared.patience;
        let work = || async move { shared.look(&of).await };
        let look = self.looking.share(&self.tasks, location.clone(), Some(patience), work);
        let looked = self.bucket.within(waited, Box::pin(look)).await;
        if !matches!(looked, Some(Landing::Arrived(true, _))) {
            let now = self.clock.now();
            self.looks.insert(location.clone(), Look { at: now, tried_at: now, in_vain: true });
        }
    }

    /// Before anything of a repository is served that others have put there: whether it is denied, and public.
    /// Whether that is known now.
    pub(crate) async fn recall_notes(&self, location: &Location) -> bool {
        if self.notes.contains_key(location) {
            return true;
        }
        let name = names::note(location, Note::Public);
        let (denied, public) = tokio::join!(self.looked(location), self.small::<Noted>(&name));
        let Some(public) = public.filter(|_| denied) else { return false };
        let known = self.metadata.noted(location, Note::Public).ok().flatten();
        let at = |noted: &Option<Noted>| noted.as_ref().map(|noted| noted.at);
        if at(&public) > at(&known) {
            let of = location.clone();
            let take = move |metadata: &dyn MetadataStore| metadata.note(&of, Note::Public, public.as_ref());
            self.take_over(&name, take).await;
        }
        self.notes.insert(location.clone(), ());
        true
    }

    async fn looked(&self, location: &Location) -> bool {
        let now = self.clock.now();
        let is_new = self.looks.get(location).is_some_and(|look| !look.in_vain && look.due(now) == Due::Not);
        is_new || self.look(location).await
    }

    /// Whether it is known now.
    async fn look(&self, location: &Location) -> bool {
        let now = self.clock.now();
        let known = self.recall_denial(location).await;
        let look = if known {
            Some(Look { at: now, tried_at: now, in_vain: false })
        } else {
            self.looks.get(location).map(|look| Look { in_vain: true, ..look })
        };
        look.into_iter().for_each(|look| self.looks.insert(location.clone(), look));
        known
    }

    async fn recall_denial(&self, location: &Location) -> bool {
        let (name, before) = (names::note(location, Note::Denied), self.denials.settled().await);
        if self.owed.is_owed(&name) {
            return true;
        }
        let Some(there) = self.small::<Noted>(&name).await else { return false };
        // That nothing is said there counts once all that was noted before there was a bucket is on its way.
        if there.is_none() && !self.owed.is_complete(&self.bucket.place()) {
            return true;
        }
        self.denials.adopt(location, there.is_some(), before, || self.owed.quiet(&name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_again_behind_who_asks_and_before_an_answer_where_that_did_not_tell() {
        let at = |seconds: u64| Timestamp(1_000_000 + seconds * 1000);
        let look = |tried: u64, in_vain| Look { at: at(0), tried_at: at(tried), in_vain };
        for (look, now, due) in [
            (look(0, false), 0, Due::Not),
            (look(0, false), 14, Due::Not),
            (look(0, false), 15, Due::Behind),
            (look(15, false), 16, Due::Not),
            (look(15, true), 19, Due::Not),
            (look(15, true), 20, Due::Behind),
            (look(20, true), 24, Due::Not),
            (look(20, true), 25, Due::Before),
            (look(0, false), 25, Due::Before),
        ] {
            assert_eq!(look.due(at(now)), due, "{look:?} {now}");
        }
        assert_eq!(look(0, false).due(Timestamp(0)), Due::Before, "the clock was set back");
    }
}
