//! May a tag or a list be served from memory, must upstream be asked, and what if upstream cannot
//! answer? The decisions are pure; `Policy::consult` carries them out, for tags and lists alike.
//!
//! Truths: only an upstream that gives no answer is covered for: it cannot, or what it sends cannot be one.
//! *Not found* and *denied* are answers. Where
//! something stored can be served nobody waits longer than his patience, whatever upstream does; the
//! question goes on behind.

use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::documents::Mode;
use crate::mirror::error::{MirrorError, Subject};
use crate::upstream::{Allowance, Outlook, Resource, Upstream, UpstreamError, UpstreamErrorClass};

/// How long `prefer-cache` waits for an upstream when it could serve what it has; so does everybody
/// for an upstream that failed the last time.
pub const SHORT_PATIENCE: Duration = Duration::from_millis(300);

/// The rules for tags and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How eager to ask.
    pub mode: Mode,
    /// How long a tag is served without asking.
    pub tag_ttl: Duration,
    /// How old a tag may be, since it was last checked, when upstream cannot answer.
    pub stale_if_error: Duration,
    /// How long a client waits for upstream where something stored can be served.
    pub patience: Duration,
}

/// What upstream said the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered<R> {
    /// Whatever serves as an answer.
    pub(crate) what: R,
    /// When upstream last confirmed it.
    pub(crate) checked_at: Timestamp,
    /// Whether it is an answer while it is fresh. What was said to clients that accept other types is
    /// none while upstream has one, however fresh, and stands in for upstream and no more.
    pub(crate) conclusive: bool,
    /// Whether what it leads to is stored, so that it can stand in for upstream.
    pub(crate) stored: bool,
}

/// Whom to ask, and about what.
pub(crate) struct Question<'a> {
    pub(crate) upstream: &'a dyn Upstream,
    pub(crate) resource: Resource,
    pub(crate) subject: Subject,
    /// What is left of the pulls that upstream grants, where the answer would count as one.
    pub(crate) allowance: Allowance,
    /// Whether upstream has just let this client wait for as long as he is patient.
    pub(crate) in_vain: bool,
}

/// What came of looking at what is remembered, or asking upstream.
pub(crate) enum Consulted<R, T> {
    /// What is remembered is the answer.
    Remembered(R),
    /// What is remembered stands in, checked so long ago: to spare the pulls that upstream still
    /// grants, or because of an error.
    Stale(R, Duration, Option<MirrorError>),
    /// Upstream's answer.
    Asked(T),
}

/// What to do about a tag or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Serve what is remembered.
    Serve,
    /// Serve what is remembered although it is no longer fresh, to spare the pulls that upstream
    /// still grants; it was checked so long ago.
    Spare(Duration),
    /// Ask upstream, and wait as long as that takes: there is nothing else.
    Ask,
    /// Ask upstream if that is of use, and wait only as long as one is patient; then serve what was checked
    /// so long ago.
    AskPatiently(Duration),
}

impl Policy {
    /// What is remembered, what upstream says to `question` when it is put with `ask`, or what stands in for
    /// it. `ask` is given how long to wait; the question must go on after that.
    ///
    /// # Errors
    /// What upstream said, or that it said nothing, where nothing may stand in.
    pub(crate) async fn consult<R, T, F>(
        &self,
        clock: &dyn Clock,
        question: Question<'_>,
        remembered: Option<Remembered<R>>,
        ask: impl FnOnce(Option<Duration>) -> F,
    ) -> Result<Consulted<R, T>, MirrorError>
    where
        F: Future<Output = Result<T, MirrorError>>,
    {
        let plan = self.plan(remembered.as_ref(), question.allowance, clock.now());
        let patience = match (plan, &remembered) {
            (Plan::AskPatiently(_), _) if question.in_vain => {
                return self.cover(clock, remembered, overdue(question.subject));
            }
            (Plan::AskPatiently(_), _) => {
                match self.patience_for(question.upstream.outlook(&question.resource), question.subject) {
                    Ok(patience) => Some(patience),
                    Err(error) => return self.cover(clock, remembered, error),
                }
            }
            _ => None,
        };
        match (plan, remembered) {
            (Plan::Serve, Some(Remembered { what, .. })) => Ok(Consulted::Remembered(what)),
            (Plan::Spare(age), Some(Remembered { what, .. })) => Ok(Consulted::Stale(what, age, None)),
            (_, remembered) => match ask(patience).await {
                Ok(answer) => Ok(Consulted::Asked(answer)),
                Err(error) => self.cover(clock, remembered, error),
            },
        }
    }

