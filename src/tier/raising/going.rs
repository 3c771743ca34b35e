//! How it goes with what is carried up: what the bucket does not take, for how long it is left alone because of that, and
//! what cannot go up at all. Decisions only.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::inventory::Lost;
use super::super::{Conditional, Trouble};
use crate::owed::Kind;

const FIRST_REST: Duration = Duration::from_secs(1);
pub(super) const LONGEST_REST: Duration = Duration::from_secs(30);
/// Of so much it is known that it cannot go up, or is not taken, and why.
const MOST: usize = 10_000;
/// A bucket that took nothing for so long, whatever was tried, takes nothing.
const IN_VAIN_FOR: Duration = Duration::from_secs(60);
/// So much is tried at least.
const IN_VAIN: u32 = 8;

#[derive(Debug)]
pub(super) struct Going {
    pub(super) conditional: Option<Conditional>,
    /// How it goes with content, and with names.
    contents: Option<Failing>,
    names: Option<Failing>,
    /// What cannot go up, by its key.
    pub(super) lost: BTreeMap<String, Lost>,
    /// What was not taken when it was tried last, by its key.
    refused: BTreeMap<String, String>,
    /// How many are over since it was all put on the list.
    pub(super) over: u64,
    /// How often it took nothing since it took something, and since when that is.
    in_vain: u32,
    took: Instant,
}

impl Default for Going {
    fn default() -> Going {
        Going {
            conditional: None,
            contents: None,
            names: None,
            lost: BTreeMap::new(),
            refused: BTreeMap::new(),
            over: 0,
            in_vain: 0,
            took: Instant::now(),
        }
    }
}

#[derive(Clone, Debug)]
struct Failing {
    /// What it did not take: that it takes something else does not end that. Empty where it took nothing at all.
    key: String,
    why: String,
    rest: Duration,
    until: Instant,
}

impl Going {
    fn failing(&mut self, kind: Kind) -> &mut Option<Failing> {
        match kind {
            Kind::Content => &mut self.contents,
            Kind::Name => &mut self.names,
        }
    }

    /// Why it takes nothing, or not all, of what is owed still.
    pub(super) fn trouble(&self, is_owed: impl Fn(&str) -> bool) -> Option<String> {
        let all = [&self.names, &self.contents].into_iter().flatten();
        let mut lasting = all.filter(|failing| failing.key.is_empty() || is_owed(&failing.key));
        lasting.next().map(|failing| failing.why.clone())
    }

    /// How long to leave it alone.
    pub(super) fn rest(&mut self, kind: Kind) -> Duration {
        let until = self.failing(kind).as_ref().map(|failing| failing.until);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// It is not left alone any longer.
    pub(super) fn go_on(&mut self) {
        for failing in [&mut self.contents, &mut self.names].into_iter().flatten() {
            (failing.rest, failing.until) = (FIRST_REST, Instant::now());
        }
    }

    /// It took something: all of that kind goes on, and it is well again if what it did not take is there, or is owed no
    /// more. Whether it is well again.
    pub(super) fn took(&mut self, key: &str, is_owed: impl Fn(&str) -> bool) -> bool {
        self.refused.remove(key);
        (self.in_vain, self.took) = (0, Instant::now());
        let failing_of_kind = self.failing(Kind::of(key));
        let Some(failing) = failing_of_kind else { return false };
        if is_owed(&failing.key) {
            (failing.rest, failing.until) = (FIRST_REST, Instant::now());
            return false;
        }
        *failing_of_kind = None;
        true
    }

    /// It did not take this, and is left alone for a while, each time for longer. Whether that is news.
    pub(super) fn fails(&mut self, key: &str, trouble: &Trouble, is_owed: impl Fn(&str) -> bool) -> bool {
        if !key.is_empty() && (self.refused.len() < MOST || self.refused.contains_key(key)) {
            self.refused.insert(key.to_owned(), trouble.to_string());
        }
        self.in_vain = self.in_vain.saturating_add(1);
        let failing = self.failing(Kind::of(key));
        let before = failing.as_ref();
        let rest = before.map(|failing| failing.rest);
        if before.is_none_or(|failing| failing.until <= Instant::now()) {
            let key = before.map(|failing| failing.key.as_str()).filter(|key| is_owed(key)).unwrap_or(key);
            let longer = rest.map_or(FIRST_REST, |rest| (rest * 2).min(LONGEST_REST));
            let (key, why) = (key.to_owned(), trouble.to_string());
            *failing = Some(Failing { key, why, rest: longer, until: Instant::now() + longer });
        }
        rest.is_none()
    }

    pub(super) fn is_lost(&mut self, key: &str, why: Lost) {
        if self.lost.len() < MOST {
            self.lost.insert(key.to_owned(), why);
        }
    }

    /// What is owed, was tried and was not taken, by its key, and why.
    pub(super) fn refused(&mut self, is_owed: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        self.refused.retain(|key, _| is_owed(key));
        self.refused.clone()
    }

    /// What it did not take until now is no sign any more.
    pub(super) fn is_tried_anew(&mut self) {
        (self.in_vain, self.took) = (0, Instant::now());
    }

    /// Whether this was not taken when it was tried last.
    pub(super) fn is_refused(&self, key: &str) -> bool {
        self.refused.contains_key(key)
    }

    /// Whether it took nothing of all that was tried since it took something.
    pub(super) const fn takes_nothing(&self) -> bool {
        self.in_vain >= IN_VAIN
    }

    /// Whether it took nothing for long, however much was tried, or there is more that it does not take than is remembered.
    pub(super) fn is_in_vain(&self) -> bool {
        self.refused.len() >= MOST || self.takes_nothing() && self.took.elapsed() >= IN_VAIN_FOR
    }

    /// What is put on the list from now on may be other than what it was.
    pub(super) fn begin_anew(&mut self) {
        self.lost.clear();
        self.refused.clear();
        (self.over, self.in_vain, self.took) = (0, 0, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Trouble {
        Trouble::Away("503".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_and_is_owed_no_more_troubles_nobody() {
        let mut going = Going::default();
        assert!(going.fails("name", &away(), |_| true));
        assert!(going.trouble(|_| true).is_some());
        assert_eq!(going.trouble(|_| false), None, "somebody has done it himself, and there is nothing else to do");
        assert!(going.refused(|_| false).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_takes_nothing_for_long_is_known_and_one_that_refuses_a_few_objects_goes_on() {
        let mut going = Going::default();
        for n in 0..IN_VAIN {
            going.fails(&format!("blobs/{n}"), &away(), |_| true);
        }
        assert!(!going.is_in_vain());
        tokio::time::advance(IN_VAIN_FOR).await;
        assert!(going.is_in_vain());
        going.took("blobs/0", |_| true);
        assert!(!going.is_in_vain());
        assert_eq!(going.refused(|_| true).len(), IN_VAIN as usize - 1);
        assert!(going.rest(Kind::Content).is_zero(), "all else goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_that_is_not_taken_is_remembered_than_can_be_and_then_it_is_enough() {
        let mut going = Going::default();
        for n in 0..MOST + 10 {
            going.fails(&format!("blobs/{n}"), &away(), |_| true);
            going.is_lost(&format!("blobs/{n}"), Lost::Missing);
        }
        assert_eq!((going.refused(|_| true).len(), going.lost.len()), (MOST, MOST));
        assert!(going.is_in_vain());
    }
}
