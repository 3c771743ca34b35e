//! What a pull would get now, told without one: from what is stored, what is remembered of the tag and what is known
//! of the upstream. Nobody is asked, and nothing counts as used. The decision is pure, and that of a pull in short.

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::documents::{Moment, Source, Why};
use crate::graph::image::{self, Completeness, Platforms};
use crate::graph::{Graph, Lane};
use crate::metadata::{MetadataError, Note, Pin};
use crate::mirror::answer::canary;
use crate::mirror::images::catalog::{Catalog, CatalogError, Found};
use crate::mirror::recall::freshness::Policy;
use crate::mirror::{Mirror, Mode};
use crate::oci::{Digest, ImageName, Reference};
use crate::outcome::Outcome;
use crate::upstream::Allowance;
use crate::upstream::health::{EndpointHealth, Health};

/// What is known of the upstream without asking it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing against it.
    #[default]
    Well,
    /// It did not answer when it was last asked.
    Away,
    /// Few of the pulls that it grants are left.
    Sparing,
}

/// So long ago a question that failed, and no other since, says what the next one gets.
const LATELY: Duration = Duration::from_secs(60);

impl Reach {
    fn of(health: &Health, now: Timestamp) -> Reach {
        // It may be asked again at once; that it will answer then nobody would say.
        let failed_last = |endpoint: &EndpointHealth| {
            // A refusal is an answer.
            let failed = endpoint.last_error.as_ref().filter(|error| error.class.is_no_answer());
            let failed_at = failed.map(|error| error.at);
            failed_at > endpoint.answered_at && failed_at.and_then(|at| at.age(now)).is_some_and(|age| age < LATELY)
        };
        let fails = !health.endpoints.is_empty() && health.endpoints.iter().all(failed_last);
        match health {
            health if health.is_down() || health.failing || fails => Reach::Away,
            Health { allowance: Allowance::Low | Allowance::Spent, .. } => Reach::Sparing,
            _ => Reach::Well,
        }
    }
}

/// What a pull goes by.
#[derive(Clone, Copy, Debug)]
struct Facts<'a> {
    policy: Policy,
    now: Timestamp,
    reach: Reach,
    /// Why we have nothing to show to the upstream, if that is so.
    no_credential: Option<&'a str>,
    /// Nothing of the repository is served: upstream refuses it.
    denied: bool,
    /// The name stands for one manifest, whatever upstream says.
    fixed: bool,
    /// And an operator said which one.
    frozen: bool,
    /// Upstream said a moment ago that it has it not, and is not asked again yet.
    absent: bool,
    /// When upstream last said what the tag stands for, if it ever did.
    checked_at: Option<Timestamp>,
    /// Whether its manifest is stored.
    stored: bool,
    /// What there is of it for this machine.
    completeness: &'a Completeness,
    /// Nothing in it is for this machine, and what is for others is there.
    for_others: bool,
}

const ABSENT: &str = "upstream said a moment ago that it is not there, and is not asked again before negative_ttl";

/// Why there would be nothing.
struct Nothing(String);

