//! What was hashed a moment ago, and need not be hashed again.

use std::time::Duration;

use moka::sync::Cache;

use crate::oci::Digest;

/// What was hashed on read a moment ago: the parts of one blob, asked for one after another, are
/// checked once.
pub(in crate::mirror) struct Trust {
    pub(in crate::mirror) always: bool,
    pub(in crate::mirror) lately: Cache<Digest, u64>,
}

impl Trust {
    const MAX: u64 = 10_000;
    const LATELY: Duration = Duration::from_secs(30);

    /// With `always` everything is hashed before it is served.
    pub(in crate::mirror) fn new(always: bool) -> Trust {
        Trust { always, lately: Cache::builder().max_capacity(Trust::MAX).time_to_live(Trust::LATELY).build() }
    }
}
