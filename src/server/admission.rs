//! Whether a request gets what it asks for: who asks, as far as that matters, and what the rules say of him.
//!
//! What was judged before is known at once; else nothing that is shown is looked at before the rules say
//! that it matters. Where others could have read it, it is not looked at at all.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::authenticate::{Authenticator, Presented, Unjudged, Verdict};
use super::listener::Client;
use super::record::Peer;
use super::tls::Vouched;
use crate::access::{
    self, Access, Asked, Caller, Claim, Decision, Grants, Holders, Led, Login, Permit, Refusal, Rule, Rules, Said,
    Shown,
};
use crate::clients::{Asker, ClientId, Clients, TooMany};
use crate::mirror::{Found, Location, Mirror, MirrorError, Route, Sought};
use crate::oci::challenge::Challenge;
use crate::oci::{AcceptSet, Digest, Reference, RegistryName, Repository, Request, Tag};

/// How a client came to a proxy. No specification has it; all proxies do.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who may read what, and how callers say who they are.
#[derive(Debug)]
pub struct Admission {
    /// Who may read what.
    pub rules: Rules,
    /// Judges what callers show.
    pub authenticator: Authenticator,
    /// What upstreams have granted.
    pub grants: Arc<Grants>,
    /// What tags led callers to.
    pub led: Arc<Led>,
}

/// Who asks.
#[derive(Debug)]
pub struct Guest {
    /// With what he may have.
    pub asker: Asker,
    /// Who he is known to be.
    callers: Vec<Caller>,
    /// What he shows beside that, as long as nobody has looked at it.
    presented: Option<Presented>,
    /// What he shows for his upstream.
    own: access::Presented,
    wrong: bool,
    overheard: bool,
    /// From when on what he shows for his upstream must have been good.
    since: Option<Instant>,
    /// In whose turn it is judged.
    address: ClientId,
}

impl Guest {
    /// Who he is, where he is known, or what he shows for his upstream.
    pub fn caller(&self) -> Option<Caller> {
        self.callers.last().cloned().or_else(|| self.own.caller())
    }

    /// Whether others could have read what he shows.
    pub const fn is_overheard(&self) -> bool {
        self.overheard
    }

    /// His way in: to the upstream that gives him something for what he shows, with that and nothing of ours.
    pub fn way(&self, route: Route) -> Route {
        if route.permit().rule().passes_through() { route.presenting(&self.own, self.since) } else { route }
    }

    fn shown(&self) -> Shown<'_> {
        Shown { callers: &self.callers, wrong: self.wrong, overheard: self.overheard }
    }
}

/// Why a request does not get it.
#[derive(Clone, Debug)]
pub enum Rejected {
    /// He may not.
    Refused(Refusal),
    /// It could not be found out whether he may.
    Unknown(MirrorError),
    /// It could not be found out who he is.
    Unjudged(Unjudged),
    /// He, whoever he turned out to be, has had what he may have.
    TooMany(TooMany),
}

impl Rejected {
    /// The status of an upstream's refusal, where it was one.
    pub const fn upstream_status(&self) -> Option<u16> {
        match self {
            Rejected::Refused(Refusal::Upstream { said, .. }) => *said,
            Rejected::Unknown(error) => error.upstream_status(),
            _ => None,
        }
    }
}

impl Admission {
    /// Who asks: what is known of him without waiting. What was `overheard` is not looked at.
    pub fn guest(&self, client: &Client, asker: Asker, overheard: bool, headers: &HeaderMap) -> Guest {
        let presented = if overheard { None } else { self.authenticator.presented(headers) };
        let callers: Vec<_> = client.certificate.iter().filter_map(Vouched::caller).collect();
        let own = presented.as_ref().and_then(|presented| self.authenticator.own(presented)).unwrap_or_default();
        // What follows from rights is over when a grant would be.
        let (address, since) = (asker.client(), Instant::now().checked_sub(self.grants.life()));
        let mut guest = Guest { address, asker, callers, presented, own, wrong: false, overheard, since };
        if let Some(verdict) = guest.presented.as_ref().and_then(|presented| self.authenticator.known(presented)) {
            guest.presented = None;
            guest.told(verdict);
        }
        let granted = || self.grants.know(&guest.own.fingerprint, Instant::now().into_std());
        let caller = guest.callers.last().cloned().or_else(|| guest.own.caller().filter(|_| granted()));
        guest.asker = guest.asker.clone().of_any(caller.as_ref().map(|caller| self.authenticator.client_of(caller)));
        guest
    }

    /// Whether a client of this connection would be admitted, were it a new one: what was asked of it then may be less
    /// than what is asked now, and who vouched for it then may count no more.
    pub fn lets_in(&self, client: &Client) -> bool {
        let shows_one = || client.certificate.as_ref().and_then(Vouched::caller).is_some();
        !self.rules.demands_a_certificate() || shows_one()
    }

