//! Everything that is stored, by what leads to what: what must stay, and for whose sake.
//!
//! Roots are tags, pins, frozen tags and what somebody holds; what they lead to stays, and what refers
//! to something that stays, such as a signature, stays too. A manifest that cannot be read may lead to
//! everything in its repositories.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Graph, Unreadable};
use crate::metadata::{Location, MetadataError, Pin};
use crate::oci::manifest::is_manifest;
use crate::oci::{Descriptor, Digest, Reference};

/// Where everything that is to stay begins.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// What is pinned, frozen or held: it neither is garbage nor makes room.
    pub kept: HashSet<Digest>,
    /// What tags lead to besides: it is no garbage.
    pub named: HashSet<Digest>,
}

impl Roots {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Digest> + '_ {
        self.kept.union(&self.named).copied()
    }
}

/// What a manifest leads to.
#[derive(Clone, Debug)]
pub struct Leads {
    /// Manifests and blobs.
    pub children: Arc<[Digest]>,
    /// What it says something about.
    subject: Option<Digest>,
}

/// What sound manifests lead to. That never changes, so each needs to be read once only.
pub type Known = HashMap<Digest, Leads>;

/// What manifests lead to, and what may be said of those that cannot be read.
#[derive(Debug)]
pub struct Links<'a> {
    known: &'a Known,
    /// From what is referred to, to the manifests that refer to it.
    referrers: HashMap<Digest, Vec<Digest>>,
    /// Manifests that cannot be read, and where they belong.
    unreadable: HashMap<Digest, (Unreadable, Vec<&'a Location>)>,
    /// What is in those repositories.
    neighbours: HashMap<&'a Location, Vec<Digest>>,
}

impl Graph {
    /// Where everything begins that is to stay, in one repository or in all. `held` is what somebody
    /// works on.
    ///
    /// # Errors
    /// [`MetadataError`] rather than leave one out.
    pub fn roots(&self, within: Option<&Location>, held: HashSet<Digest>) -> Result<Roots, MetadataError> {
        let here = |location: &Location| within.is_none_or(|within| within == location);
        let pins: HashSet<Pin> = self.metadata.pins()?.into_iter().filter(|pin| here(&pin.location)).collect();
        let mut roots = Roots { kept: held, named: HashSet::new() };
        roots.kept.extend(pins.iter().filter_map(|pin| match &pin.reference {
            Reference::Digest(digest) => Some(*digest),
            // What it leads to is among the tags.
            Reference::Tag(_) => None,
        }));
        let frozen = self.metadata.frozen_tags()?.into_iter().filter(|frozen| here(&frozen.location));
        roots.kept.extend(frozen.map(|frozen| frozen.digest));
        for (key, record) in self.metadata.tags()?.into_iter().filter(|(key, _)| here(&key.location)) {
            let pin = Pin { location: key.location, reference: Reference::Tag(key.tag) };
            let kind = if pins.contains(&pin) { &mut roots.kept } else { &mut roots.named };
            kind.insert(record.descriptor.digest);
        }
        Ok(roots)
    }

    /// What the manifests among `members` lead to. Reads those that are not in `known`, and adds them.
    pub fn links<'a>(&self, members: &'a [(Location, Descriptor)], known: &'a mut Known) -> Links<'a> {
        let mut unreadable: HashMap<Digest, (Unreadable, Vec<&Location>)> = HashMap::new();
        for (location, member) in members.iter().filter(|(_, member)| is_manifest(&member.media_type)) {
            if let Some((_, locations)) = unreadable.get_mut(&member.digest) {
                locations.push(location);
            } else if let Entry::Vacant(place) = known.entry(member.digest) {
                match self.manifest(None, member) {
                    Ok(manifest) => {
                        let children = manifest.children();
                        let manifests = children.manifests.iter().map(|(manifest, _)| manifest);
                        let children = manifests.chain(&children.blobs).map(|child| child.digest);
                        let leads = Leads { children: children.collect(), subject: manifest.subject() };
                        place.insert(leads);
                    }
                    Err(why) => drop(unreadable.insert(member.digest, (why, vec![location]))),
                }
            }
        }
        Links::of(known, unreadable, members)
    }
}

