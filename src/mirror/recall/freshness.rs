//! May a tag or a list be served from memory, must upstream be asked, and what if upstream cannot
//! answer? The decisions are pure; `Policy::consult` carries them out, for tags and lists alike.
//!
//! Truth: only an upstream that cannot answer is covered for. *Not found* and *denied* are answers.

use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::mirror::error::{MirrorError, Subject};
use crate::upstream::health::Health;
use crate::upstream::{Allowance, UpstreamError, UpstreamErrorClass};

/// How eager the mirror is to ask upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ask when a tag is no longer fresh, wait for the answer.
    #[default]
    Online,
    /// Ask when a tag is no longer fresh, but give up after [`PREFER_CACHE_PATIENCE`] when there is
    /// something to serve.
    PreferCache,
    /// Never ask.
    Offline,
}

impl Mode {
    /// The word for it, in the configuration and in the status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Online => "online",
            Mode::PreferCache => "prefer-cache",
            Mode::Offline => "offline",
        }
    }
}

/// How long `prefer-cache` waits for an upstream when it could serve what it has; so does everybody
/// for an upstream that did not answer the last time.
pub const PREFER_CACHE_PATIENCE: Duration = Duration::from_millis(300);

/// The rules for tags and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How eager to ask.
    pub mode: Mode,
    /// How long a tag is served without asking.
    pub tag_ttl: Duration,
    /// How old a tag may be, since it was last checked, when upstream cannot answer.
    pub stale_if_error: Duration,
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
    /// Ask upstream, and wait as long as that takes.
    Ask,
    /// Ask upstream, and treat it as away when it takes longer than this.
    AskBriefly(Duration),
}

impl Policy {
    /// What is remembered, what upstream says to `ask` about `subject`, or what stands in for it.
    /// `health` is that of upstream; of one that is well where there is nothing to serve in its place.
    ///
    /// # Errors
    /// What upstream said, or that it said nothing, where nothing may stand in.
    pub(crate) async fn consult<R, T>(
        &self,
        clock: &dyn Clock,
        subject: Subject,
        remembered: Option<Remembered<R>>,
        health: &Health,
        ask: impl Future<Output = Result<T, MirrorError>>,
    ) -> Result<Consulted<R, T>, MirrorError> {
        let plan = self.plan(remembered.as_ref(), health, clock.now());
        let asked = match (plan, remembered) {
            (Plan::Serve, Some(Remembered { what, .. })) => return Ok(Consulted::Remembered(what)),
            (Plan::Spare(age), Some(Remembered { what, .. })) => return Ok(Consulted::Stale(what, age, None)),
            (Plan::AskBriefly(patience), remembered) => {
                let asked = tokio::time::timeout(patience, ask).await;
                (asked.unwrap_or_else(|_| Err(too_slow(subject, patience))), remembered)
            }
            (_, remembered) => (ask.await, remembered),
        };
        let (error, remembered) = match asked {
            (Ok(answer), _) => return Ok(Consulted::Asked(answer)),
            (Err(error), remembered) => (error, remembered),
        };
        let class = error.upstream_class().unwrap_or(UpstreamErrorClass::Protocol);
        let covering = remembered.and_then(|remembered| {
            let age = self.stand_in(remembered.checked_at, class, clock.now())?;
            Some((remembered.what, age))
        });
        let Some((what, age)) = covering else { return Err(error) };
        Ok(Consulted::Stale(what, age, Some(error)))
    }

    /// Whether what was checked at `checked_at` is served without asking.
    pub(crate) fn serves(&self, checked_at: Timestamp, now: Timestamp) -> bool {
        // A check that lies in the future says that the clock was set back: its age is unknown.
        self.mode == Mode::Offline || checked_at.age(now).is_some_and(|age| age < self.tag_ttl)
    }

    /// What to do before upstream is asked.
    fn plan<R>(&self, remembered: Option<&Remembered<R>>, health: &Health, now: Timestamp) -> Plan {
        let Some(&Remembered { checked_at, conclusive, .. }) = remembered else { return Plan::Ask };
        if self.mode == Mode::Offline || conclusive && self.serves(checked_at, now) {
            return Plan::Serve;
        }
        let spared = checked_at.age(now).filter(|age| *age <= self.stale_if_error);
        if let Some(age) = spared.filter(|_| conclusive && health.allowance != Allowance::Free) {
            return Plan::Spare(age);
        }
        // Who asks finds out whether upstream is back, but need not wait for long.
        let doubtful = health.is_down() && self.stand_in(checked_at, UpstreamErrorClass::Unavailable, now).is_some();
        let briefly = self.mode == Mode::PreferCache || doubtful;
        if briefly { Plan::AskBriefly(PREFER_CACHE_PATIENCE) } else { Plan::Ask }
    }

    /// Whether what was checked at `checked_at` may stand in for an upstream that failed with `class`.
    /// Returns how long ago that was.
    fn stand_in(&self, checked_at: Timestamp, class: UpstreamErrorClass, now: Timestamp) -> Option<Duration> {
        let age = checked_at.age(now).unwrap_or_default();
        (class.is_outage() && (self.mode != Mode::Online || age <= self.stale_if_error)).then_some(age)
    }
}