    /// What decides about an upstream where no grant does.
    pub fn mode(&self, upstream: &RegistryName) -> Rule {
        Rule::Mode(self.rules.access(upstream))
    }

    /// The permit for what is asked for.
    ///
    /// # Errors
    /// [`Rejected`].
    pub async fn admit(
        &self,
        guest: &mut Guest,
        mirror: &Mirror,
        found: &Found,
        request: &Request,
        accept: AcceptSet,
    ) -> Result<Permit, Rejected> {
        let reference = request.reference();
        let asked = Asked { location: found.location(), reference: reference.as_ref() };
        let mut decision = self.rules.decide(asked, guest.shown());
        let is_settled = matches!(decision, Decision::Granted(_) | Decision::IfPublic(_) | Decision::AskUpstream(_));
        if !is_settled && self.judge(guest).await? {
            decision = self.rules.decide(asked, guest.shown());
        }
        match decision {
            Decision::Granted(permit) => Ok(permit),
            // In boxes: they are large, and few requests need them.
            Decision::IfPublic(unproven) => match Box::pin(mirror.is_public(found, request, &guest.asker)).await {
                Ok(true) => Ok(unproven.proven()),
                Ok(false) => Err(Rejected::Refused(unproven.refused())),
                Err(error) => Err(Rejected::Unknown(error)),
            },
            Decision::AskUpstream(pending) => {
                // What needs no credential is asked for without, right or wrong.
                if self.grants.is_for_everybody(found.location(), Instant::now().into_std()) {
                    guest.own = access::Presented::default();
                }
                let said = Box::pin(self.ask(guest, mirror, found, (request, accept))).await?;
                let own = guest.own.caller();
                guest.asker = guest.asker.clone().of_any(own.as_ref().map(|own| self.authenticator.client_of(own)));
                Ok(if said == Said::Yes { pending.granted(own) } else { pending.by_grace(own) })
            }
            Decision::ByTag(claim) => self.by_tag(guest, mirror, found, request, &claim).await,
            Decision::Refused(refusal) => Err(Rejected::Refused(refusal)),
        }
    }

    /// Whether who asks is welcome at a listener for `upstream`.
    ///
    /// # Errors
    /// [`Rejected`].
    pub async fn greet(&self, guest: &mut Guest, mirror: &Mirror, upstream: &RegistryName) -> Result<(), Rejected> {
        // What is shown is looked at whoever else he is known to be: clients log in here, and believe it.
        let is_login = matches!(self.rules.access(upstream), Access::Shared | Access::Mapped);
        if is_login && self.rules.greet(upstream, Shown::default()).is_err() {
            self.judge(guest).await?;
        }
        let mut greeted = self.rules.greet(upstream, guest.shown());
        if greeted.is_err() && self.judge(guest).await? {
            greeted = self.rules.greet(upstream, guest.shown());
        }
        greeted.map_err(Rejected::Refused)?;
        if self.rules.access(upstream) == Access::PassThrough {
            Box::pin(self.ask_the_door(guest, mirror, upstream)).await?;
        }
        Ok(())
    }

    /// Asks the upstream whether it gives this to who asks, unless it has said so a moment ago. To who had a yes
    /// within a day it is [`Said::Nothing`] when that takes longer than he is patient.
    async fn ask(
        &self,
        guest: &Guest,
        mirror: &Mirror,
        found: &Found,
        (request, accept): (&Request, AcceptSet),
    ) -> Result<Said, Rejected> {
        let (location, now) = (found.location(), Instant::now().into_std());
        // Lists are asked for with the same each time: their answer is the proof.
        if is_list(request) || self.grants.hold(&guest.own.fingerprint, location, now) {
            return Ok(Said::Yes);
        }
        guest.asker.question().map_err(Rejected::TooMany)?;
        let holders = self.holders(guest);
        // Who can be told how to log in is told that soon.
        let can_be_told = guest.own.credential.is_none()
            && last_told(mirror, &location.upstream, Some(&location.repository)).is_some();
        let has_time = !can_be_told && !self.grants.had(&holders, location, now);
        let (grants, about) = (Arc::clone(&self.grants), location.clone());
        let hear = move |said: &Result<(), MirrorError>| {
            let said = match said {
                Ok(()) => Said::Yes,
                Err(error) if error.is_verdict() || error.is_missing() => Said::No,
                Err(_) => return,
            };
            grants.heard(&holders, &about, said, now);
        };
        match mirror.ask_with(found, &guest.own, (request, accept), has_time, hear).await {
            Ok(()) => Ok(Said::Yes),
            Err(error)
                if error.says_nothing_of_rights() && self.grants.heard(&holders, location, Said::Nothing, now) =>
            {
                Ok(Said::Nothing)
            }
            Err(error) => Err(self.refused_by_upstream(guest, mirror, location, error).await),
        }
    }

