//! An address that is spared: not asked while it is known to be dead, nor while it wants rest.
//!
//! Stands before one address of an upstream. The decisions are those of [`Breaker`] and [`Limits`]; here
//! they are applied, counted, and logged once per change. A request that is not sent fails with the
//! class that the upstream's own answer would have had, so that nobody has to know the difference.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::breaker::{Admission, Breaker, Ending, Standing, Ticket};
use super::health::{EndpointHealth, EndpointState, LastError};
use super::limit::{Lane, Limits, within_reason};
use super::resource::Resource;
use super::{Outlook, UpstreamError, UpstreamErrorClass, UpstreamObserver};
use crate::clock::{Clock, Timestamp};
use crate::oci::RegistryName;

/// How long a request waits for another one that finds out whether the address is back, from when that
/// one began.
const FINDING_OUT: Duration = Duration::from_secs(1);

/// The status of what is away for a while: one who limits our rate says another.
const AWAY: Option<u16> = Some(503);

/// What cannot be an answer is trouble where it takes so long to come: a way that leads nowhere.
const LONG: Duration = Duration::from_secs(1);

/// So long who has answered is taken to be there.
const THERE: Duration = Duration::from_secs(60);

/// So long nothing is asked by HEAD where HEAD stays without an answer.
const BY_GET: Duration = Duration::from_secs(10 * 60);

/// So many answers say how long an answer takes.
const TIMED: usize = 31;

/// What is remembered of how one address of an upstream fared.
pub(super) struct Guard {
    name: RegistryName,
    /// Host and port, for logs and metrics.
    endpoint: String,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn UpstreamObserver>,
    memory: Mutex<Memory>,
    /// Told whenever a request that found out has ended.
    found_out: Notify,
}

struct Memory {
    breaker: Breaker,
    limits: Limits,
    /// Why it counts as down; nothing of what was asked, which may be private.
    failure: String,
    /// What went wrong last.
    last_error: Option<LastError>,
    /// When something was given last.
    answered_at: Option<Timestamp>,
    /// How long the latest answers took.
    latencies: VecDeque<Duration>,
    /// When the request began that finds out.
    probing_since: Instant,
    /// Until when it is asked by GET alone: what it was asked by HEAD stayed away.
    by_get_until: Option<Timestamp>,
    /// When something came from it last, be it an error.
    heard_at: Option<Instant>,
}

impl Memory {
    /// An end that is too far away says that the clock was set back.
    fn is_asked_by_get(&self, now: Timestamp) -> bool {
        self.by_get_until.is_some_and(|until| now < until && until <= now.plus(BY_GET))
    }

    /// How long who has these limits of his `own`, or we, have to wait.
    fn wait(&self, lane: Lane, own: Option<&Mutex<Limits>>, now: Timestamp) -> Option<Duration> {
        own.map_or_else(|| self.limits.wait(lane, now), |own| own.lock().wait(lane, now))
    }
}

impl Guard {
    /// Guards the address `endpoint` (host and port) of the upstream `name`; with `has_deputy` there is
    /// another one that is asked in its place.
    pub(super) fn new(
        name: RegistryName,
        endpoint: String,
        has_deputy: bool,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn UpstreamObserver>,
    ) -> Guard {
        observer.availability(&name, &endpoint, true);
        let memory = Memory {
            breaker: Breaker::new(has_deputy),
            limits: Limits::default(),
            failure: String::new(),
            last_error: None,
            answered_at: None,
            latencies: VecDeque::new(),
            probing_since: Instant::now(),
            by_get_until: None,
            heard_at: None,
        };
        Guard { name, endpoint, clock, observer, memory: Mutex::new(memory), found_out: Notify::new() }
    }

