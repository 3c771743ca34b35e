//! Which address of an upstream gave less of something than it promised, or something else: it is asked last for
//! that, for a while.
//!
//! Kept of what a digest names, and of nothing else: only there it is certain what should have come. Of what came
//! from several nobody can say whose was wrong, so each that gave some of it has one more against it.

use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::resource::Resource;
use crate::oci::Place;

/// So long it is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);
/// Of so many things at so many addresses.
const MOST: u64 = 4096;

/// How often each address fell short lately, by what it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Shortfalls(Cache<(Resource, usize), u32>);

/// The address that gives something, among so many. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Giver(Arc<Giving>);

#[derive(Debug)]
struct Giving {
    shortfalls: Shortfalls,
    resource: Resource,
    address: usize,
    place: Option<Place>,
    addresses: usize,
}

impl Default for Shortfalls {
    fn default() -> Shortfalls {
        // What fell short last is what will be asked for again.
        let policy = EvictionPolicy::lru();
        Shortfalls(Cache::builder().max_capacity(MOST).eviction_policy(policy).time_to_live(REMEMBERED_FOR).build())
    }
}

impl Shortfalls {
    /// How often this address fell short of `resource`.
    pub(super) fn of(&self, resource: &Resource, address: usize) -> u32 {
        if resource.is_by_digest() { self.0.get(&(resource.clone(), address)).unwrap_or_default() } else { 0 }
    }

    /// Once more.
    pub(super) fn note(&self, resource: &Resource, address: usize) {
        if resource.is_by_digest() {
            let more = |known: Option<moka::Entry<_, u32>>| {
                Op::Put(known.map_or(0, moka::Entry::into_value).saturating_add(1))
            };
            self.0.entry((resource.clone(), address)).and_compute_with(more);
        }
    }

    /// The address that gives `resource`, among so many.
    pub(super) fn giver(
        &self,
        resource: Resource,
        (address, place): (usize, Option<Place>),
        addresses: usize,
    ) -> Giver {
        Giver(Arc::new(Giving { shortfalls: self.clone(), resource, address, place, addresses }))
    }

    /// How many are remembered.
    pub(super) fn entries(&self) -> u64 {
        self.0.entry_count()
    }
}

impl Giver {
    /// It gave less than it promised, or what it gave is not what was asked for. Whether there is another address
    /// that never fell short of it.
    pub fn fell_short(&self) -> bool {
        let Giving { shortfalls, resource, address, addresses, .. } = &*self.0;
        shortfalls.note(resource, *address);
        (0..*addresses).any(|other| shortfalls.of(resource, other) == 0)
    }

    /// Where it is, if that is told.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// Whether both are one address.
    pub fn is(&self, other: &Giver) -> bool {
        self.0.address == other.0.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn blob(number: u64) -> Resource {
        Resource::blob(&"library/app".parse().expect("a name"), &Digest::of(Algorithm::Sha256, &number.to_le_bytes()))
    }

    #[test]
    fn another_address_is_there_until_each_fell_short() {
        let shortfalls = Shortfalls::default();
        let [first, second] = [0, 1].map(|address| shortfalls.giver(blob(0), (address, None), 2));
        assert!(first.fell_short() && first.fell_short());
        assert_eq!((shortfalls.of(&blob(0), 0), shortfalls.of(&blob(1), 0)), (2, 0));
        assert!(!second.fell_short() && !first.is(&second));
    }

    #[test]
    fn nothing_is_held_against_an_address_for_what_may_change() {
        let shortfalls = Shortfalls::default();
        let tags = Resource::tags(&"library/app".parse().expect("a name"));
        for resource in [tags, Resource::door()] {
            shortfalls.note(&resource, 0);
            assert_eq!(shortfalls.of(&resource, 0), 0);
        }
    }

    #[test]
    fn what_falls_short_does_not_fill_the_memory() {
        let shortfalls = Shortfalls::default();
        (0..2 * MOST).for_each(|number| shortfalls.note(&blob(number), 0));
        shortfalls.0.run_pending_tasks();
        assert!((1..=MOST).contains(&shortfalls.entries()), "{}", shortfalls.entries());
        assert_eq!(shortfalls.of(&blob(2 * MOST - 1), 0), 1, "the latest is remembered");
    }
}
