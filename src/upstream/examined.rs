//! What came of looking at an upstream step by step, from its name to its pulls: facts, which others judge.

use std::net::IpAddr;
use std::time::Duration;

use super::UpstreamError;
use super::quota::Reading;
use crate::clock::Timestamp;
use crate::oci::{Reference, RegistryName, Repository};

/// What is asked for at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Of this repository, as images name it.
    pub repository: Repository,
    /// A tag or a digest.
    pub reference: Reference,
    /// Whether it is stored here, so that upstream had it once.
    pub stored: bool,
}

/// One address of an upstream, as far as it could be looked at.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The upstream.
    pub upstream: RegistryName,
    /// Host and port of the address.
    pub address: String,
    /// Host and port of the proxy on the way, if there is one. Name and connection are its then.
    pub through: Option<String>,
    /// What was done, in this order, up to the first that failed.
    pub steps: Vec<Step>,
}

/// One thing that was done.
#[derive(Clone, Debug)]
pub enum Step {
    /// The settings make no client, and why.
    Settings(String),
    /// The addresses of this name, or why there are none.
    Name(String, Result<Vec<IpAddr>, String>),
    /// How long a connection to this host and port took, or why there is none.
    Connection(String, Result<Duration, String>),
    /// The certificate that is shown.
    Certificate(Result<Shown, Distrust>),
    /// The answer to `/v2/`, and how long it took.
    Door(Result<Door, UpstreamError>, Duration),
    /// What time it is here and there.
    Time {
        /// By our clock.
        here: Timestamp,
        /// By its `Date`.
        there: Timestamp,
    },
    /// What is demanded was met; with a credential of ours or without.
    Proof(Result<bool, UpstreamError>),
    /// The answer to HEAD for a manifest, and how long it took.
    Manifest(Sample, Result<(), UpstreamError>, Duration),
    /// The pulls that are left.
    Quota(Reading),
}

/// What `/v2/` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Nothing is demanded.
    Open,
    /// Something is.
    Demands,
}

/// A certificate that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Until when, where it says.
    pub until: Option<Timestamp>,
    /// Whether it was looked at: not with `insecure`.
    pub checked: bool,
}

/// Why a certificate is not believed, or there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distrust {
    /// What is wrong.
    pub why: Why,
    /// Who signed it, in the words of the certificate.
    pub issuer: Option<String>,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody here knows who signed it.
    Unknown,
    /// It was good until then.
    Expired(Option<Timestamp>),
    /// It is good only from then on.
    Early(Option<Timestamp>),
    /// It is for another name.
    OtherName,
    /// What listens there speaks HTTP without TLS.
    Plain,
    /// The proxy makes no way there, in its words.
    NoWay(String),
    /// No certificate came: there is no TLS, or it breaks, or they want another of ours.
    Other(String),
}
