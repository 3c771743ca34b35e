//! How long an upstream that said 429 is left alone. Pure.
//!
//! Everybody waits, not only the request that was refused: asking on is what turns a limit into a
//! ban. Manifests and blobs are told apart, because registries that count pulls count manifests and
//! go on sending the layers of a pull that is under way; one that refuses blobs limits everything. The
//! rest of a blob that is being sent was granted with its beginning: it is asked for in any case, and
//! what is said to that says nothing of other requests.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long to wait where the upstream does not say.
const UNSAID: Duration = Duration::from_secs(60);
/// Nobody makes us wait longer. More than this is left only after the clock was set back.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// "At once" is not an answer of one who limits.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long to wait where an upstream said so, or did not.
pub fn within_reason(wait: Option<Duration>) -> Duration {
    wait.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST_WAIT)
}

/// What a request is about, as far as limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Manifests, and what is asked about them.
    Manifests,
    /// Blobs.
    Blobs,
    /// What is missing of a blob.
    Rest,
}

/// Until when an upstream is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    manifests: Option<Timestamp>,
    blobs: Option<Timestamp>,
}

impl Limits {
    /// How long a request still has to wait at `now`; `None` when it may go.
    pub fn wait(&self, lane: Lane, now: Timestamp) -> Option<Duration> {
        let until = match lane {
            Lane::Manifests => self.manifests,
            Lane::Blobs => self.blobs,
            Lane::Rest => None,
        };
        let left = Duration::from_millis(until?.0.checked_sub(now.0)?);
        (!left.is_zero() && left <= LONGEST_WAIT).then_some(left)
    }

    /// The upstream said 429 at `now`, and how long to wait where it did. Returns the wait.
    pub fn limited(&mut self, lane: Lane, wait: Option<Duration>, now: Timestamp) -> Duration {
        let wait = within_reason(wait);
        let until = Some(now.plus(wait));
        match lane {
            Lane::Manifests => self.manifests = until,
            Lane::Blobs => (self.manifests, self.blobs) = (until, until),
            Lane::Rest => {}
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    #[test]
    fn a_wait_is_what_was_said_within_reason() {
        for (said, expected) in [(Some(5), 5), (Some(0), 1), (None, 60), (Some(86_400), 900)] {
            let mut limits = Limits::default();
            assert_eq!(limits.wait(Lane::Manifests, NOW), None);
            let wait = Duration::from_secs(expected);
            assert_eq!(limits.limited(Lane::Manifests, said.map(Duration::from_secs), NOW), wait);
            assert_eq!(limits.wait(Lane::Manifests, NOW), Some(wait));
            assert_eq!(limits.wait(Lane::Manifests, NOW.plus(wait)), None, "{said:?}");
        }
    }

    #[test]
    fn a_limit_on_manifests_spares_blobs_and_not_the_other_way_round() {
        let mut limits = Limits::default();
        limits.limited(Lane::Manifests, None, NOW);
        assert_eq!(limits.wait(Lane::Blobs, NOW), None);
        let mut limits = Limits::default();
        limits.limited(Lane::Blobs, None, NOW);
        assert!(limits.wait(Lane::Manifests, NOW).is_some() && limits.wait(Lane::Blobs, NOW).is_some());
    }

    #[test]
    fn the_rest_of_a_blob_waits_for_no_limit_and_makes_none() {
        let mut limits = Limits::default();
        limits.limited(Lane::Rest, None, NOW);
        assert_eq!(limits, Limits::default());
        limits.limited(Lane::Blobs, None, NOW);
        assert_eq!(limits.wait(Lane::Rest, NOW), None);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_prolong_a_wait() {
        let mut limits = Limits::default();
        limits.limited(Lane::Blobs, None, NOW);
        assert_eq!(limits.wait(Lane::Blobs, Timestamp(NOW.0 - 86_400_000)), None);
    }
}
