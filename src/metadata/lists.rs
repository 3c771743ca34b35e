//! Lists as they are kept: what upstream answered to one question about a repository.
//!
//! A list proves nothing and may be lost at any time; it is kept so that an upstream which is away
//! can be covered for, also right after a restart. What is in it is not read here.

use bytes::Bytes;

use super::Location;
use crate::clock::Timestamp;
use crate::oci::Digest;

/// A question that is answered with a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListKey {
    /// The repository.
    pub location: Location,
    /// The manifest whose referrers are asked for; `None` for tags.
    pub about: Option<Digest>,
    /// Which part of the list, as a query.
    pub part: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptList {
    /// When upstream gave it.
    pub at: Timestamp,
    /// The list in the form of whoever kept it; `None` when upstream said that it has no such list.
    pub body: Option<Bytes>,
}
