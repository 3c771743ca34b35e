//! How the addresses of an upstream fare, for people: what [`super::guard`] and the adapters know,
//! each address by itself.

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use crate::clock::Timestamp;

/// Whether an address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It is, as far as we know with success.
    Up,
    /// It did not answer and is left alone for a while.
    Down,
    /// It did not answer, and one request is finding out whether it does again.
    Probing,
    /// It said 429 and is left alone for a while.
    Limited,
}

/// The latest request that did not get what it asked for. That something does not exist is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// The class, as [`super::UpstreamErrorClass::as_str`] names it.
    pub class: String,
    /// When.
    pub at: Timestamp,
}

/// The pulls that an address grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulls {
    /// In a window.
    pub limit: u64,
    /// How many are left of them.
    pub left: u64,
    /// When the window ends, at the latest.
    pub resets_at: Timestamp,
}

impl From<&Budget> for Pulls {
    fn from(budget: &Budget) -> Pulls {
        Pulls { limit: budget.reading.limit, left: budget.reading.left, resets_at: budget.resets_at }
    }
}

/// How one address fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// Where it is, as it is configured.
    pub url: String,
    /// Whether it is asked.
    pub state: EndpointState,
    /// When it is asked again, if not now.
    pub asked_again_at: Option<Timestamp>,
    /// What went wrong last, since the start.
    pub last_error: Option<LastError>,
    /// What it grants, where it says so.
    pub pulls: Option<Pulls>,
}
