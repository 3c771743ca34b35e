//! May a tag or a list be served from memory, must upstream be asked, and what if upstream cannot
//! answer? Pure.
//!
//! Truth: only an upstream that cannot answer is covered for. *Not found* and *denied* are answers.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::upstream::{Allowance, UpstreamErrorClass};

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

/// What to do about a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
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

/// Decides what to do before upstream is asked about what was last checked at `checked_at`; `None`
/// when nothing is remembered.
pub fn plan(checked_at: Option<Timestamp>, now: Timestamp, policy: &Policy, allowance: Allowance) -> Plan {
    let Some(checked_at) = checked_at else { return Plan::Ask };
    // A check that lies in the future says that the clock was set back: its age is unknown.
    let age = checked_at.age(now);
    let fresh = age.is_some_and(|age| age < policy.tag_ttl);
    let spared = age.filter(|age| allowance != Allowance::Free && *age <= policy.stale_if_error);
    match (policy.mode, spared) {
        (Mode::Online | Mode::PreferCache, _) if fresh => Plan::Serve,
        (Mode::Online | Mode::PreferCache, Some(age)) => Plan::Spare(age),
        (Mode::Online, _) => Plan::Ask,
        (Mode::PreferCache, _) => Plan::AskBriefly(PREFER_CACHE_PATIENCE),
        (Mode::Offline, _) => Plan::Serve,
    }
}

/// What to do when the tag is remembered for clients that accept other types only: upstream's answer
/// may depend on that, so however fresh the record, it is no answer while upstream has one.
pub fn plan_without_own_record(policy: &Policy) -> Plan {
    match policy.mode {
        Mode::Online => Plan::Ask,
        Mode::PreferCache => Plan::AskBriefly(PREFER_CACHE_PATIENCE),
        Mode::Offline => Plan::Serve,
    }
}

/// The plan where upstream did not answer when it was last asked: who asks finds out whether it is
/// back, but need not wait for long when what is remembered may stand in.
pub fn in_doubt(plan: Plan, checked_at: Option<Timestamp>, now: Timestamp, policy: &Policy) -> Plan {
    let covered = stand_in(checked_at, UpstreamErrorClass::Unavailable, now, policy).is_some();
    if plan == Plan::Ask && covered { Plan::AskBriefly(PREFER_CACHE_PATIENCE) } else { plan }
}

/// Whether what is remembered may stand in for an upstream that failed with `class`. Returns how
/// long ago it was checked.
pub fn stand_in(
    checked_at: Option<Timestamp>,
    class: UpstreamErrorClass,
    now: Timestamp,
    policy: &Policy,
) -> Option<Duration> {
    let age = checked_at.filter(|_| class.is_outage())?.age(now).unwrap_or_default();
    (policy.mode != Mode::Online || age <= policy.stale_if_error).then_some(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        mode: Mode::Online,
        tag_ttl: Duration::from_secs(300),
        stale_if_error: Duration::from_secs(30 * 86_400),
    };
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn checked(seconds_ago: i64) -> Timestamp {
        Timestamp(NOW.0.wrapping_add_signed(-seconds_ago * 1000))
    }

    #[test]
    fn a_tag_is_asked_about_when_it_is_no_longer_fresh() {
        let briefly = Plan::AskBriefly(PREFER_CACHE_PATIENCE);
        for (mode, seconds_ago, expected) in [
            (Mode::Online, 0, Plan::Serve),
            (Mode::Online, 299, Plan::Serve),
            (Mode::Online, 300, Plan::Ask),
            (Mode::Online, -60, Plan::Ask),
            (Mode::PreferCache, 299, Plan::Serve),
            (Mode::PreferCache, 300, briefly),
            (Mode::Offline, 10_000_000, Plan::Serve),
        ] {
            let policy = Policy { mode, ..POLICY };
            let plan = plan(Some(checked(seconds_ago)), NOW, &policy, Allowance::Free);
            assert_eq!(plan, expected, "{mode:?} {seconds_ago}");
        }
        assert_eq!(plan(None, NOW, &POLICY, Allowance::Free), Plan::Ask);
    }

    #[test]
    fn a_budget_that_runs_out_is_spared_for_what_is_not_cached() {
        let month = 30 * 86_400;
        for allowance in [Allowance::Low, Allowance::Spent] {
            for (mode, seconds_ago, expected) in [
                (Mode::Online, 299, Plan::Serve),
                (Mode::Online, 300, Plan::Spare(Duration::from_secs(300))),
                (Mode::PreferCache, 300, Plan::Spare(Duration::from_secs(300))),
                (Mode::Online, month + 1, Plan::Ask),
                (Mode::Online, -60, Plan::Ask),
                (Mode::Offline, 300, Plan::Serve),
            ] {
                let policy = Policy { mode, ..POLICY };
                let plan = plan(Some(checked(seconds_ago)), NOW, &policy, allowance);
                assert_eq!(plan, expected, "{allowance:?} {mode:?} {seconds_ago}");
            }
            assert_eq!(plan(None, NOW, &POLICY, allowance), Plan::Ask);
        }
    }

    #[test]
    fn nobody_waits_long_for_an_upstream_in_doubt_unless_there_is_nothing_else() {
        let month = 30 * 86_400;
        let briefly = Plan::AskBriefly(PREFER_CACHE_PATIENCE);
        for (before, seconds_ago, expected) in [
            (Plan::Ask, Some(400), briefly),
            (Plan::Ask, Some(month + 1), Plan::Ask),
            (Plan::Ask, None, Plan::Ask),
            (Plan::Serve, Some(100), Plan::Serve),
            (Plan::Spare(Duration::from_secs(400)), Some(400), Plan::Spare(Duration::from_secs(400))),
            (briefly, Some(400), briefly),
        ] {
            assert_eq!(
                in_doubt(before, seconds_ago.map(checked), NOW, &POLICY),
                expected,
                "{before:?} {seconds_ago:?}"
            );
        }
    }

    #[test]
    fn only_an_outage_is_covered_for_and_only_for_a_while() {
        let month = 30 * 86_400;
        for (class, seconds_ago, expected) in [
            (UpstreamErrorClass::Unavailable, 400, Some(400)),
            (UpstreamErrorClass::RateLimited(None), 400, Some(400)),
            (UpstreamErrorClass::Unavailable, month, Some(month)),
            (UpstreamErrorClass::Unavailable, month + 1, None),
            (UpstreamErrorClass::Unavailable, -60, Some(0)),
            (UpstreamErrorClass::NotFound, 400, None),
            (UpstreamErrorClass::Denied, 400, None),
            (UpstreamErrorClass::Protocol, 400, None),
        ] {
            let age = stand_in(Some(checked(seconds_ago)), class, NOW, &POLICY);
            let expected = expected.map(|seconds: i64| Duration::from_secs(seconds.unsigned_abs()));
            assert_eq!(age, expected, "{class:?} {seconds_ago}");
        }
        assert_eq!(stand_in(None, UpstreamErrorClass::Unavailable, NOW, &POLICY), None);
        let offline = Policy { mode: Mode::Offline, ..POLICY };
        let ancient = stand_in(Some(checked(10 * month)), UpstreamErrorClass::Unavailable, NOW, &offline);
        assert!(ancient.is_some(), "offline, age does not matter");
    }
}
