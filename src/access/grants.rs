//! What upstreams have granted to whom, for a while.
//!
//! Truths: a grant ends when its time is over, however often it was used; where there is no room for one, upstream
//! is asked again. Time is monotonic.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::metadata::Location;
use crate::oci::{RegistryName, Repository};

/// So many are remembered.
const MOST: usize = 100_000;
/// How long a yes counts while upstream is away.
const AWAY: Duration = Duration::from_secs(24 * 3600);

/// Whose grant it is, by a keyed hash.
pub type Holder = [u8; 32];

/// Whose grants count for a request.
#[derive(Clone, Copy, Debug)]
pub struct Holders {
    /// Who shows his upstream what he shows; nothing is something, too.
    pub own: Holder,
    /// Whether he shows something.
    pub shows: bool,
    /// Whether that is the same each time.
    pub lasting: bool,
    /// Who holds his certificate.
    pub certificate: Option<Holder>,
}

/// What an upstream says to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// He may read it.
    Yes,
    /// He may not.
    No,
    /// It is away, or does not say.
    Nothing,
}

/// The grants.
#[derive(Debug)]
pub struct Grants {
    life: Duration,
    given: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_key: HashMap<Key, Given>,
    /// When each who is among them was last given something; at most one for each of those.
    callers: HashMap<Holder, Instant>,
}

/// Who shows nothing.
const NOBODY: Holder = [0; 32];

/// Who may read which repository of an upstream; without one, who is let in there.
type Key = (Holder, RegistryName, Option<Repository>);

fn key(holder: &Holder, Location { upstream, repository }: &Location) -> Key {
    (*holder, upstream.clone(), Some(repository.clone()))
}

#[derive(Clone, Copy, Debug)]
struct Given {
    at: Instant,
    /// Whether it counts while upstream is away.
    lasting: bool,
}

impl Grants {
    /// None yet; each lives so long.
    pub fn new(life: Duration) -> Grants {
        Grants { life, given: Mutex::default() }
    }

    /// Those of them that are not of these upstreams; each lives so long from when it was given.
    #[must_use]
    pub fn without(&self, upstreams: &HashSet<RegistryName>, life: Duration) -> Grants {
        let given = self.given.lock();
        let others = given.by_key.iter().filter(|((_, upstream, _), _)| !upstreams.contains(upstream));
        let by_key = others.map(|(key, given)| (key.clone(), *given)).collect();
        let mut table = Table { by_key, callers: given.callers.clone() };
        table.tidy();
        Grants { life, given: Mutex::new(table) }
    }

    /// How long each lives.
    pub const fn life(&self) -> Duration {
        self.life
    }

    /// How many are remembered.
    pub fn table(&self) -> (&'static str, u64) {
        ("grants", self.given.lock().by_key.len() as u64)
    }

    /// Whether he may read it.
    pub fn hold(&self, holder: &Holder, location: &Location, now: Instant) -> bool {
        self.holds(&key(holder, location), now)
    }

    fn holds(&self, key: &Key, now: Instant) -> bool {
        self.age(key, now).is_some_and(|(age, _)| age < self.life)
    }

    /// Whether upstream gives it to who shows nothing.
    pub fn is_for_everybody(&self, location: &Location, now: Instant) -> bool {
        self.hold(&NOBODY, location, now)
    }

    /// Whether anything is granted to whoever shows this.
    pub fn know(&self, holder: &Holder, now: Instant) -> bool {
        let given = self.given.lock().callers.get(holder).copied();
        given.and_then(|given| now.checked_duration_since(given)).is_some_and(|age| age < self.life)
    }

    /// Whether he is let in by an upstream, which says nothing of what it has.
    pub fn lets_in(&self, holder: &Holder, upstream: &RegistryName, now: Instant) -> bool {
        self.holds(&(*holder, upstream.clone(), None), now)
    }

    /// An upstream lets him in.
    pub fn let_in(&self, Holders { own, .. }: &Holders, upstream: &RegistryName, now: Instant) {
        self.give((*own, upstream.clone(), None), false, now);
    }

    /// Takes note of what upstream says to a caller, and whether he may read it.
    pub fn heard(&self, holders: &Holders, location: &Location, said: Said, now: Instant) -> bool {
        let Holders { own, shows, lasting, certificate } = holders;
        match said {
            Said::Yes => {
                self.give(key(own, location), *lasting, now);
                certificate.iter().for_each(|holder| self.give(key(holder, location), true, now));
                true
            }
            Said::No => {
                self.end(own, location);
                // Who shows nothing yet is about to log in.
                certificate.iter().filter(|_| *shows).for_each(|holder| self.end(holder, location));
                false
            }
            Said::Nothing => self.had(holders, location, now),
        }
    }

    /// An upstream lets him in no more: nothing of it is granted to him any longer, nor to the holder of his
    /// certificate where he showed something.
    pub fn end_all(&self, Holders { own, shows, certificate, .. }: &Holders, upstream: &RegistryName) {
        if *shows {
            let is_his = |holder: &Holder| holder == own || certificate.as_ref() == Some(holder);
            let mut given = self.given.lock();
            given.by_key.retain(|(holder, of, _), _| of != upstream || !is_his(holder));
            given.callers.retain(|holder, _| !is_his(holder));
        }
    }

