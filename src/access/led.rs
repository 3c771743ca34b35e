//! To what tags led those who were given it, for a while after they lead elsewhere: a pull that has begun ends.
//!
//! Truth: who was not given a manifest while the tag led there goes on with nothing of it. Time is monotonic.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Caller;
use crate::metadata::Location;
use crate::oci::{Digest, Tag};

/// Of so many tags and callers it is remembered.
const MOST: usize = 10_000;
/// So many manifests for each of them, the latest.
const MOST_OF_ONE: usize = 8;
/// How long a pull may go on with what its tag does not lead to any more.
const LIFE: Duration = Duration::from_secs(3600);

/// What tags led to.
#[derive(Debug, Default)]
pub struct Led {
    given: Mutex<HashMap<(Caller, Location, Tag), Vec<Given>>>,
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

impl Led {
    /// `tag` leads to `manifest`, and something of that is given to `caller`.
    pub fn gave(&self, caller: &Caller, location: &Location, tag: &Tag, manifest: Digest, now: Instant) {
        let key = (caller.clone(), location.clone(), tag.clone());
        let mut given = self.given.lock();
        if given.len() >= MOST && !given.contains_key(&key) {
            given.retain(|_, manifests| manifests.iter().any(|given| given.counts(now)));
            if given.len() >= MOST {
                return;
            }
        }
        let manifests = given.entry(key).or_default();
        manifests.retain(|given| given.manifest != manifest && given.counts(now));
        manifests.drain(..(manifests.len() + 1).saturating_sub(MOST_OF_ONE));
        manifests.push(Given { manifest, at: now });
    }

    /// The manifests that `tag` led `caller` to a while ago.
    pub fn manifests(&self, caller: &Caller, location: &Location, tag: &Tag, now: Instant) -> Vec<Digest> {
        let given = self.given.lock();
        let manifests = given.get(&(caller.clone(), location.clone(), tag.clone()));
        let counting = manifests.into_iter().flatten().filter(|given| given.counts(now));
        counting.map(|given| given.manifest).collect()
    }

    /// Of how many tags and callers it is remembered.
    pub fn table(&self) -> (&'static str, u64) {
        ("led", self.given.lock().len() as u64)
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
        let tag: Tag = "1".parse().expect("a tag");
        for n in 0..20 {
            led.gave(&user("ann"), &app, &tag, manifest(n), start);
        }
        let latest: Vec<_> = (12..20).map(manifest).collect();
        assert_eq!(led.manifests(&user("ann"), &app, &tag, start), latest);
        for n in 0..MOST {
            led.gave(&user(&n.to_string()), &app, &tag, manifest(n), start);
        }
        assert_eq!(led.table(), ("led", MOST as u64));
        let last = user(&(MOST - 1).to_string());
        assert_eq!(led.manifests(&last, &app, &tag, start), [], "there is no room");
        led.gave(&user("ann"), &app, &tag, manifest(1), start);
        assert_eq!(led.manifests(&user("ann"), &app, &tag, start).last(), Some(&manifest(1)), "who is there stays");
        led.gave(&last, &app, &tag, manifest(1), start + LIFE);
        assert_eq!(led.manifests(&last, &app, &tag, start + LIFE), [manifest(1)]);
        assert_eq!(led.table().1, 1, "those that are over made room");
    }
}