    /// What stands in for upstream after `error`, if it may.
    pub(crate) fn cover<R, T>(
        &self,
        clock: &dyn Clock,
        remembered: Option<Remembered<R>>,
        error: MirrorError,
    ) -> Result<Consulted<R, T>, MirrorError> {
        let class = match &error {
            // Who may not ask gets what is there, as when nobody can.
            MirrorError::TooMany(_) => UpstreamErrorClass::Unavailable,
            error => error.upstream_class().unwrap_or(UpstreamErrorClass::Protocol),
        };
        let covering = remembered.filter(|remembered| remembered.stored).and_then(|remembered| {
            let age = self.stand_in(remembered.checked_at, class, clock.now())?;
            Some((remembered.what, age))
        });
        let Some((what, age)) = covering else { return Err(error) };
        Ok(Consulted::Stale(what, age, Some(error)))
    }

    /// How long a client waits for an upstream of which this is known where something can be served in its place.
    ///
    /// # Errors
    /// It is not asked just now.
    pub(crate) fn patience_for(&self, outlook: Outlook, subject: Subject) -> Result<Duration, MirrorError> {
        match outlook {
            Outlook::Well => Ok(self.patience_with(true)),
            Outlook::Doubtful => Ok(self.patience_with(false)),
            Outlook::Spared(why) => {
                Err(MirrorError::upstream(subject, UpstreamError::new(UpstreamErrorClass::Unavailable, why)))
            }
        }
    }

    fn patience_with(&self, is_well: bool) -> Duration {
        let short = self.mode == Mode::PreferCache || !is_well;
        if short { self.patience.min(SHORT_PATIENCE) } else { self.patience }
    }

    /// When what is stale behind upstream `now`, for so long, counts as checked: it is not fresh here either.
    pub(crate) fn stale_since(&self, age: Duration, now: Timestamp) -> Timestamp {
        now.minus(age.max(self.tag_ttl))
    }

    /// Whether what was checked at `checked_at` is served without asking.
    pub(crate) fn serves(&self, checked_at: Timestamp, now: Timestamp) -> bool {
        // A check that lies in the future says that the clock was set back: its age is unknown.
        self.mode == Mode::Offline || checked_at.age(now).is_some_and(|age| age < self.tag_ttl)
    }

    /// What to do before upstream is asked.
    fn plan<R>(&self, remembered: Option<&Remembered<R>>, allowance: Allowance, now: Timestamp) -> Plan {
        let Some(&Remembered { checked_at, conclusive, stored, .. }) = remembered else { return Plan::Ask };
        if self.mode == Mode::Offline || conclusive && self.serves(checked_at, now) {
            return Plan::Serve;
        }
        if !stored {
            return Plan::Ask;
        }
        let spared = checked_at.age(now).filter(|age| *age <= self.stale_if_error);
        if let Some(age) = spared.filter(|_| conclusive && allowance != Allowance::Free) {
            return Plan::Spare(age);
        }
        let stands_in = self.stand_in(checked_at, UpstreamErrorClass::Unavailable, now);
        stands_in.map_or(Plan::Ask, Plan::AskPatiently)
    }

