//! Where an upstream is, as far as it matters whether it was there before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{Algorithm, Digest, RegistryName};

/// One address of an upstream: what tells it apart from others, and does not say it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// Addresses of an upstream that count as one: those that it has now, or those of which each may have given a part of
/// something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Together(BTreeSet<Place>);

impl Together {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Place> for Together {
    fn from(place: Place) -> Together {
        Together(BTreeSet::from([place]))
    }
}

impl FromIterator<Place> for Together {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Together {
        Together(places.into_iter().collect())
    }
}

impl std::fmt::Display for Together {
    /// The same for the same places.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.iter().map(|place| place.0.as_str()).collect();
        f.write_str(&names.join("+"))
    }
}

/// From where something is known: each of these alone was enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Vec<Together>")]
pub struct Places(Vec<Together>);

/// As it may be written. In a plain list stood all addresses of then, and nobody knows which of them it was.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Apart(Vec<Together>),
    Together(Together),
}

impl From<Written> for Places {
    fn from(written: Written) -> Places {
        match written {
            Written::Apart(apart) => Places(apart.into_iter().filter(|places| !places.is_empty()).collect()),
            Written::Together(together) => together.into(),
        }
    }
}

impl From<Places> for Vec<Together> {
    fn from(places: Places) -> Vec<Together> {
        places.0
    }
}

impl From<Together> for Places {
    fn from(places: Together) -> Places {
        Places(Some(places).filter(|places| !places.is_empty()).into_iter().collect())
    }
}

impl Places {
    /// So many are told apart; the earliest are forgotten.
    const MOST: usize = 8;

    /// Whether none is known.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an upstream with these addresses gave it, or all of those that may have given a part of it are among them.
    pub fn are_of(&self, addresses: &Together) -> bool {
        self.0.iter().any(|places| places.0.is_subset(&addresses.0))
    }

    /// The same; where none is known, an address that no upstream has: for what somebody else left, of whom it is not known
    /// where his upstream was.
    #[must_use]
    pub fn or_nowhere(self) -> Places {
        if self.is_empty() { Together::from(Place(String::new())).into() } else { self }
    }

    /// These with those of before, the latest first.
    #[must_use]
    pub fn after(mut self, before: &Places) -> Places {
        self.0.retain(|places| !before.0.contains(places));
        self.0.extend_from_slice(&before.0);
        self.0.truncate(Places::MOST);
        self
    }
}

/// Where each upstream is now, and was when nobody wrote that down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    now: HashMap<RegistryName, Together>,
    first: BTreeMap<RegistryName, Together>,
}

impl Whereabouts {
    /// The addresses of an upstream; none of one that there is not.
    pub fn of(&self, upstream: &RegistryName) -> Together {
        self.now.get(upstream).cloned().unwrap_or_default()
    }

    /// All that there are, with where they are.
    pub fn all(&self) -> impl Iterator<Item = (&RegistryName, &Together)> {
        self.now.iter()
    }

    /// The same, which were there when nobody wrote that down.
    #[must_use]
    pub fn being_first_at(self, first: BTreeMap<RegistryName, Together>) -> Whereabouts {
        Whereabouts { first, ..self }
    }

    /// The same, where this upstream is at one address alone.
    #[must_use]
    pub fn with_alone(&self, upstream: &RegistryName, place: Place) -> Whereabouts {
        let mut alone = self.clone();
        alone.now.insert(upstream.clone(), place.into());
        alone
    }

    /// Where it was when it said what nobody wrote down the place of: where it is, as long as nothing else is known.
    pub fn first_of(&self, upstream: &RegistryName) -> Together {
        self.first.get(upstream).or_else(|| self.now.get(upstream)).cloned().unwrap_or_default()
    }

    /// Whether an upstream may be where it was when it said something.
    pub fn may_be_at(&self, upstream: &RegistryName, those: &Places) -> bool {
        let are_of_now = |those: &Places| self.now.get(upstream).is_some_and(|now| those.are_of(now));
        match self.first.get(upstream).filter(|_| those.is_empty()) {
            Some(first) => are_of_now(&first.clone().into()),
            None => those.is_empty() || are_of_now(those),
        }
    }
}