    /// Whether he may read it while upstream is away: he had a yes within a day, with the very same that he shows or
    /// with his certificate, or everybody had.
    pub fn had(&self, Holders { own, certificate, .. }: &Holders, location: &Location, now: Instant) -> bool {
        [Some(own), certificate.as_ref(), Some(&NOBODY)]
            .into_iter()
            .flatten()
            .any(|holder| self.held(holder, location, now))
    }

    fn held(&self, holder: &Holder, location: &Location, now: Instant) -> bool {
        self.age(&key(holder, location), now).is_some_and(|(age, lasting)| lasting && age < AWAY)
    }

    fn age(&self, key: &Key, now: Instant) -> Option<(Duration, bool)> {
        let given = *self.given.lock().by_key.get(key)?;
        Some((now.checked_duration_since(given.at)?, given.lasting))
    }

    fn give(&self, key: Key, lasting: bool, now: Instant) {
        let mut given = self.given.lock();
        if given.by_key.len() >= MOST {
            let life = self.life;
            given.by_key.retain(|_, given| now.duration_since(given.at) < if given.lasting { AWAY } else { life });
            given.tidy();
        }
        if given.by_key.len() < MOST {
            given.callers.insert(key.0, now);
            given.by_key.insert(key, Given { at: now, lasting });
        }
    }

    fn end(&self, holder: &Holder, location: &Location) {
        let mut given = self.given.lock();
        given.by_key.remove(&key(holder, location));
        given.callers.remove(holder);
    }
}

