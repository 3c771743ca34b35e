//! Whether an upstream gives a repository to everybody, where we ask it with a credential of ours: it is asked
//! without one, for a manifest of the repository.
//!
//! A yes is noted of the repository, good for an hour, and for as long as a tag may be stale while upstream is
//! away. Truth: no answer is never taken for a no, and a no to one question never undoes a yes to another, unless
//! upstream says that it is not for us.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::Asker;
use crate::clock::Clock;
use crate::metadata::{Location, MetadataStore, Note, Noted, names};
use crate::mirror::answer::denied::a_stored_manifest;
use crate::mirror::error::{MirrorError, Subject};
use crate::mirror::flight::beside::or_instead;
use crate::mirror::flight::flights::{Flights, Landing, Shareable};
use crate::mirror::recall::freshness::{Consulted, Policy, Question, Remembered, overdue};
use crate::mirror::{Found, Mirror};
use crate::oci::{AcceptSet, Descriptor, Reference, Request};
use crate::tier::Pace;
use crate::upstream::credentials::Presented;
use crate::upstream::heard::listening;
use crate::upstream::{Allowance, Resource, Upstream, UpstreamError, UpstreamErrorClass};

/// How long a yes is good.
const GOOD: Duration = Duration::from_secs(3600);

/// What is asked of repositories.
pub(crate) struct Publicity {
    pub(super) policy: Policy,
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) flights: Flights<(Location, Reference), Shareable<Result<bool, MirrorError>>>,
}

impl Publicity {
    pub(super) fn new(policy: Policy, metadata: &Arc<dyn MetadataStore>, clock: &Arc<dyn Clock>) -> Publicity {
        let (metadata, clock) = (Arc::clone(metadata), Arc::clone(clock));
        Publicity { policy: Policy { tag_ttl: GOOD, ..policy }, metadata, clock, flights: Flights::new() }
    }
}

impl Mirror {
    /// Whether upstream gives what `request` is for to everybody.
    ///
    /// # Errors
    /// When upstream does not say, and has not said so lately.
    pub async fn is_public(&self, found: &Found, request: &Request, asker: &Asker) -> Result<bool, MirrorError> {
        let look = || self.is_known_public(found, request, asker);
        let Some(shared) = self.0.fills.stored.shared() else { return Box::pin(look()).await };
        let recall = async || {
            let at_pace = shared.at(found.waited().pace());
            shared.bucket.within(found.waited(), Box::pin(at_pace.recall_notes(found.location()))).await
        };
        recall().await;
        let is_news = found.waited().pace() == Pace::Helps;
        // While upstream might have told the bucket was not asked, or not for long.
        let after_all = async {
            found.waited().has_nobody_else();
            let is_known = is_news && recall().await == Some(true);
            if is_known { Box::pin(look()).await.ok() } else { None }
        };
        or_instead(shared.bucket.patience(), Box::pin(look()), MirrorError::is_no_answer, Box::pin(after_all)).await
    }

    /// The same with what is known here of the repository.
    async fn is_known_public(&self, found: &Found, request: &Request, asker: &Asker) -> Result<bool, MirrorError> {
        let (location, publicity) = (found.location(), &self.0.answers.publicity);
        let noted = publicity.metadata.noted(location, Note::Public).unwrap_or_else(|error| {
            tracing::warn!(%location, %error, "not known whether it is public, asking");
            None
        });
        // What another upstream of that name gave to everybody the one here need not.
        let noted = self.0.fills.stored.standing.counting(location, noted).map(|noted| noted.at);
        let remembered = noted.map(|at| Remembered { what: (), checked_at: at, conclusive: true, stored: true });
        let reference = match request {
            Request::Manifest { reference, .. } => Some(reference.clone()),
            _ if noted.is_some_and(|at| publicity.policy.serves(at, publicity.clock.now())) => None,
            _ => a_stored_manifest(&self.0.fills, location).await.map(Reference::Digest),
        };
        if reference.is_none() && noted.is_some() {
            return Ok(true);
        }
        // Where no manifest is known this hardly names one, and shows whether upstream can be asked at all.
        let asked_for = || request.reference().or_else(|| "latest".parse().ok().map(Reference::Tag));
        let Some(reference) = reference.or_else(asked_for) else { return Ok(false) };
        let question = Question {
            upstream: &**found.upstream(),
            resource: Resource::manifest(&location.repository, &reference),
            subject: Subject::Manifest,
            allowance: Allowance::Free,
            in_vain: false,
        };
        let ask = |patience| self.ask_as_nobody(found, reference, patience, asker);
        match publicity.policy.consult(&*publicity.clock, question, remembered, ask).await? {
            Consulted::Asked(public) => Ok(public),
            Consulted::Remembered(()) => Ok(true),
            Consulted::Stale((), age, error) => {
                let error = error.as_ref().map(tracing::field::display);
                tracing::debug!(%location, ?age, error, "it was public when upstream was last asked");
                Ok(true)
            }
        }
    }

