//! The decision: modes, identities and grants against what is asked for and who asks.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::grant::Reach;
use super::refusal::HUB;
use super::{Access, Caller, Grant, Led, Permit, Refusal, Rule};
use crate::metadata::Location;
use crate::oci::{Digest, Reference, RegistryName, Tag};

/// How clients can say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// By user and password.
    pub passwords: bool,
    /// By a token.
    pub tokens: bool,
    /// By a certificate.
    pub certificates: bool,
}

impl Identities {
    /// Whether they can at all.
    pub const fn any(self) -> bool {
        self.shown() || self.certificates
    }

    /// Whether they can with a request.
    pub const fn shown(self) -> bool {
        self.passwords || self.tokens
    }
}

/// Who may read what, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The mode of each upstream.
    pub modes: HashMap<RegistryName, Access>,
    /// The public ones that are asked with a credential of ours: what they give to everybody has to be proven.
    pub unproven: HashSet<RegistryName>,
    /// In the order in which they are tried.
    pub grants: Vec<Grant>,
    /// How clients can say who they are.
    pub identities: Identities,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Where.
    pub location: &'a Location,
    /// What, or what about; `None` for the list of tags.
    pub reference: Option<&'a Reference>,
}

/// What is known of who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    /// Who he was found to be, each of them; nobody where he showed nothing, or nothing right.
    pub callers: &'a [Caller],
    /// Whether he showed something that is not right.
    pub wrong: bool,
    /// Whether he came where others could have read what he showed, so that nobody looked at it.
    pub overheard: bool,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub enum Decision {
    /// He may.
    Granted(Permit),
    /// He may if a tag that he may read leads to it.
    ByTag(Claim),
    /// He may if upstream gives it to everybody.
    IfPublic(Unproven),
    /// He may if upstream says so, to whatever he shows it.
    AskUpstream(Pending),
    /// He may not.
    Refused(Refusal),
}

/// A permit for what upstream gives to a caller, as long as it was not asked.
#[derive(Clone, Debug)]
pub struct Pending {
    location: Location,
    known: Option<Caller>,
}

impl Pending {
    /// Upstream gives it to him: to who is known, or else to who shows it something.
    pub fn granted(self, shows: Option<Caller>) -> Permit {
        self.permit(shows, Rule::Mode(Access::PassThrough))
    }

    /// Upstream is away, and gave it to him within a day.
    pub fn by_grace(self, shows: Option<Caller>) -> Permit {
        self.permit(shows, Rule::Grace)
    }

    fn permit(self, shows: Option<Caller>, rule: Rule) -> Permit {
        let caller = self.known.or(shows);
        Permit { lasting: false, ..Permit::new(&self.location, caller.as_ref(), rule) }
    }
}

/// A permit for what is public, as long as nobody knows whether it is.
#[derive(Clone, Debug)]
pub struct Unproven(Permit);

impl Unproven {
    /// It is.
    pub fn proven(self) -> Permit {
        Permit { lasting: false, ..self.0 }
    }

    /// It is not, or is not there: that is told alike.
    pub fn refused(self) -> Refusal {
        Refusal::NotPublic { location: self.0.location }
    }
}

/// A digest that may be read as far as certain tags lead to it.
#[derive(Clone, Debug)]
pub struct Claim {
    location: Location,
    /// The tags, each with who may read it and by what.
    ways: Vec<(Tag, Caller, Rule)>,
    otherwise: Refusal,
}

impl Claim {
    /// The tags, the first that leads there decides.
    pub fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.ways.iter().map(|(tag, ..)| tag)
    }

    /// The tags, each once, with the permit for the tag itself.
    pub fn by_themselves(&self) -> Vec<(Tag, Permit)> {
        let mut tags: Vec<(Tag, Permit)> = Vec::new();
        for (tag, caller, rule) in &self.ways {
            if tags.iter().all(|(other, _)| other != tag) {
                tags.push((tag.clone(), permit(&self.location, caller, rule.clone())));
            }
        }
        tags
    }

    /// The tags with the manifests that they led the callers to a while ago.
    pub fn led_before(&self, led: &Led, now: Instant) -> Vec<(Tag, Digest)> {
        let manifests = |(tag, caller, _): &(Tag, Caller, Rule)| {
            let before = led.manifests(caller, &self.location, tag, now);
            before.into_iter().map(|manifest| (tag.clone(), manifest)).collect::<Vec<_>>()
        };
        self.ways.iter().flat_map(manifests).collect()
    }

    /// `tag` leads to it.
    ///
    /// # Errors
    /// When it is none of [`Claim::tags`].
    pub fn led_by(&self, tag: &Tag) -> Result<Permit, Refusal> {
        let way = self.ways.iter().find(|(way, ..)| way == tag);
        let led = |caller, rule: &Rule| Permit { lasting: false, ..permit(&self.location, caller, rule.clone()) };
        way.map(|(_, caller, rule)| led(caller, rule)).ok_or_else(|| self.refused())
    }

    /// None of them leads to it.
    pub fn refused(&self) -> Refusal {
        self.otherwise.clone()
    }
}

