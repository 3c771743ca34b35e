//! What came lately from an upstream and is not what its digest says, for who asks how the mirror does.

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::oci::RegistryName;

/// How long it is told, in milliseconds.
const LATELY: u64 = 3_600_000;

/// The latest: when, from whom, and what was wrong.
#[derive(Debug, Default)]
pub(crate) struct Wrong(Mutex<Option<(Timestamp, RegistryName, String)>>);

impl Wrong {
    /// Takes note of it.
    pub(super) fn came(&self, now: Timestamp, upstream: &RegistryName, what: String) {
        *self.0.lock() = Some((now, upstream.clone(), what));
    }

    /// From whom, and what was wrong, if that was within the hour.
    pub(crate) fn lately(&self, now: Timestamp) -> Option<(RegistryName, String)> {
        let latest = self.0.lock().clone();
        let (_, upstream, what) = latest.filter(|(came, ..)| now.0.saturating_sub(came.0) < LATELY)?;
        Some((upstream, what))
    }
}