fn too_slow(subject: Subject, patience: Duration) -> MirrorError {
    let message = format!("no answer within {patience:?}");
    MirrorError::upstream(subject, UpstreamError::new(UpstreamErrorClass::Unavailable, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::{EndpointHealth, EndpointState};

    const POLICY: Policy = Policy {
        mode: Mode::Online,
        tag_ttl: Duration::from_secs(300),
        stale_if_error: Duration::from_secs(MONTH.unsigned_abs()),
    };
    const MONTH: i64 = 30 * 86_400;
    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const BRIEFLY: Plan = Plan::AskBriefly(PREFER_CACHE_PATIENCE);

    fn checked(seconds_ago: i64) -> Remembered<()> {
        let checked_at = Timestamp(NOW.0.wrapping_add_signed(-seconds_ago * 1000));
        Remembered { what: (), checked_at, conclusive: true }
    }

    fn plan(mode: Mode, remembered: Option<Remembered<()>>, health: &Health) -> Plan {
        Policy { mode, ..POLICY }.plan(remembered.as_ref(), health, NOW)
    }

    fn down(allowance: Allowance) -> Health {
        let state = EndpointState::Down;
        let endpoint =
            EndpointHealth { url: String::new(), state, asked_again_at: None, last_error: None, pulls: None };
        Health { endpoints: vec![endpoint], allowance, streams: 1 }
    }

    #[test]
    fn a_tag_is_asked_about_when_it_is_no_longer_fresh() {
        for (mode, seconds_ago, expected) in [
            (Mode::Online, 0, Plan::Serve),
            (Mode::Online, 299, Plan::Serve),
            (Mode::Online, 300, Plan::Ask),
            (Mode::Online, -60, Plan::Ask),
            (Mode::PreferCache, 299, Plan::Serve),
            (Mode::PreferCache, 300, BRIEFLY),
            (Mode::Offline, 10_000_000, Plan::Serve),
        ] {
            assert_eq!(plan(mode, Some(checked(seconds_ago)), &Health::default()), expected, "{mode:?} {seconds_ago}");
        }
        assert_eq!(plan(Mode::Online, None, &Health::default()), Plan::Ask);
    }

    #[test]
    fn what_others_were_told_is_no_answer_while_upstream_has_one() {
        let told_others = Remembered { conclusive: false, ..checked(1) };
        for (mode, expected) in [(Mode::Online, Plan::Ask), (Mode::PreferCache, BRIEFLY), (Mode::Offline, Plan::Serve)]
        {
            for allowance in [Allowance::Free, Allowance::Spent] {
                assert_eq!(
                    plan(mode, Some(told_others), &Health { allowance, ..Health::default() }),
                    expected,
                    "{mode:?}"
                );
            }
        }
    }

    #[test]
    fn a_budget_that_runs_out_is_spared_for_what_is_not_cached() {
        for allowance in [Allowance::Low, Allowance::Spent] {
            let health = Health { allowance, ..Health::default() };
            for (mode, seconds_ago, expected) in [
                (Mode::Online, 299, Plan::Serve),
                (Mode::Online, 300, Plan::Spare(Duration::from_secs(300))),
                (Mode::PreferCache, 300, Plan::Spare(Duration::from_secs(300))),
                (Mode::Online, MONTH + 1, Plan::Ask),
                (Mode::Online, -60, Plan::Ask),
                (Mode::Offline, 300, Plan::Serve),
            ] {
                let planned = plan(mode, Some(checked(seconds_ago)), &health);
                assert_eq!(planned, expected, "{allowance:?} {mode:?} {seconds_ago}");
            }
            assert_eq!(plan(Mode::Online, None, &health), Plan::Ask);
        }
    }

    #[test]
    fn nobody_waits_long_for_an_upstream_in_doubt_unless_there_is_nothing_else() {
        use Allowance::{Free, Low};
        let spared = Plan::Spare(Duration::from_secs(400));
        for (mode, allowance, seconds_ago, expected) in [
            (Mode::Online, Free, Some(400), BRIEFLY),
            (Mode::Online, Free, Some(MONTH + 1), Plan::Ask),
            (Mode::Online, Free, None, Plan::Ask),
            (Mode::Online, Free, Some(100), Plan::Serve),
            (Mode::Online, Low, Some(400), spared),
            (Mode::PreferCache, Free, Some(400), BRIEFLY),
        ] {
            let planned = plan(mode, seconds_ago.map(checked), &down(allowance));
            assert_eq!(planned, expected, "{mode:?} {seconds_ago:?}");
        }
    }

    #[test]
    fn only_an_outage_is_covered_for_and_only_for_a_while() {
        for (class, seconds_ago, expected) in [
            (UpstreamErrorClass::Unavailable, 400, Some(400)),
            (UpstreamErrorClass::RateLimited(None), 400, Some(400)),
            (UpstreamErrorClass::Unavailable, MONTH, Some(MONTH)),
            (UpstreamErrorClass::Unavailable, MONTH + 1, None),
            (UpstreamErrorClass::Unavailable, -60, Some(0)),
            (UpstreamErrorClass::NotFound, 400, None),
            (UpstreamErrorClass::Denied, 400, None),
            (UpstreamErrorClass::Protocol, 400, None),
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

    #[tokio::test(start_paused = true)]
    async fn a_brief_question_ends_with_what_stands_in_or_with_an_outage() {
        let silence = std::future::pending::<Result<(), MirrorError>>;
        let policy = Policy { mode: Mode::PreferCache, ..POLICY };
        let well = Health::default();
        let of = |remembered| policy.consult(&Still, Subject::Manifest, remembered, &well, silence());
        assert!(matches!(of(Some(checked(400))).await, Ok(Consulted::Stale((), age, Some(_))) if age.as_secs() == 400));
        let alone = tokio::time::timeout(PREFER_CACHE_PATIENCE * 10, of(None)).await;
        assert!(alone.is_err(), "there is nothing to wait briefly for");
    }
}