    /// Whether what was checked at `checked_at` may stand in for an upstream that is away.
    pub(crate) fn may_stand_in(&self, checked_at: Timestamp, now: Timestamp) -> bool {
        self.stand_in(checked_at, UpstreamErrorClass::Unavailable, now).is_some()
    }

    /// Whether what was checked at `checked_at` may stand in for an upstream that failed with `class`.
    /// Returns how long ago that was.
    fn stand_in(&self, checked_at: Timestamp, class: UpstreamErrorClass, now: Timestamp) -> Option<Duration> {
        let age = checked_at.age(now).unwrap_or_default();
        (class.is_no_answer() && (self.mode != Mode::Online || age <= self.stale_if_error)).then_some(age)
    }
}

/// The error of a question that goes on behind.
pub(crate) fn overdue(subject: Subject) -> MirrorError {
    let message = "no answer within the patience of the client; the question goes on";
    MirrorError::upstream(subject, UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::offline::Offline;

    const POLICY: Policy = Policy {
        mode: Mode::Online,
        tag_ttl: Duration::from_secs(300),
        stale_if_error: Duration::from_secs(MONTH.unsigned_abs()),
        patience: Duration::from_secs(2),
    };
    const MONTH: i64 = 30 * 86_400;
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn checked(seconds_ago: i64) -> Remembered<()> {
        let checked_at = Timestamp(NOW.0.wrapping_add_signed(-seconds_ago * 1000));
        Remembered { what: (), checked_at, conclusive: true, stored: true }
    }

    fn plan(mode: Mode, remembered: Option<Remembered<()>>, allowance: Allowance) -> Plan {
        Policy { mode, ..POLICY }.plan(remembered.as_ref(), allowance, NOW)
    }

    fn patiently(seconds_ago: u64) -> Plan {
        Plan::AskPatiently(Duration::from_secs(seconds_ago))
    }

    #[test]
    fn a_tag_is_asked_about_when_it_is_no_longer_fresh() {
        for (mode, seconds_ago, expected) in [
            (Mode::Online, 0, Plan::Serve),
            (Mode::Online, 299, Plan::Serve),
            (Mode::Online, 300, patiently(300)),
            (Mode::Online, MONTH + 1, Plan::Ask),
            (Mode::Online, -60, patiently(0)),
            (Mode::PreferCache, 299, Plan::Serve),
            (Mode::PreferCache, 300, patiently(300)),
            (Mode::PreferCache, MONTH + 1, patiently(30 * 86_400 + 1)),
            (Mode::Offline, 10_000_000, Plan::Serve),
        ] {
            assert_eq!(plan(mode, Some(checked(seconds_ago)), Allowance::Free), expected, "{mode:?} {seconds_ago}");
        }
        assert_eq!(plan(Mode::Online, None, Allowance::Free), Plan::Ask);
    }

    #[test]
    fn what_is_not_stored_is_waited_for_as_if_it_were_not_remembered() {
        for allowance in [Allowance::Free, Allowance::Spent] {
            let not_stored = Remembered { stored: false, ..checked(400) };
            assert_eq!(plan(Mode::Online, Some(not_stored), allowance), Plan::Ask);
            assert_eq!(plan(Mode::PreferCache, Some(not_stored), allowance), Plan::Ask);
        }
    }

    #[test]
    fn what_others_were_told_is_no_answer_while_upstream_has_one() {
        let told_others = Remembered { conclusive: false, ..checked(1) };
        for (mode, expected) in
            [(Mode::Online, patiently(1)), (Mode::PreferCache, patiently(1)), (Mode::Offline, Plan::Serve)]
        {
            for allowance in [Allowance::Free, Allowance::Spent] {
                assert_eq!(plan(mode, Some(told_others), allowance), expected, "{mode:?}");
            }
        }
    }

    #[test]
    fn a_budget_that_runs_out_is_spared_for_what_is_not_cached() {
        for allowance in [Allowance::Low, Allowance::Spent] {
            for (mode, seconds_ago, expected) in [
                (Mode::Online, 299, Plan::Serve),
                (Mode::Online, 300, Plan::Spare(Duration::from_secs(300))),
                (Mode::PreferCache, 300, Plan::Spare(Duration::from_secs(300))),
                (Mode::Online, MONTH + 1, Plan::Ask),
                (Mode::Online, -60, patiently(0)),
                (Mode::Offline, 300, Plan::Serve),
            ] {
                let planned = plan(mode, Some(checked(seconds_ago)), allowance);
                assert_eq!(planned, expected, "{allowance:?} {mode:?} {seconds_ago}");
            }
            assert_eq!(plan(Mode::Online, None, allowance), Plan::Ask);
        }
    }

    #[test]
    fn patience_is_short_for_an_upstream_in_doubt_and_where_the_cache_is_preferred() {
        let prefer = Policy { mode: Mode::PreferCache, ..POLICY };
        let hasty = Policy { patience: Duration::from_millis(100), ..prefer };
        for (policy, is_well, expected) in
            [(POLICY, true, 2000), (POLICY, false, 300), (prefer, true, 300), (prefer, false, 300), (hasty, true, 100)]
        {
            assert_eq!(policy.patience_with(is_well), Duration::from_millis(expected));
        }
    }

    #[test]
    fn only_who_gives_no_answer_is_covered_for_and_only_for_a_while() {
        for (class, seconds_ago, expected) in [
            (UpstreamErrorClass::Unavailable, 400, Some(400)),
            (UpstreamErrorClass::RateLimited(None), 400, Some(400)),
            (UpstreamErrorClass::Unavailable, MONTH, Some(MONTH)),
            (UpstreamErrorClass::Unavailable, MONTH + 1, None),
            (UpstreamErrorClass::Unavailable, -60, Some(0)),
            (UpstreamErrorClass::NotFound, 400, None),
            (UpstreamErrorClass::Denied, 400, None),
            (UpstreamErrorClass::Protocol, 400, Some(400)),
            (UpstreamErrorClass::Refused, 400, None),
        ] {
            let age = POLICY.stand_in(checked(seconds_ago).checked_at, class, NOW);
            let expected = expected.map(|seconds: i64| Duration::from_secs(seconds.unsigned_abs()));
            assert_eq!(age, expected, "{class:?} {seconds_ago}");
        }
        let offline = Policy { mode: Mode::Offline, ..POLICY };
        let ancient = offline.stand_in(checked(10 * MONTH).checked_at, UpstreamErrorClass::Unavailable, NOW);
        assert!(ancient.is_some(), "offline, age does not matter");
    }

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            NOW
        }
    }

    #[tokio::test]
    async fn who_asks_is_told_how_long_to_wait_and_is_covered_for_when_that_is_over() {
        let offline = Offline::new("docker.io".parse().expect("a name"));
        let repository = "app".parse().expect("a name");
        let asked = async |remembered| {
            let question = Question {
                upstream: &offline,
                resource: Resource::tags(&repository),
                subject: Subject::Tags,
                allowance: Allowance::Free,
                in_vain: false,
            };
            let mut waits = None;
            let ask = |patience| {
                waits = patience;
                async { Err::<(), _>(overdue(Subject::Tags)) }
            };
            (POLICY.consult(&Still, question, remembered, ask).await, waits)
        };
        let (stale, waits) = asked(Some(checked(400))).await;
        assert!(matches!(stale, Ok(Consulted::Stale((), age, Some(_))) if age.as_secs() == 400));
        assert_eq!(waits, Some(POLICY.patience));
        for nothing in [None, Some(checked(MONTH + 1)), Some(Remembered { stored: false, ..checked(400) })] {
            assert!(matches!(asked(nothing).await, (Err(_), None)), "there is nothing to wait briefly for");
        }
    }
}
