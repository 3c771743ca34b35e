//! What becomes of content in the bucket: decisions only.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long something has been marked before it goes: longer than anybody may be on his way to it.
pub const WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// What came so lately may not have its name yet.
const NEW: Duration = Duration::from_secs(60 * 60);

/// What was seen of content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// In bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub written: Timestamp,
    /// Whether a name needs it.
    pub named: bool,
    /// When it was marked.
    pub mark: Option<Marked>,
    /// When it was last used, by the store's clock, as far as that was written down.
    pub used: Option<Timestamp>,
}

/// When something was marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// By the clock of who marked it.
    pub at: Timestamp,
    /// By the store's.
    pub written: Timestamp,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Stays,
    /// It gets a mark.
    Marked,
    /// It has one, and is looked at again.
    Waits,
    /// It loses its mark: it is needed, was used, or came anew.
    Spared,
    /// It is deleted.
    Goes,
}

/// What becomes of content `now`; `there` is the time by the store's clock, where that is known.
pub fn fate(seen: &Seen, now: Timestamp, there: Option<Timestamp>) -> Fate {
    let is_new = there.and_then(|there| seen.written.age(there)).is_some_and(|age| age < NEW);
    match seen.mark {
        None if seen.named || is_new => Fate::Stays,
        None => Fate::Marked,
        Some(mark)
            if seen.named
                || seen.written > mark.written
                || seen.used.is_some_and(|used| was_used_since(used, mark.written, None)) =>
        {
            Fate::Spared
        }
        // A clock that was set back makes it wait for longer.
        Some(mark) if mark.at.age(now).is_some_and(|age| age >= WAIT) => Fate::Goes,
        Some(_) => Fate::Waits,
    }
}

/// Whether what was said to be used `at` a moment was used since it was `marked`, or since that was `known` before. All
/// three are by the store's clock, which may count seconds.
pub fn was_used_since(at: Timestamp, marked: Timestamp, known: Option<Timestamp>) -> bool {
    at >= marked || known.is_some_and(|known| at > known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_names_is_marked_waits_a_day_and_goes() {
        let (now, hour) = (Timestamp(1_700_000_000_000), Duration::from_secs(3600));
        let unnamed = Seen { written: now.minus(100 * hour), ..Seen::default() };
        let marked = |ago| Seen { mark: Some(Marked { at: now.minus(ago), written: now.minus(ago) }), ..unnamed };
        let fate = |seen: Seen| fate(&seen, now, Some(now));
        assert_eq!(fate(unnamed), Fate::Marked);
        assert_eq!(fate(Seen { named: true, ..unnamed }), Fate::Stays);
        assert_eq!(fate(Seen { written: now.minus(hour / 2), ..unnamed }), Fate::Stays, "its name is on its way");
        assert_eq!(fate(Seen { written: now.plus(hour), ..unnamed }), Fate::Marked, "the clock was set back");
        assert_eq!((fate(marked(23 * hour)), fate(marked(24 * hour))), (Fate::Waits, Fate::Goes));
        let old = marked(30 * hour);
        assert_eq!(fate(old), Fate::Goes);
        assert_eq!(fate(Seen { named: true, ..old }), Fate::Spared);
        assert_eq!(fate(Seen { used: Some(now.minus(29 * hour)), ..old }), Fate::Spared);
        assert_eq!(fate(Seen { used: Some(now.minus(31 * hour)), ..old }), Fate::Goes, "used before it was marked");
        assert_eq!(fate(Seen { used: Some(now.minus(30 * hour)), ..old }), Fate::Spared, "in the same second");
        assert_eq!(fate(Seen { written: now.minus(hour), ..old }), Fate::Spared, "it came anew");
        let ahead = Marked { at: now.plus(hour), written: now.minus(30 * hour) };
        assert_eq!(fate(Seen { mark: Some(ahead), ..old }), Fate::Waits);
    }
}
