//! The pulls that an upstream still grants, as Docker Hub tells with every answer. Pure.
//!
//! `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600` tell the limit, what is left
//! of it and the window in seconds, and `docker-ratelimit-source` who it is counted for. When the
//! window ends is not told; it ends no later than one window after it was first seen, so that what
//! is known of it is forgotten then.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderMap;

use crate::clock::Timestamp;
use crate::oci::header::text;

/// The window where the upstream does not say it: that of Docker Hub.
const USUAL_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);
/// No longer window is believed.
const LONGEST_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Whether the upstream still lets us ask as we like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allowance {
    /// It counts nothing, or enough is left.
    #[default]
    Free,
    /// Less is left than the floor that was configured: only what is not cached is asked for.
    Low,
    /// Nothing is left before the window passes.
    Spent,
}

/// What one answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Pulls in a window.
    pub limit: u64,
    /// Pulls that are left.
    pub left: u64,
    /// How long a window is.
    pub window: Duration,
    /// Who is counted: an address, a network or an account.
    pub source: Option<String>,
}

impl Reading {
    /// Reads an answer; `None` where it tells nothing, as when pulls are not limited.
    pub fn of(headers: &HeaderMap) -> Option<Reading> {
        let told = |name: &str| headers.get(name).map(text);
        let (limit, window) = counted(&told("ratelimit-limit")?)?;
        let (left, other_window) = counted(&told("ratelimit-remaining")?)?;
        let window = window.or(other_window).unwrap_or(USUAL_WINDOW).clamp(Duration::from_secs(1), LONGEST_WINDOW);
        let plain =
            |source: &str| !source.is_empty() && source.len() <= 64 && source.bytes().all(|b| b.is_ascii_graphic());
        let source = told("docker-ratelimit-source").filter(|source| plain(source)).map(Cow::into_owned);
        Some(Reading { limit, left: left.min(limit), window, source })
    }
}

/// `76;w=21600`: a number and, where it is told, a window.
fn counted(value: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = value.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")).and_then(|seconds| seconds.parse().ok());
    Some((number, window.map(Duration::from_secs)))
}

/// What is known of the present window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What the latest answer told.
    pub reading: Reading,
    /// When everything is granted anew, at the latest.
    pub resets_at: Timestamp,
}

impl Quota {
    /// What is known after `reading` at `now`. More pulls than before, another limit or another
    /// source, are another window.
    pub fn after(before: Option<&Quota>, reading: Reading, now: Timestamp) -> Quota {
        let same_window = before.filter(|before| {
            let known = &before.reading;
            reading.left <= known.left && reading.limit == known.limit && reading.source == known.source
        });
        let resets_at = same_window.map(|before| before.resets_at).filter(|resets_at| now < *resets_at);
        // More than a window is left only after the clock was set back.
        let latest = now.plus(reading.window);
        Quota { resets_at: resets_at.map_or(latest, |resets_at| resets_at.min(latest)), reading }
    }

    /// How we may ask at `now`, where cached tags are not asked about below `floor` hundredths.
    pub fn allowance(&self, floor: u8, now: Timestamp) -> Allowance {
        let Reading { limit, left, .. } = self.reading;
        match left {
            _ if now >= self.resets_at => Allowance::Free,
            0 => Allowance::Spent,
            left if left.saturating_mul(100) < limit.saturating_mul(floor.into()) => Allowance::Low,
            _ => Allowance::Free,
        }
    }

    /// How many tenths of the limit are left, rounded up: 0 only when nothing is.
    pub fn tenths(&self) -> u64 {
        let Reading { limit, left, .. } = self.reading;
        left.saturating_mul(10).div_ceil(limit.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn reading(limit: &str, left: &str) -> Option<Reading> {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-limit", limit.parse().expect("value"));
        headers.insert("ratelimit-remaining", left.parse().expect("value"));
        headers.insert("docker-ratelimit-source", "192.0.2.1".parse().expect("value"));
        Reading::of(&headers)
    }

    fn left(left: u64) -> Reading {
        Reading { limit: 100, left, window: 6 * HOUR, source: None }
    }

    #[test]
    fn what_docker_hub_tells_is_read_and_anything_else_is_nothing() {
        let found = reading("100;w=21600", "76;w=21600").expect("a reading");
        assert_eq!((found.limit, found.left, found.window), (100, 76, 6 * HOUR));
        assert_eq!(found.source.as_deref(), Some("192.0.2.1"));
        assert_eq!(reading("100", "7; w=60").map(|found| (found.left, found.window.as_secs())), Some((7, 60)));
        assert_eq!(reading("100", "700").map(|found| found.left), Some(100));
        assert_eq!(reading("100;w=99999999999", "1").map(|found| found.window), Some(LONGEST_WINDOW));
        for (limit, left) in [("", "1"), ("x", "1"), ("100", "-1"), ("1e3", "1"), ("100;w=1", "")] {
            assert_eq!(reading(limit, left), None, "{limit} {left}");
        }
        assert_eq!(Reading::of(&HeaderMap::new()), None);
    }

    #[test]
    fn below_the_floor_is_low_and_nothing_is_spent_until_the_window_passes() {
        for (pulls, floor, expected) in [
            (100, 10, Allowance::Free),
            (10, 10, Allowance::Free),
            (9, 10, Allowance::Low),
            (1, 0, Allowance::Free),
            (0, 0, Allowance::Spent),
            (99, 100, Allowance::Low),
        ] {
            let quota = Quota::after(None, left(pulls), NOW);
            assert_eq!(quota.allowance(floor, NOW), expected, "{pulls} {floor}");
            assert_eq!(quota.allowance(floor, NOW.plus(6 * HOUR)), Allowance::Free, "{pulls} {floor}");
        }
    }

    #[test]
    fn a_window_lasts_from_its_first_reading_until_more_is_left_again() {
        let first = Quota::after(None, left(50), NOW);
        let later = Quota::after(Some(&first), left(20), NOW.plus(HOUR));
        assert_eq!(later.resets_at, first.resets_at);
        let refilled = Quota::after(Some(&later), left(90), NOW.plus(2 * HOUR));
        assert_eq!(refilled.resets_at, NOW.plus(8 * HOUR));
        let passed = Quota::after(Some(&first), left(0), NOW.plus(7 * HOUR));
        assert_eq!(passed.resets_at, NOW.plus(13 * HOUR));
        let account = Reading { source: Some("account".to_owned()), ..left(10) };
        assert_eq!(Quota::after(Some(&first), account, NOW.plus(HOUR)).resets_at, NOW.plus(7 * HOUR));
        let set_back = Quota::after(Some(&first), left(10), Timestamp(NOW.0 - 86_400_000));
        assert!(set_back.resets_at < NOW);
    }

    #[test]
    fn tenths_are_nought_only_when_nothing_is_left() {
        let tenths = |pulls| Quota::after(None, left(pulls), NOW).tenths();
        assert_eq!([100, 91, 90, 10, 1, 0].map(tenths), [10, 10, 9, 1, 1, 0]);
    }
}