impl Facts<'_> {
    /// What a pull would get: the outcome of the manifest, and why; else why nothing.
    fn foresee(&self) -> Result<(Outcome, String), Nothing> {
        if self.denied {
            let reason = "upstream refused this repository when it was last asked, and nothing of it is served until \
                          it gives it again; a pull asks it";
            return Err(Nothing(reason.to_owned()));
        }
        let (outcome, reason) = match self.checked_at {
            _ if self.fixed => self.foresee_fixed()?,
            None => self.ask("it was never pulled through this mirror")?,
            Some(checked_at) => self.foresee_tag(checked_at)?,
        };
        if outcome != Outcome::Fill && !self.is_enough() && self.silence().is_some() {
            return Err(self.nothing(&self.completeness.why_incomplete()));
        }
        Ok((outcome, reason))
    }

    /// Whether what is stored is all that somebody would ask for.
    fn is_enough(&self) -> bool {
        self.completeness.is_complete() || self.for_others
    }

    fn foresee_fixed(&self) -> Result<(Outcome, String), Nothing> {
        if self.stored {
            let why = if self.frozen { "the tag is frozen to one manifest" } else { "it stands for one manifest" };
            return Ok((Outcome::Hit, format!("{why}, which is stored; nobody is asked")));
        }
        self.ask(if self.frozen {
            "the manifest that it is frozen to is not stored"
        } else {
            "its manifest is not stored"
        })
    }

    fn foresee_tag(&self, checked_at: Timestamp) -> Result<(Outcome, String), Nothing> {
        let Facts { policy, now, stored, .. } = self;
        let fresh = policy.serves(checked_at, *now);
        if !stored {
            return self.ask("its manifest is not stored");
        }
        if fresh {
            let offline = policy.mode == Mode::Offline;
            let reason = if offline { "mode = \"offline\" asks nobody" } else { "the tag is fresh; nobody is asked" };
            return Ok((Outcome::Hit, reason.to_owned()));
        }
        let stands_in = policy.may_stand_in(checked_at, *now);
        match self.reach {
            Reach::Sparing if stands_in => {
                Ok((Outcome::Stale, "upstream is not asked, to spare the few pulls that it still grants".to_owned()))
            }
            Reach::Away if stands_in => {
                Ok((Outcome::Stale, format!("the tag is no longer fresh, and {}", self.silence().unwrap_or_default())))
            }
            Reach::Away => Err(self.nothing("what is stored is older than stale_if_error")),
            _ if self.absent => Err(Nothing(ABSENT.to_owned())),
            _ => {
                let reason = "the tag is no longer fresh; upstream is asked whether it moved";
                Ok((Outcome::Revalidated, reason.to_owned()))
            }
        }
    }

    /// Upstream is asked for all of it.
    fn ask(&self, because: &str) -> Result<(Outcome, String), Nothing> {
        match self.silence() {
            None if self.absent => Err(Nothing(ABSENT.to_owned())),
            Some(_) => Err(self.nothing(because)),
            None => Ok((Outcome::Fill, format!("{because}; upstream is asked"))),
        }
    }

    /// Why nothing can come from upstream, if that is so.
    fn silence(&self) -> Option<String> {
        match (self.policy.mode, self.reach, self.no_credential) {
            (Mode::Offline, ..) => Some("mode = \"offline\" asks nobody".to_owned()),
            (_, Reach::Away, Some(why)) => Some(format!("our credential for upstream cannot be had: {why}")),
            (_, Reach::Away, None) => Some("upstream did not answer lately".to_owned()),
            _ => None,
        }
    }

    fn nothing(&self, because: &str) -> Nothing {
        Nothing(format!("{because}, and {}", self.silence().as_deref().unwrap_or("upstream cannot be asked")))
    }

    /// Until when the tag is served without a question, and while upstream does not answer.
    fn until(&self) -> (Option<Moment>, Option<Moment>) {
        let by_time = self.checked_at.filter(|_| !self.fixed && self.stored && self.policy.mode != Mode::Offline);
        let fresh = by_time.map(|at| at.plus(self.policy.tag_ttl).into());
        let stale = by_time.filter(|_| self.policy.mode == Mode::Online);
        (fresh, stale.map(|at| at.plus(self.policy.stale_if_error).into()))
    }
}