    /// Whether it is proven that he may have what was asked for in vain: lists are asked for each time, and what is
    /// answered is the proof.
    pub fn is_proven(&self, guest: &Guest, route: &Route, request: &Request) -> bool {
        let of_callers = is_list(request) && route.permit().rule().passes_through();
        !of_callers || self.grants.hold(&guest.own.fingerprint, &route.location, Instant::now().into_std())
    }

    fn holders(&self, guest: &Guest) -> Holders {
        let certificate = guest.callers.iter().find(|caller| matches!(caller, Caller::Certificate(_)));
        let certificate = certificate.map(|caller| self.authenticator.holder(caller));
        let shows = guest.own.credential.is_some();
        Holders { own: guest.own.fingerprint, shows, lasting: guest.own.is_lasting(), certificate }
    }

    /// What an upstream said to a caller in place of a yes ends his own grant, and is told to him. Where it said
    /// nothing to who shows nothing, he is told what it wanted to see when it was last asked.
    pub async fn refused_by_upstream(
        &self,
        guest: &Guest,
        mirror: &Mirror,
        location: &Location,
        error: MirrorError,
    ) -> Rejected {
        let (holders, now) = (self.holders(guest), Instant::now().into_std());
        let is_unknown = guest.own.credential.is_none() && !self.grants.had(&holders, location, now);
        if error.is_outage() && is_unknown && !guest.overheard {
            let login = last_told(mirror, &location.upstream, Some(&location.repository));
            let Some(login) = login else { return Rejected::Unknown(error) };
            let upstream = location.upstream.clone();
            return Rejected::Refused(Refusal::Upstream { upstream, status: 401, said: None, away: true, login });
        }
        let status = match error.upstream_status() {
            Some(status) if error.is_verdict() && guest.own.credential.is_some() => status,
            _ if error.is_denial() => 401,
            _ if error.is_missing() => 404,
            _ => return Rejected::Unknown(error),
        };
        if error.is_verdict() || error.is_missing() {
            self.grants.heard(&holders, location, Said::No, now);
        }
        if guest.overheard && status != 404 {
            return Rejected::Refused(Refusal::Overheard { upstream: location.upstream.clone() });
        }
        let login = match status {
            401 => login(mirror, &location.upstream, Some(&location.repository), &error).await,
            _ => Login::Untold,
        };
        let (upstream, said) = (location.upstream.clone(), error.upstream_status());
        Rejected::Refused(Refusal::Upstream { upstream, status, said, away: false, login })
    }

    /// Whether the upstream lets in who asks; where it is away, nobody is turned away here.
    async fn ask_the_door(&self, guest: &Guest, mirror: &Mirror, upstream: &RegistryName) -> Result<(), Rejected> {
        let (holders, now) = (self.holders(guest), Instant::now().into_std());
        if holders.shows && self.grants.lets_in(&holders.own, upstream, now) {
            return Ok(());
        }
        guest.asker.question().map_err(Rejected::TooMany)?;
        let known = || last_told(mirror, upstream, None);
        let (said, login) = match mirror.enter(upstream, &guest.own).await {
            Ok(()) if holders.shows => {
                self.grants.let_in(&holders, upstream, now);
                return Ok(());
            }
            Err(error) if error.is_denial() => {
                if error.is_verdict() {
                    self.grants.end_all(&holders, upstream);
                }
                let nowhere = error.upstream_reason().map(|why| Login::Nowhere(why.to_owned()));
                (error.upstream_status(), nowhere.or_else(known).or(Some(Login::Untold)))
            }
            // The door may be open for nobody, and clients would not log in.
            Ok(()) => (None, known()),
            // That there is no such door is no yes to what is shown, and no wish to see something.
            Err(error) if error.is_missing() || error.is_refusal() => {
                (error.upstream_status(), known().or_else(|| holders.shows.then_some(Login::Untold)))
            }
            Err(_) => return Ok(()),
        };
        let Some(login) = login else { return Ok(()) };
        if guest.overheard {
            return Err(Rejected::Refused(Refusal::Overheard { upstream: upstream.clone() }));
        }
        let upstream = upstream.clone();
        Err(Rejected::Refused(Refusal::Upstream { upstream, status: 401, said, away: false, login }))
    }