    async fn ask_as_nobody(
        &self,
        found: &Found,
        reference: Reference,
        patience: Option<Duration>,
        asker: &Asker,
    ) -> Result<bool, MirrorError> {
        let publicity = &self.0.answers.publicity;
        let (key, fills) = ((found.location().clone(), reference.clone()), Arc::clone(&self.0.fills));
        // A token that is older would tell what was public then.
        let nobody = Presented { since: Some(Instant::now()), ..Presented::NOBODY };
        let Some(upstream) = found.upstream().presenting(&nobody) else {
            let message = format!("{}: it is not known whether it is public, and nobody is asked", found.location());
            let error = UpstreamError::new(UpstreamErrorClass::Unavailable, message);
            return Err(MirrorError::upstream(Subject::Manifest, error));
        };
        if publicity.flights.join(&key).is_none() {
            asker.question()?;
        }
        let (location, clock, tags) =
            (found.location().clone(), Arc::clone(&publicity.clock), Arc::clone(&self.0.answers.tags));
        let work = || async move {
            let asked_at = clock.now();
            let (upstream, heard) = listening(&upstream);
            let public = as_nobody(&*upstream, &location, &reference).await;
            let noted = match &public {
                Ok(Some(Some(told))) => {
                    let (asked, at) =
                        ((AcceptSet::everything(), asked_at), fills.stored.places_heard(&location, &heard));
                    tags.observed(&location, &reference, asked, (told, at.clone())).await;
                    Some(Noted { at: clock.now(), places: at.into() })
                }
                // It is another question whether there is something else.
                Ok(None) | Err(_) => return public.map(|_| false),
                Ok(Some(None)) => None,
            };
            let (of, is_public) = (location.clone(), noted.is_some());
            let note = move |metadata: &dyn MetadataStore| metadata.note(&of, Note::Public, noted.as_ref());
            fills.stored.records.add("not noted whether it is public", note).await;
            if !is_public {
                fills.stored.no_longer(|| names::note(&location, Note::Public));
            }
            Ok(is_public)
        };
        match publicity.flights.share(&self.0.fills.tasks, key, patience, work).await {
            Landing::Arrived(public, _) => public,
            Landing::Overdue => Err(overdue(Subject::Manifest)),
            Landing::Lost => Err(MirrorError::Internal("the question ended without a result".to_owned())),
        }
    }
}

/// What upstream says to nobody: what is public, if it is, or that there is no such thing.
async fn as_nobody(
    upstream: &dyn Upstream,
    location: &Location,
    reference: &Reference,
) -> Result<Option<Option<Descriptor>>, MirrorError> {
    match upstream.resolve(&location.repository, reference, AcceptSet::everything()).await {
        Ok(resolved) => Ok(Some(Some(resolved.descriptor().clone()))),
        Err(error) if error.is_verdict() => Ok(Some(None)),
        Err(error) if matches!(error.class, UpstreamErrorClass::NotFound | UpstreamErrorClass::Refused) => Ok(None),
        // Its token service gives nobody a token, and does not say that nobody may.
        Err(UpstreamError { class: UpstreamErrorClass::Denied, message, .. }) => {
            let error = UpstreamError::new(UpstreamErrorClass::Protocol, message);
            Err(MirrorError::upstream(Subject::Manifest, error))
        }
        Err(error) => Err(MirrorError::upstream(Subject::Manifest, error)),
    }
}