/// What a pull of `name` would get `now`. Blocks.
///
/// # Errors
/// When what is remembered cannot be read.
pub(crate) fn why(
    graph: &Graph,
    name: &Pin,
    policy: Policy,
    health: &Health,
    absent: bool,
    behind: HashSet<Digest>,
    now: Timestamp,
) -> Result<Why, MetadataError> {
    if let Some(has_it) = canary::is_own(&name.location, &name.reference) {
        return Ok(of_our_own(name, has_it));
    }
    let catalog = Catalog { behind, ..Catalog::of(graph)? };
    let found = catalog.named(name)?;
    let completeness =
        found.as_ref().map(|Found { image, lacking, .. }| image::completeness(image, &Platforms::Ours, lacking));
    let completeness = completeness.unwrap_or_default();
    let has_manifest = |Found { image, lacking, .. }: &Found| {
        let manifest = &image.manifest;
        image::lack(manifest, Some(image), lacking).is_none()
    };
    let facts = Facts {
        policy,
        now,
        reach: Reach::of(health, now),
        no_credential: health.no_credential.as_deref(),
        denied: graph.metadata().noted(&name.location, Note::Denied)?.is_some(),
        fixed: catalog.fixed(name).is_some(),
        frozen: matches!(name.reference, Reference::Tag(_)) && catalog.fixed(name).is_some(),
        absent,
        checked_at: found.as_ref().and_then(|found| Some(found.record.as_ref()?.checked_at)),
        stored: found.as_ref().is_some_and(has_manifest),
        completeness: &completeness,
        for_others: !completeness.lacking.is_empty()
            && found.as_ref().is_some_and(|Found { image, lacking, .. }| image::is_pullable(image, lacking)),
    };
    let foreseen = facts.foresee();
    let from = foreseen.as_ref().ok().map(|(outcome, _)| match outcome {
        Outcome::Fill => Source::Upstream,
        _ if facts.is_enough() && completeness.behind_bytes > 0 => Source::Bucket,
        _ if facts.is_enough() => Source::Store,
        _ => Source::Both,
    });
    let (fresh_until_at, stale_until_at) = facts.until();
    let (succeeds, outcome, reason) = match foreseen {
        Ok((outcome, reason)) => (true, Some(outcome.as_str().to_owned()), reason),
        Err(Nothing(reason)) => (false, None, reason),
    };
    Ok(Why {
        image: name.to_string(),
        upstream: name.location.upstream.clone(),
        succeeds,
        outcome,
        from,
        reason,
        fresh_until_at,
        stale_until_at,
        stored: found.as_ref().map(|found| catalog.summary(name, found)),
        completeness: completeness.document(),
        begun_bytes: 0,
        anonymous: None,
    })
}

/// The mirror's own image, for which nobody is asked.
fn of_our_own(name: &Pin, has_it: bool) -> Why {
    let reason =
        if has_it { "it is the mirror's own" } else { "of this name the mirror has an image of its own, with one tag" };
    Why {
        image: name.to_string(),
        upstream: name.location.upstream.clone(),
        succeeds: has_it,
        outcome: has_it.then(|| Outcome::Local.as_str().to_owned()),
        from: None,
        reason: format!("{reason}; nobody is asked"),
        fresh_until_at: None,
        stale_until_at: None,
        stored: None,
        completeness: Completeness::default().document(),
        begun_bytes: 0,
        anonymous: None,
    }
}

