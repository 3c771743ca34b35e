//! When is an address that failed asked again? Pure.
//!
//! What is known is kept by address and by kind of trouble. Where no connection can be made nobody is
//! asked: that costs one time-out and not one for every request. An answer that stays away says
//! something of what was asked for, and of the address only when other answers stay away as well. Errors
//! keep nobody from asking, but spare the upstream questions that something stored can answer. Who is told how
//! long to wait for one thing waits for that one.
//!
//! After a pause one request finds out whether the trouble is over. Pauses double. What just failed
//! waits for a pause of its own, so that another request comes first to find out.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use super::limit::LONGEST_WAIT;
use super::resource::Resource;
use super::{Contact, Outlook};
use crate::clock::Timestamp;

/// How long an upstream is left alone after its first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause doubles with every failed probe, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An error that took this long to come costs as much as silence.
const SLOW: Duration = Duration::from_secs(5);
/// Trouble with one resource is worth no caution any more after this.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The trouble of so many resources is remembered.
const REMEMBERED: usize = 64;
/// So many resources have to be silent, in more than one repository, before the address is taken for dead.
const SILENT_TOGETHER: usize = 3;
/// Or so many of one.
const SILENT_OF_ONE_REPOSITORY: usize = 8;
/// So many resources have to fail with errors before the address is taken for troubled.
const FAILING_TOGETHER: usize = 2;
/// So many resources have to be away for a while, as it is said, before that is taken for said of the address.
const RESTING_TOGETHER: usize = 2;

/// How a request ended, as far as the health of the address is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered; *no* is an answer.
    Answered,
    /// It was answered with an error, or the answer broke off.
    Failed,
    /// It was answered that what was asked for is away until then.
    Resting(Timestamp),
    /// It failed for the sake of somebody whom the registry sent us to.
    FailedElsewhere,
    /// The connection ended before an answer.
    Closed,
    /// No answer came in time.
    Silent,
    /// No connection could be made.
    Unreachable,
    /// The request was dropped before it was known.
    Unknown,
}

impl Ending {
    /// The ending of a request that could not be served: how far it got, after how long, and whether it was
    /// the registry that failed.
    pub fn of_outage(contact: Contact, elsewhere: bool, took: Duration) -> Ending {
        match contact {
            _ if elsewhere => Ending::FailedElsewhere,
            Contact::Answered if took < SLOW => Ending::Failed,
            Contact::Answered | Contact::Silent => Ending::Silent,
            Contact::Closed => Ending::Closed,
            Contact::Unreachable => Ending::Unreachable,
        }
    }
}

/// Permission to ask, to be given back with [`Breaker::ended`].
#[derive(Debug)]
pub struct Ticket {
    resource: Resource,
    /// What had come when this request began.
    seen: Seen,
    probe: bool,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Admission {
    /// Ask.
    Ask(Ticket),
    /// Do not ask before this much time has passed.
    Wait(Duration),
    /// The same for this resource, as it was answered.
    Rest(Duration),
    /// Another request is finding out.
    Probing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests go through.
    Closed,
    /// Nobody asks before the pause after the last failure is over.
    Open(Pause),
    /// One request is under way to find out.
    Probing { failures: u32 },
}

/// A rest after so many failures in a row; none after zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    since: Timestamp,
    failures: u32,
}

impl Pause {
    /// The pause after one more failure, `now`.
    fn after(before: Option<Pause>, now: Timestamp) -> Pause {
        Pause { since: now, failures: before.map_or(1, |before| before.failures.saturating_add(1)) }
    }

    /// How much is left of it.
    fn left(self, now: Timestamp) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let length = (FIRST_PAUSE * (1 << doublings.min(10))).min(LONGEST_PAUSE);
        // A failure that lies in the future says that the clock was set back.
        self.since.age(now).and_then(|age| length.checked_sub(age)).unwrap_or_default()
    }
}

/// How often something came from the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Anything, errors included.
    signs_of_life: u64,
    /// Answers.
    answers: u64,
}

/// The trouble with one resource.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    pause: Pause,
    ending: Ending,
    /// What had come when the request began that failed.
    seen: Seen,
}

impl Trouble {
    fn is_recent(&self, now: Timestamp) -> bool {
        self.pause.since.age(now).is_some_and(|age| age < FORGOTTEN)
    }