    /// The permit for what a tag leads to that he may read, or led to when he was given something of it. Where that is
    /// not known here, the tags are asked for.
    async fn by_tag(
        &self,
        guest: &Guest,
        mirror: &Mirror,
        found: &Found,
        request: &Request,
        claim: &Claim,
    ) -> Result<Permit, Rejected> {
        let refused = || Rejected::Refused(claim.refused());
        let Some(Reference::Digest(digest)) = request.reference() else { return Err(refused()) };
        let tags = claim.tags().cloned().collect();
        let mut leads = mirror.tag_that_leads(found.location(), tags, digest).await;
        if leads.is_none() {
            let before = claim.led_before(&self.led, Instant::now().into_std());
            if let Some(tag) = mirror.tag_that_led(found.location(), before, digest).await {
                return claim.led_by(&tag).map_err(Rejected::Refused);
            }
            let way = |permit| Some(found.clone().permitted(permit)?.asked_by(guest.asker.clone()));
            let ways = claim.by_themselves().into_iter().filter_map(|(tag, permit)| Some((tag, way(permit)?)));
            let sought = Sought { digest, is_manifest: !matches!(request, Request::Blob { .. }) };
            let asked = mirror.tag_that_turns_out_to_lead(ways.collect(), sought);
            leads = Box::pin(asked).await.map_err(Rejected::Unknown)?;
        }
        let (tag, manifest) = leads.ok_or_else(refused)?;
        let permit = claim.led_by(&tag).map_err(Rejected::Refused)?;
        self.gave(guest, &permit, &tag, manifest);
        Ok(permit)
    }

    /// Something of `manifest` is given by `permit`, since `tag` leads there: where he may have it for that alone, he
    /// goes on with it when the tag has moved.
    pub fn gave(&self, guest: &Guest, permit: &Permit, tag: &Tag, manifest: Digest) {
        let is_granted = matches!(permit.rule(), Rule::Grant(_));
        if is_granted && self.rules.needs_a_tag(permit.location(), manifest, guest.shown()) {
            let caller = permit.caller().unwrap_or(&Caller::Anonymous);
            self.led.gave(caller, permit.location(), tag, manifest, Instant::now().into_std());
        }
    }

    /// Looks at what nobody has looked at yet; whether there was something.
    async fn judge(&self, guest: &mut Guest) -> Result<bool, Rejected> {
        let Some(presented) = guest.presented.take() else { return Ok(false) };
        let verdict = self.authenticator.judge(&presented, guest.address).await.map_err(Rejected::Unjudged)?;
        if let Verdict::Is(caller) = &verdict {
            guest.asker = guest.asker.clone().of(self.authenticator.client_of(caller));
            guest.asker.request().map_err(Rejected::TooMany)?;
        }
        guest.told(verdict);
        Ok(true)
    }
}

impl Guest {
    fn told(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Is(caller) => self.callers.push(caller),
            Verdict::Wrong => self.wrong = true,
        }
    }
}

/// How one logs in at an upstream that has `refused` a moment ago: what it wanted when it was last asked, it wanted then,
/// too.
async fn login(
    mirror: &Mirror,
    upstream: &RegistryName,
    repository: Option<&Repository>,
    refused: &MirrorError,
) -> Login {
    if let Some(why) = refused.upstream_reason() {
        return Login::Nowhere(why.to_owned());
    }
    if let Some(login) = last_told(mirror, upstream, repository) {
        return login;
    }
    match mirror.challenge(upstream, repository).await {
        Ok(wanted) => wanted.map_or(Login::Untold, |wanted| told(upstream, &wanted)),
        Err(error) => match error.upstream_reason().filter(|_| error.is_denial()) {
            Some(why) => Login::Nowhere(why.to_owned()),
            None => Login::Untold,
        },
    }
}

/// What it wanted when it was last asked, as it is told to clients; `None` where it was not asked.
fn last_told(mirror: &Mirror, upstream: &RegistryName, repository: Option<&Repository>) -> Option<Login> {
    mirror.last_challenge(upstream, repository).map(|wanted| told(upstream, &wanted))
}

/// dockerd would show the Hub's password to whatever asks for one in the Hub's place.
fn told(upstream: &RegistryName, wanted: &Challenge) -> Login {
    let collects = matches!(wanted, Challenge::Basic { .. }) && upstream.as_str() == "docker.io";
    if collects { Login::Untold } else { Login::Told(wanted.to_string()) }
}

const fn is_list(request: &Request) -> bool {
    matches!(request, Request::Tags { .. } | Request::Referrers { .. })
}

/// Whether others could have read what a request shows: with proxies in front it must come by TLS, or from one of
/// them that says that it came there by TLS. `client` is the other side of the connection.
pub fn is_overheard(clients: &Clients, client: &Client, headers: &HeaderMap) -> bool {
    if !clients.are_behind_proxies() {
        return false;
    }
    let mut lines = headers.get_all(FORWARDED_PROTO).into_iter();
    let says_so = lines.next().is_some_and(|line| line.as_bytes().eq_ignore_ascii_case(b"https"));
    let by_proxy = matches!(client.peer, Peer::Address(address) if clients.trusts(address.ip()));
    let safe = client.encrypted || says_so && lines.next().is_none() && by_proxy;
    !safe
}
