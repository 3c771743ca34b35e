//! The contract of the clock.

use registry_mirror::clock::{Clock, ManualClock, SystemClock, Timestamp};

fn moments_are_told_in_milliseconds_since_1970(clock: &dyn Clock) {
    let year_2020 = Timestamp(1_577_836_800_000);
    assert!(clock.now() > year_2020, "seconds would be a thousand times less");
}

fn what_was_just_told_has_an_age(clock: &dyn Clock) {
    let before = clock.now();
    assert!(before.age(clock.now()).is_some());
}

#[test]
fn the_machines_clock_keeps_the_contract() {
    moments_are_told_in_milliseconds_since_1970(&SystemClock);
    what_was_just_told_has_an_age(&SystemClock);
}

#[test]
fn the_clock_of_tests_keeps_the_contract_and_stands_still() {
    let clock = ManualClock::at(Timestamp(1_700_000_000_000));
    moments_are_told_in_milliseconds_since_1970(&clock);
    what_was_just_told_has_an_age(&clock);
    assert_eq!(clock.now(), clock.now());
}
