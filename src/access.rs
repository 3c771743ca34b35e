//! Who may read what: decisions, and the permits that come of them.
//!
//! Owns the modes of upstreams, the operator's grants, and [`Permit`], without which nothing is read through the
//! mirror: only this module makes one. No I/O and no clock; who somebody is was found out before. Truths: what
//! is stored and what is not are refused alike, and every refusal says which line refuses.

mod caller;
mod explain;
mod grant;
mod grants;
mod led;
mod presented;
mod refusal;
mod rules;

pub use caller::{Caller, CallerError, Certificate};
pub use explain::Explanation;
pub use grant::{Grant, MOST_TAGS, May, MayError, Who, WhoError};
pub use grants::{Grants, Holder, Holders, Said};
pub use led::Led;
pub use presented::{Credential, Presented};
pub use refusal::{Login, Refusal};
pub use rules::{Asked, Claim, Decision, Identities, Pending, Rules, Shown, Unproven};

use std::fmt;
use std::sync::Arc;

use crate::metadata::Location;

/// Who may read what an upstream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, what the upstream gives to everybody.
    Public,
    /// Every caller that reaches the listener, and who he is where clients have to say so.
    Shared,
    /// Who proves at the upstream, with his own credential, that he may.
    PassThrough,
    /// Identities of ours, by the grants.
    Mapped,
}

impl Access {
    /// All of them, as they are written.
    pub const ALL: [Access; 4] = [Access::Public, Access::Shared, Access::PassThrough, Access::Mapped];

    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Access::Public => "public",
            Access::Shared => "shared",
            Access::PassThrough => "pass-through",
            Access::Mapped => "mapped",
        }
    }
}

/// What allowed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The mode of the upstream.
    Mode(Access),
    /// Its upstream, which is away, had said so to him before.
    Grace,
    /// A grant, by its name, else its number.
    Grant(Arc<str>),
    /// It is the mirror's own, for everybody.
    Canary,
    /// It is an act of whoever runs the mirror.
    Operator,
    /// Another replica asks, which knows whether its client may.
    Replica,
    /// Nobody is admitted without a certificate.
    Certificate,
}

impl Rule {
    /// Whether upstream gives it to the caller for what he shows himself.
    pub fn passes_through(&self) -> bool {
        matches!(self, Rule::Mode(Access::PassThrough) | Rule::Grace)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Mode(access) => f.write_str(access.as_str()),
            Rule::Grace => f.write_str("grace"),
            Rule::Grant(name) => write!(f, "grant {name}"),
            Rule::Canary => f.write_str("canary"),
            Rule::Operator => f.write_str("operator"),
            Rule::Replica => f.write_str("replica"),
            Rule::Certificate => f.write_str("client_ca"),
        }
    }
}

/// The proof that a caller may read a repository now.
#[derive(Clone, Debug)]
pub struct Permit {
    location: Location,
    /// None where it does not matter who asks.
    caller: Option<Caller>,
    rule: Rule,
    /// Whether it holds as long as the rules do.
    lasting: bool,
}

impl Permit {
    fn new(location: &Location, caller: Option<&Caller>, rule: Rule) -> Permit {
        Permit { location: location.clone(), caller: caller.cloned(), rule, lasting: true }
    }

    /// For what whoever runs the mirror does, and what the mirror does by itself.
    pub(crate) const fn operator(location: Location) -> Permit {
        Permit { location, caller: None, rule: Rule::Operator, lasting: true }
    }

    /// What may be read.
    pub const fn location(&self) -> &Location {
        &self.location
    }

    /// By whom; `None` for everybody.
    pub const fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// Whether it is one for everybody, as long as the rules hold.
    pub const fn is_for_everybody(&self) -> bool {
        self.caller.is_none() && self.lasting
    }

    /// What allowed it.
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Whether a cache in front of us must not give the answer to anybody else.
    pub fn is_private(&self) -> bool {
        self.caller.is_some() || self.rule != Rule::Mode(Access::Public)
    }
}
