//! What is known of an upstream without asking it: what the guards and the adapters remember of
//! each of its addresses.

use std::time::Duration;

use super::UpstreamErrorClass;
use super::quota::{Allowance, Quota};
use crate::clock::Timestamp;

/// How an upstream fares, as of its latest answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its addresses in the order in which they are tried; none where nobody is ever asked.
    pub endpoints: Vec<EndpointHealth>,
    /// What is left of the pulls that it grants.
    pub allowance: Allowance,
    /// Through how many connections a large blob may be read at once.
    pub streams: usize,
    /// Whether it answers everything with errors.
    pub failing: bool,
    /// Why the credential for it could not be had when it was last wanted.
    pub no_credential: Option<String>,
}

impl Default for Health {
    fn default() -> Health {
        let (endpoints, allowance) = (Vec::new(), Allowance::Free);
        Health { endpoints, allowance, streams: 1, failing: false, no_credential: None }
    }
}

impl Health {
    /// Whether it has no address that is asked, or is down.
    pub fn gives_nothing(&self) -> bool {
        self.endpoints.is_empty() || self.is_down()
    }

    /// Whether none of its addresses answered when it was last asked, so that asking may well be in vain.
    pub fn is_down(&self) -> bool {
        let silent = |endpoint: &EndpointHealth| matches!(endpoint.state, EndpointState::Down | EndpointState::Probing);
        !self.endpoints.is_empty() && self.endpoints.iter().all(silent)
    }
}

/// Whether an address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// What kind it was.
    pub class: UpstreamErrorClass,
    /// When.
    pub at: Timestamp,
}

/// The pulls that an address grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulls {
    /// In a window.
    pub limit: u64,
    /// How many are left of them.
    pub left: u64,
    /// When the window ends, at the latest.
    pub resets_at: Timestamp,
}

impl From<&Quota> for Pulls {
    fn from(quota: &Quota) -> Pulls {
        Pulls { limit: quota.reading.limit, left: quota.reading.left, resets_at: quota.resets_at }
    }
}

/// How one address fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    /// Where it is, as it is configured.
    pub url: String,
    /// Whether it is asked.
    pub state: EndpointState,
    /// When it is asked again, if not now.
    pub asked_again_at: Option<Timestamp>,
    /// What went wrong last, since the start.
    pub last_error: Option<LastError>,
    /// When it last gave what it was asked for, since the start.
    pub answered_at: Option<Timestamp>,
    /// How long its latest answers took to begin, the median.
    pub latency: Option<Duration>,
    /// What it grants, where it says so.
    pub pulls: Option<Pulls>,
}