    /// The same where no other address has what this one has.
    pub(super) fn has_no_deputy(&self) {
        self.memory().breaker = Breaker::new(false);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    /// Asks, unless that is known to be in vain. Who presents a credential of his own has his `own` limits.
    pub(super) async fn ask<T>(
        &self,
        lane: Lane,
        resource: &Resource,
        own: Option<&Mutex<Limits>>,
        ask: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let mut pending = self.admitted(lane, resource, own).await?;
        let asked = Instant::now();
        let answer = ask.await;
        if own.is_none() {
            self.note(&answer, asked.elapsed());
        }
        let Some(ticket) = pending.ticket.take() else { return answer };
        let now = self.clock.now();
        let of_one = !resource.is_door() && lane != Lane::Rest;
        let ending = match &answer {
            Err(error) if error.class == UpstreamErrorClass::Unavailable => {
                Ending::of_outage(error.contact, error.elsewhere, asked.elapsed())
            }
            Err(error) if error.elsewhere => Ending::FailedElsewhere,
            Err(error) if error.class == UpstreamErrorClass::Protocol && asked.elapsed() >= LONG => Ending::Failed,
            // What one who shows something of his own is told is his.
            Err(UpstreamError { class: UpstreamErrorClass::RateLimited(wait), status: AWAY, .. })
                if of_one && own.is_none() =>
            {
                Ending::Resting(now.plus(within_reason(*wait)))
            }
            _ => Ending::Answered,
        };
        self.ended(ticket, ending, answer.as_ref().err());
        match answer {
            Err(error) if error.elsewhere => Err(error),
            Err(error) if error.status == AWAY && of_one && !self.memory().breaker.are_resting_together(now) => {
                Err(error)
            }
            Err(UpstreamError { class: UpstreamErrorClass::RateLimited(wait), message, .. }) => {
                if let Some(own) = own {
                    let wait = own.lock().limited(lane, wait, now);
                    return Err(UpstreamError::new(UpstreamErrorClass::RateLimited(Some(wait)), message));
                }
                let wait = self.memory().limits.limited(lane, wait, now);
                let seconds = wait.as_secs();
                tracing::warn!(upstream = %self.name, seconds, reason = message, "rate limited: {} is left alone", self.endpoint);
                Err(UpstreamError::new(UpstreamErrorClass::RateLimited(Some(wait)), message))
            }
            answer => answer,
        }
    }

    /// Whether it is of use to ask for `resource` where something stored can be the answer.
    pub(super) fn outlook(&self, resource: &Resource, own: Option<&Mutex<Limits>>) -> Outlook {
        let now = self.clock.now();
        let mut memory = self.memory();
        let Guard { name, endpoint, .. } = self;
        if let Some(wait) = memory.wait(Lane::Manifests, own, now) {
            let seconds = wait.as_secs().max(1);
            return Outlook::Spared(format!("{name}: {endpoint} limits our rate and is not asked for {seconds} s"));
        }
        match memory.breaker.outlook(resource, now) {
            Outlook::Spared(why) => Outlook::Spared(format!("{name}: {endpoint} is not asked just now: {why}")),
            outlook => outlook,
        }
    }

    pub(super) fn troubles(&self) -> u64 {
        self.memory().breaker.troubles()
    }

    /// Whether it answers with errors only, so that asking again at once is of no use.
    pub(super) fn is_failing(&self) -> bool {
        self.memory().breaker.is_failing()
    }

    /// Whether there was trouble with `resource` lately.
    pub(super) fn is_in_trouble(&self, resource: &Resource) -> bool {
        self.memory().breaker.is_in_trouble(resource, self.clock.now())
    }

    /// Whether its answers stayed away lately, and nothing came since.
    pub(super) fn is_silent(&self) -> bool {
        self.memory().breaker.is_silent(self.clock.now())
    }

    /// Whether something came from it a moment ago.
    pub(super) fn is_there(&self) -> bool {
        self.memory().heard_at.is_some_and(|at| at.elapsed() < THERE)
    }

    /// Whether `resource` is to be asked for by GET where HEAD would do.
    pub(super) fn is_silent_to_heads(&self, resource: &Resource) -> bool {
        let memory = self.memory();
        memory.is_asked_by_get(self.clock.now()) || memory.breaker.was_silent(resource)
    }

    /// GET was answered where HEAD was not.
    pub(super) fn answers_get_alone(&self) {
        let (now, mut memory) = (self.clock.now(), self.memory());
        if !memory.is_asked_by_get(now) {
            memory.by_get_until = Some(now.plus(BY_GET));
        }
    }

    fn note<T>(&self, answer: &Result<T, UpstreamError>, took: Duration) {
        let (at, mut memory) = (self.clock.now(), self.memory());
        match answer {
            Err(error) if error.class == UpstreamErrorClass::NotFound => {}
            Err(error) => memory.last_error = Some(LastError { class: error.class, at }),
            Ok(_) => {
                memory.answered_at = Some(at);
                memory.latencies.truncate(TIMED - 1);
                memory.latencies.push_front(took);
            }
        }
    }

    /// Leave to ask, at once or as soon as another request has found out that it is of use.
    async fn admitted(
        &self,
        lane: Lane,
        resource: &Resource,
        own: Option<&Mutex<Limits>>,
    ) -> Result<Pending<'_>, UpstreamError> {
        loop {
            let mut found_out = std::pin::pin!(self.found_out.notified());
            found_out.as_mut().enable();
            let refused = match self.admit(lane, resource, own) {
                Ok(ticket) => return Ok(Pending { guard: self, ticket: Some(ticket) }),
                Err(refused) => refused,
            };
            let until = refused.until.filter(|until| Instant::now() < *until).ok_or(refused.error)?;
            let _ = tokio::time::timeout_at(until, found_out).await;
        }
    }