impl FromIterator<(RegistryName, Together)> for Whereabouts {
    fn from_iter<I: IntoIterator<Item = (RegistryName, Together)>>(upstreams: I) -> Whereabouts {
        Whereabouts { now: upstreams.into_iter().collect(), first: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(names: &str) -> Together {
        names.split('+').filter(|name| !name.is_empty()).map(Place::of).collect()
    }

    fn places(names: &str) -> Places {
        Places(names.split_whitespace().map(together).collect())
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
            ("b+a", "a+b", "a+b"),
            ("a+b", "a", "a+b a"),
            ("9", "8 7 6 5 4 3 2 1", "9 8 7 6 5 4 3 2"),
            ("1", "8 7 6 5 4 3 2 1", "8 7 6 5 4 3 2 1"),
        ] {
            assert_eq!(places(now).after(&places(before)), places(all), "{now} after {before}");
        }
        assert_eq!(together("a+b").to_string(), together("b+a").to_string());
        assert_ne!(together("a+b").to_string(), together("a").to_string());
        assert_ne!(together("a").to_string(), together("").to_string());
        assert!(Places::from(together("")).is_empty() && !places("a").is_empty());
        assert!(together("").is_empty() && !together("a").is_empty());
    }

    #[test]
    fn what_one_address_gave_is_of_an_upstream_that_has_it_and_what_several_may_have_given_of_one_that_has_them_all() {
        let name = |name: &str| name.parse::<RegistryName>().expect("a name");
        let now = Whereabouts::from_iter([(name("a.example"), together("1+2"))]);
        for (upstream, then, same) in [
            ("a.example", "1", true),
            ("a.example", "1+2", true),
            ("a.example", "3 2", true),
            ("a.example", "3", false),
            ("a.example", "3+2", false),
            ("a.example", "3+2 1", true),
            ("a.example", "1+2+3", false),
            ("a.example", "", true),
            ("b.example", "1", false),
            ("b.example", "", true),
        ] {
            assert_eq!(now.may_be_at(&name(upstream), &places(then)), same, "{upstream} {then}");
        }
        assert!(now.of(&name("b.example")).is_empty());
        let all: Vec<_> = now.all().map(|(name, at)| (name.as_str(), at.clone())).collect();
        assert_eq!(all, [("a.example", together("1+2"))]);
        let alone = now.with_alone(&name("a.example"), Place::of("2"));
        let may_be = |then| alone.may_be_at(&name("a.example"), &places(then));
        assert_eq!(["1", "2", "1+2", ""].map(may_be), [false, true, false, true]);
    }

    #[test]
    fn what_somebody_else_left_without_a_place_is_of_no_upstream() {
        let name: RegistryName = "a.example".parse().expect("a name");
        let now = Whereabouts::from_iter([(name.clone(), together("1"))]);
        assert!(!now.may_be_at(&name, &Places::default().or_nowhere()));
        assert!(now.may_be_at(&name, &places("1").or_nowhere()));
        let written = serde_json::to_string(&Places::default().or_nowhere()).expect("JSON");
        let read: Places = serde_json::from_str(&written).expect("places");
        assert!(!now.may_be_at(&name, &read), "{written}");
        assert!(now.may_be_at(&name, &places("1").after(&read)));
    }

    #[test]
    fn what_says_no_place_is_of_where_an_upstream_was_first() {
        let name = |name: &str| name.parse::<RegistryName>().expect("a name");
        let now = Whereabouts::from_iter([(name("a.example"), together("1+2")), (name("b.example"), together("1"))]);
        for (first, same) in [("1", true), ("1+2", true), ("3", false), ("1+3", false)] {
            let known = now.clone().being_first_at(BTreeMap::from([(name("a.example"), together(first))]));
            assert_eq!(known.may_be_at(&name("a.example"), &Places::default()), same, "{first}");
            assert!(known.may_be_at(&name("a.example"), &places("2")), "{first}: what says one is of that");
            assert_eq!(known.first_of(&name("a.example")), together(first));
            assert!(known.may_be_at(&name("b.example"), &Places::default()), "{first}: of another");
            assert_eq!(known.first_of(&name("b.example")), together("1"));
        }
    }

    #[test]
    fn places_are_written_apart_and_a_plain_list_is_read_as_all_of_it_together() {
        let read = |text: &str| serde_json::from_str::<Places>(text).expect("places");
        for (written, expected) in [
            (
                r#"[["1"],["2","3"]]"#,
                Places(vec![
                    Together::from(Place("1".into())),
                    ["2", "3"].map(|p| Place(p.into())).into_iter().collect(),
                ]),
            ),
            (r#"["1"]"#, Together::from(Place("1".into())).into()),
            (r#"["2","1"]"#, ["1", "2"].map(|place| Place(place.into())).into_iter().collect::<Together>().into()),
            (r#"[[]]"#, Places::default()),
            (r#"[]"#, Places::default()),
        ] {
            let places = read(written);
            assert_eq!(places, expected, "{written}");
            assert_eq!(read(&serde_json::to_string(&places).expect("JSON")), places, "{written}");
        }
    }
}
