//! To what tags led those who were given it, for a while after they lead elsewhere: a pull that has begun ends.
//!
//! Truths: who was not given a manifest while the tag led there goes on with nothing of it, and nobody takes from
//! another more room than he may have himself. Time is monotonic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Caller;
use crate::metadata::Location;
use crate::oci::{Digest, Tag};

/// Of so many tags and callers it is remembered.
const MOST: usize = 10_000;
/// Of so many tags for one caller.
const MOST_OF_CALLER: usize = 250;
/// So many manifests for each of them, the latest.
const MOST_OF_ONE: usize = 8;
/// How long a pull may go on with what its tag does not lead to any more.
const LIFE: Duration = Duration::from_secs(3600);

/// What tags led to.
#[derive(Debug, Default)]
pub struct Led {
    table: Mutex<Table>,
}

/// For whom which tag.
type Key = (Caller, Location, Tag);

/// Each is given a number anew whenever it is given something: the lowest is the one that waited longest.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    given: HashMap<Key, (u64, Vec<Given>)>,
    by_number: BTreeMap<u64, Key>,
    by_caller: HashMap<Caller, BTreeSet<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    manifest: Digest,
    /// When the tag was last seen to lead there for him.
    at: Instant,
}

impl Given {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < LIFE
    }
}

impl Table {
    fn take(&mut self, number: u64) -> Option<(Key, Vec<Given>)> {
        let key = self.by_number.remove(&number)?;
        if let Some(own) = self.by_caller.get_mut(&key.0) {
            own.remove(&number);
            if own.is_empty() {
                self.by_caller.remove(&key.0);
            }
        }
        let (_, manifests) = self.given.remove(&key)?;
        Some((key, manifests))
    }

    fn put(&mut self, key: Key, manifests: Vec<Given>) {
        self.next += 1;
        self.by_number.insert(self.next, key.clone());
        self.by_caller.entry(key.0.clone()).or_default().insert(self.next);
        self.given.insert(key, (self.next, manifests));
    }

    /// Lets those go that are over, and then who waited longest: of his own, where he has all that he may have.
    fn make_room(&mut self, caller: &Caller, now: Instant) {
        while let Some((number, key)) = self.by_number.first_key_value() {
            let is_over = self.given.get(key).is_none_or(|(_, manifests)| !manifests.iter().any(|it| it.counts(now)));
            if !is_over {
                break;
            }
            let number = *number;
            self.take(number);
        }
        let own = self.by_caller.get(caller).filter(|own| own.len() >= MOST_OF_CALLER);
        let all = self.by_number.first_key_value().filter(|_| self.by_number.len() >= MOST);
        if let Some(number) = own.and_then(BTreeSet::first).or(all.map(|(number, _)| number)).copied() {
            self.take(number);
        }
    }
}

impl Led {
    /// `tag` leads to `manifest`, and something of that is given to `caller`.
    pub fn gave(&self, caller: &Caller, location: &Location, tag: &Tag, manifest: Digest, now: Instant) {
        let key = (caller.clone(), location.clone(), tag.clone());
        let mut table = self.table.lock();
        let number = table.given.get(&key).map(|(number, _)| *number);
        let mut manifests = match number.and_then(|number| table.take(number)) {
            Some((_, manifests)) => manifests,
            None => {
                table.make_room(caller, now);
                Vec::new()
            }
        };
        manifests.retain(|given| given.manifest != manifest && given.counts(now));
        manifests.drain(..(manifests.len() + 1).saturating_sub(MOST_OF_ONE));
        manifests.push(Given { manifest, at: now });
        table.put(key, manifests);
    }

    /// The manifests that `tag` led `caller` to a while ago.
    pub fn manifests(&self, caller: &Caller, location: &Location, tag: &Tag, now: Instant) -> Vec<Digest> {
        let table = self.table.lock();
        let manifests = table.given.get(&(caller.clone(), location.clone(), tag.clone()));
        let counting = manifests.into_iter().flat_map(|(_, manifests)| manifests).filter(|given| given.counts(now));
        counting.map(|given| given.manifest).collect()
    }

