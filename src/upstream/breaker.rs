//! When is an upstream that does not answer asked again? Pure.
//!
//! A dead upstream must cost one time-out and not one for every request: after a failure it is left
//! alone for a while, and then a single request finds out whether it is back. What counts is
//! silence. An upstream that answers 500 to one image is alive for all the others, and so is one
//! that answered somebody else while a request failed.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long an upstream is left alone after its first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause doubles with every failed probe, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An error that took this long to come costs as much as silence.
const SLOW: Duration = Duration::from_secs(5);

/// How a request ended, as far as the health of the upstream is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody answered, whatever it was.
    Answered,
    /// Nobody did.
    Silence,
    /// The request was dropped before it was known.
    Unknown,
}

impl Ending {
    /// The ending of a request that could not be served: whether it was `answered`, after how long.
    pub fn of_outage(answered: bool, took: Duration) -> Ending {
        if answered && took < SLOW { Ending::Answered } else { Ending::Silence }
    }
}

/// Permission to ask, to be given back with [`Breaker::ended`].
#[derive(Debug)]
pub struct Ticket {
    /// How many requests had been answered when this one began.
    answers: u64,
    probe: bool,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Admission {
    /// Ask.
    Ask(Ticket),
    /// Do not ask before this much time has passed; zero while another request finds out.
    Wait(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests go through.
    Closed,
    /// Nobody asks before the pause after the last failure is over.
    Open { since: Timestamp, failures: u32 },
    /// One request is under way to find out.
    Probing { failures: u32 },
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
    answers: u64,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { state: State::Closed, answers: 0 }
    }
}

impl Breaker {
    /// Whether requests go through.
    pub fn is_up(&self) -> bool {
        self.state == State::Closed
    }

    /// Where it stands at `now`.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match self.state {
            State::Closed => Standing::Up,
            State::Probing { .. } => Standing::Probing,
            State::Open { since, failures } => Standing::Down(left(since, failures, now)),
        }
    }

    /// Decides about a request at `now`.
    pub fn admit(&mut self, now: Timestamp) -> Admission {
        match self.state {
            State::Closed => Admission::Ask(Ticket { answers: self.answers, probe: false }),
            State::Probing { .. } => Admission::Wait(Duration::ZERO),
            State::Open { since, failures } => {
                let left = left(since, failures, now);
                if !left.is_zero() {
                    return Admission::Wait(left);
                }
                self.state = State::Probing { failures };
                Admission::Ask(Ticket { answers: self.answers, probe: true })
            }
        }
    }

    /// Takes note of how an admitted request ended at `now`.
    pub fn ended(&mut self, ticket: Ticket, ending: Ending, now: Timestamp) {
        match ending {
            Ending::Answered => {
                self.answers = self.answers.wrapping_add(1);
                self.state = State::Closed;
            }
            Ending::Silence => {
                let others_were_answered = self.answers != ticket.answers;
                self.state = match self.state {
                    State::Closed if others_were_answered => State::Closed,
                    State::Closed => State::Open { since: now, failures: 1 },
                    State::Probing { failures } if ticket.probe => {
                        State::Open { since: now, failures: failures.saturating_add(1) }
                    }
                    // It was sent before the failure that is already known.
                    known => known,
                };
            }
            Ending::Unknown => {
                if let State::Probing { failures } = self.state
                    && ticket.probe
                {
                    // Whoever comes next may find out at once.
                    self.state = State::Open { since: Timestamp(0), failures };
                }
            }
        }
    }
}

/// How long nobody asks yet.
fn left(since: Timestamp, failures: u32, now: Timestamp) -> Duration {
    // A failure that lies in the future says that the clock was set back.
    since.age(now).and_then(|age| pause(failures).checked_sub(age)).unwrap_or_default()
}

fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn at(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    fn ask(breaker: &mut Breaker, now: Timestamp) -> Option<Ticket> {
        match breaker.admit(now) {
            Admission::Ask(ticket) => Some(ticket),
            Admission::Wait(_) => None,
        }
    }

    fn fail(breaker: &mut Breaker, now: Timestamp) {
        let ticket = ask(breaker, now).expect("admitted");
        breaker.ended(ticket, Ending::Silence, now);
    }

    #[test]
    fn one_silence_closes_the_door_and_the_pauses_double() {
        let mut breaker = Breaker::default();
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            fail(&mut breaker, at(now));
            assert!(!breaker.is_up());
            assert!(matches!(breaker.admit(at(now)), Admission::Wait(left) if left == Duration::from_secs(pause)));
            assert!(ask(&mut breaker, START.plus(Duration::from_millis((now + pause) * 1000 - 1))).is_none());
            now += pause;
        }
    }

    #[test]
    fn one_request_at_a_time_finds_out_whether_the_upstream_is_back() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, at(0));
        let probe = ask(&mut breaker, at(1)).expect("a probe");
        assert!(matches!(breaker.admit(at(50)), Admission::Wait(Duration::ZERO)));
        breaker.ended(probe, Ending::Answered, at(51));
        assert!(breaker.is_up());
        // A new failure starts from the first pause.
        fail(&mut breaker, at(60));
        assert!(ask(&mut breaker, at(61)).is_some());
    }

    #[test]
    fn a_probe_that_is_dropped_leaves_the_door_to_the_next() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, at(0));
        let probe = ask(&mut breaker, at(1)).expect("a probe");
        breaker.ended(probe, Ending::Unknown, at(1));
        assert!(!breaker.is_up());
        assert!(ask(&mut breaker, at(1)).is_some());
    }

    #[test]
    fn an_upstream_that_answers_others_is_not_dead() {
        let mut breaker = Breaker::default();
        let slow = ask(&mut breaker, at(0)).expect("admitted");
        let other = ask(&mut breaker, at(1)).expect("admitted");
        breaker.ended(other, Ending::Answered, at(2));
        breaker.ended(slow, Ending::Silence, at(30));
        assert!(breaker.is_up());
        let alone = ask(&mut breaker, at(31)).expect("admitted");
        breaker.ended(alone, Ending::Silence, at(61));
        assert!(!breaker.is_up());
    }

    #[test]
    fn what_was_sent_before_the_failure_neither_adds_to_it_nor_ends_the_probe() {
        let mut breaker = Breaker::default();
        let [first, second, third] = [0, 0, 0].map(|_| ask(&mut breaker, at(0)).expect("admitted"));
        breaker.ended(first, Ending::Silence, at(10));
        breaker.ended(second, Ending::Silence, at(10));
        let probe = ask(&mut breaker, at(11)).expect("after one second");
        breaker.ended(third, Ending::Silence, at(11));
        assert!(ask(&mut breaker, at(20)).is_none(), "the probe is under way");
        breaker.ended(probe, Ending::Answered, at(21));
        assert!(breaker.is_up());
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_proof_of_life() {
        let mut breaker = Breaker::default();
        let early = ask(&mut breaker, at(0)).expect("admitted");
        fail(&mut breaker, at(0));
        breaker.ended(early, Ending::Answered, at(0));
        assert!(breaker.is_up());
    }

    #[test]
    fn a_clock_that_is_set_back_closes_no_door_for_long() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, at(1000));
        assert!(ask(&mut breaker, at(0)).is_some());
    }

    #[test]
    fn errors_are_answers_unless_they_take_as_long_as_silence() {
        let seconds = Duration::from_secs;
        assert_eq!(Ending::of_outage(true, seconds(1)), Ending::Answered);
        assert_eq!(Ending::of_outage(true, seconds(60)), Ending::Silence);
        assert_eq!(Ending::of_outage(false, seconds(0)), Ending::Silence);
    }
}
