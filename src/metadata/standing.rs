//! Whether what is known counts as upstreams are asked now.
//!
//! Truth: what came with a credential that has been removed since is asked for anew, and so is what callers show
//! something of their own for, where it came from elsewhere: it is for the upstream to say who may read what it has,
//! and a yes of the one here says nothing of what another one had that had its name.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Location, Membership, Noted, Proof, TagRecord};
use crate::oci::{Places, RegistryName, Together, Whereabouts};

/// How upstreams are asked.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Those that are asked without a credential.
    pub public: HashSet<RegistryName>,
    /// Those that callers show something of their own.
    pub of_callers: HashSet<RegistryName>,
    /// Where each of them is.
    pub places: Arc<Whereabouts>,
}

impl Standing {
    /// Whether upstream is asked with what callers show: what it says to one is not said to others.
    pub fn is_of_callers(&self, location: &Location) -> bool {
        self.of_callers.contains(&location.upstream)
    }

    /// Whether upstream is asked without a credential.
    pub fn asks_as_nobody(&self, location: &Location) -> bool {
        self.public.contains(&location.upstream)
    }

    /// Where the upstream of a repository is.
    pub fn places_of(&self, location: &Location) -> Together {
        self.places.of(&location.upstream)
    }

    /// Whether what was proven counts.
    pub fn is_given(&self, location: &Location, member: &Membership) -> bool {
        let is_proven_to_all = member.anonymous || matches!(member.proof, Proof::Unknown | Proof::Import);
        let is_of_now = is_proven_to_all || !self.asks_as_nobody(location);
        is_of_now && !self.is_from_elsewhere(location, &member.places)
    }

    /// Whether it is for the upstream to say who may read what it has, and this was said by another one.
    pub fn is_from_elsewhere(&self, location: &Location, places: &Places) -> bool {
        self.is_of_callers(location) && !self.places.may_be_at(&location.upstream, places)
    }

    /// Whether a tag is to be asked for anew: another one said so, or what it points at does not count.
    pub fn is_withdrawn(&self, location: &Location, record: &TagRecord, member: Option<&Membership>) -> bool {
        self.is_from_elsewhere(location, &record.places)
            || member.is_some_and(|member| !self.is_given(location, member))
    }

    /// What is noted of a repository, if it was the upstream of now of which that was noted, in whatever mode.
    pub fn counting(&self, location: &Location, noted: Option<Noted>) -> Option<Noted> {
        noted.filter(|noted| self.places.may_be_at(&location.upstream, &noted.places))
    }

    /// Who sends what comes from the upstream of a repository, in a word. What is there in part, and came from elsewhere, is
    /// not gone on with where that is not given either.
    pub fn sender_of(&self, location: &Location) -> String {
        let name = location.upstream.to_string();
        if self.is_of_callers(location) { format!("{name} at {}", self.places_of(location)) } else { name }
    }

    /// How an upstream is asked, in a word: what it said to who asks it otherwise counts for nothing here.
    pub fn in_a_word(&self, location: &Location) -> String {
        if self.asks_as_nobody(location) {
            "as nobody".to_owned()
        } else if self.is_of_callers(location) {
            format!("as each caller, at {}", self.places_of(location))
        } else {
            String::new()
        }
    }
}
