//! Content that the bucket has, or should have, by which it is seen whether it gives any.
//!
//! What broke off is looked at first, and something else every other time: where one object never comes, the others may.
//! Decisions only.

use std::collections::VecDeque;

use crate::oci::Digest;

/// So much is known.
const MOST: usize = 8;
/// Of so many it is remembered that they broke off: that it is not one alone.
const MOST_BROKEN: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Samples {
    /// What it has, the latest first.
    known: VecDeque<Digest>,
    /// What broke off since content came, the latest last.
    broken: VecDeque<Digest>,
    /// How many looks in a row failed, or said nothing.
    missed: usize,
    /// Content of so many bytes came whole since others broke off.
    comes_whole: u64,
}

impl Samples {
    /// What is to be looked at.
    pub(super) fn next(&self) -> Option<Digest> {
        let first = self.broken.back().or(self.known.front())?;
        let others = || self.known.iter().filter(|other| *other != first);
        let (turn, count) = (self.missed / 2, others().count());
        let is_others_turn = self.missed % 2 == 1 && count > 0;
        Some(if is_others_turn { *others().nth(turn % count)? } else { *first })
    }

    /// It has this.
    pub(super) fn has(&mut self, digest: &Digest) {
        self.known.retain(|known| known != digest);
        self.known.push_front(*digest);
        self.known.truncate(MOST);
    }

    /// It should have this, for all that is known.
    pub(super) fn should_have(&mut self, digest: &Digest) {
        if self.known.len() < MOST && !self.known.contains(digest) {
            self.known.push_back(*digest);
        }
    }

    /// It has this no more. Whether nothing is left to look at.
    pub(super) fn has_not(&mut self, digest: &Digest) -> bool {
        self.known.retain(|known| known != digest);
        self.broken.retain(|broken| broken != digest);
        self.known.is_empty() && self.broken.is_empty()
    }

    /// This broke off.
    pub(super) fn broke_off(&mut self, digest: &Digest) {
        self.broken.retain(|broken| broken != digest);
        self.broken.push_back(*digest);
        if self.broken.len() > MOST_BROKEN {
            self.broken.pop_front();
        }
    }

    /// Content of so many bytes came whole, and is too short to say anything of what broke off.
    pub(super) fn came_whole(&mut self, bytes: u64) {
        self.missed();
        self.comes_whole = self.comes_whole.max(bytes);
    }

    /// Whether this comes, which has so many bytes, although longer content breaks off.
    pub(super) fn gives_short(&self, digest: &Digest, bytes: u64) -> bool {
        bytes <= self.comes_whole && !self.broken.contains(digest)
    }

    /// This did not come: where it is none of those that broke off before, what is as short does not come either.
    pub(super) fn did_not_come(&mut self, digest: &Digest) {
        if !self.broken.contains(digest) {
            self.comes_whole = 0;
        }
    }

    /// What was looked at did not come, or says nothing of what broke off.
    pub(super) fn missed(&mut self) {
        self.missed = self.missed.wrapping_add(1);
    }

    /// Content comes.
    pub(super) fn came(&mut self) {
        self.broken.clear();
        (self.missed, self.comes_whole) = (0, 0);
    }

    /// Whether it gives content, as far as that is told by this, of which all came: one that broke off, or any where
    /// another one did alone. That short ones come says nothing of long ones.
    pub(super) fn is_told_by(&self, digest: &Digest) -> bool {
        self.broken.len() < MOST_BROKEN || self.broken.contains(digest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.broken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn of(n: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    #[test]
    fn what_broke_off_is_looked_at_every_other_time_and_all_else_in_turn() {
        let mut samples = Samples::default();
        assert!(samples.next().is_none() && samples.is_empty());
        (0..3).for_each(|n| samples.has(&of(n)));
        assert_eq!(samples.next(), Some(of(2)));
        samples.broke_off(&of(9));
        let mut looks = Vec::new();
        for _ in 0..8 {
            looks.extend(samples.next());
            samples.missed();
        }
        assert_eq!(looks, [9, 2, 9, 1, 9, 0, 9, 2].map(of));
        assert!(samples.is_told_by(&of(0)), "one alone broke off");
        samples.broke_off(&of(8));
        assert!(!samples.is_told_by(&of(0)) && samples.is_told_by(&of(9)) && samples.is_told_by(&of(8)));
        samples.came();
        assert_eq!(samples.next(), Some(of(2)));
        assert!(!samples.has_not(&of(2)) && !samples.has_not(&of(1)) && samples.has_not(&of(0)) && samples.is_empty());
    }

    #[test]
    fn where_long_ones_break_off_short_ones_that_come_are_given_and_the_others_are_looked_at_again() {
        let mut samples = Samples::default();
        (0..2).for_each(|n| samples.has(&of(n)));
        [8, 9].map(of).iter().for_each(|broken| samples.broke_off(broken));
        let mut looks = Vec::new();
        for _ in 0..4 {
            let next = samples.next().expect("it is known");
            looks.push(next);
            if next == of(9) { samples.missed() } else { samples.came_whole(100) }
        }
        assert_eq!(looks, [9, 1, 9, 0].map(of));
        assert!(
            samples.gives_short(&of(5), 100) && !samples.gives_short(&of(5), 101) && !samples.gives_short(&of(8), 1)
        );
        samples.did_not_come(&of(8));
        assert!(samples.gives_short(&of(5), 100), "that is known");
        samples.did_not_come(&of(5));
        assert!(!samples.gives_short(&of(6), 1));
        samples.came_whole(100);
        samples.came();
        assert!(!samples.gives_short(&of(6), 1), "all of it comes");
    }

    #[test]
    fn no_more_is_known_than_is_looked_at() {
        let mut samples = Samples::default();
        for n in 0..100 {
            samples.has(&of(n));
            samples.should_have(&of(n + 1000));
            samples.broke_off(&of(n));
        }
        assert_eq!((samples.known.len(), samples.broken.len()), (MOST, MOST_BROKEN));
    }
}
