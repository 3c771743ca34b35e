//! Where an upstream is, as far as it matters whether it was there before.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Algorithm, Digest, RegistryName};

/// One address of an upstream: what tells it apart from others, and does not say it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Place(String);

impl Place {
    /// That of an address, which is written in one way only.
    pub fn of(address: &str) -> Place {
        // Half of what would be enough against somebody who chooses addresses: those are the operator's.
        let hex = Digest::of(Algorithm::Sha256, address.as_bytes()).hex();
        Place(hex.chars().take(16).collect())
    }
}

/// The addresses of an upstream, now or when it said something. Who has several of them is at each: they are one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Places(Vec<Place>);

impl Places {
    /// So many are told apart; the earliest are forgotten.
    const MOST: usize = 8;

    /// Whether none is known.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is among those.
    pub fn meet(&self, those: &Places) -> bool {
        self.0.iter().any(|place| those.0.contains(place))
    }

    /// These with those of before, the latest first.
    #[must_use]
    pub fn after(mut self, before: &Places) -> Places {
        self.0.retain(|place| !before.0.contains(place));
        self.0.extend_from_slice(&before.0);
        self.0.truncate(Places::MOST);
        self
    }
}

impl std::fmt::Display for Places {
    /// The same for the same places.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut names: Vec<_> = self.0.iter().map(|place| place.0.as_str()).collect();
        names.sort_unstable();
        f.write_str(&names.join("+"))
    }
}

impl FromIterator<Place> for Places {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Places {
        places.into_iter().fold(Places::default(), |mut all, place| {
            if all.0.len() < Places::MOST && !all.0.contains(&place) {
                all.0.push(place);
            }
            all
        })
    }
}

/// Where each upstream is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts(HashMap<RegistryName, Places>);

impl Whereabouts {
    /// The addresses of an upstream; none of one that there is not.
    pub fn of(&self, upstream: &RegistryName) -> Places {
        self.0.get(upstream).cloned().unwrap_or_default()
    }

    /// Whether an upstream may be where it was when it said something: at one of those addresses, or nobody wrote down
    /// where it was.
    pub fn may_be_at(&self, upstream: &RegistryName, those: &Places) -> bool {
        those.is_empty() || self.0.get(upstream).is_some_and(|now| now.meet(those))
    }
}

impl FromIterator<(RegistryName, Places)> for Whereabouts {
    fn from_iter<I: IntoIterator<Item = (RegistryName, Places)>>(upstreams: I) -> Whereabouts {
        Whereabouts(upstreams.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &str) -> Places {
        names.split_whitespace().map(Place::of).collect()
    }

    #[test]
    fn places_of_before_stay_until_there_are_too_many_and_what_is_known_changes_nothing() {
        for (now, before, all) in [
            ("a", "", "a"),
            ("", "a", "a"),
            ("a", "a", "a"),
            ("b", "a", "b a"),
            ("a", "b a", "b a"),
            ("c b", "b a", "c b a"),
            ("9", "8 7 6 5 4 3 2 1", "9 8 7 6 5 4 3 2"),
            ("1", "8 7 6 5 4 3 2 1", "8 7 6 5 4 3 2 1"),
        ] {
            assert_eq!(places(now).after(&places(before)), places(all), "{now} after {before}");
        }
        assert!(places("a b").meet(&places("b c")) && !places("a").meet(&places("b")) && !places("").meet(&places("")));
        assert_eq!(places("a b").to_string(), places("b a").to_string());
    }

    #[test]
    fn who_was_at_one_of_the_addresses_of_now_may_be_the_same() {
        let name = |name: &str| name.parse::<RegistryName>().expect("a name");
        let now = Whereabouts::from_iter([(name("a.example"), places("1 2"))]);
        for (upstream, then, same) in [
            ("a.example", "1", true),
            ("a.example", "3 2", true),
            ("a.example", "3", false),
            ("a.example", "", true),
            ("b.example", "1", false),
            ("b.example", "", true),
        ] {
            assert_eq!(now.may_be_at(&name(upstream), &places(then)), same, "{upstream} {then}");
        }
        assert!(now.of(&name("b.example")).is_empty());
    }
}