    /// How much is left of the time for which it is said to be away. More than anybody may say is left after the
    /// clock was set back.
    fn rest(&self, now: Timestamp) -> Option<Duration> {
        let Ending::Resting(until) = self.ending else { return None };
        let left = Duration::from_millis(until.0.saturating_sub(now.0));
        (!left.is_zero() && left <= LONGEST_WAIT).then_some(left)
    }
}

/// Where an address stands, for whoever only looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Requests go through.
    Up,
    /// Nobody asks for so long; zero when the next request may find out.
    Down(Duration),
    /// One request is under way to find out.
    Probing,
}

/// The memory of one address of an upstream.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Answers with errors only: where something stored can be the answer, one request at a time asks.
    failing: Option<Pause>,
    seen: Seen,
    troubles: HashMap<Resource, Trouble>,
    /// Whether there is another address to ask, so that this one can be left alone for little.
    has_deputy: bool,
}

impl Breaker {
    /// An address of which nothing is known. With `has_deputy` there is another one to ask.
    pub fn new(has_deputy: bool) -> Breaker {
        let (seen, troubles) = (Seen::default(), HashMap::new());
        Breaker { state: State::Closed, failing: None, seen, troubles, has_deputy }
    }

    /// How many resources are in trouble.
    pub fn troubles(&self) -> u64 {
        self.troubles.len() as u64
    }

    /// Whether requests go through.
    pub fn is_up(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether there is nothing to come but errors, as far as we know.
    pub fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Where it stands at `now`.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match self.state {
            State::Closed => Standing::Up,
            State::Probing { .. } => Standing::Probing,
            State::Open(pause) => Standing::Down(pause.left(now)),
        }
    }

    /// Whether an answer about `resource` stayed away when it was asked for last.
    pub fn was_silent(&self, resource: &Resource) -> bool {
        self.troubles.get(resource).is_some_and(|trouble| trouble.ending == Ending::Silent)
    }

    /// Whether there was trouble with `resource` lately.
    pub fn is_in_trouble(&self, resource: &Resource, now: Timestamp) -> bool {
        self.troubles.get(resource).is_some_and(|trouble| trouble.is_recent(now) || trouble.rest(now).is_some())
    }

    /// Whether answers stayed away lately, and nothing came since.
    pub fn is_silent(&self, now: Timestamp) -> bool {
        self.troubles.values().any(|trouble| {
            let stayed_away = matches!(trouble.ending, Ending::Silent | Ending::Closed);
            stayed_away && trouble.is_recent(now) && trouble.seen.signs_of_life == self.seen.signs_of_life
        })
    }

    /// Decides about a request for `resource` at `now`.
    pub fn admit(&mut self, resource: &Resource, now: Timestamp) -> Admission {
        let own = self.troubles.get(resource);
        if let Some(left) = own.and_then(|trouble| trouble.rest(now)) {
            return Admission::Rest(left);
        }
        let own = own.filter(|trouble| trouble.ending == Ending::Silent);
        let own = own.map_or(Duration::ZERO, |trouble| trouble.pause.left(now));
        let (left, probe) = match self.state {
            State::Closed => (own, None),
            State::Probing { .. } => return Admission::Probing,
            State::Open(pause) => (pause.left(now).max(own), Some(pause.failures)),
        };
        if !left.is_zero() {
            return Admission::Wait(left);
        }
        if let Some(failures) = probe {
            self.state = State::Probing { failures };
        }
        Admission::Ask(Ticket { resource: resource.clone(), seen: self.seen, probe: probe.is_some() })
    }

    /// Whether it is of use at `now` to ask for `resource` where something stored can be the answer. Of
    /// those who hear [`Outlook::Doubtful`] the next is a pause away, whether this one asks or not.
    pub fn outlook(&mut self, resource: &Resource, now: Timestamp) -> Outlook {
        let spared = |trouble: &str| Outlook::Spared(trouble.to_owned());
        match self.standing(now) {
            Standing::Probing => return spared("it did not answer, and somebody is finding out"),
            Standing::Down(left) if !left.is_zero() => return spared("it did not answer"),
            Standing::Down(_) | Standing::Up => {}
        }
        if self.troubles.get(resource).is_some_and(|trouble| trouble.rest(now).is_some()) {
            return spared("it said that this is away for a while");
        }
        let mut doubtful = !self.is_up();
        let own =
            self.troubles.get_mut(resource).filter(|trouble| trouble.is_recent(now)).map(|trouble| &mut trouble.pause);
        let mut pauses: Vec<_> = self.failing.iter_mut().chain(own).collect();
        if pauses.iter().any(|pause| !pause.left(now).is_zero()) {
            return spared("it failed lately");
        }
        for pause in &mut pauses {
            pause.since = now;
            doubtful = true;
        }
        if doubtful { Outlook::Doubtful } else { Outlook::Well }
    }