    fn admit(&self, lane: Lane, resource: &Resource, own: Option<&Mutex<Limits>>) -> Result<Ticket, Refused> {
        let now = self.clock.now();
        let mut memory = self.memory();
        let Guard { name, endpoint, .. } = self;
        if let Some(wait) = memory.wait(lane, own, now) {
            let message =
                format!("{name}: {endpoint} limits our rate and is not asked for {} s", wait.as_secs().max(1));
            let error = UpstreamError::new(UpstreamErrorClass::RateLimited(Some(wait)), message);
            return Err(Refused { error, until: None });
        }
        let until = match memory.breaker.admit(resource, now) {
            Admission::Rest(left) => {
                let seconds = left.as_secs().max(1);
                let message =
                    format!("{name}: {endpoint} said that this is away, and is not asked for it for {seconds} s");
                let error = UpstreamError::new(UpstreamErrorClass::RateLimited(Some(left)), message);
                return Err(Refused { error, until: None });
            }
            Admission::Ask(ticket) => {
                if !memory.breaker.is_up() {
                    memory.probing_since = Instant::now();
                }
                return Ok(ticket);
            }
            Admission::Wait(_) => None,
            Admission::Probing => Some(memory.probing_since + FINDING_OUT),
        };
        let message = format!("{name}: {endpoint} is not asked just now: lately it {}", memory.failure);
        Err(Refused { error: UpstreamError::new(UpstreamErrorClass::Unavailable, message), until })
    }

    fn ended(&self, ticket: Ticket, ending: Ending, error: Option<&UpstreamError>) {
        let mut memory = self.memory();
        let (was_up, was_failing) = (memory.breaker.is_up(), memory.breaker.is_failing());
        memory.breaker.ended(ticket, ending, self.clock.now());
        let (is_up, is_failing) = (memory.breaker.is_up(), memory.breaker.is_failing());
        if matches!(ending, Ending::Answered | Ending::Failed | Ending::Resting(_)) {
            memory.heard_at = Some(Instant::now());
        }
        if let Some(error) = error.filter(|_| matches!(ending, Ending::Silent | Ending::Closed | Ending::Unreachable)) {
            memory.failure = error.reason.clone().unwrap_or_else(|| "broke its answers off".to_owned());
        }
        drop(memory);
        self.found_out.notify_waiters();
        if let Some(error) = error.filter(|_| is_failing && !was_failing) {
            tracing::warn!(
                upstream = %self.name, %error,
                "upstream in trouble: {} answers with errors; what is cached is served, and now and again one request asks",
                self.endpoint
            );
        }
        if was_up == is_up {
            return;
        }
        self.observer.availability(&self.name, &self.endpoint, is_up);
        match error.filter(|_| !is_up) {
            Some(error) => tracing::warn!(
                upstream = %self.name, %error,
                "upstream down: {} does not answer; what is cached is served, and now and again one request asks",
                self.endpoint
            ),
            None => tracing::info!(upstream = %self.name, "upstream up: {} answers again", self.endpoint),
        }
    }

    /// Whether a request for a manifest would be sent at `now`.
    pub(super) fn is_asked(&self, now: Timestamp) -> bool {
        let memory = self.memory();
        let answers = matches!(memory.breaker.standing(now), Standing::Up | Standing::Down(Duration::ZERO));
        answers && memory.limits.wait(Lane::Manifests, now).is_none()
    }

    /// What the adapter tells of its address, with what is remembered here.
    pub(super) fn seen(&self, endpoints: Vec<EndpointHealth>, now: Timestamp) -> Vec<EndpointHealth> {
        let memory = self.memory();
        let (state, left) = match (memory.breaker.standing(now), memory.limits.wait(Lane::Manifests, now)) {
            (Standing::Down(left), _) => (EndpointState::Down, Some(left)),
            (Standing::Probing, _) => (EndpointState::Probing, None),
            (Standing::Up, Some(left)) => (EndpointState::Limited, Some(left)),
            (Standing::Up, None) => (EndpointState::Up, None),
        };
        let (asked_again_at, last_error) = (left.map(|left| now.plus(left)), &memory.last_error);
        let (answered_at, latency) = (memory.answered_at, median(&memory.latencies));
        let with = |endpoint| EndpointHealth {
            state,
            asked_again_at,
            last_error: last_error.clone(),
            answered_at,
            latency,
            ..endpoint
        };
        endpoints.into_iter().map(with).collect()
    }
}

fn median(times: &VecDeque<Duration>) -> Option<Duration> {
    let mut times: Vec<_> = times.iter().copied().collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// A request that is not sent.
struct Refused {
    error: UpstreamError,
    /// Until when it may wait for another one that finds out.
    until: Option<Instant>,
}

/// A request under way. Dropped with its ticket, it gives the ticket back unused.
struct Pending<'a> {
    guard: &'a Guard,
    ticket: Option<Ticket>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.guard.ended(ticket, Ending::Unknown, None);
        }
    }
}