impl<'a> Links<'a> {
    fn of(
        known: &'a Known,
        unreadable: HashMap<Digest, (Unreadable, Vec<&'a Location>)>,
        members: &'a [(Location, Descriptor)],
    ) -> Links<'a> {
        let mut referrers: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (digest, leads) in known {
            if let Some(subject) = leads.subject {
                referrers.entry(subject).or_default().push(*digest);
            }
        }
        let places = unreadable.values().flat_map(|(_, locations)| locations);
        let mut neighbours: HashMap<&Location, Vec<Digest>> = places.map(|place| (*place, Vec::new())).collect();
        for (location, member) in members {
            if let Some(neighbours) = neighbours.get_mut(location) {
                neighbours.push(member.digest);
            }
        }
        Links { known, referrers, unreadable, neighbours }
    }

    /// Everything that these lead to, or may lead to, and what refers to it.
    pub fn reach(&self, roots: impl IntoIterator<Item = Digest>) -> HashSet<Digest> {
        let mut reached = HashSet::new();
        let mut whole = HashSet::new();
        let mut next: Vec<Digest> = roots.into_iter().collect();
        while let Some(digest) = next.pop() {
            if !reached.insert(digest) {
                continue;
            }
            next.extend(self.known.get(&digest).into_iter().flat_map(|leads| &*leads.children));
            next.extend(self.referrers.get(&digest).into_iter().flatten());
            for location in self.unreadable.get(&digest).into_iter().flat_map(|(_, locations)| locations) {
                if whole.insert(location) {
                    next.extend(&self.neighbours[location]);
                }
            }
        }
        reached
    }

    /// Why a manifest cannot be read; `None` for everything else.
    pub fn unreadable(&self, digest: &Digest) -> Option<Unreadable> {
        self.unreadable.get(digest).map(|(why, _)| *why)
    }