    /// Of how many tags and callers it is remembered.
    pub fn table(&self) -> (&'static str, u64) {
        ("led", self.table.lock().given.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn location(repository: &str) -> Location {
        Location { upstream: "a.example".parse().expect("valid"), repository: repository.parse().expect("valid") }
    }

    fn user(name: &str) -> Caller {
        Caller::User(name.into())
    }

    fn manifest(n: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    #[test]
    fn who_was_given_a_manifest_goes_on_with_it_for_a_while_and_nobody_else_does() {
        let (led, start, app) = (Led::default(), Instant::now(), location("app"));
        let (one, other): (Tag, Tag) = ("1".parse().expect("a tag"), "2".parse().expect("a tag"));
        let minute = Duration::from_secs(60);
        led.gave(&user("ann"), &app, &one, manifest(1), start);
        led.gave(&user("ann"), &app, &one, manifest(2), start + minute);
        let of = |caller: &str, app: &Location, tag: &Tag, now| led.manifests(&user(caller), app, tag, now);
        assert_eq!(of("ann", &app, &one, start + minute), [manifest(1), manifest(2)]);
        assert_eq!(of("bob", &app, &one, start), []);
        assert_eq!(of("ann", &app, &other, start), []);
        assert_eq!(of("ann", &location("other"), &one, start), []);
        assert_eq!(of("ann", &app, &one, start + LIFE), [manifest(2)]);
        led.gave(&user("ann"), &app, &one, manifest(2), start + LIFE);
        assert_eq!(of("ann", &app, &one, start + LIFE + minute), [manifest(2)], "it led there again");
        assert_eq!(of("ann", &app, &one, start + LIFE + LIFE), []);
    }

    #[test]
    fn what_is_remembered_has_a_bound_for_each_and_for_all() {
        let (led, start, app) = (Led::default(), Instant::now(), location("app"));
        let tag = |n: usize| -> Tag { n.to_string().parse().expect("a tag") };
        for n in 0..20 {
            led.gave(&user("ann"), &app, &tag(1), manifest(n), start);
        }
        let latest: Vec<_> = (12..20).map(manifest).collect();
        assert_eq!(led.manifests(&user("ann"), &app, &tag(1), start), latest);
        for n in 0..MOST {
            led.gave(&user("bob"), &app, &tag(n), manifest(n), start);
        }
        assert_eq!(led.table().1, MOST_OF_CALLER as u64 + 1, "he pushes out nobody else");
        assert_eq!(led.manifests(&user("ann"), &app, &tag(1), start), latest);
        let of_bob = |n: usize| led.manifests(&user("bob"), &app, &tag(n), start);
        assert_eq!(of_bob(MOST - MOST_OF_CALLER - 1), [], "his own oldest went first");
        let first = MOST - MOST_OF_CALLER;
        assert_eq!((of_bob(first), of_bob(MOST - 1)), (vec![manifest(first)], vec![manifest(MOST - 1)]));
        led.gave(&user("bob"), &app, &tag(first), manifest(first), start);
        led.gave(&user("bob"), &app, &tag(0), manifest(0), start);
        assert_eq!(of_bob(first), [manifest(first)], "what was given again is not the oldest");
        for n in 0..MOST {
            led.gave(&user(&n.to_string()), &app, &tag(1), manifest(n), start);
        }
        assert_eq!(led.table(), ("led", MOST as u64));
        assert_eq!(led.manifests(&user("ann"), &app, &tag(1), start), [], "who waited longest made room");
        let last = user(&(MOST - 1).to_string());
        assert_eq!(led.manifests(&last, &app, &tag(1), start), [manifest(MOST - 1)]);
        led.gave(&user("ann"), &app, &tag(1), manifest(1), start + LIFE);
        assert_eq!(led.manifests(&user("ann"), &app, &tag(1), start + LIFE), [manifest(1)]);
        assert_eq!(led.table().1, 1, "those that are over made room");
        let table = led.table.lock();
        assert_eq!((table.by_number.len(), table.by_caller.len()), (1, 1));
    }
}
