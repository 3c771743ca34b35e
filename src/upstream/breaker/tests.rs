//! When an address that failed is asked again, ending by ending.

use super::*;

const START: Timestamp = Timestamp(1_700_000_000_000);

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn of(repository: &str, tag: &str) -> Resource {
    let reference = crate::oci::Reference::Tag(tag.parse().expect("a tag"));
    Resource::manifest(&repository.parse().expect("a name"), &reference)
}

struct Scene(Breaker);

impl Scene {
    fn new() -> Scene {
        Scene(Breaker::new(false))
    }

    fn ask(&mut self, what: &Resource, now: u64) -> Option<Ticket> {
        match self.0.admit(what, at(now)) {
            Admission::Ask(ticket) => Some(ticket),
            Admission::Wait(_) | Admission::Rest(_) | Admission::Probing => None,
        }
    }

    /// A request that is admitted and ends at once.
    fn end(&mut self, what: &Resource, ending: Ending, now: u64) {
        let ticket = self.ask(what, now).expect("admitted");
        self.0.ended(ticket, ending, at(now));
    }

    /// Three answers of two repositories stay away.
    fn silence(&mut self, now: u64) {
        for what in [of("a", "1"), of("a", "2"), of("b", "1")] {
            assert!(self.0.is_up());
            self.end(&what, Ending::Silent, now);
        }
        assert!(!self.0.is_up());
    }

    fn is_spared(&mut self, what: &Resource, now: u64) -> bool {
        matches!(self.0.outlook(what, at(now)), Outlook::Spared(_))
    }
}

#[test]
fn no_connection_closes_the_door_at_once_and_the_pauses_double() {
    let mut scene = Scene::new();
    let what = of("a", "1");
    let mut now = 0;
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        scene.end(&what, Ending::Unreachable, now);
        assert!(!scene.0.is_up());
        assert!(matches!(scene.0.admit(&what, at(now)), Admission::Wait(left) if left.as_secs() == pause));
        let early = START.plus(Duration::from_millis((now + pause) * 1000 - 1));
        assert!(matches!(scene.0.admit(&of("b", "1"), early), Admission::Wait(_)));
        now += pause;
    }
}

#[test]
fn one_request_at_a_time_finds_out_whether_the_upstream_is_back() {
    let mut scene = Scene::new();
    let (what, other) = (of("a", "1"), of("b", "1"));
    scene.end(&what, Ending::Unreachable, 0);
    let probe = scene.ask(&what, 1).expect("a probe");
    assert!(matches!(scene.0.admit(&other, at(50)), Admission::Probing));
    scene.0.ended(probe, Ending::Answered, at(51));
    assert!(scene.0.is_up());
    // A new failure starts from the first pause.
    scene.end(&what, Ending::Unreachable, 60);
    assert!(scene.ask(&what, 61).is_some());
}

#[test]
fn a_probe_that_is_dropped_leaves_the_door_to_the_next() {
    let mut scene = Scene::new();
    for ending in [Ending::Unknown, Ending::FailedElsewhere] {
        scene.end(&of("a", "1"), Ending::Unreachable, 0);
        let probe = scene.ask(&of("a", "1"), 1).expect("a probe");
        scene.0.ended(probe, ending, at(1));
        assert!(!scene.0.is_up());
        scene.end(&of("a", "1"), Ending::Answered, 1);
    }
}

#[test]
fn silence_of_one_resource_is_not_silence_of_the_host() {
    for ending in [Ending::Silent, Ending::Closed] {
        let mut scene = Scene::new();
        for now in [0, 100, 200, 300] {
            scene.end(&of("a", "1"), ending, now);
            scene.end(&of("a", "2"), ending, now);
            assert!(scene.0.is_up());
        }
    }
}

#[test]
fn what_just_stayed_away_is_asked_for_after_a_pause_of_its_own() {
    let mut scene = Scene::new();
    let (silent, other) = (of("a", "1"), of("a", "2"));
    scene.end(&silent, Ending::Silent, 0);
    assert!(scene.ask(&silent, 0).is_none() && scene.ask(&other, 0).is_some());
    scene.end(&silent, Ending::Silent, 1);
    assert!(scene.ask(&silent, 2).is_none() && scene.ask(&silent, 3).is_some());
    // What was cut off or failed quickly may be asked for again at once.
    for ending in [Ending::Closed, Ending::Failed, Ending::FailedElsewhere] {
        scene.end(&of("b", "1"), ending, 0);
        assert!(scene.ask(&of("b", "1"), 0).is_some(), "{ending:?}");
    }
}

#[test]
fn answers_that_stay_away_together_are_silence_of_the_host() {
    let mut scene = Scene::new();
    scene.silence(0);
    let mut one = Scene::new();
    for tag in 0..SILENT_OF_ONE_REPOSITORY {
        assert!(one.0.is_up());
        one.end(&of("a", &tag.to_string()), Ending::Closed, 0);
    }
    assert!(!one.0.is_up());
    let mut deputised = Scene(Breaker::new(true));
    deputised.end(&of("a", "1"), Ending::Closed, 0);
    assert!(!deputised.0.is_up());
}

#[test]
fn who_finds_out_is_not_who_just_failed() {
    let mut scene = Scene::new();
    scene.silence(0);
    assert!(scene.ask(&of("b", "1"), 0).is_none());
    let probe = scene.ask(&of("c", "1"), 0).expect("somebody else");
    scene.0.ended(probe, Ending::Silent, at(30));
    assert!(scene.ask(&of("d", "1"), 30).is_none(), "now there is a pause for all");
    assert!(scene.ask(&of("d", "1"), 31).is_some());
}

