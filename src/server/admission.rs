//! Whether a request gets what it asks for: who asks, as far as that matters, and what the rules say of him.
//!
//! What was judged before is known at once; else nothing that is shown is looked at before the rules say
//! that it matters. Where others could have read it, it is not looked at at all.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use super::authenticate::{Authenticator, Presented, Unjudged, Verdict};
use super::listener::Client;
use super::record::Peer;
use crate::access::{Asked, Caller, Claim, Decision, Permit, Refusal, Rules, Shown};
use crate::clients::{Asker, ClientId, Clients, TooMany};
use crate::mirror::{Found, Mirror, MirrorError};
use crate::oci::{Reference, RegistryName, Request};

/// How a client came to a proxy. No specification has it; all proxies do.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who may read what, and how callers say who they are.
#[derive(Debug)]
pub struct Admission {
    /// Who may read what.
    pub rules: Rules,
    /// Judges what callers show.
    pub authenticator: Authenticator,
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
    wrong: bool,
    overheard: bool,
    /// In whose turn it is judged.
    address: ClientId,
}

impl Guest {
    /// Who he is, where he is known.
    pub fn caller(&self) -> Option<&Caller> {
        self.callers.last()
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

impl Admission {
    /// Who asks: what is known of him without waiting.
    pub fn guest(&self, clients: &Clients, client: &Client, asker: Asker, headers: &HeaderMap) -> Guest {
        let overheard =
            clients.are_behind_proxies() && !client.encrypted && !came_by_tls(clients, client.peer, headers);
        let presented = if overheard { None } else { self.authenticator.presented(headers) };
        let callers: Vec<_> = client.certificate.iter().cloned().collect();
        let mut guest = Guest { address: asker.client(), asker, callers, presented, wrong: false, overheard };
        if let Some(verdict) = guest.presented.as_ref().and_then(|presented| self.authenticator.known(presented)) {
            guest.presented = None;
            guest.told(verdict);
        }
        if let Some(caller) = guest.callers.last() {
            guest.asker = guest.asker.of(self.authenticator.client_of(caller));
        }
        guest
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
    ) -> Result<Permit, Rejected> {
        let reference = request.reference();
        let asked = Asked { location: found.location(), reference: reference.as_ref() };
        let mut decision = self.rules.decide(asked, guest.shown());
        if !matches!(decision, Decision::Granted(_) | Decision::IfPublic(_)) && self.judge(guest).await? {
            decision = self.rules.decide(asked, guest.shown());
        }
        match decision {
            Decision::Granted(permit) => Ok(permit),
            Decision::IfPublic(unproven) => match mirror.is_public(found, request, &guest.asker).await {
                Ok(true) => Ok(unproven.proven()),
                Ok(false) => Err(Rejected::Refused(unproven.refused())),
                Err(error) => Err(Rejected::Unknown(error)),
            },
            Decision::ByTag(claim) => {
                by_tag(mirror, found, reference.as_ref(), &claim).await.map_err(Rejected::Refused)
            }
            Decision::Refused(refusal) => Err(Rejected::Refused(refusal)),
        }
    }

    /// Whether who asks is welcome at a listener for `upstream`.
    ///
    /// # Errors
    /// [`Rejected`].
    pub async fn greet(&self, guest: &mut Guest, upstream: &RegistryName) -> Result<(), Rejected> {
        let mut greeted = self.rules.greet(upstream, guest.shown());
        if greeted.is_err() && self.judge(guest).await? {
            greeted = self.rules.greet(upstream, guest.shown());
        }
        greeted.map_err(Rejected::Refused)
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

async fn by_tag(
    mirror: &Mirror,
    found: &Found,
    reference: Option<&Reference>,
    claim: &Claim,
) -> Result<Permit, Refusal> {
    let Some(Reference::Digest(digest)) = reference else { return Err(claim.refused()) };
    let tags = claim.tags().cloned().collect();
    match mirror.tag_that_leads(found.location(), tags, *digest).await {
        Some(tag) => claim.led_by(&tag),
        None => Err(claim.refused()),
    }
}

/// Whether a trusted proxy says that the client came to it by TLS.
fn came_by_tls(clients: &Clients, peer: Peer, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(FORWARDED_PROTO).into_iter();
    let says_so = lines.next().is_some_and(|line| line.as_bytes().eq_ignore_ascii_case(b"https"));
    says_so && lines.next().is_none() && address(peer).is_some_and(|address| clients.trusts(address))
}

fn address(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Address(address) => Some(address.ip()),
        Peer::Behind(_) | Peer::Socket { .. } => None,
    }
}