/// What is said to one caller.
pub(super) enum Says<'a> {
    Yes(Rule),
    AsFarAs(Vec<(&'a Tag, Rule)>),
    No,
}

fn permit(location: &Location, caller: &Caller, rule: Rule) -> Permit {
    Permit::new(location, Some(caller).filter(|caller| **caller != Caller::Anonymous), rule)
}

impl Rules {
    /// Whether somebody who shows this may read it.
    pub fn decide(&self, asked: Asked<'_>, shown: Shown<'_>) -> Decision {
        let Asked { location, .. } = asked;
        if self.is_for_everybody(&location.upstream) {
            return self.granted_by_mode(location, None);
        }
        if self.access(&location.upstream) == Access::PassThrough
            && (!self.is_gated() || shown.callers.iter().any(|caller| self.counts(caller)))
        {
            return Decision::AskUpstream(Pending { location: location.clone(), known: shown.callers.last().cloned() });
        }
        let mut ways = Vec::new();
        for caller in shown.callers.iter().chain([&Caller::Anonymous]) {
            match self.says(asked, caller) {
                Says::Yes(Rule::Mode(_)) => return self.granted_by_mode(location, Some(caller)),
                Says::Yes(rule) => return Decision::Granted(permit(location, caller, rule)),
                Says::AsFarAs(tags) => {
                    ways.extend(tags.into_iter().map(|(tag, rule)| (tag.clone(), caller.clone(), rule)));
                }
                Says::No => {}
            }
        }
        let otherwise = self.refusal(location, shown);
        if ways.is_empty() {
            return Decision::Refused(otherwise);
        }
        Decision::ByTag(Claim { location: location.clone(), ways, otherwise })
    }

    /// Whether somebody who shows this reads `manifest` there only as far as a tag leads to it.
    pub fn needs_a_tag(&self, location: &Location, manifest: Digest, shown: Shown<'_>) -> bool {
        let reference = Reference::Digest(manifest);
        matches!(self.decide(Asked { location, reference: Some(&reference) }, shown), Decision::ByTag(_))
    }

    fn granted_by_mode(&self, location: &Location, caller: Option<&Caller>) -> Decision {
        let permit = Permit::new(location, caller, Rule::Mode(self.access(&location.upstream)));
        let unproven = self.unproven.contains(&location.upstream);
        if unproven { Decision::IfPublic(Unproven(permit)) } else { Decision::Granted(permit) }
    }

    /// Whether somebody who shows this is told that he is welcome, at a listener for `upstream`: clients log in
    /// there.
    ///
    /// # Errors
    /// That he is not, and how to log in.
    pub fn greet(&self, upstream: &RegistryName, shown: Shown<'_>) -> Result<(), Refusal> {
        let access = self.access(upstream);
        let asks = match access {
            Access::Public | Access::PassThrough => false,
            Access::Shared => self.identities.shown(),
            Access::Mapped => self.identities.any(),
        };
        let counts = |caller: &Caller| access == Access::Mapped && !self.is_gated() || self.counts(caller);
        if !asks && !self.is_gated() || !shown.wrong && shown.callers.iter().any(counts) {
            return Ok(());
        }
        Err(if shown.overheard { overheard(upstream) } else { self.unidentified(upstream, shown.wrong) })
    }

    /// Whether clients log in for it, at a listener that is for it.
    pub fn asks_to_log_in(&self, upstream: &RegistryName) -> bool {
        match self.access(upstream) {
            Access::PassThrough => true,
            Access::Shared | Access::Mapped => self.identities.shown() && upstream.as_str() != HUB,
            Access::Public => false,
        }
    }

    /// Whether what [`Rules::greet`] says there depends on who asks.
    pub fn greets_each_alone(&self, upstream: &RegistryName) -> bool {
        self.is_for_each_alone(upstream) || self.greet(upstream, Shown::default()).is_err()
    }

    /// Whether what an upstream of ours gives, or does not, is for nobody but who asks.
    pub fn is_for_each_alone(&self, upstream: &RegistryName) -> bool {
        self.modes.get(upstream).is_some_and(|access| *access != Access::Public)
    }

    /// The mode of an upstream.
    pub fn access(&self, upstream: &RegistryName) -> Access {
        self.modes.get(upstream).copied().unwrap_or(Access::Mapped)
    }

    /// Whether it does not matter who asks.
    fn is_for_everybody(&self, upstream: &RegistryName) -> bool {
        match self.access(upstream) {
            Access::Public => !self.is_gated(),
            Access::Shared => !self.identities.any(),
            Access::PassThrough | Access::Mapped => false,
        }
    }

    /// Whether nobody gets anything who does not say who he is. Without other identities, certificates are
    /// demanded before anything is asked for.
    pub(super) fn is_gated(&self) -> bool {
        self.identities.certificates && self.identities.shown()
    }

    /// Whether nobody is admitted without a certificate, whatever he asks for: there is no other way to say who one is.
    pub const fn demands_a_certificate(&self) -> bool {
        self.identities.certificates && !self.identities.shown()
    }

    /// Whether this is somebody: a token is, when a grant names it.
    pub(super) fn counts(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Anonymous | Caller::Presented(_) => false,
            Caller::User(_) | Caller::Certificate(_) => true,
            Caller::Token(_) => self.grants.iter().any(|grant| grant.names_himself(caller)),
        }
    }

    pub(super) fn says(&self, asked: Asked<'_>, caller: &Caller) -> Says<'_> {
        let access = self.access(&asked.location.upstream);
        if self.is_gated() && !self.counts(caller) {
            return Says::No;
        }
        match (access, caller) {
            (Access::Public, _) => Says::Yes(Rule::Mode(access)),
            (Access::Shared, _) if !self.identities.any() => Says::Yes(Rule::Mode(access)),
            (Access::Shared, Caller::User(_) | Caller::Certificate(_)) => Says::Yes(Rule::Mode(access)),
            (Access::Shared, Caller::Token(_)) => self.granted(asked, |grant| grant.names_himself(caller)),
            (Access::Shared, Caller::Anonymous | Caller::Presented(_)) | (Access::PassThrough, _) => Says::No,
            (Access::Mapped, _) => self.granted(asked, |grant| grant.names(caller)),
        }
    }

    fn granted<'a>(&'a self, asked: Asked<'_>, is_for: impl Fn(&Grant) -> bool) -> Says<'a> {
        let mut tags = Vec::new();
        for grant in self.grants.iter().filter(|grant| is_for(grant)) {
            let rule = || Rule::Grant(grant.name.clone());
            for reach in grant.reaches(asked.location, asked.reference) {
                match reach {
                    Reach::Whole => return Says::Yes(rule()),
                    Reach::Tag(tag) => tags.push((tag, rule())),
                }
            }
        }
        if tags.is_empty() { Says::No } else { Says::AsFarAs(tags) }
    }

    fn refusal(&self, location: &Location, shown: Shown<'_>) -> Refusal {
        match shown.callers.last() {
            _ if shown.overheard && self.identities.shown() => overheard(&location.upstream),
            Some(caller) if !shown.wrong => Refusal::Denied {
                caller: caller.clone(),
                location: location.clone(),
                access: self.access(&location.upstream),
            },
            _ => self.unidentified(&location.upstream, shown.wrong),
        }
    }

    fn unidentified(&self, upstream: &RegistryName, wrong: bool) -> Refusal {
        let challenges = self.identities.shown() && upstream.as_str() != HUB;
        Refusal::Unidentified { upstream: upstream.clone(), access: self.access(upstream), challenges, wrong }
    }
}

fn overheard(upstream: &RegistryName) -> Refusal {
    Refusal::Overheard { upstream: upstream.clone() }
}

#[cfg(test)]
mod tests;