impl Mirror {
    /// What a pull would get now. No upstream is asked.
    ///
    /// # Errors
    /// [`CatalogError::Route`] and [`CatalogError::Metadata`]; an unknown image is no error.
    pub async fn why(&self, name: &ImageName) -> Result<Why, CatalogError> {
        let route = self.route_of(name)?;
        self.looked_into(&route.location).await;
        let (policy, now) = self.0.answers.rules();
        let health = route.upstream.health();
        let absent = self.0.answers.is_absent(&route.location, &name.reference);
        let (ingests, sender) = (&self.0.fills.ingests, self.0.fills.stored.standing.sender_of(&route.location));
        let pin = Pin { location: route.location, reference: name.reference.clone() };
        let behind = self.behind(&pin).await;
        let place = self.0.graph.place(Lane::People).await;
        let foreseen = move |graph: &Graph| why(graph, &pin, policy, &health, absent, behind, now);
        let why = self.0.graph.look(&place, foreseen).await?;
        let missing = why.completeness.missing.iter();
        let begun_bytes = missing.filter_map(|part| ingests.left_over_of(&(sender.clone(), part.digest))).sum();
        Ok(Why { begun_bytes, ..why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamErrorClass;

    const POLICY: Policy = Policy {
        mode: Mode::Online,
        tag_ttl: Duration::from_secs(300),
        stale_if_error: Duration::from_secs(86_400),
        patience: Duration::from_secs(2),
    };
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn what_a_pull_would_get_follows_from_what_is_stored_and_who_answers() {
        use Outcome::{Fill, Hit, Revalidated, Stale};
        let ago = |seconds: u64| Some(NOW.minus(Duration::from_secs(seconds)));
        let whole = Completeness::default();
        let part = Completeness { unreadable: 1, ..Completeness::default() };
        let base = Facts {
            policy: POLICY,
            now: NOW,
            reach: Reach::Well,
            no_credential: None,
            denied: false,
            absent: false,
            for_others: false,
            fixed: false,
            frozen: false,
            checked_at: ago(10),
            stored: true,
            completeness: &whole,
        };
        let offline = Policy { mode: Mode::Offline, ..POLICY };
        let (away, sparing, stale) = (Reach::Away, Reach::Sparing, ago(400));
        for (facts, expected) in [
            (base, Some(Hit)),
            (Facts { reach: away, ..base }, Some(Hit)),
            (Facts { stored: false, ..base }, Some(Fill)),
            (Facts { stored: false, reach: away, ..base }, None),
            (Facts { checked_at: None, stored: false, ..base }, Some(Fill)),
            (Facts { checked_at: None, stored: false, policy: offline, ..base }, None),
            (Facts { checked_at: stale, ..base }, Some(Revalidated)),
            (Facts { checked_at: stale, reach: away, ..base }, Some(Stale)),
            (Facts { checked_at: stale, reach: sparing, ..base }, Some(Stale)),
            (Facts { checked_at: stale, policy: offline, ..base }, Some(Hit)),
            (Facts { checked_at: ago(100_000), ..base }, Some(Revalidated)),
            (Facts { checked_at: ago(100_000), reach: away, ..base }, None),
            (Facts { completeness: &part, ..base }, Some(Hit)),
            (Facts { completeness: &part, reach: away, ..base }, None),
            (Facts { completeness: &part, policy: offline, ..base }, None),
            (Facts { fixed: true, checked_at: None, reach: away, ..base }, Some(Hit)),
            (Facts { fixed: true, checked_at: None, stored: false, ..base }, Some(Fill)),
            (Facts { fixed: true, stored: false, reach: away, ..base }, None),
            (Facts { denied: true, ..base }, None),
            (Facts { absent: true, ..base }, Some(Hit)),
            (Facts { absent: true, checked_at: None, stored: false, ..base }, None),
            (Facts { absent: true, checked_at: stale, ..base }, None),
            (Facts { absent: true, checked_at: stale, reach: away, ..base }, Some(Stale)),
            (Facts { completeness: &part, for_others: true, checked_at: stale, reach: away, ..base }, Some(Stale)),
        ] {
            assert_eq!(facts.foresee().ok().map(|(outcome, _)| outcome), expected, "{facts:?}");
        }
        let failed = |class, failed_at, answered_at| Health {
            endpoints: vec![EndpointHealth {
                url: "https://a.example/".to_owned(),
                state: crate::upstream::health::EndpointState::Up,
                asked_again_at: None,
                last_error: Some(crate::upstream::health::LastError { class, at: failed_at }),
                answered_at,
                latency: None,
                pulls: None,
            }],
            ..Health::default()
        };
        let seconds_ago = |seconds| NOW.minus(Duration::from_secs(seconds));
        use UpstreamErrorClass::{Denied, Protocol, RateLimited, Refused, Unavailable};
        for (class, failed_at, answered_at, expected) in [
            (Unavailable, seconds_ago(1), Some(seconds_ago(2)), Reach::Away),
            (Unavailable, seconds_ago(1), None, Reach::Away),
            (Unavailable, seconds_ago(2), Some(seconds_ago(1)), Reach::Well),
            (Unavailable, seconds_ago(600), None, Reach::Well),
            (RateLimited(None), seconds_ago(1), None, Reach::Away),
            (Protocol, seconds_ago(1), None, Reach::Away),
            (Denied, seconds_ago(1), Some(seconds_ago(2)), Reach::Well),
            (Refused, seconds_ago(1), None, Reach::Well),
        ] {
            assert_eq!(Reach::of(&failed(class, failed_at, answered_at), NOW), expected, "{class:?}");
        }
        let own = |tag: &str| Pin {
            location: crate::mirror::Location {
                upstream: "docker.io".parse().expect("a name"),
                repository: "library/registry-mirror-canary".parse().expect("a name"),
            },
            reference: crate::oci::Reference::Tag(tag.parse().expect("a tag")),
        };
        let is_own = |pin: Pin| canary::is_own(&pin.location, &pin.reference);
        assert_eq!((is_own(own("latest")), is_own(own("1"))), (Some(true), Some(false)));
        let (fresh, stale) = base.until();
        assert_eq!(fresh.map(Moment::millis), Some(NOW.0 + 290_000));
        assert_eq!(stale.map(Moment::millis), Some(NOW.0 + 86_390_000));
        assert_eq!(Facts { fixed: true, ..base }.until(), (None, None));
    }
}