    /// Takes note of how an admitted request ended at `now`.
    pub fn ended(&mut self, ticket: Ticket, ending: Ending, now: Timestamp) {
        let Ticket { resource, seen, probe } = ticket;
        if !matches!(ending, Ending::Answered | Ending::Unknown | Ending::Unreachable) {
            self.note(resource.clone(), Trouble { pause: Pause { since: now, failures: 0 }, ending, seen });
        }
        match ending {
            Ending::Answered => {
                self.seen.signs_of_life = self.seen.signs_of_life.wrapping_add(1);
                self.seen.answers = self.seen.answers.wrapping_add(1);
                self.troubles.remove(&resource);
                if !self.is_up() || self.is_failing() {
                    // It was the address, not what was asked for.
                    self.troubles.clear();
                }
                (self.state, self.failing) = (State::Closed, None);
            }
            Ending::Failed => {
                self.seen.signs_of_life = self.seen.signs_of_life.wrapping_add(1);
                self.state = State::Closed;
                let together = |trouble: &&Trouble| {
                    trouble.ending != Ending::FailedElsewhere && trouble.seen.answers == self.seen.answers
                };
                if self.troubles.values().filter(together).count() >= FAILING_TOGETHER {
                    self.failing = Some(Pause::after(self.failing, now));
                }
            }
            Ending::Resting(_) => {
                self.seen.signs_of_life = self.seen.signs_of_life.wrapping_add(1);
                self.state = State::Closed;
            }
            // Another request may find out at once, unless that can go elsewhere.
            Ending::Silent | Ending::Closed => {
                self.stayed_away(probe, self.are_silent_together(), u32::from(self.has_deputy), now);
            }
            Ending::Unreachable => {
                let others_were_answered = self.seen.signs_of_life != seen.signs_of_life;
                self.stayed_away(probe, !others_were_answered, 1, now);
            }
            // Whoever comes next may find out at once.
            Ending::Unknown | Ending::FailedElsewhere => {
                if let State::Probing { failures } = self.state
                    && probe
                {
                    self.state = State::Open(Pause { since: Timestamp(0), failures });
                }
            }
        }
    }

    /// Whether more than one resource is said to be away, and nothing was given meanwhile.
    pub fn are_resting_together(&self, now: Timestamp) -> bool {
        let resting = |trouble: &&Trouble| trouble.rest(now).is_some() && trouble.seen.answers == self.seen.answers;
        self.troubles.values().filter(resting).count() >= RESTING_TOGETHER
    }

    /// A request got no answer. `trips` says whether that is enough to leave the address alone, for the
    /// pause after so many `failures`.
    fn stayed_away(&mut self, probe: bool, trips: bool, failures: u32, now: Timestamp) {
        self.state = match self.state {
            State::Closed if trips => State::Open(Pause { since: now, failures }),
            State::Probing { failures } if probe => {
                State::Open(Pause { since: now, failures: failures.saturating_add(1) })
            }
            // It was sent before the failure that is already known.
            known => known,
        };
    }

    /// Whether so many answers stay away, and none came meanwhile, that it must be the address.
    fn are_silent_together(&self) -> bool {
        let silent = self.troubles.iter().filter(|(_, trouble)| {
            matches!(trouble.ending, Ending::Silent | Ending::Closed)
                && trouble.seen.signs_of_life == self.seen.signs_of_life
        });
        let silent: Vec<_> = silent.map(|(resource, _)| &resource.repository).collect();
        let of_several = silent.iter().any(|repository| Some(repository) != silent.first());
        let enough = if of_several { SILENT_TOGETHER } else { SILENT_OF_ONE_REPOSITORY };
        silent.len() >= if self.has_deputy { 1 } else { enough }
    }

    /// Remembers the trouble with a resource, one more in a row.
    fn note(&mut self, resource: Resource, trouble: Trouble) {
        let before = self.troubles.remove(&resource).map(|before| before.pause);
        if self.troubles.len() >= REMEMBERED {
            let oldest = self.troubles.iter().min_by_key(|(_, trouble)| trouble.pause.since);
            if let Some(oldest) = oldest.map(|(resource, _)| resource.clone()) {
                self.troubles.remove(&oldest);
            }
        }
        let pause = Pause::after(before, trouble.pause.since);
        self.troubles.insert(resource, Trouble { pause, ..trouble });
    }
}
