//! That a repository has content, and how that was proven.
//!
//! Truth: what is in the store is no permission. A proof never gets weaker: who had the bytes of an upstream
//! keeps them, whatever is said later, and what was once given without a credential of ours was given to all. Where
//! the upstream was that proved it stays, too: the registry that has its name now may be another one.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::oci::{Descriptor, Places};

/// How it was proven that a repository has content. Of two proofs the greater one stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// By a version that did not write it down: it is served, and upstream is asked once more.
    #[default]
    Unknown,
    /// By the word of the upstream, where that was enough.
    Head,
    /// By an operator, who imported it.
    Import,
    /// By the bytes, which that upstream sent and which were verified.
    Bytes,
}

/// What is known of content of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What it is; of a blob, no more than its size.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// How it was proven.
    #[serde(default)]
    pub proof: Proof,
    /// Whether upstream gave it, or gave its word for it, without a credential of ours.
    #[serde(default)]
    pub anonymous: bool,
    /// Where the upstream was that proved it; nothing where a version proved it that did not write it down.
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub places: Places,
}

impl Membership {
    /// What stands after it was proven in this way, too: what it is, as it is known now, and the best proof.
    #[must_use]
    pub fn after(mut self, before: Option<&Membership>) -> Membership {
        if let Some(Membership { proof, anonymous, places, .. }) = before {
            self.proof = self.proof.max(*proof);
            self.anonymous |= *anonymous;
            self.places = self.places.after(places);
        }
        self
    }
}

/// What is noted of a whole repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// Upstream gave something of it to somebody without credentials.
    Public,
    /// Upstream gives nothing of it to anybody: nothing of it is served until it does.
    Denied,
}

/// When that was noted, and of whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Noted {
    /// When.
    pub at: Timestamp,
    /// Where the upstream was, if that matters and is known.
    pub places: Places,
}

/// As it is written. Where nothing is known of places it is a time alone.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    At(Timestamp),
    With { at: Timestamp, places: Places },
}

impl From<Written> for Noted {
    fn from(written: Written) -> Noted {
        match written {
            Written::At(at) => at.into(),
            Written::With { at, places } => Noted { at, places },
        }
    }
}

impl From<Noted> for Written {
    fn from(Noted { at, places }: Noted) -> Written {
        if places.is_empty() { Written::At(at) } else { Written::With { at, places } }
    }
}

impl From<Timestamp> for Noted {
    fn from(at: Timestamp) -> Noted {
        Noted { at, places: Places::default() }
    }
}
