//! Whether a word is enough to prove what a repository has, and what has to be proven once more.
//!
//! A digest is no secret and no permission: whoever knows it can name it. So an upstream's word opens what
//! that upstream had itself, or what was given to everybody, and nothing that another one keeps private.

use std::collections::HashSet;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metadata::{Location, Membership, Proof};
use crate::oci::{Digest, RegistryName, Whereabouts};

/// Whether the word of `upstream` is enough for content that these have. `public` are upstreams that are asked
/// without a credential. What one of its name had at other `places` is another's.
pub(super) fn is_enough(
    upstream: &RegistryName,
    holders: &[(Location, Membership)],
    public: &HashSet<RegistryName>,
    places: &Whereabouts,
) -> bool {
    let is_its =
        |(at, member): &(Location, Membership)| at.upstream == *upstream && places.may_be_at(upstream, &member.places);
    let vouches = |holder: &(Location, Membership)| {
        let (Location { upstream: from, .. }, Membership { proof, anonymous, .. }) = holder;
        let to_everybody = *proof == Proof::Bytes && *anonymous && public.contains(from);
        to_everybody || is_its(holder) && *proof != Proof::Unknown
    };
    // Nobody else can have brought what only this one is known to have.
    holders.iter().any(vouches) || (!holders.is_empty() && holders.iter().all(is_its))
}

/// What was served without a proof, and is to be asked for once more.
pub(crate) struct Doubts {
    waiting: Mutex<HashSet<(Location, Digest)>>,
    some: Notify,
    /// What upstream neither confirmed nor denied.
    lately: Cache<(Location, Digest), ()>,
}

/// So many wait; the others are noticed when they are used again.
const MOST: usize = 10_000;
/// How long what was asked in vain is left alone, and what could not be asked.
const PAUSE: Duration = Duration::from_secs(30);

impl Default for Doubts {
    fn default() -> Doubts {
        let lately = Cache::builder().max_capacity(MOST as u64).time_to_live(PAUSE).build();
        Doubts { waiting: Mutex::default(), some: Notify::new(), lately }
    }
}

impl Doubts {
    /// How many entries there are.
    pub(super) fn tables(&self) -> [(&'static str, u64); 2] {
        [("doubts", self.waiting.lock().len() as u64), ("doubts_asked", self.lately.entry_count())]
    }

    /// This was served without a proof.
    pub(super) fn add(&self, location: &Location, digest: &Digest) {
        let one = (location.clone(), *digest);
        if !self.lately.contains_key(&one) {
            self.put_back(one);
            self.some.notify_one();
        }
    }

    /// It could not be asked for.
    pub(crate) fn put_back(&self, one: (Location, Digest)) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MOST {
            waiting.insert(one);
        }
    }

    /// It was asked for in vain.
    pub(crate) fn leave_alone(&self, one: (Location, Digest)) {
        self.lately.insert(one, ());
    }

    /// All that wait, once there is some, or it is time to ask again for what could not be asked.
    pub(crate) async fn take(&self) -> Vec<(Location, Digest)> {
        let _ = tokio::time::timeout(PAUSE, self.some.notified()).await;
        self.waiting.lock().drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Descriptor, Place, Places, Together};

    fn holder((upstream, proof, anonymous): &(&str, Proof, bool)) -> (Location, Membership) {
        let upstream = upstream.parse().expect("a name");
        let descriptor = Descriptor::of_blob(Digest::of(Algorithm::Sha256, b"x"), 1);
        let location = Location { upstream, repository: "a/b".parse().expect("a name") };
        (location, Membership { descriptor, proof: *proof, anonymous: *anonymous, places: Places::default() })
    }

    #[test]
    fn a_word_is_enough_for_what_that_upstream_had_or_gave_to_everybody() {
        use Proof::{Bytes, Head, Import, Unknown};
        for (holders, enough) in [
            (&[][..], false),
            (&[("own", Bytes, false)], true),
            (&[("own", Import, false)], true),
            (&[("own", Head, false)], true),
            (&[("own", Unknown, false)], true),
            (&[("own", Unknown, false), ("other", Unknown, false)], false),
            (&[("own", Unknown, false), ("other", Bytes, false)], false),
            (&[("other", Unknown, false)], false),
            (&[("other", Bytes, true)], false),
            (&[("open", Bytes, true)], true),
            (&[("open", Bytes, false)], false),
            (&[("open", Head, true)], false),
            (&[("open", Import, true)], false),
            (&[("open", Unknown, true)], false),
            (&[("other", Bytes, false), ("own", Head, true)], true),
        ] {
            let holders: Vec<_> = holders.iter().map(holder).collect();
            let own = "own".parse().expect("a name");
            let public = HashSet::from(["open".parse().expect("a name")]);
            assert_eq!(is_enough(&own, &holders, &public, &Whereabouts::default()), enough, "{holders:?}");
        }
    }

    #[test]
    fn what_an_upstream_of_the_same_name_had_elsewhere_is_not_opened_by_a_word() {
        use Proof::{Bytes, Head, Unknown};
        let at = |places: &str| {
            let each = places.split_whitespace().map(|place| Places::from(Together::from(Place::of(place))));
            each.fold(Places::default(), |all, place| place.after(&all))
        };
        let own: RegistryName = "own".parse().expect("a name");
        let places = Whereabouts::from_iter([(own.clone(), Place::of("here").into())]);
        let public = HashSet::from(["open".parse().expect("a name")]);
        for (holders, enough) in [
            (&[("own", Bytes, false, "here")][..], true),
            (&[("own", Bytes, false, "there here")], true),
            (&[("own", Bytes, false, "there")], false),
            (&[("own", Head, false, "there")], false),
            (&[("own", Unknown, false, "")], true),
            (&[("own", Unknown, false, ""), ("own", Bytes, false, "there")], false),
            (&[("own", Bytes, false, "there"), ("own", Head, false, "here")], true),
            (&[("own", Bytes, false, "there"), ("open", Bytes, true, "anywhere")], true),
        ] {
            let placed = |(upstream, proof, anonymous, places): &(&'static str, Proof, bool, &str)| {
                let (location, member) = holder(&(upstream, *proof, *anonymous));
                (location, Membership { places: at(places), ..member })
            };
            let holders: Vec<_> = holders.iter().map(placed).collect();
            assert_eq!(is_enough(&own, &holders, &public, &places), enough, "{holders:?}");
        }
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_what_was_asked_in_vain_is_left_alone() {
        let doubts = Doubts::default();
        let (location, _) = holder(&("own", Proof::Unknown, false));
        let digest = |n: usize| Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        doubts.leave_alone((location.clone(), digest(0)));
        for n in 0..MOST + 10 {
            doubts.add(&location, &digest(n));
        }
        let waiting = doubts.take().await;
        assert_eq!(waiting.len(), MOST);
        assert!(!waiting.contains(&(location, digest(0))));
    }
}