    /// For whoever takes images away as a whole: the manifests that cannot be read and are damaged, or
    /// that a root leads to, each as an image of what it may lead to. What has a name of its own is no
    /// part of it, nor is what cannot be read itself or leads to that: nothing leads in a circle.
    pub fn guesses(&self, roots: &Roots) -> Vec<(Digest, Arc<[Digest]>)> {
        let reached = self.reach(roots.all());
        let counts =
            |(digest, (why, _)): &(&Digest, &(Unreadable, _))| *why == Unreadable::Damaged || reached.contains(*digest);
        let broken: Vec<_> = self.unreadable.iter().filter(counts).collect();
        if broken.is_empty() {
            return Vec::new();
        }
        let mut parents: HashMap<&Digest, Vec<&Digest>> = HashMap::new();
        for (parent, leads) in self.known {
            leads.children.iter().for_each(|child| parents.entry(child).or_default().push(parent));
        }
        let mut unfit: HashSet<Digest> = roots.all().collect();
        let mut above: Vec<&Digest> = broken.iter().map(|(digest, _)| *digest).collect();
        let mut seen = HashSet::new();
        while let Some(digest) = above.pop() {
            if seen.insert(digest) {
                above.extend(parents.get(digest).into_iter().flatten());
            }
        }
        unfit.extend(seen.into_iter().copied());
        let guess = |locations: &[&Location]| {
            let near = locations.iter().flat_map(|location| &self.neighbours[location]);
            near.filter(|digest| !unfit.contains(digest)).copied().collect()
        };
        broken.into_iter().map(|(digest, (_, locations))| (*digest, guess(locations))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType};

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn digests<const N: usize>(names: [&str; N]) -> HashSet<Digest> {
        names.map(digest).into()
    }

    fn known<const N: usize>(manifests: [(&str, &[&str], Option<&str>); N]) -> Known {
        let leads = |children: &[&str], subject: Option<&str>| Leads {
            children: children.iter().map(|child| digest(child)).collect(),
            subject: subject.map(digest),
        };
        manifests.map(|(name, children, subject)| (digest(name), leads(children, subject))).into()
    }

    /// What is in the repositories `a` and `b`.
    fn members(a: &[&str], b: &[&str]) -> Vec<(Location, Descriptor)> {
        let at = |repository: &str, names: &[&str]| -> Vec<_> {
            let repository = repository.parse().expect("valid");
            let location = Location { upstream: "docker.io".parse().expect("valid"), repository };
            let member = |name: &&str| Descriptor { digest: digest(name), size: 1, media_type: MediaType::ImageLayer };
            names.iter().map(|name| (location.clone(), member(name))).collect()
        };
        [at("a", a), at("b", b)].concat()
    }

    fn links<'a>(known: &'a Known, broken: &[(&str, Unreadable)], members: &'a [(Location, Descriptor)]) -> Links<'a> {
        let places = |name: &str| {
            let here = members.iter().filter(|(_, member)| member.digest == digest(name));
            here.map(|(location, _)| location).collect()
        };
        let broken = broken.iter().map(|(name, why)| (digest(name), (*why, places(name))));
        Links::of(known, broken.collect(), members)
    }

    fn guessed(links: &Links<'_>, named: HashSet<Digest>) -> HashMap<Digest, HashSet<Digest>> {
        let guesses = links.guesses(&Roots { kept: HashSet::new(), named });
        guesses.into_iter().map(|(manifest, parts)| (manifest, parts.iter().copied().collect())).collect()
    }

    #[test]
    fn what_a_root_leads_to_and_what_refers_to_it_is_reached() {
        let known = known([
            ("index", &["image"], None),
            ("image", &["layer"], None),
            ("signature", &["seal"], Some("image")),
            ("unwanted", &["chaff"], None),
        ]);
        let reached = links(&known, &[], &[]).reach([digest("index")]);
        assert_eq!(reached, digests(["index", "image", "layer", "signature", "seal"]));
    }

    #[test]
    fn what_an_unreadable_manifest_may_lead_to_is_reached_with_it() {
        let members = members(&["broken", "layer"], &["gone", "chaff"]);
        for why in [Unreadable::Damaged, Unreadable::Missing] {
            let known = Known::new();
            let links = links(&known, &[("broken", why), ("gone", why)], &members);
            assert_eq!(links.reach([digest("broken")]), digests(["broken", "layer"]));
        }
    }

    #[test]
    fn an_image_that_cannot_be_read_is_taken_for_all_that_has_no_name_of_its_own() {
        let known = known([
            ("sound", &["layer", "base"], None),
            ("child", &["own"], None),
            ("part", &["broken", "base"], None),
        ]);
        let members = members(&["broken", "sound", "child", "part", "layer", "base", "own"], &["elsewhere"]);
        let links = links(&known, &[("broken", Unreadable::Damaged)], &members);
        let named = digests(["broken", "sound"]);
        let expected = digests(["child", "layer", "base", "own"]);
        assert_eq!(guessed(&links, named), HashMap::from([(digest("broken"), expected)]));
    }

    #[test]
    fn what_is_gone_is_guessed_at_only_where_a_root_leads_to_it() {
        let known = known([("index", &["gone"], None)]);
        let members = members(&["index", "gone", "layer"], &["collected", "chaff"]);
        let broken = [("gone", Unreadable::Missing), ("collected", Unreadable::Missing)];
        let found = guessed(&links(&known, &broken, &members), digests(["index"]));
        assert_eq!(found, HashMap::from([(digest("gone"), digests(["layer"]))]));
    }

    #[test]
    fn guesses_lead_in_no_circle() {
        let known = known([("one", &["x"], None), ("two", &["y"], None), ("three", &["one"], None)]);
        let members = members(&["one", "two", "three", "x", "y", "layer"], &[]);
        let links = links(&known, &[("x", Unreadable::Damaged), ("y", Unreadable::Damaged)], &members);
        let layer = digests(["layer"]);
        let expected = HashMap::from([(digest("x"), layer.clone()), (digest("y"), layer)]);
        assert_eq!(guessed(&links, HashSet::new()), expected);
    }
}