#[test]
fn any_answer_says_that_silence_is_no_silence_of_the_host() {
    for sign in [Ending::Answered, Ending::Failed] {
        let mut scene = Scene::new();
        scene.end(&of("a", "1"), Ending::Silent, 0);
        scene.end(&of("b", "1"), Ending::Silent, 0);
        scene.end(&of("c", "1"), sign, 0);
        scene.end(&of("d", "1"), Ending::Silent, 0);
        scene.end(&of("e", "1"), Ending::Silent, 0);
        assert!(scene.0.is_up());
        // Also one that came while a request waited.
        let waiting = scene.ask(&of("f", "1"), 0).expect("admitted");
        scene.end(&of("c", "1"), sign, 1);
        scene.0.ended(waiting, Ending::Unreachable, at(30));
        assert!(scene.0.is_up());
    }
}

#[test]
fn trouble_elsewhere_says_nothing_of_the_host() {
    let mut scene = Scene::new();
    for n in 0..100 {
        scene.end(&of("a", &n.to_string()), Ending::FailedElsewhere, 0);
        scene.end(&of("b", &n.to_string()), Ending::FailedElsewhere, 0);
    }
    scene.end(&of("c", "1"), Ending::Failed, 0);
    assert!(scene.0.is_up() && !scene.0.is_failing());
    assert!(scene.0.troubles.len() <= REMEMBERED);
}

#[test]
fn errors_keep_nobody_from_asking_and_spare_what_something_stored_answers() {
    let mut scene = Scene::new();
    let [a, b, c] = ["a", "b", "c"].map(|repository| of(repository, "1"));
    scene.end(&a, Ending::Failed, 0);
    assert!(scene.is_spared(&a, 0) && !scene.is_spared(&b, 0), "one resource");
    scene.end(&b, Ending::Failed, 0);
    assert!(scene.0.is_failing() && scene.is_spared(&c, 0), "all");
    assert!(scene.0.is_up() && scene.ask(&c, 0).is_some());
    assert_eq!(scene.0.outlook(&c, at(1)), Outlook::Doubtful);
    assert!(scene.is_spared(&c, 1) && scene.is_spared(&a, 1), "one of them finds out for all");
    scene.end(&c, Ending::Answered, 1);
    assert_eq!(scene.0.outlook(&of("d", "1"), at(1)), Outlook::Well);
    assert_eq!(scene.0.outlook(&a, at(100)), Outlook::Well, "long ago");
}

#[test]
fn what_something_stored_answers_is_spared_while_the_host_is_dead() {
    let mut scene = Scene::new();
    let what = of("a", "1");
    scene.end(&what, Ending::Unreachable, 0);
    assert!(scene.is_spared(&what, 0));
    assert_eq!(scene.0.outlook(&what, at(1)), Outlook::Doubtful);
    let probe = scene.ask(&what, 1).expect("a probe");
    assert!(scene.is_spared(&what, 1) && scene.is_spared(&of("b", "1"), 1));
    scene.0.ended(probe, Ending::Answered, at(1));
    assert_eq!(scene.0.outlook(&what, at(1)), Outlook::Well);
}

#[test]
fn what_was_sent_before_the_failure_neither_adds_to_it_nor_ends_the_probe() {
    let mut scene = Scene::new();
    let what = of("a", "1");
    let [first, second, third] = [0; 3].map(|_| scene.ask(&what, 0).expect("admitted"));
    scene.0.ended(first, Ending::Unreachable, at(10));
    scene.0.ended(second, Ending::Unreachable, at(10));
    let probe = scene.ask(&what, 11).expect("after one second");
    scene.0.ended(third, Ending::Unreachable, at(11));
    assert!(scene.ask(&what, 20).is_none(), "the probe is under way");
    scene.0.ended(probe, Ending::Answered, at(21));
    assert!(scene.0.is_up());
}

#[test]
fn an_answer_to_an_earlier_request_is_proof_of_life() {
    let mut scene = Scene::new();
    let early = scene.ask(&of("a", "1"), 0).expect("admitted");
    scene.end(&of("a", "2"), Ending::Unreachable, 0);
    scene.0.ended(early, Ending::Answered, at(0));
    assert!(scene.0.is_up());
}

#[test]
fn a_clock_that_is_set_back_closes_no_door_for_long() {
    let mut scene = Scene::new();
    scene.end(&of("a", "1"), Ending::Unreachable, 1000);
    assert!(scene.ask(&of("a", "1"), 0).is_some());
}

#[test]
fn errors_are_no_silence_unless_they_take_as_long() {
    let seconds = Duration::from_secs;
    let ending = |contact, took| Ending::of_outage(contact, false, seconds(took));
    assert_eq!(ending(Contact::Answered, 1), Ending::Failed);
    assert_eq!(ending(Contact::Answered, 60), Ending::Silent);
    assert_eq!(ending(Contact::Unreachable, 0), Ending::Unreachable);
    assert_eq!(Ending::of_outage(Contact::Unreachable, true, seconds(60)), Ending::FailedElsewhere);
}

#[test]
fn troubles_of_made_up_resources_do_not_fill_the_memory() {
    let mut scene = Scene::new();
    for number in 0..1000 {
        let ending = if number % 2 == 0 { Ending::Closed } else { Ending::FailedElsewhere };
        if let Some(ticket) = scene.ask(&of(&format!("r{number}"), "1"), 1000 * number) {
            scene.0.ended(ticket, ending, at(1000 * number));
        }
    }
    assert!((1..=REMEMBERED as u64).contains(&scene.0.troubles()), "{}", scene.0.troubles());
}