impl Table {
    /// Forgets who has nothing any more.
    fn tidy(&mut self) {
        let there: HashSet<_> = self.by_key.keys().map(|(holder, ..)| *holder).collect();
        self.callers.retain(|holder, _| there.contains(holder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(repository: &str) -> Location {
        Location { upstream: "a.example".parse().expect("valid"), repository: repository.parse().expect("valid") }
    }

    #[test]
    fn a_grant_is_for_one_holder_and_repository_and_ends_however_often_it_is_used() {
        let (grants, start) = (Grants::new(Duration::from_secs(120)), Instant::now());
        let (one, other, app) = ([1; 32], [2; 32], location("app"));
        grants.give(key(&one, &app), false, start);
        for seconds in [0, 60, 119] {
            assert!(grants.hold(&one, &app, start + Duration::from_secs(seconds)), "{seconds}");
        }
        assert!(!grants.hold(&one, &app, start + Duration::from_secs(120)));
        assert!(!grants.hold(&other, &app, start) && !grants.hold(&one, &location("other"), start));
        assert!(!grants.held(&one, &app, start));
        assert_eq!(grants.table(), ("grants", 1));
        grants.end(&one, &app);
        assert!(!grants.hold(&one, &app, start));
    }

    #[test]
    fn what_lasts_counts_for_a_day_while_upstream_is_away() {
        let (grants, start, app) = (Grants::new(Duration::from_secs(120)), Instant::now(), location("app"));
        grants.give(key(&[1; 32], &app), true, start);
        let day = Duration::from_secs(86_400);
        assert!(grants.held(&[1; 32], &app, start + day - Duration::from_secs(1)));
        assert!(!grants.held(&[1; 32], &app, start + day));
        assert!(!grants.hold(&[1; 32], &app, start + Duration::from_secs(121)));
    }

    #[test]
    fn where_there_is_no_room_upstream_is_asked_again() {
        let (grants, start) = (Grants::new(Duration::from_secs(120)), Instant::now());
        let holder = |n: usize| {
            let mut holder = [0; 32];
            holder[..8].copy_from_slice(&n.to_le_bytes());
            holder
        };
        for n in 0..=MOST {
            grants.give(key(&holder(n), &location("app")), false, start);
        }
        assert!(grants.hold(&holder(0), &location("app"), start));
        assert!(!grants.hold(&holder(MOST), &location("app"), start));
        let later = start + Duration::from_secs(121);
        grants.give(key(&holder(MOST), &location("app")), false, later);
        assert!(grants.hold(&holder(MOST), &location("app"), later), "those that are over make room");
        assert_eq!(grants.table().1, 1);
    }

    #[test]
    fn who_was_granted_anything_is_known_for_the_life_of_a_grant() {
        let (grants, start, app) = (Grants::new(Duration::from_secs(120)), Instant::now(), location("app"));
        let (one, other) = ([1; 32], [2; 32]);
        assert!(!grants.know(&one, start));
        grants.give(key(&one, &app), true, start);
        let (last, over) = (start + Duration::from_secs(119), start + Duration::from_secs(120));
        assert!(grants.know(&one, start) && grants.know(&one, last));
        assert!(!grants.know(&one, over) && !grants.know(&one, over + Duration::from_secs(1)), "also where it lasts");
        assert!(!grants.know(&other, start));
        grants.give(key(&one, &location("other")), false, last);
        assert!(grants.know(&one, over), "by the latest");
        grants.end(&one, &app);
        assert!(!grants.know(&one, over));
        for holder in [one, other] {
            grants.give(key(&holder, &app), true, start);
        }
        let holders = Holders { own: one, shows: true, lasting: true, certificate: None };
        grants.end_all(&holders, &app.upstream);
        assert!(!grants.know(&one, start) && grants.know(&other, start));
    }

    #[test]
    fn those_of_other_upstreams_stay_and_live_as_long_as_they_may_now() {
        let (grants, start, app) = (Grants::new(Duration::from_secs(120)), Instant::now(), location("app"));
        let other = Location { upstream: "b.example".parse().expect("valid"), ..app.clone() };
        for at in [&app, &other] {
            grants.give(key(&[1; 32], at), true, start);
        }
        grants.give(key(&[2; 32], &app), true, start);
        assert!(grants.know(&[2; 32], start));
        let rest = grants.without(&HashSet::from([app.upstream.clone()]), Duration::from_secs(60));
        assert_eq!((grants.life(), rest.life()), (Duration::from_secs(120), Duration::from_secs(60)));
        assert!(!rest.hold(&[1; 32], &app, start) && rest.hold(&[1; 32], &other, start + Duration::from_secs(59)));
        assert!(!rest.hold(&[1; 32], &other, start + Duration::from_secs(60)));
        assert!(rest.know(&[1; 32], start) && !rest.know(&[2; 32], start), "he has nothing any more");
    }

    #[test]
    fn what_still_counts_makes_no_room() {
        let (grants, start, app) = (Grants::new(Duration::from_secs(120)), Instant::now(), location("app"));
        let holder = |n: usize| std::array::from_fn(|at| n.to_le_bytes().get(at).copied().unwrap_or_default());
        for n in 0..MOST {
            grants.give(key(&holder(n), &app), n < 2, start + Duration::from_secs(u64::from(n == 2)));
        }
        let over = start + Duration::from_secs(120);
        grants.give(key(&holder(MOST), &app), false, over);
        // Two that last, one that is not over, and the new one.
        assert_eq!(grants.table().1, 4);
        let next_day = start + AWAY;
        for n in MOST..2 * MOST {
            grants.give(key(&holder(n), &app), true, next_day);
        }
        assert_eq!(grants.table().1, MOST as u64);
        assert!(!grants.held(&holder(0), &app, next_day) && grants.held(&holder(MOST), &app, next_day));
    }

    #[test]
    fn a_no_ends_what_was_granted_to_him_and_to_the_holder_of_his_certificate() {
        let (grants, start, app) = (Grants::new(Duration::from_secs(120)), Instant::now(), location("app"));
        let holders = |own, lasting, node: Option<u8>| {
            let certificate = node.map(|node| [node; 32]);
            Holders { own: [own; 32], shows: own > 0, lasting, certificate }
        };
        let (token, other) = (holders(1, false, Some(3)), holders(2, false, None));
        assert!(grants.heard(&token, &app, Said::Yes, start) && grants.heard(&other, &app, Said::Yes, start));
        assert!(grants.heard(&token, &app, Said::Nothing, start), "by the certificate");
        assert!(!grants.heard(&other, &app, Said::Nothing, start), "a token is another one each time");
        assert!(!grants.heard(&holders(0, true, Some(3)), &app, Said::No, start));
        assert!(grants.had(&token, &app, start), "he has shown nothing yet");
        assert!(!grants.heard(&token, &app, Said::No, start));
        assert!(!grants.hold(&[1; 32], &app, start) && !grants.had(&token, &app, start));
        assert!(grants.hold(&[2; 32], &app, start), "nobody else's");
        let (again, elsewhere) = (holders(1, true, Some(3)), location("elsewhere"));
        for at in [&app, &elsewhere] {
            grants.heard(&again, at, Said::Yes, start);
        }
        grants.end_all(&holders(0, true, Some(3)), &app.upstream);
        grants.end_all(&again, &"b.example".parse().expect("valid"));
        assert!(grants.hold(&[1; 32], &app, start), "who shows nothing, and another upstream");
        assert!(!grants.lets_in(&[1; 32], &app.upstream, start), "of that nothing was said");
        grants.let_in(&again, &app.upstream, start);
        grants.let_in(&other, &app.upstream, start);
        let (last, over) = (start + Duration::from_secs(119), start + Duration::from_secs(120));
        assert!(grants.lets_in(&[1; 32], &app.upstream, last) && !grants.lets_in(&[1; 32], &app.upstream, over));
        assert!(!grants.lets_in(&[1; 32], &"b.example".parse().expect("valid"), start));
        grants.end_all(&again, &app.upstream);
        assert!(!grants.lets_in(&[1; 32], &app.upstream, start) && grants.lets_in(&[2; 32], &app.upstream, start));
        assert!(![&app, &elsewhere].iter().any(|at| grants.hold(&[1; 32], at, start) || grants.had(&again, at, start)));
        assert!(grants.hold(&[2; 32], &app, start), "nobody else's");
    }
}
